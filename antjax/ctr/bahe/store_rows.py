# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The memory-mapped files of a behavior store.

`parts/<start>-<stop>-<texts>` has the rows start <= id < stop: the numbers of
each row, little-endian, and for int8 its scale, float32. `texts` is the
fingerprint of their texts. A file gets its name when it is completely on disk.

Stores from before 2026-12 have TensorStore databases instead of files. They can
be read, and are no longer written.
"""

from collections.abc import Iterable, Sequence
import errno
import mmap
import os
import pathlib
import re
import secrets
import threading
from typing import Any

import jax.numpy as jnp
import numpy as np

MAX_ROWS = 2**31 - 1
PARTS = 'parts'
DTYPES = {
  'float16': np.dtype(np.float16),
  'bfloat16': np.dtype(jnp.bfloat16),
  'int8': np.dtype(np.int8),
}
NAME = re.compile(r'(\d{10})-(\d{10})-([0-9a-z]*)')  # Name of a file.
OLD_NAME = re.compile('[0-9a-f]{1,16}')  # Name of a database.
_READ_ROWS = 65_536
Range = tuple[int, int]
Part = tuple[int, int, str]  # The rows start <= id < stop are in this file.
# First row to read from a file, its first row, and its rows, uint8 [n, bytes].
File = tuple[int, int, Any]


class MappedRows:
  """A float array [R, D] that is read when indexed.

  Index it by a slice or int [n]. Thread-safe.

  Attributes:
    shape: (R, D).
    dtype: Dtype of returned rows.
    nbytes: Bytes of all rows in that dtype.
  """

  def __init__(
    self,
    files: Sequence['File'],
    num_rows: int,
    stored: str,
    dim: int,
    dtype: Any = np.float32,
    hot_bytes: int = 0,
  ):
    """Reads no rows yet.

    `stored` is the dtype of the stored numbers; a cache of rows that were read
    by number takes `hot_bytes`. For the files see `opened`.
    """
    self.shape, self.dtype = (num_rows, dim), np.dtype(dtype)
    self.nbytes = num_rows * dim * self.dtype.itemsize
    self._files, self._stored = files, stored
    self._starts = np.array([start for start, _, _ in files])
    num_hot = min(len(self), hot_bytes // (dim * self.dtype.itemsize))
    self._hot = np.empty((num_hot, dim), self.dtype)
    self._hot_ids = np.full(num_hot, -1, np.int32)
    self._lock = threading.Lock()

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
    """Rows [n, D]; a slice bypasses the cache of hot rows."""
    if not isinstance(index, slice):
      return self._through_hot(np.asarray(index))
    wanted = range(*index.indices(len(self)))
    result = np.empty((len(wanted), self.shape[1]), self.dtype)
    for at in range(0, len(wanted), _READ_ROWS):
      block = wanted[at : at + _READ_ROWS]
      result[at : at + len(block)] = self._decoded(np.array(block))
    return result

  def raw(self, ids: np.ndarray) -> np.ndarray:
    """Stored rows, uint8 [n, bytes]."""
    place = np.searchsorted(self._starts, ids, 'right') - 1
    numbers = np.unique(place)
    if len(numbers) == 1:
      _, first, rows = self._files[numbers[0]]
      return rows[ids - first]
    result = np.empty((len(ids), row_bytes(self._stored, self.shape[1])), 'u1')
    for number in numbers:
      _, first, rows = self._files[number]
      at = np.flatnonzero(place == number)
      result[at] = rows[ids[at] - first]
    return result

  def _decoded(self, ids: np.ndarray) -> np.ndarray:
    """Rows [n, D]; int8 rows are multiplied by their scales."""
    raw, dtype = self.raw(ids), DTYPES[self._stored]
    size = self.shape[1] * dtype.itemsize
    values = raw[:, :size].view(dtype)
    if self._stored == 'int8':
      values = values.astype(np.float32) * raw[:, size:].view(np.float32)
    return values.astype(self.dtype, copy=False)

  def _through_hot(self, ids: np.ndarray) -> np.ndarray:
    """Like `_decoded`; caches row i in slot i % slots."""
    if ids.size and not 0 <= ids.min() <= ids.max() < len(self):
      raise IndexError(
        f'rows {ids.min()} to {ids.max()} of a store of {len(self)} rows'
      )
    if not len(self._hot):
      return self._decoded(ids)
    with self._lock:
      slots = ids % len(self._hot)
      is_cold = self._hot_ids[slots] != ids
      result = self._hot[slots]
      cold, at = np.unique(ids[is_cold], return_inverse=True)
      found = self._decoded(cold)
      result[is_cold] = found[at]
      slots, first = np.unique(cold % len(self._hot), return_index=True)
      self._hot_ids[slots], self._hot[slots] = cold[first], found[first]
    return result


def file_name(start: int, stop: int, texts: str) -> str:
  """Name of the file with the rows start <= id < stop."""
  return f'{start:010}-{stop:010}-{texts}'


def is_name(name: str) -> bool:
  """Whether this is a part's name, which cannot leave the folder."""
  return bool(NAME.fullmatch(name) or OLD_NAME.fullmatch(name))


def row_bytes(stored: str, dim: int) -> int:
  """Bytes of a row on disk."""
  return dim * DTYPES[stored].itemsize + 4 * (stored == 'int8')


def encode(start: int, rows: np.ndarray, stored: str) -> np.ndarray:
  """Encodes rows for storage, uint8 [n, bytes].

  Raises:
    ValueError: A number is not finite, or too large for float16.
  """
  largest = np.abs(rows).max(axis=1, initial=0)  # nan and inf stay.
  is_wrong = ~np.isfinite(largest)
  if stored == 'float16':
    is_wrong |= largest > np.finfo(np.float16).max
  if is_wrong.any():
    first = int(np.argmax(is_wrong))
    raise ValueError(
      f'behavior {start + first}: its largest number is {largest[first]}, and'
      f' {stored} cannot represent it.'
      + (' Use --dtype=bfloat16.' if np.isfinite(largest[first]) else '')
    )
  if stored != 'int8':
    return np.ascontiguousarray(rows.astype(DTYPES[stored])).view(np.uint8)
  scales = (largest / 127).astype(np.float32)[:, None]
  # A row of zeros has scale 0.
  quotients = np.clip(rows / np.where(scales > 0, scales, 1), -127, 127)
  values = np.rint(quotients).astype(np.int8)
  return np.concatenate([values.view(np.uint8), scales.view(np.uint8)], axis=1)


def write(path: pathlib.Path, blocks: Iterable[Any]) -> None:
  """Writes a file atomically, flushed to disk.

  Raises:
    OSError: The file cannot be written.
  """
  temporary = path.with_name(f'.{secrets.token_hex(8)}.new')
  try:
    with open(temporary, 'wb') as file:
      for block in blocks:
        file.write(block)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
      os.fsync(folder)
    finally:
      os.close(folder)
  except OSError as error:
    temporary.unlink(missing_ok=True)
    raise OSError(
      f'store of behaviors: cannot write to {path.parent} ({error.strerror})'
    ) from error


def opened(
  folder: pathlib.Path, parts: Sequence[Part], stored: str, dim: int
) -> list[File]:
  """Maps the files of a store.

  Raises:
    FileNotFoundError: A file is missing.
    ValueError: A file has the wrong length.
  """
  size = row_bytes(stored, dim)
  files: list[File] = []
  for start, _, name in parts:
    path = folder / PARTS / name
    if OLD_NAME.fullmatch(name):
      files.append((start, 0, _OldRows(path, stored)))
      continue
    first, stop = map(int, name.split('-')[:2])
    with open(path, 'rb') as file:
      found, needed = os.fstat(file.fileno()).st_size, (stop - first) * size
      if found != needed:
        raise ValueError(f'part {name} has {found:,} bytes of {needed:,}')
      content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    rows = np.frombuffer(content, np.uint8).reshape(-1, size)
    files.append((start, first, rows))
  return files


class _OldRows:
  """Rows of a database from before 2026-12: zarr3 arrays on OCDBT."""

  def __init__(self, path: pathlib.Path, stored: str):
    import tensorstore as ts  # Slow, and rarely needed.

    if not (path / 'manifest.ocdbt').is_file():
      raise FileNotFoundError(errno.ENOENT, 'no database', str(path))
    base = {'driver': 'file', 'path': f'{os.path.abspath(path)}/'}
    self._arrays = []
    try:
      for key in ['values'] + ['scales'] * (stored == 'int8'):
        store = {'driver': 'ocdbt', 'base': base, 'path': f'{key}/'}
        spec = {'driver': 'zarr3', 'kvstore': store}
        self._arrays.append(ts.open(spec, open=True).result())
    except ValueError as error:
      raise ValueError(
        f'part {path.name} cannot be opened ({str(error)[:200]})'
      ) from error

  def __getitem__(self, ids: np.ndarray) -> np.ndarray:
    found = [array[ids].read().result() for array in self._arrays]
    return np.concatenate(
      [x.reshape(len(ids), -1).view(np.uint8) for x in found], axis=1
    )
