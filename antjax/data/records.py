# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Record files: Arrow, Parquet and ArrayRecord, read by contiguous block.

A record is a dict of numpy values: a scalar, a 1-D array, or a 2-D array whose
rows are padded with -1 to a width that is the same in the whole file. All
formats give the same records. Neither jax nor grain is imported here.

`record_writer` writes them; `record_codec` says what an ArrayRecord holds,
`arrow_file` what an Arrow file does.
"""

from collections.abc import Sequence
import json
import os
from typing import Any

from array_record.python import array_record_module
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antjax.data import arrow_columns, record_codec, record_schema
from antjax.data.arrow_file import ArrowSource as ArrowSource
from antjax.data.record_schema import Field as Field
from antjax.data.record_schema import Schema as Schema
from antjax.data.record_schema import schema_from_json as schema_from_json
from antjax.data.record_schema import schema_to_json as schema_to_json
from antjax.shards.record_source import check_block, Record

# Parquet metadata: JSON, column -> width of the inner lists of a 2-D field.
WIDTHS_KEY = b'antjax.widths'


class ParquetSource:
  """Records of one Parquet file.

  `read` decodes only the row groups that the block touches, so let a data shard
  be about as large as a row group or a multiple of it.
  """

  def __init__(
    self,
    path: str | os.PathLike[str],
    schema: Schema | None = None,
    *,
    as_blocks: bool = False,
  ):
    """Opens the file and checks its columns; reads no records.

    Args:
      path: Parquet file.
      schema: Columns to read, all others are left out; None reads all columns.
      as_blocks: Whether `read` gives a `record_source.Block`, not records.

    Raises:
      FileNotFoundError: No such file.
      ValueError: Not a Parquet file, or a column is missing or of another type.
    """
    self._path = record_schema.existing_file('ParquetSource', path)
    self._schema, self._as_blocks = schema, as_blocks
    try:
      self._file = pq.ParquetFile(self._path)
    except (pa.ArrowInvalid, OSError) as e:
      raise ValueError(
        f'ParquetSource: {self._path} is not a whole Parquet file'
        f' ({record_schema.one_line(e)}); make it again.'
      ) from e
    found = self._file.schema_arrow
    if schema is not None:
      kinds = {
        name: Field(*record_schema.numpy_type(found.field(name).type))
        for name in found.names
      }
      record_schema.check_schema('ParquetSource', self._path, schema, kinds)
    self._columns = list(found.names if schema is None else schema)
    widths = json.loads((found.metadata or {}).get(WIDTHS_KEY, b'{}'))
    self._widths: dict[str, int] = widths
    sizes = [
      self._file.metadata.row_group(i).num_rows
      for i in range(self._file.num_row_groups)
    ]
    self._starts = np.cumsum([0, *sizes])

  def __reduce__(self) -> tuple[Any, ...]:  # Another process reopens it.
    return open_source, (self._path, self._schema, self._as_blocks)

  def __len__(self) -> int:
    return int(self._starts[-1])

  def read(self, start: int, stop: int) -> Sequence[Record]:
    """Returns the records start <= index < stop; see `RecordSource`."""
    check_block(self._path, start, stop, len(self))
    if start == stop and not self._as_blocks:
      return []
    first = int(np.searchsorted(self._starts, start, side='right')) - 1
    last = int(np.searchsorted(self._starts, stop, side='left'))
    try:
      table = self._file.read_row_groups(
        range(first, last), columns=self._columns, use_threads=False
      )
    except (pa.ArrowException, OSError) as e:
      raise record_schema.damaged(self._path, start, stop, e) from e
    table = table.slice(start - int(self._starts[first]), stop - start)
    if self._as_blocks:
      return arrow_columns.block_from_arrow(table, self._widths)
    return arrow_columns.records_from_arrow(table, self._widths)


class ArrayRecordSource:
  """Records of one ArrayRecord file written by `write_array_record`."""

  def __init__(
    self, path: str | os.PathLike[str], schema: Schema | None = None
  ):
    """Opens the file and checks the fields of its first record.

    Args:
      path: ArrayRecord file.
      schema: Fields to give, all others are left out; None gives all fields.

    Raises:
      FileNotFoundError: No such file.
      ValueError: Not an ArrayRecord file of ours, or a field is missing or of
        another type.
    """
    self._path = record_schema.existing_file('ArrayRecordSource', path)
    self._schema = schema
    self._reader = array_record_module.ArrayRecordReader(
      self._path, options='readahead_buffer_size:0'
    )
    if not self._reader.ok():  # It does not raise, and would have 0 records.
      raise ValueError(
        f'ArrayRecordSource: {self._path} is not a whole ArrayRecord file;'
        ' make it again.'
      )
    self._num_records = int(self._reader.num_records())
    self._names: Sequence[str] | None = None if schema is None else list(schema)
    if schema is not None and self._num_records:
      kinds = {
        name: Field(_dtype_name(value), np.ndim(value))
        for name, value in self._decode(self._reader.read([0])[0], 0).items()
      }
      record_schema.check_schema('ArrayRecordSource', self._path, schema, kinds)

  def __reduce__(self) -> tuple[Any, ...]:  # Another process reopens it.
    return type(self), (self._path, self._schema)

  def __len__(self) -> int:
    return self._num_records

  def read(self, start: int, stop: int) -> list[Record]:
    """Returns the records start <= index < stop; see `RecordSource`."""
    check_block(self._path, start, stop, len(self))
    if start == stop:
      return []
    try:
      block = self._reader.read(start, stop)
    except RuntimeError as e:
      raise record_schema.damaged(self._path, start, stop, e) from e
    records = [self._decode(data, start + i) for i, data in enumerate(block)]
    if self._names is None:
      return records
    return [{name: record[name] for name in self._names} for record in records]

  def _decode(self, data: bytes, index: int) -> Record:
    try:
      return record_codec.decode(data)
    except ValueError as e:
      raise ValueError(
        f'ArrayRecordSource: record {index} of {self._path}: {e}'
      ) from e


def open_source(
  path: str | os.PathLike[str],
  schema: Schema | None = None,
  as_blocks: bool = False,
) -> ArrowSource | ParquetSource | ArrayRecordSource:
  """Opens a record file by its suffix, .arrow, .parquet or .array_record.

  Args:
    path: Record file.
    schema: Fields to read, all others are left out; None reads all of them.
    as_blocks: Whether `read` gives columns, a `record_source.Block`, and not
      one dict a record; not of an ArrayRecord file.

  Raises:
    FileNotFoundError: No such file.
    ValueError: Another suffix, no file of that format, or a field is missing or
      of another type.
  """
  suffix = os.path.splitext(os.fspath(path))[1]
  if suffix == '.arrow':
    return ArrowSource(path, schema, as_blocks=as_blocks)
  if suffix == '.parquet':
    return ParquetSource(path, schema, as_blocks=as_blocks)
  if suffix == '.array_record':
    if as_blocks:
      raise ValueError(
        f'open_source: {os.fspath(path)}: an ArrayRecord file holds records one'
        ' by one; as_blocks needs --format=arrow or parquet.'
      )
    return ArrayRecordSource(path, schema)
  raise ValueError(
    f'open_source: {os.fspath(path)}: unknown suffix {suffix!r}; needed:'
    ' .arrow, .parquet or .array_record.'
  )


def _dtype_name(value: Any) -> str:
  return 'str' if isinstance(value, str) else np.asarray(value).dtype.name
