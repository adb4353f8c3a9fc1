# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Adds rows to a store of behaviors; see `store`."""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import fcntl
import functools
import os
import pathlib
import secrets

import numpy as np
import tensorstore as ts

from antjax.ctr.bahe import manifest as manifest_lib
from antjax.ctr.bahe import store
from antjax.ctr.bahe.manifest import IDENTITY, Manifest

Range = tuple[int, int]


class StoreWriter:
  """Writes rows, in any order and in any number of processes.

  Rows are seen by nobody before `commit`. A row may be written twice, with the
  same numbers.

  Attributes:
    manifest: As it was found, or made.
  """

  def __init__(
    self,
    path: str | os.PathLike[str],
    new: Manifest,
    texts: Callable[[int, int], str] | None = None,
  ):
    """Opens a store, or makes it.

    Args:
      path: Folder, which is made; on a disk that all writers share.
      new: What is to be written. A store that is there must have been made
        alike; its own `rows`, `store` and vocabulary fingerprint count.
      texts: (start, stop) -> fingerprint of the rows' texts. Rows that a killed
        build wrote of other texts are then written again.

    Raises:
      ValueError: There is a store that was made otherwise, or is damaged.
      OSError: It cannot be written.
    """
    self._path = pathlib.Path(path)
    self._part: store.StorePart | None = None  # Made with the first row.
    self._name = secrets.token_hex(8)
    self._seen: dict[str, tuple[Range, list[Range]]] = {}
    self._texts = texts and functools.lru_cache(None)(texts)
    try:
      (self._path / store.PARTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise OSError(
        f'store of behaviours: cannot make {path} ({error.strerror}); choose a'
        ' folder that you may write to.'
      ) from error
    with self._locked():
      found = store.read_manifest(path)
      if found is None:
        found = dataclasses.replace(
          new, rows=0, parts=(), store=secrets.token_hex(8)
        )
        self._replace(found)
    found.check(**{name: getattr(new, name) for name in IDENTITY})
    if (found.dtype, found.dim) != (new.dtype, new.dim):
      raise ValueError(
        f'the store at {path} has rows of {found.dim} {found.dtype}; got'
        f' {new.dim} {new.dtype}. Use another folder for those.'
      )
    self.manifest = found

  def missing(self, start: int, stop: int) -> list[Range]:
    """The parts of start <= row < stop that nobody has written yet, rising."""
    result = []
    for first, last, _ in self._complete():
      if first > start:
        result.append((start, min(first, stop)))
      start = max(start, last)
      if start >= stop:
        break
    result.append((start, stop))
    return [part for part in result if part[0] < part[1]]

  def write(self, start: int, rows: np.ndarray) -> None:
    """Writes rows; returns once they are on the disk.

    Args:
      start: Id of the first one.
      rows: float32 [n, D]; whole chunks (store.CHUNK_ROWS) take least space.

    Raises:
      ValueError: They do not fit the store: wrong width, not finite, or too
        large for float16.
      OSError: They cannot be written.
    """
    stop = start + len(rows)
    if rows.ndim != 2 or rows.shape[1] != self.manifest.dim:
      raise ValueError(
        f'StoreWriter.write: rows of shape {rows.shape}; needed is [n,'
        f' {self.manifest.dim}].'
      )
    if stop > store.MAX_ROWS:
      raise ValueError(f'StoreWriter.write: row {stop - 1} is beyond int32.')
    values, scales = _encode(start, rows, self.manifest.dtype)
    if self._part is None:
      self._part = store.open_part(
        self._path,
        self._name,
        self.manifest.dtype,
        self.manifest.dim,
        create=True,
      )
    part = self._part
    key = store.COMPLETE + b'%010d-%010d' % (start, stop)
    try:
      with ts.Transaction(atomic=True) as transaction:
        target = part.values.with_transaction(transaction)
        target[start:stop].write(values).result()
        if scales is not None:
          target = part.scales.with_transaction(transaction)
          target[start:stop].write(scales).result()
        made_of = self._texts(start, stop).encode() if self._texts else b''
        part.keys.with_transaction(transaction)[key] = made_of
    except ValueError as error:
      raise store.store_error(error, f'write to {self._path}') from error

  def commit(self, rows: int) -> Manifest:
    """Lets readers see the first `rows` rows; all must be written.

    Repeating it, by any process, changes nothing.

    Raises:
      RuntimeError: Rows are missing.
      OSError: The manifest cannot be written.
    """
    lost = self.missing(0, rows)
    if lost:
      raise RuntimeError(
        f'store of behaviours at {self._path}: the rows'
        f' {", ".join(f"{a} to {b - 1}" for a, b in lost[:5])} are not'
        ' written; run the build again, it makes what is missing.'
      )
    with self._locked():
      found = store.read_manifest(self._path)
      if found is None or found.store != self.manifest.store:
        raise RuntimeError(
          f'store of behaviours at {self._path}: another store took its place'
          ' while this one was written; build again.'
        )
      self.manifest = found
      if found.rows < rows:
        parts = _cover(self._complete(), rows)
        texts = self._texts(0, rows) if self._texts else ''
        self.manifest = dataclasses.replace(
          found, rows=rows, parts=parts, texts=texts
        )
        self._replace(self.manifest)
    return self.manifest

  @contextlib.contextmanager
  def _locked(self) -> Iterator[None]:
    """Keeps other writers from the manifest; ends with the process."""
    with open(self._path / '.lock', 'a') as file:
      fcntl.flock(file, fcntl.LOCK_EX)
      yield

  def _replace(self, manifest: Manifest) -> None:
    temporary = self._path / f'.{manifest_lib.FILE_NAME}.new'
    with open(temporary, 'wb') as file:
      file.write(manifest.to_json())
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, self._path / manifest_lib.FILE_NAME)

  def _complete(self) -> list[tuple[int, int, str]]:
    """(start, stop, part) of what is written; what readers see comes first."""
    result = []
    for folder in sorted((self._path / store.PARTS).iterdir()):
      try:
        status = (folder / store.DATABASE).stat()
      except FileNotFoundError:
        continue  # Killed before its first row, or not at it yet.
      stamp = status.st_mtime_ns, status.st_size
      seen = self._seen.get(folder.name)
      if seen is None or seen[0] != stamp:
        seen = stamp, self._ranges(folder.name)
        self._seen[folder.name] = seen
      result += [(*part, folder.name) for part in seen[1]]
    return [*self.manifest.parts, *sorted(result)]

  def _ranges(self, name: str) -> list[Range]:
    what = f'read the part {name} of {self._path}'
    keys = store.open_keys(self._path, name)
    result = []
    for (start, stop), key in store.complete_ranges(keys, self._path, name):
      if self._texts is not None:
        made_of = store.done(keys.read(key), what).value.decode()
        # An older version wrote nothing.
        if made_of and made_of != self._texts(start, stop):
          continue
      result.append((start, stop))
    return result


def _cover(
  complete: list[tuple[int, int, str]], rows: int
) -> tuple[tuple[int, int, str], ...]:
  """Which part to read each row from; neighbors of one part are joined."""
  result: list[tuple[int, int, str]] = []
  at = 0
  for start, stop, name in complete:
    stop = min(stop, rows)
    if stop <= at:
      continue
    assert start <= at  # `missing` has looked.
    if result and result[-1][2] == name:
      result[-1] = (result[-1][0], stop, name)
    else:
      result.append((at, stop, name))
    at = stop
  return tuple(result)


def _encode(
  start: int, rows: np.ndarray, dtype: str
) -> tuple[np.ndarray, np.ndarray | None]:
  """Numbers as they are stored, and scales [n] for int8."""
  largest = np.abs(rows).max(axis=1, initial=0)  # nan and inf stay.
  is_wrong = ~np.isfinite(largest)
  if dtype == 'float16':
    is_wrong |= largest > np.finfo(np.float16).max
  if is_wrong.any():
    first = int(np.argmax(is_wrong))
    raise ValueError(
      f'behaviour {start + first}: its largest number is {largest[first]}, and'
      f' {dtype} has none such.'
      + (' Use --dtype=bfloat16.' if np.isfinite(largest[first]) else '')
    )
  if dtype != 'int8':
    return rows.astype(store.DTYPES[dtype]), None
  scales = (largest / 127).astype(np.float32)
  # A row of zeros has scale 0.
  quotients = rows / np.where(scales > 0, scales, 1)[:, None]
  return np.rint(np.clip(quotients, -127, 127)).astype(np.int8), scales
