# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Record files: Parquet and ArrayRecord, read by contiguous block.

A record is a dict of numpy values: a scalar, a 1-D array, or a 2-D array whose
rows are padded with -1 to a width that is the same in the whole file. Both
formats give the same records. Neither jax nor grain is imported here.

`record_writer` writes both; `record_codec` says what an ArrayRecord holds.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
from typing import Any, Protocol

from array_record.python import array_record_module
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antjax.input import record_codec

Record = dict[str, Any]  # Name -> np.ndarray, numpy scalar, or str.

# Parquet metadata: JSON, column -> width of the inner lists of a 2-D field.
WIDTHS_KEY = b'antjax.widths'


@dataclasses.dataclass(frozen=True)
class Field:
  """Type of one value of a record.

  Attributes:
    dtype: Name of a numpy dtype, or 'str'.
    ndim: 0 for a scalar, 1 for a list, 2 for a list of lists.
    width: For ndim=2, the length each inner list is padded to with -1.
  """

  dtype: str
  ndim: int = 0
  width: int = 0

  def arrow_type(self) -> pa.DataType:
    """Returns the Arrow type of the column in a Parquet file."""
    kind = (
      pa.string()
      if self.dtype == 'str'
      else pa.from_numpy_dtype(np.dtype(self.dtype))
    )
    for _ in range(self.ndim):
      kind = pa.list_(kind)
    return kind

  def __str__(self) -> str:
    return 'list of ' * self.ndim + self.dtype


Schema = Mapping[str, Field]


class RecordSource(Protocol):
  """Random access to records by contiguous block."""

  def __len__(self) -> int:
    """Returns the number of records."""

  def read(self, start: int, stop: int) -> list[Record]:
    """Returns the records start <= index < stop, in order."""


class SourceRange:
  """The records start <= index < stop of another source, as a source."""

  def __init__(self, source: RecordSource, start: int, stop: int):
    """Takes a part.

    Raises:
      ValueError: The range is not inside the source.
    """
    _check_block(type(source).__name__, start, stop, len(source))
    self._source, self._start, self._stop = source, start, stop

  def __len__(self) -> int:
    return self._stop - self._start

  def read(self, start: int, stop: int) -> list[Record]:
    """Returns the records start <= index < stop of the part, in order."""
    _check_block('SourceRange', start, stop, len(self))
    return self._source.read(self._start + start, self._start + stop)


class ParquetSource:
  """Records of one Parquet file.

  `read` decodes only the row groups that the block touches, so let a data shard
  be about as large as a row group or a multiple of it.
  """

  def __init__(
    self, path: str | os.PathLike[str], schema: Schema | None = None
  ):
    """Opens the file and checks its columns; reads no records.

    Args:
      path: Parquet file.
      schema: Columns to read, all others are left out; None reads all columns.

    Raises:
      FileNotFoundError: No such file.
      ValueError: Not a Parquet file, or a column is missing or of another type.
    """
    self._path = _existing_file('ParquetSource', path)
    self._schema = schema
    try:
      self._file = pq.ParquetFile(self._path)
    except (pa.ArrowInvalid, OSError) as e:
      raise ValueError(
        f'ParquetSource: {self._path} is not a whole Parquet file'
        f' ({_one_line(e)}); make it again.'
      ) from e
    found = self._file.schema_arrow
    if schema is not None:
      kinds = {
        name: Field(*_numpy_type(found.field(name).type))
        for name in found.names
      }
      _check_schema('ParquetSource', self._path, schema, kinds)
    self._columns = list(found.names if schema is None else schema)
    widths = json.loads((found.metadata or {}).get(WIDTHS_KEY, b'{}'))
    self._widths: dict[str, int] = widths
    sizes = [
      self._file.metadata.row_group(i).num_rows
      for i in range(self._file.num_row_groups)
    ]
    self._starts = np.cumsum([0, *sizes])

  def __reduce__(self) -> tuple[Any, ...]:  # Another process opens it anew.
    return type(self), (self._path, self._schema)

  def __len__(self) -> int:
    return int(self._starts[-1])

  def read(self, start: int, stop: int) -> list[Record]:
    """Returns the records start <= index < stop; see `RecordSource`."""
    _check_block(self._path, start, stop, len(self))
    if start == stop:
      return []
    first = int(np.searchsorted(self._starts, start, side='right')) - 1
    last = int(np.searchsorted(self._starts, stop, side='left'))
    try:
      table = self._file.read_row_groups(
        range(first, last), columns=self._columns, use_threads=False
      )
    except (pa.ArrowException, OSError) as e:
      raise _damaged(self._path, start, stop, e) from e
    table = table.slice(start - int(self._starts[first]), stop - start)
    return records_from_arrow(table, self._widths)


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
    self._path = _existing_file('ArrayRecordSource', path)
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
      _check_schema('ArrayRecordSource', self._path, schema, kinds)

  def __reduce__(self) -> tuple[Any, ...]:  # Another process opens it anew.
    return type(self), (self._path, self._schema)

  def __len__(self) -> int:
    return self._num_records

  def read(self, start: int, stop: int) -> list[Record]:
    """Returns the records start <= index < stop; see `RecordSource`."""
    _check_block(self._path, start, stop, len(self))
    if start == stop:
      return []
    try:
      block = self._reader.read(start, stop)
    except RuntimeError as e:
      raise _damaged(self._path, start, stop, e) from e
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
  path: str | os.PathLike[str], schema: Schema | None = None
) -> ParquetSource | ArrayRecordSource:
  """Opens a record file by its suffix, .parquet or .array_record."""
  suffix = os.path.splitext(os.fspath(path))[1]
  if suffix == '.parquet':
    return ParquetSource(path, schema)
  if suffix == '.array_record':
    return ArrayRecordSource(path, schema)
  raise ValueError(
    f'open_source: {os.fspath(path)}: unknown suffix {suffix!r}; needed:'
    ' .parquet or .array_record.'
  )


def records_from_arrow(
  table: pa.Table, widths: Mapping[str, int]
) -> list[Record]:
  """Turns Arrow columns into records.

  Args:
    table: Columns of numbers, texts, lists of numbers, or lists of such lists.
    widths: Column -> width that the inner lists of a list of lists are padded
      to with -1; without an entry each record has its own longest list's.

  Returns:
    One dict a row; arrays are views of the columns where that is possible.
  """
  columns = {
    name: _column_values(name, table[name], widths.get(name))
    for name in table.column_names
  }
  return [
    {name: values[i] for name, values in columns.items()}
    for i in range(table.num_rows)
  ]


def _column_values(
  name: str, column: pa.ChunkedArray, width: int | None
) -> Sequence[Any]:
  """Returns one value a row of a column without empty values."""
  if not len(column):
    return []
  array = pa.concat_arrays(column.chunks)
  level = array
  while pa.types.is_list(level.type):
    _check_no_nulls(name, level)
    level = level.flatten()
  _check_no_nulls(name, level)
  if pa.types.is_string(array.type):
    return array.to_pylist()
  if not pa.types.is_list(array.type):
    return array.to_numpy(zero_copy_only=False)
  offsets = array.offsets.to_numpy()
  values = array.values
  if pa.types.is_list(values.type):
    return _padded(values, offsets, width)
  flat = values.to_numpy(zero_copy_only=False)
  return [flat[a:b] for a, b in zip(offsets[:-1], offsets[1:])]


def _check_no_nulls(name: str, array: pa.Array) -> None:
  if array.null_count:
    raise ValueError(f'column {name!r} has {array.null_count} empty values.')


def _padded(
  lists: pa.ListArray, offsets: np.ndarray, width: int | None
) -> list[np.ndarray]:
  """Pads inner lists with -1; offsets [N + 1] cut them into N records."""
  inner = lists.offsets.to_numpy()
  flat = lists.values.to_numpy(zero_copy_only=False)
  lengths = np.diff(inner)
  result = []
  for start, stop in zip(offsets[:-1], offsets[1:]):
    part = lengths[start:stop]
    longest = int(part.max(initial=0))
    if width is not None and longest > width:
      raise ValueError(f'a list of {longest} values exceeds the width {width}.')
    columns = longest if width is None else width
    padded = np.full((stop - start, columns), -1, flat.dtype)
    keep = np.arange(columns) < part[:, None]
    padded[keep] = flat[inner[start] : inner[stop]]
    result.append(padded)
  return result


def _existing_file(call: str, path: str | os.PathLike[str]) -> str:
  path = os.fspath(path)
  if not os.path.isfile(path):
    raise FileNotFoundError(
      f'{call}: no such file: {path}; launch/prepare_data.py writes it.'
    )
  return path


def _damaged(path: str, start: int, stop: int, error: Exception) -> ValueError:
  return ValueError(
    f'{path}: the records {start} to {stop} cannot be read'
    f' ({_one_line(error)}): the file is damaged; make it again.'
  )


def _check_block(path: str, start: int, stop: int, size: int) -> None:
  if not 0 <= start <= stop <= size:
    raise ValueError(
      f'read({start}, {stop}) of {path}: needed 0 <= start <= stop <= {size}.'
    )


def _check_schema(
  call: str, path: str, schema: Schema, found: Mapping[str, Field]
) -> None:
  """Raises ValueError where a field is missing or of another type."""
  for name, field in schema.items():
    if name not in found:
      raise ValueError(
        f'{call}: {path} has no column {name!r}; it has: {", ".join(found)}.'
      )
    if (found[name].dtype, found[name].ndim) != (field.dtype, field.ndim):
      raise ValueError(
        f'{call}: {path}: column {name!r} is {found[name]}; needed: {field}.'
      )


def _numpy_type(kind: pa.DataType) -> tuple[str, int]:
  """Returns (dtype name, ndim) of an Arrow type."""
  ndim = 0
  while pa.types.is_list(kind):
    kind, ndim = kind.value_type, ndim + 1
  if pa.types.is_string(kind):
    return 'str', ndim
  try:
    return np.dtype(kind.to_pandas_dtype()).name, ndim
  except (NotImplementedError, TypeError):
    return str(kind), ndim


def _dtype_name(value: Any) -> str:
  return 'str' if isinstance(value, str) else np.asarray(value).dtype.name


def _one_line(error: BaseException) -> str:
  return ' '.join(str(error).split())
