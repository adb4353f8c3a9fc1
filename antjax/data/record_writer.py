# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes record files that appear only when whole."""

from collections.abc import Iterable, Iterator
import contextlib
import json
import os
import uuid

from array_record.python import array_record_module
import pyarrow as pa
import pyarrow.parquet as pq

from antjax.data import arrow_columns, arrow_file, record_codec, records


def write(
  path: str | os.PathLike[str],
  batches: Iterable[pa.RecordBatch],
  schema: records.Schema,
) -> int:
  """Writes a file by its suffix, .arrow, .parquet or .array_record."""
  suffix = os.path.splitext(os.fspath(path))[1]
  if suffix == '.arrow':
    return write_arrow(path, batches, schema)
  if suffix == '.parquet':
    return write_parquet(path, batches, schema)
  if suffix == '.array_record':
    return write_array_record(path, batches, schema)
  raise ValueError(
    f'write: {os.fspath(path)}: unknown suffix {suffix!r}; needed: .arrow,'
    ' .parquet or .array_record.'
  )


def write_arrow(
  path: str | os.PathLike[str],
  batches: Iterable[pa.RecordBatch],
  schema: records.Schema,
  *,
  block_size: int = 256,
) -> int:
  """Writes Arrow batches to an Arrow file that appears only when whole.

  Args:
    path: File to write; an existing file is replaced at the end.
    batches: Columns of at least `schema`; integers are cast with a check.
    schema: Columns to write and their types. A list of lists needs its width:
      it is written padded, so that it is read without decoding.
    block_size: Records in a block, the unit of reading.

  Returns:
    Number of records written.
  """
  widths = {n: f.width for n, f in schema.items() if f.ndim == 2}
  given = pa.schema([(n, f.arrow_type()) for n, f in schema.items()])
  written = pa.schema(
    [(n, f.arrow_type(is_padded=True)) for n, f in schema.items()],
    metadata={arrow_file.BLOCK_SIZE_KEY: str(block_size).encode()},
  )
  num_records = 0
  with _replacing(path) as temporary:
    with pa.ipc.new_file(temporary, written) as file:
      for table in _regroup(batches, given, block_size):
        columns = [
          arrow_columns.padded_lists(column.combine_chunks(), widths[name])
          if name in widths
          else column.combine_chunks()
          for name, column in zip(table.column_names, table.columns)
        ]
        file.write_batch(pa.record_batch(columns, schema=written))
        num_records += table.num_rows
  return num_records


def write_parquet(
  path: str | os.PathLike[str],
  batches: Iterable[pa.RecordBatch],
  schema: records.Schema,
  *,
  row_group_size: int = 256,
) -> int:
  """Writes Arrow batches to a Parquet file that appears only when whole.

  Args:
    path: File to write; an existing file is replaced at the end.
    batches: Columns of at least `schema`; integers are cast with a check.
    schema: Columns to write and their types.
    row_group_size: Records in a row group, the unit of reading.

  Returns:
    Number of records written.
  """
  widths = {n: f.width for n, f in schema.items() if f.ndim == 2}
  arrow_schema = pa.schema(
    [(name, field.arrow_type()) for name, field in schema.items()],
    metadata={records.WIDTHS_KEY: json.dumps(widths).encode()},
  )
  num_records = 0
  with _replacing(path) as temporary:
    with pq.ParquetWriter(temporary, arrow_schema, compression='zstd') as file:
      for table in _regroup(batches, arrow_schema, row_group_size):
        file.write_table(table, row_group_size=row_group_size)
        num_records += table.num_rows
  return num_records


def write_array_record(
  path: str | os.PathLike[str],
  batches: Iterable[pa.RecordBatch],
  schema: records.Schema,
  *,
  group_size: int = 16,
) -> int:
  """Writes Arrow batches to an ArrayRecord file that appears only when whole.

  Args:
    path: File to write; an existing file is replaced at the end.
    batches: Columns of at least `schema`; integers are cast with a check.
    schema: Fields to write and their types.
    group_size: Records compressed together: more is smaller, but a read of one
      record decodes all of its group.

  Returns:
    Number of records written.
  """
  widths = {n: f.width for n, f in schema.items() if f.ndim == 2}
  arrow_schema = pa.schema([(n, f.arrow_type()) for n, f in schema.items()])
  num_records = 0
  with _replacing(path) as temporary:
    writer = array_record_module.ArrayRecordWriter(
      temporary, f'group_size:{group_size}'
    )
    try:
      for table in _regroup(batches, arrow_schema, 1024):
        for record in arrow_columns.records_from_arrow(table, widths):
          writer.write(record_codec.encode(record))
          num_records += 1
    finally:
      writer.close()
  return num_records


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


@contextlib.contextmanager
def _replacing(path: str | os.PathLike[str]) -> Iterator[str]:
  """Gives a temporary name that becomes `path` at a clean end."""
  path = os.fspath(path)
  folder, name = os.path.split(path)
  temporary = os.path.join(folder, f'.{name}.{uuid.uuid4().hex}.partial')
  try:
    yield temporary
    os.replace(temporary, path)
  finally:
    if os.path.exists(temporary):
      os.remove(temporary)
