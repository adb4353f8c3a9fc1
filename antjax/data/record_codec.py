# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Records as bytes, for files of opaque records such as ArrayRecord.

The coding is self-describing and safe to read from anyone: no pickle, no code,
every length is checked.
"""

from collections.abc import Mapping
import struct
from typing import Any

import numpy as np

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
