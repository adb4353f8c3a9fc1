# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Bulk data work, written once as ibis expressions: map, split, group.

Every function takes and returns ibis tables, so nothing is computed before a
result is asked for and nothing has to fit in memory: DuckDB, embedded here,
works out of core on all cores. The functions that work on tables are plain ibis
and run unchanged on its other backends, such as Spark; `connect` and the strict
reader of text in `delimited` are DuckDB's own.

Results do not depend on the number of threads: every order is total, and what
is random is ordered by a digest of (seed, key), not by a generator.
"""

from collections.abc import Callable, Iterator, Sequence
import os
import pathlib
import tempfile

import ibis
from ibis.expr import types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from antjax.input import record_writer, records


def connect(
  *,
  threads: int = 0,
  memory_limit: str = '',
  temp_directory: str | os.PathLike[str] = '',
) -> ibis.BaseBackend:
  """Opens an in-process DuckDB that spills to disk what exceeds memory.

  Args:
    threads: Number of threads; 0 means all cores.
    memory_limit: Size such as '4GB'; '' means 80% of the memory.
    temp_directory: Folder to spill to; '' means `.tmp` in the working folder.

  Returns:
    An ibis backend. Disconnect it with `con.disconnect()`.
  """
  options: dict[str, object] = {}
  if threads:
    options['threads'] = threads
  if memory_limit:
    options['memory_limit'] = memory_limit
  if temp_directory:
    options['temp_directory'] = os.fspath(temp_directory)
  con = ibis.duckdb.connect(**options)
  con.raw_sql('SET enable_progress_bar = false')
  return con


def digest(seed: int, salt: str, *keys: ir.Value) -> ir.StringValue:
  """Returns a text per row whose sort order is a seeded random order.

  Args:
    seed: Seed; another seed gives an independent order.
    salt: Name of the use, so that two uses of one key are independent.
    *keys: Columns that together identify a row.

  Returns:
    32 hexadecimal digits (MD5: stable over versions, backends and threads).
  """
  text = ibis.literal(f'{seed}:{salt}')
  for key in keys:
    text = text + ibis.literal(':') + key.cast('string')
  return text.hexdigest('md5')


def dense_ids(
  table: ir.Table, column: str, *, first: int = 0, name: str = 'id'
) -> ir.Table:
  """Maps the distinct values of a column, in sorted order, to dense ids.

  Args:
    table: Table with the column; NULLs get no id.
    column: Column to map.
    first: First id; 1 leaves id 0 for values that are not in the map.
    name: Name of the id column.

  Returns:
    Table (column, name), one row a distinct value; `name` is int32.
  """
  values = table.filter(table[column].notnull()).select(column).distinct()
  position = ibis.row_number().over(ibis.window(order_by=values[column]))
  return values.mutate(**{name: (position + first).cast('int32')})


def to_ids(
  table: ir.Table, column: str, ids: ir.Table, *, missing: int = 0
) -> ir.Table:
  """Replaces a column's values by their ids from `dense_ids`.

  Args:
    table: Table with the column.
    column: Column to replace.
    ids: Table (column, id) with each value once.
    missing: Id of values that are not in `ids`.

  Returns:
    `table` with `column` as int32 ids.
  """
  renamed = ids.select(_key=ids[column], _id=ids['id'])
  joined = table.left_join(renamed, table[column] == renamed['_key'])
  value = ibis.coalesce(joined['_id'], missing).cast('int32')
  return joined.mutate(**{column: value}).drop('_key', '_id')


def in_first_share(
  table: ir.Table, key: str, *, share: float, seed: int, salt: str
) -> ir.BooleanValue:
  """Marks a seeded random share of the rows of a table of distinct keys.

  Args:
    table: Table with one row a key.
    key: Column with the keys.
    share: Share of the rows to mark; exactly round(share * rows) are marked.
    seed: Seed of the choice.
    salt: Name of the use, see `digest`.

  Returns:
    A boolean column of `table`.
  """
  order = digest(seed, salt, table[key])
  rank = ibis.row_number().over(ibis.window(order_by=[order, table[key]]))
  num_rows = ibis._[key].count().over(ibis.window())
  return rank < (num_rows * share).round()


def group_into_lists(
  table: ir.Table,
  by: Sequence[str],
  lists: Sequence[str],
  order_by: Sequence[str],
) -> ir.Table:
  """Groups rows into one row a key, with a list for each collected column.

  Args:
    table: Input rows; collected columns hold no NULLs.
    by: Key columns.
    lists: Columns to collect, all in the same order.
    order_by: Columns that order the rows of a group; together with the key they
      must identify a row, or the order is not defined.

  Returns:
    Table of `by` and `lists`, the latter now arrays.
  """
  keys = [table[name] for name in order_by]
  return table.group_by(list(by)).agg(
    **{name: table[name].collect(order_by=keys) for name in lists}
  )


def write_records(
  table: ir.Table,
  path: str | os.PathLike[str],
  schema: records.Schema,
  *,
  on_batch: Callable[[pa.RecordBatch], None] = lambda batch: None,
) -> int:
  """Writes a table as a record file, without having it whole in memory.

  Args:
    table: Table with the fields of `schema`, ordered as the records shall be.
    path: File to write, .parquet or .array_record; appears only when whole.
    schema: Fields to write and their types.
    on_batch: Called with each batch of records that is written.

  Returns:
    Number of records.
  """
  path = pathlib.Path(path)
  with tempfile.TemporaryDirectory(dir=path.parent, prefix='.write-') as folder:
    # By way of a file: every ibis backend writes one out of core.
    whole = os.path.join(folder, 'table.parquet')
    table.to_parquet(whole)
    with pq.ParquetFile(whole) as file:

      def batches() -> Iterator[pa.RecordBatch]:
        for batch in file.iter_batches(1024):
          on_batch(batch)
          yield batch

      return record_writer.write(path, batches(), schema)
