# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A store of behaviours: one row of numbers for each distinct text.

BAHE's "behaviors embedding table" (Geng et al. 2024, section 3.2,
https://arxiv.org/abs/2403.19347): row i is the pooled output of the low half
for text i of a vocabulary. Row 0, the padding, is zeros; row 1, the unknown
behaviour, is what the model makes of the text '[UNK]'.

A folder, or a bucket's URL:

  manifest.json   what the rows go with, and how many are complete
  rows/           an OCDBT database: zarr3 arrays `values` [2^31 - 1, D] and,
                  for int8, `scales` [2^31 - 1], in chunks of 1024 rows without
                  compression, and keys `complete/<start>-<stop>`

Only chunks that were written take space. A writer commits the rows of a range
and the key that says so in one transaction, and the manifest last of all. So
readers, who trust the manifest alone, see whole rows only, whatever runs or was
killed; and a build that goes on knows from the keys what is left to do. Several
processes may write at once: OCDBT makes a commit only where nobody else has
made one in between, and repeats it otherwise.

Reading single rows at random is 25 to 50 times slower than from memory: `load`
all of them, and gather there.
"""

from collections.abc import Iterator
import dataclasses
import os
from typing import Any

import ml_dtypes
import numpy as np
import tensorstore as ts

from antjax.ctr.bahe import manifest as manifest_lib
from antjax.ctr.bahe.manifest import Manifest

CHUNK_ROWS = 1024
MAX_ROWS = 2**31 - 1
_READ_ROWS = 64 * CHUNK_ROWS
DTYPES = {
  'float16': np.dtype(np.float16),
  'bfloat16': np.dtype(ml_dtypes.bfloat16),
  'int8': np.dtype(np.int8),
}


@dataclasses.dataclass(frozen=True)
class BehaviorStore:
  """The complete rows of a store, as they were when it was opened.

  Attributes:
    manifest: What the rows go with; see `Manifest.check`.
  """

  manifest: Manifest
  _arrays: 'Arrays'

  @classmethod
  def open(cls, path: str | os.PathLike[str]) -> 'BehaviorStore':
    """Opens the newest state; reads no rows.

    Args:
      path: Folder, or a URL that TensorStore knows ('gs://bucket/store').

    Raises:
      FileNotFoundError: No store there.
      ValueError: It is damaged, or holds no complete row yet.
    """
    manifest, _ = read_manifest(path)
    if manifest is None:
      raise FileNotFoundError(
        f'{path} holds no store of behaviours; launch/build_behavior_store.py'
        ' makes one.'
      )
    if not manifest.rows:
      raise ValueError(
        f'the store of behaviours at {path} has no complete rows: its first'
        ' build has not ended. Start launch/build_behavior_store.py again, it'
        ' goes on.'
      )
    return cls(manifest, open_arrays(path, manifest, create=False))

  @property
  def rows(self) -> int:
    """Complete rows."""
    return self.manifest.rows

  @property
  def dim(self) -> int:
    """Width of a row."""
    return self.manifest.dim

  @property
  def stored_bytes(self) -> int:
    """Bytes of the rows as they are stored."""
    scale = 4 if self.manifest.dtype == 'int8' else 0
    return self.rows * (self.dim * DTYPES[self.manifest.dtype].itemsize + scale)

  def read(self, start: int, stop: int, dtype: Any = np.float32) -> np.ndarray:
    """Reads rows.

    Args:
      start: First row.
      stop: After the last one.
      dtype: Of the result; int8 rows are multiplied by their scales.

    Returns:
      [stop - start, D].

    Raises:
      ValueError: They are not all complete.
    """
    self._check_range(start, stop)
    values, scales = self._arrays.read(start, stop)
    if scales is not None:
      values = values.astype(np.float32) * scales[:, None]
    return np.asarray(values, dtype=dtype)

  def load(self, dtype: Any = np.float32) -> np.ndarray:
    """Reads all rows, [rows, D], a block at a time."""
    result = np.empty((self.rows, self.dim), dtype)
    for start, stop in _blocks(self.rows):
      result[start:stop] = self.read(start, stop, dtype)
    return result

  def load_quantized(self) -> tuple[np.ndarray, np.ndarray]:
    """Reads all of an int8 store: (values int8 [rows, D], scales f32 [rows]).

    Row i is values[i] * scales[i].

    Raises:
      ValueError: The store is of another dtype.
    """
    if self.manifest.dtype != 'int8':
      raise ValueError(
        f'load_quantized: the store is {self.manifest.dtype}, it has no scales;'
        ' use load(), or build a store with --dtype=int8.'
      )
    values = np.empty((self.rows, self.dim), np.int8)
    scales = np.empty(self.rows, np.float32)
    for start, stop in _blocks(self.rows):
      values[start:stop], scales[start:stop] = self._arrays.read(start, stop)
    return values, scales

  def _check_range(self, start: int, stop: int) -> None:
    if not 0 <= start <= stop <= self.rows:
      raise ValueError(
        f'BehaviorStore.read({start}, {stop}): needed 0 <= start <= stop <='
        f' {self.rows}, the complete rows. Texts that are newer than the store'
        ' get theirs by launch/build_behavior_store.py.'
      )


@dataclasses.dataclass(frozen=True)
class Arrays:
  """The database of a store.

  Attributes:
    values: [MAX_ROWS, D].
    scales: float32 [MAX_ROWS]; None unless values are int8.
    keys: All of its keys.
  """

  values: Any
  scales: Any
  keys: Any

  def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows as they are stored, and their scales."""
    values = self.values[start:stop].read()
    scales = None if self.scales is None else self.scales[start:stop].read()
    return (
      _done(values, 'read the rows'),
      None if scales is None else _done(scales, 'read the scales'),
    )


def kvstore_spec(path: str | os.PathLike[str]) -> dict[str, Any] | str:
  """TensorStore's name of a folder or bucket."""
  text = os.fspath(path)
  if '://' in text:
    return text.rstrip('/') + '/'
  return {'driver': 'file', 'path': os.path.abspath(text) + '/'}


def read_manifest(
  path: str | os.PathLike[str],
) -> tuple[Manifest | None, Any]:
  """(manifest or None, the state of the file, for a conditional write).

  Raises:
    ValueError: The manifest is damaged.
  """
  folder = _done(ts.KvStore.open(kvstore_spec(path)), f'open {path}')
  found = _done(folder.read(manifest_lib.FILE_NAME), f'read {path}')
  generation = found.stamp.generation
  if found.state != 'value':
    return None, generation
  try:
    return Manifest.from_json(found.value), generation
  except ValueError as error:
    raise ValueError(
      f'{os.fspath(path)}/{manifest_lib.FILE_NAME} is no manifest of a store of'
      f' behaviours ({error}); restore it, or build the store anew in another'
      ' folder.'
    ) from error


def open_arrays(
  path: str | os.PathLike[str], manifest: Manifest, *, create: bool
) -> Arrays:
  """Opens the database.

  Raises:
    ValueError: It is not there, or not what the manifest says.
    OSError: It cannot be written.
  """
  database = {
    'driver': 'ocdbt',
    'base': kvstore_spec(f'{os.fspath(path)}/rows'),
  }

  def array(name: str, dtype: str, shape: tuple[int, ...]) -> Any:
    spec = {
      'driver': 'zarr3',
      'kvstore': {**database, 'path': f'{name}/'},
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
    opened = ts.open(spec, open=True, create=create)
    return _done(opened, f'open the rows of {path}')

  has_scales = manifest.dtype == 'int8'
  return Arrays(
    array('values', manifest.dtype, (manifest.dim,)),
    array('scales', 'float32', ()) if has_scales else None,
    _done(ts.KvStore.open(database), f'open the rows of {path}'),
  )


def _done(future: Any, what: str) -> Any:
  """Waits for TensorStore; its errors become short ones of ours."""
  try:
    return future.result()
  except ValueError as error:
    raise store_error(error, what) from error


def store_error(error: ValueError, what: str) -> Exception:
  """What to raise for an error of TensorStore, whose texts are very long."""
  text = str(error).split(' [source locations')[0]
  text = text.replace('\0', '/')
  wrong = ('NOT_FOUND', 'FAILED_PRECONDITION', 'DATA_LOSS')
  is_damage = text.startswith(wrong) and 'os_error_code' not in text
  kind = ValueError if is_damage else OSError
  return kind(f'store of behaviours: cannot {what}: {text[:400]}')


def _blocks(num_rows: int) -> Iterator[tuple[int, int]]:
  for start in range(0, num_rows, _READ_ROWS):
    yield start, min(start + _READ_ROWS, num_rows)
