# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Bulk data work, written once as ibis expressions: map, split, group.

Functions take and return ibis tables, so nothing is computed before a result is
asked for and nothing has to fit in memory. They are plain ibis and run
unchanged on DuckDB and Spark.

Results do not depend on the number of threads: every order is total, and what
is random is ordered by a digest of (seed, key), not by a generator.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import glob
import hashlib
import os
import pathlib
import re
import shutil
import tempfile

import ibis
from ibis.expr import types as ir
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antjax.data import record_schema, record_writer, thread_map

_PART_ROWS = 1 << 20  # Rows that a thread writes.


def read_parquet(
  con: ibis.BaseBackend, path: str | os.PathLike[str], files: str = ''
) -> ir.Table:
  """Opens a Parquet file, or those of a folder that a pattern `files` names."""
  # Engines take paths for patterns.
  if con.name == 'pyspark':  # By Hadoop's rules.
    exact = re.sub(r'([][\\{}*?])', r'\\\1', os.fspath(path))
  else:
    exact = glob.escape(os.fspath(path))
  return con.read_parquet(os.path.join(exact, files) if files else exact)


class Steps:
  """Intermediate tables, each a Parquet file that the next step reads.

  That works out of core on every engine, and nothing is computed twice.
  """

  def __init__(self, con: ibis.BaseBackend, folder: pathlib.Path):
    self.con, self._folder = con, folder

  def __call__(self, name: str, table: ir.Table) -> ir.Table:
    """Computes a table; its file outlives the result."""
    table.to_parquet(str(self.path(name)))
    return self.again(name)

  def again(self, name: str) -> ir.Table:
    """Opens a table that was computed before."""
    return read_parquet(self.con, self.path(name))

  def drop(self, name: str) -> None:
    """Gives the room of a table back."""
    path = self.path(name)
    if path.is_dir():  # Spark's.
      shutil.rmtree(path)
    else:
      path.unlink()

  def path(self, name: str) -> pathlib.Path:
    """File of a table, or folder of them."""
    return self._folder / f'{name}.parquet'


def count(table: ir.Table) -> int:
  """Returns the number of rows."""
  return int(table.count().to_pyarrow().as_py())


def fingerprint(files: Sequence[pathlib.Path]) -> str:
  """Returns a SHA-256 over the content of the files."""
  result = hashlib.sha256()
  for path in files:
    with open(path, 'rb') as file:
      result.update(hashlib.file_digest(file, 'sha256').digest())
  return f'sha256:{result.hexdigest()}'


def digest(seed: int, salt: str, *keys: ir.Value) -> ir.StringValue:
  """Returns a text per row whose sort order is a seeded random order.

  The keys are columns that together identify a row. The salt names the use, so
  that two uses of one key are independent.

  Returns:
    32 hexadecimal digits (MD5: stable over versions, backends and threads).
  """
  text = ibis.literal(f'{seed}:{salt}')
  for key in keys:
    text = text + ibis.literal(':') + key.cast('string')
  return text.hexdigest('md5')


def dense_ids(
  table: ir.Table,
  column: str,
  *,
  first: int = 0,
  known: ir.Table | None = None,
) -> ir.Table:
  """Maps the distinct values of a column, in sorted order, to dense ids.

  Args:
    table: Table with the column; NULLs get no id.
    column: Column to map.
    first: First id; 1 leaves id 0 for values that are not in the map.
    known: Table (value text, id) of values that have ids from `first` on; they
      keep them, whether they occur or not, and new values follow.

  Returns:
    Table (column, id int32), one row a distinct value.
  """
  values = table.filter(table[column].notnull()).select(column).distinct()
  old = None
  if known is not None:
    value = known['value'].cast(values[column].type())
    old = known.select(**{column: value, 'id': known['id'].cast('int32')})
    values = values.anti_join(old, column)
    first += count(old)
  position = ibis.row_number().over(ibis.window(order_by=values[column]))
  new = values.mutate(id=(position + first).cast('int32'))
  return new if old is None else ibis.union(old, new)


def to_ids(table: ir.Table, ids: Mapping[str, ir.Table]) -> ir.Table:
  """Replaces values by int32 ids, 0 for those that have none.

  `ids` are column to replace -> table (column, id) with each value once.
  """
  # One chain of joins: ibis takes long for nested ones.
  joined = table.select(*table.columns)  # Ends a join of before.
  coded = {}
  for number, (name, known) in enumerate(ids.items()):
    # '_id' is a column of many tables.
    key, value = f'__key_{number}', f'__id_{number}'
    known = known.select(**{key: known[name], value: known['id']})
    joined = joined.left_join(known, [(name, key)])
    coded[name] = value
  return joined.select(
    **{
      name: ibis.coalesce(joined[coded[name]], 0).cast('int32')
      if name in coded
      else joined[name]
      for name in table.columns
    }
  )


def in_first_share(
  table: ir.Table, key: str, *, share: float, seed: int, salt: str
) -> ir.BooleanValue:
  """Marks a seeded random share of the rows of a table of distinct keys.

  Exactly round(share * rows) are marked. For the salt, see `digest`.
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

  Collected columns hold no NULLs. `order_by`, the order of the rows of a group,
  together with the key must identify a row, or the order is not defined.
  """
  keys = [table[name] for name in order_by]
  return table.group_by(list(by)).agg(
    **{name: table[name].collect(order_by=keys) for name in lists}
  )


def write_records(
  table: ir.Table,
  path: str | os.PathLike[str],
  schema: record_schema.Schema,
  *,
  block_size: int = 256,
) -> int:
  """Writes an ordered table; returns its size. See `record_writer.write`."""
  path = pathlib.Path(path)
  batches = stream(table, path.parent, list(schema))
  return record_writer.write(path, batches, schema, block_size=block_size)


def stream(
  table: ir.Table,
  folder: str | os.PathLike[str],
  columns: Sequence[str] | None = None,
  *,
  batch_rows: int = 1024,
) -> Iterator[pa.RecordBatch]:
  """Computes a table and gives its columns (None: all) in its order, by pieces.

  It goes by way of a file in `folder`: every ibis backend writes one out of
  core.
  """
  with computed(table, folder) as rows:
    yield from rows.batches(0, len(rows), columns, batch_rows)


@dataclasses.dataclass(frozen=True)
class ComputedRows:
  """A table in its order, as files of which any thread reads any part."""

  files: Sequence[pathlib.Path]
  groups: Sequence[tuple[int, int]]  # (place of the file, rows), in order.

  def __len__(self) -> int:
    return sum(size for _, size in self.groups)

  def batches(
    self,
    start: int,
    stop: int,
    columns: Sequence[str] | None = None,
    batch_rows: int = 1024,
  ) -> Iterator[pa.RecordBatch]:
    """The rows start <= number < stop."""
    first, numbers = 0, dict.fromkeys(range(len(self.files)), 0)
    for place, size in self.groups:
      low, high = max(start - first, 0), min(stop - first, size)
      group, at = numbers[place], 0
      first, numbers[place] = first + size, group + 1
      if low >= high:
        continue
      with pq.ParquetFile(self.files[place]) as file:
        for batch in file.iter_batches(
          batch_rows, row_groups=[group], columns=columns
        ):
          after = at + batch.num_rows
          if low < after and at < high:
            begin = max(low - at, 0)
            yield batch.slice(begin, min(high, after) - at - begin)
          at = after


@contextlib.contextmanager
def computed(
  table: ir.Table, folder: str | os.PathLike[str]
) -> Iterator[ComputedRows]:
  """Computes a table with all that the engine has; see `stream`."""
  with tempfile.TemporaryDirectory(dir=folder, prefix='.write-') as temporary:
    whole = pathlib.Path(temporary) / 'table.parquet'
    table.to_parquet(str(whole))
    # Spark writes a folder with parts, in the order of their names.
    files = sorted(whole.glob('*.parquet')) if whole.is_dir() else [whole]
    told = [pq.read_metadata(path) for path in files]
    groups = [
      (place, one.row_group(i).num_rows)
      for place, one in enumerate(told)
      for i in range(one.num_row_groups)
    ]
    yield ComputedRows(files, groups)


def write_int32(
  path: pathlib.Path,
  table: ir.Table,
  column: str,
  folder: str | os.PathLike[str],
  *,
  threads: int = 1,
) -> int:
  """Writes a column of integers as a .npy file of int32; returns their number.

  The table is ordered as the values shall be; `folder` has room for it.
  """
  with computed(table, folder) as rows, open(path, 'wb') as file:
    size = len(rows)
    # An empty array cannot be memory-mapped: it gets a value that nothing
    # refers to.
    head = {'descr': '<i4', 'fortran_order': False, 'shape': (max(size, 1),)}
    np.lib.format.write_array_header_1_0(file, head)
    offset = file.tell()
    file.truncate(offset + 4 * max(size, 1))

    def write(start: int) -> None:
      at, stop = offset + 4 * start, min(start + _PART_ROWS, size)
      for batch in rows.batches(start, stop, [column], 65_536):
        part = batch[column].to_numpy(zero_copy_only=False).astype('<i4')
        at += os.pwrite(file.fileno(), part.tobytes(), at)

    for _ in thread_map.in_order(write, range(0, size, _PART_ROWS), threads):
      pass
  return size
