# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A database of a store of behaviors: rows, and which ranges are complete.

zarr3 arrays on OCDBT in chunks of 1024 rows without compression: `values`
[2^31 - 1, D], for int8 also `scales` [2^31 - 1], and keys
`complete/<start>-<stop>`. Rows stand at their own places: only chunks that were
written take space. Rows and the key that says that they are complete are
committed in one transaction.
"""

import dataclasses
import functools
import os
import pathlib
from typing import Any

import numpy as np
import tensorstore as ts

CHUNK_ROWS = 1024
MAX_ROWS = 2**31 - 1
PARTS = 'parts'
DATABASE = 'manifest.ocdbt'  # The file that a commit replaces.
_COMPLETE = b'complete/'
DTYPES = {
  'float16': np.dtype(np.float16),
  'bfloat16': np.dtype(ts.bfloat16.numpy_dtype),
  'int8': np.dtype(np.int8),
}
Range = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class StorePart:
  """A database, open.

  Attributes:
    values: TensorStore [MAX_ROWS, D].
    scales: TensorStore float32 [MAX_ROWS]; None unless values are int8.
    keys: KvStore with all of its keys.
  """

  values: Any
  scales: Any
  keys: Any

  @classmethod
  def open(
    cls,
    path: pathlib.Path,
    name: str,
    dtype: str,
    dim: int,
    *,
    create: bool = False,
  ) -> 'StorePart':
    """Opens a part of the store at `path`, or makes it.

    Raises:
      ValueError: It is not there, or damaged.
      OSError: It cannot be read, or made.
    """
    # One context: only so a transaction of arrays and keys is one commit.
    context = ts.Context()
    what = f'{"make" if create else "open"} the part {name} of {path}'
    database = _spec(path, name)

    def array(key: str, dtype: str, shape: tuple[int, ...]) -> Any:
      spec = {
        'driver': 'zarr3',
        'kvstore': {**database, 'path': f'{key}/'},
        'metadata': {
          'shape': [MAX_ROWS, *shape],
          'data_type': dtype,
          'fill_value': 0,
          'chunk_grid': {
            'name': 'regular',
            'configuration': {'chunk_shape': [CHUNK_ROWS, *shape]},
          },
          'codecs': [{'name': 'bytes', 'configuration': {'endian': 'little'}}],
        },
      }
      opened = ts.open(spec, open=True, create=create, context=context)
      return _done(opened, what)

    return cls(
      array('values', dtype, (dim,)),
      array('scales', 'float32', ()) if dtype == 'int8' else None,
      _done(ts.KvStore.open(database, context=context), what),
    )

  def read(self, start: int, stop: int) -> np.ndarray:
    """Rows; float32 where they are int8, multiplied by their scales."""
    values = _done(self.values[start:stop].read(), 'read the rows')
    if self.scales is None:
      return values
    scales = _done(self.scales[start:stop].read(), 'read the scales')
    return values.astype(np.float32) * scales[:, None]

  def write(
    self,
    start: int,
    values: np.ndarray,
    scales: np.ndarray | None,
    made_of: str,
    where: pathlib.Path,
  ) -> None:
    """Writes rows, all or nothing; `made_of` is kept with their range."""
    stop = start + len(values)
    key = _COMPLETE + b'%010d-%010d' % (start, stop)
    try:
      with ts.Transaction(atomic=True) as transaction:
        for array, rows in ((self.values, values), (self.scales, scales)):
          if rows is not None:
            target = array.with_transaction(transaction)
            target[start:stop].write(rows).result()
        self.keys.with_transaction(transaction)[key] = made_of.encode()
    except ValueError as error:
      raise _error(error, f'write to {where}') from error


# Readers keep what they opened.
opened = functools.lru_cache(maxsize=256)(StorePart.open)


def complete_ranges(
  path: pathlib.Path, name: str, *, with_made_of: bool = False
) -> dict[Range, str]:
  """The ranges that a part has, and if asked what `write` was told of each.

  Raises:
    ValueError: It is not there, or damaged.
    OSError: It cannot be read.
  """
  what = f'read the part {name} of {path}'
  keys = _done(ts.KvStore.open(_spec(path, name)), what)
  wanted = ts.KvStore.KeyRange(_COMPLETE, _COMPLETE[:-1] + b'0')
  found = {}
  for key in _done(keys.list(wanted), what):
    start, stop = map(int, key[len(_COMPLETE) :].split(b'-'))
    made_of = _done(keys.read(key), what).value if with_made_of else b''
    found[start, stop] = made_of.decode()
  return found


def _spec(path: pathlib.Path, name: str) -> dict[str, Any]:
  folder = os.path.abspath(path / PARTS / name)
  return {'driver': 'ocdbt', 'base': {'driver': 'file', 'path': f'{folder}/'}}


def _done(future: Any, what: str) -> Any:
  """Waits for TensorStore; its errors become short ones of ours."""
  try:
    return future.result()
  except ValueError as error:
    raise _error(error, what) from error


def _error(error: ValueError, what: str) -> Exception:
  """What to raise for an error of TensorStore, whose texts are very long."""
  text = str(error).split(' [source locations')[0].replace('\0', '/')
  wrong = ('NOT_FOUND', 'FAILED_PRECONDITION', 'DATA_LOSS', 'OUT_OF_RANGE')
  is_damage = text.startswith(wrong) and 'os_error_code' not in text
  kind = ValueError if is_damage else OSError
  return kind(f'store of behaviours: cannot {what}: {text[:400]}')
