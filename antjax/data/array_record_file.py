# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""ArrayRecord files of records, and records as bytes.

The coding is self-describing and safe to read from anyone: no pickle, no code,
every length is checked.
"""

from collections.abc import Mapping, Sequence
import os
import struct
from typing import Any

from array_record.python import array_record_module
import numpy as np

from antjax.data import record_schema
from antjax.data.record_schema import Field, Schema
from antjax.shards.record_source import check_block, Record

_MAGIC = b'AJR1'
_TEXT = 'U'  # Type code of a UTF-8 text; arrays carry their numpy type code.


def encode(record: Mapping[str, Any]) -> bytes:
  """Encodes a record of numpy scalars, numpy arrays and texts as bytes.

  Layout, little-endian: 'AJR1', uint16 number of fields, then for each field:
  uint8 + name, uint8 + type ('U' for text, else numpy's, such as '<i4'),
  uint8 number of dims, uint32 each dim, uint32 + value bytes.

  Raises:
    ValueError: A value is of another kind.
  """
  parts = [_MAGIC, struct.pack('<H', len(record))]
  for name, value in record.items():
    if isinstance(value, str):
      kind, shape, data = _TEXT, (), value.encode()
    else:
      array = np.asarray(value)
      if array.dtype.kind not in 'biuf':
        raise ValueError(
          f'encode: field {name!r} is {type(value).__name__} of'
          f' {array.dtype}; needed: numbers, bools or str.'
        )
      array = array.astype(array.dtype.newbyteorder('<'), copy=False)
      kind, shape, data = array.dtype.str, array.shape, array.tobytes()
    for text in (name, kind):
      raw = text.encode()
      parts += [struct.pack('<B', len(raw)), raw]
    parts.append(struct.pack(f'<B{len(shape)}I', len(shape), *shape))
    parts += [struct.pack('<I', len(data)), data]
  return b''.join(parts)


def decode(data: bytes) -> dict[str, Any]:
  """Decodes what `encode` made; arrays are read-only views of `data`.

  Raises:
    ValueError: `data` is damaged or was not made by `encode`.
  """
  if data[:4] != _MAGIC:
    raise ValueError('not a record of antjax (no AJR1 at its start).')
  position = 4

  def take(size: int) -> bytes:
    nonlocal position
    piece = data[position : position + size]
    if len(piece) != size:
      raise ValueError('the record is cut short.')
    position += size
    return piece

  record: dict[str, Any] = {}
  (num_fields,) = struct.unpack('<H', take(2))
  for _ in range(num_fields):
    name = take(take(1)[0]).decode()
    kind = take(take(1)[0]).decode()
    ndim = take(1)[0]
    shape = struct.unpack(f'<{ndim}I', take(4 * ndim))
    value = take(struct.unpack('<I', take(4))[0])
    if kind == _TEXT:
      record[name] = value.decode()
      continue
    try:
      dtype = np.dtype(kind)
    except TypeError as e:
      raise ValueError(f'field {name!r} has the unknown type {kind!r}.') from e
    if dtype.kind not in 'biuf':
      raise ValueError(f'field {name!r} has the type {kind!r}, not a number.')
    array = np.frombuffer(value, dtype)
    if array.size != int(np.prod(shape, dtype=np.int64)):
      raise ValueError(f'field {name!r} does not fill its shape {shape}.')
    record[name] = array.reshape(shape) if ndim else array[0]
  if position != len(data):
    raise ValueError(f'{len(data) - position} bytes follow the record.')
  return record


class ArrayRecordSource:
  """Records of one ArrayRecord file written by `write_array_record`."""

  def __init__(
    self, path: str | os.PathLike[str], schema: Schema | None = None
  ):
    """Opens the file and checks the fields of its first record.

    Fields that the schema lacks are left out; None gives all of them.

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
        name: _field_of(value)
        for name, value in self._decode(self._reader.read([0])[0], 0).items()
      }
      record_schema.check_schema('ArrayRecordSource', self._path, schema, kinds)

  def __reduce__(self) -> tuple[Any, ...]:  # Another process reopens it.
    return type(self), (self._path, self._schema)

  def __len__(self) -> int:
    return self._num_records

  def read(self, start: int, stop: int) -> list[Record]:
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
      return decode(data)
    except ValueError as e:
      raise ValueError(
        f'ArrayRecordSource: record {index} of {self._path}: {e}'
      ) from e


def _field_of(value: Any) -> Field:
  dtype = 'str' if isinstance(value, str) else np.asarray(value).dtype.name
  return Field(dtype, np.ndim(value))
