# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A store of behaviours: one row of numbers for each distinct text.

BAHE's "behaviors embedding table" (Geng et al. 2024, section 3.2,
https://arxiv.org/abs/2403.19347): row i is the pooled output of the low half
for text i of a vocabulary. Row 0, the padding, is zeros; row 1, the unknown
behavior, is what the model makes of its text, '[UNK]'.

A folder:

  manifest.json    what the rows go with, and which part holds which of them
  parts/<name>/    databases (zarr3 arrays on OCDBT, in chunks of 1024 rows
                   without compression): `values` [2^31 - 1, D], for int8 also
                   `scales` [2^31 - 1], and keys `complete/<start>-<stop>`

Each process that builds writes to a part of its own, at the rows' own places:
only chunks that were written take space. Rows and the key that says that they
are complete are committed in one transaction, and the manifest is replaced last
of all. So readers, who trust the manifest alone, see whole rows only, whatever
runs or was killed, and a resumed build knows from the keys what is left.

Why not one database for all: OCDBT is made for several writers, but TensorStore
(0.1.86) does not truncate the lock file that a killed one left beside the file
it was replacing, and the next writer's shorter content gets the rest of it.

Reading single rows at random is far slower than from memory: `load` all of
them, and gather there.
"""

import bisect
from collections.abc import Iterator
import dataclasses
import functools
import os
import pathlib
from typing import Any

import numpy as np
import tensorstore as ts

from antjax.ctr.bahe import manifest as manifest_lib
from antjax.ctr.bahe.manifest import Manifest

CHUNK_ROWS = 1024
MAX_ROWS = 2**31 - 1
PARTS = 'parts'
DATABASE = 'manifest.ocdbt'  # The file that a commit replaces.
COMPLETE = b'complete/'
_READ_ROWS = 64 * CHUNK_ROWS
DTYPES = {
  'float16': np.dtype(np.float16),
  'bfloat16': np.dtype(ts.bfloat16.numpy_dtype),
  'int8': np.dtype(np.int8),
}


@dataclasses.dataclass(frozen=True)
class BehaviorStore:
  """The complete rows of a store, as they were when it was opened.

  Attributes:
    path: Its folder.
    manifest: What the rows go with; see `Manifest.check`.
  """

  path: pathlib.Path
  manifest: Manifest

  @classmethod
  def open(cls, path: str | os.PathLike[str]) -> 'BehaviorStore':
    """Opens the newest state; reads no rows.

    Raises:
      FileNotFoundError: No store there.
      ValueError: It is damaged, lacks rows that it should have, or holds no
        complete row yet.
    """
    manifest = read_manifest(path)
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
    check_parts(path, manifest)
    return cls(pathlib.Path(path), manifest)

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
    row = self.dim * DTYPES[self.manifest.dtype].itemsize + scale
    return self.rows * row

  def read(self, start: int, stop: int, dtype: Any = np.float32) -> np.ndarray:
    """Reads rows.

    Args:
      start: First row.
      stop: End of the range, exclusive.
      dtype: Dtype of the result; int8 rows are multiplied by their scales.

    Returns:
      [stop - start, D].

    Raises:
      ValueError: They are not all complete, or damaged.
    """
    values, scales = self._stored(start, stop)
    if scales is not None:
      values = values.astype(np.float32) * scales[:, None]
    return values.astype(dtype, copy=False)

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
      values[start:stop], scales[start:stop] = self._stored(start, stop)
    return values, scales

  def _stored(
    self, start: int, stop: int
  ) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows as they are stored, and the scales of int8."""
    if not 0 <= start <= stop <= self.rows:
      raise ValueError(
        f'BehaviorStore.read({start}, {stop}): needed 0 <= start <= stop <='
        f' {self.rows}, the complete rows. Texts that are newer than the store'
        ' get theirs by launch/build_behavior_store.py.'
      )
    values = np.empty((stop - start, self.dim), DTYPES[self.manifest.dtype])
    has_scales = self.manifest.dtype == 'int8'
    scales = np.empty(stop - start, np.float32) if has_scales else None
    parts = self.manifest.parts
    at = bisect.bisect_right(parts, start, key=lambda part: part[0]) - 1
    while start < stop:
      _, end, name = parts[at]
      end = min(end, stop)
      part = self._part(name)
      place = slice(len(values) - (stop - start), len(values) - (stop - end))
      values[place] = done(part.values[start:end].read(), 'read the rows')
      if scales is not None:
        scales[place] = done(part.scales[start:end].read(), 'read the scales')
      start, at = end, at + 1
    return values, scales

  def _part(self, name: str) -> 'StorePart':
    return _open_part(self.path, name, self.manifest.dtype, self.dim)


@dataclasses.dataclass(frozen=True)
class StorePart:
  """A database of a store.

  Attributes:
    values: TensorStore [MAX_ROWS, D].
    scales: TensorStore float32 [MAX_ROWS]; None unless values are int8.
    keys: KvStore with all of its keys.
  """

  values: Any
  scales: Any
  keys: Any


def read_manifest(path: str | os.PathLike[str]) -> Manifest | None:
  """The newest manifest; None where there is no store.

  Raises:
    ValueError: It is damaged.
  """
  file = pathlib.Path(path) / manifest_lib.FILE_NAME
  try:
    return Manifest.from_json(file.read_bytes())
  except (FileNotFoundError, NotADirectoryError):
    return None
  except (ValueError, TypeError) as error:
    raise ValueError(
      f'{file} is no manifest of a store of behaviours ({error}); restore it,'
      ' or build the store anew in another folder.'
    ) from error


def check_parts(path: str | os.PathLike[str], manifest: Manifest) -> None:
  """Refuses a store whose parts are not all there; reads no rows.

  Raises:
    ValueError: A part is gone, damaged, or holds fewer rows than it should.
    OSError: It cannot be read.
  """
  path = pathlib.Path(path)
  ranges: dict[str, list[tuple[int, int]]] = {}
  for start, stop, name in manifest.parts:
    problem = ''
    if not (path / PARTS / name / DATABASE).is_file():
      problem = 'is gone'
    else:
      if name not in ranges:
        keys = open_keys(path, name)
        ranges[name] = [part for part, _ in complete_ranges(keys, path, name)]
      at = start
      for first, last in sorted(ranges[name]):
        if first <= at:
          at = max(at, last)
      if at < stop:
        problem = f'lacks rows of {start} to {stop - 1}'
    if problem:
      raise ValueError(
        f'the store of behaviours at {path} is damaged: its part {name}'
        f' {problem}; delete {path} and build it again'
        ' (launch/build_behavior_store.py).'
      )


def open_keys(path: pathlib.Path, name: str) -> Any:
  """The KvStore of a part that is there."""
  what = f'read the part {name} of {path}'
  return done(ts.KvStore.open(database_spec(path, name)), what)


def complete_ranges(
  keys: Any, path: pathlib.Path, name: str
) -> list[tuple[tuple[int, int], bytes]]:
  """((start, stop), key) of the rows that a part has, in no order."""
  wanted = ts.KvStore.KeyRange(COMPLETE, COMPLETE[:-1] + b'0')
  found = done(keys.list(wanted), f'read the part {name} of {path}')
  result = []
  for key in found:
    start, stop = map(int, key[len(COMPLETE) :].split(b'-'))
    result.append(((start, stop), key))
  return result


def open_part(
  path: pathlib.Path, name: str, dtype: str, dim: int, *, create: bool = False
) -> StorePart:
  """Opens a database.

  Raises:
    ValueError: It is not there, or damaged.
    OSError: It cannot be read, or made.
  """
  folder = os.path.abspath(path / PARTS / name)
  database = {
    'driver': 'ocdbt',
    'base': {'driver': 'file', 'path': folder + '/'},
  }
  # One context: only so a transaction of arrays and keys is one commit.
  context = ts.Context()
  what = f'{"make" if create else "open"} the part {name} of {path}'

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
    return done(ts.open(spec, open=True, create=create, context=context), what)

  return StorePart(
    array('values', dtype, (dim,)),
    array('scales', 'float32', ()) if dtype == 'int8' else None,
    done(ts.KvStore.open(database, context=context), what),
  )


def database_spec(path: pathlib.Path, name: str) -> dict[str, Any]:
  """TensorStore's description of a part."""
  folder = os.path.abspath(path / PARTS / name)
  return {'driver': 'ocdbt', 'base': {'driver': 'file', 'path': f'{folder}/'}}


_open_part = functools.lru_cache(maxsize=256)(open_part)


def done(future: Any, what: str) -> Any:
  """Waits for TensorStore; its errors become short ones of ours."""
  try:
    return future.result()
  except ValueError as error:
    raise store_error(error, what) from error


def store_error(error: ValueError, what: str) -> Exception:
  """What to raise for an error of TensorStore, whose texts are very long."""
  text = str(error).split(' [source locations')[0].replace('\0', '/')
  wrong = ('NOT_FOUND', 'FAILED_PRECONDITION', 'DATA_LOSS', 'OUT_OF_RANGE')
  is_damage = text.startswith(wrong) and 'os_error_code' not in text
  kind = ValueError if is_damage else OSError
  return kind(f'store of behaviours: cannot {what}: {text[:400]}')


def _blocks(num_rows: int) -> Iterator[tuple[int, int]]:
  for start in range(0, num_rows, _READ_ROWS):
    yield start, min(start + _READ_ROWS, num_rows)
