# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes record files that appear only when whole."""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import json
import os
import pathlib

from array_record.python import array_record_module
import pyarrow as pa
import pyarrow.parquet as pq

from antjax import paths
from antjax.data import array_record_file, arrow_columns, record_schema
from antjax.data.record_schema import Schema

# Takes a table of as many records as a block has.
_Add = Callable[[pa.Table], None]
# Records of an ArrayRecord file that are compressed together: more is smaller,
# but a read of one record decodes all of its group.
_GROUP_SIZE = 16


def write(
  path: str | os.PathLike[str],
  batches: Iterable[pa.RecordBatch],
  schema: Schema,
  *,
  block_size: int = 256,
) -> int:
  """Writes Arrow batches to a record file that appears only when whole.

  Args:
    path: File to write, by its suffix .arrow, .parquet or .array_record; an
      existing file is replaced at the end.
    batches: Columns of at least `schema`; integers are cast with a check.
    schema: Columns to write and their types. A list of lists needs its width:
      Arrow files have it padded, so that it is read without decoding.
    block_size: Records in a block of Arrow or a row group of Parquet, the unit
      of reading.

  Returns:
    Number of records written.
  """
  suffix = os.path.splitext(os.fspath(path))[1]
  if suffix not in _FORMATS:
    raise ValueError(
      f'write: {os.fspath(path)}: unknown suffix {suffix!r}; needed: .arrow,'
      ' .parquet or .array_record.'
    )
  given = record_schema.arrow_schema(schema)
  num_records = 0
  with paths.replaced(pathlib.Path(path)) as new:
    with _FORMATS[suffix](os.fspath(new), schema, block_size) as add:
      for table in _regroup(batches, given, block_size):
        add(table)
        num_records += table.num_rows
  return num_records


@contextlib.contextmanager
def _arrow(path: str, schema: Schema, block_size: int) -> Iterator[_Add]:
  widths = record_schema.widths(schema)
  size = {record_schema.BLOCK_SIZE_KEY: str(block_size).encode()}
  written = record_schema.arrow_schema(schema, is_padded=True, metadata=size)

  def add(table: pa.Table) -> None:
    columns = [
      arrow_columns.padded_lists(column.combine_chunks(), widths[name])
      if name in widths
      else column.combine_chunks()
      for name, column in zip(table.column_names, table.columns)
    ]
    file.write_batch(pa.record_batch(columns, schema=written))

  with pa.ipc.new_file(path, written) as file:
    yield add


@contextlib.contextmanager
def _parquet(path: str, schema: Schema, block_size: int) -> Iterator[_Add]:
  widths = json.dumps(record_schema.widths(schema)).encode()
  written = record_schema.arrow_schema(
    schema, metadata={record_schema.WIDTHS_KEY: widths}
  )

  def add(table: pa.Table) -> None:
    table = table.replace_schema_metadata(written.metadata)
    file.write_table(table, row_group_size=block_size)

  with pq.ParquetWriter(path, written, compression='zstd') as file:
    yield add


@contextlib.contextmanager
def _array_record(path: str, schema: Schema, block_size: int) -> Iterator[_Add]:
  del block_size
  widths = record_schema.widths(schema)

  def add(table: pa.Table) -> None:
    for record in arrow_columns.records_from_arrow(table, widths):
      writer.write(array_record_file.encode(record))

  writer = array_record_module.ArrayRecordWriter(
    path, f'group_size:{_GROUP_SIZE}'
  )
  try:
    yield add
  finally:
    writer.close()


_FORMATS = {
  '.arrow': _arrow,
  '.parquet': _parquet,
  '.array_record': _array_record,
}


def _regroup(
  batches: Iterable[pa.RecordBatch], schema: pa.Schema, size: int
) -> Iterator[pa.Table]:
  """Casts batches and cuts them again into tables of `size` rows."""
  waiting: list[pa.Table] = []
  num_rows = 0
  for batch in batches:
    table = pa.Table.from_batches([batch]).select(schema.names).cast(schema)
    waiting.append(table)
    num_rows += table.num_rows
    if num_rows >= size:
      whole = pa.concat_tables(waiting)
      cut = num_rows - num_rows % size
      for start in range(0, cut, size):
        yield whole.slice(start, size)
      waiting, num_rows = [whole.slice(cut)], num_rows - cut
  if num_rows:
    yield pa.concat_tables(waiting)
