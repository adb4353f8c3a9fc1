# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A store of behaviors: one row of numbers for each distinct text.

BAHE's "behaviors embedding table" (Geng et al. 2024, section 3.2,
https://arxiv.org/abs/2403.19347): row i is the pooled output of the low half
for text i of a vocabulary. Row 0, the padding, is zeros; row 1, the unknown
behavior, is what the model makes of its text, '[UNK]'.

A folder:

  manifest.json    what the rows go with, and which part holds which of them
  parts/<name>/    databases, see `store_part`

Each process that builds writes to a part of its own, and the manifest is
replaced last of all. So readers, who trust the manifest alone, see whole rows
only, whatever runs or was killed, and a resumed build knows from the parts'
keys what is left.

Why not one database for all: OCDBT is made for several writers, but TensorStore
(0.1.86) does not truncate the lock file that a killed one left beside the file
it was replacing, and the next writer's shorter content gets the rest of it.

Reading single rows at random is far slower than from memory: `load` all of
them, and gather there.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import fcntl
import functools
import os
import pathlib
import secrets
from typing import Any

import numpy as np

from antjax import paths
from antjax.ctr.bahe import manifest as manifest_lib
from antjax.ctr.bahe import store_part
from antjax.ctr.bahe.manifest import IDENTITY, Manifest
from antjax.ctr.bahe.store_part import (
  DATABASE,
  DTYPES,
  PARTS,
  Range,
  StorePart,
)

CHUNK_ROWS, MAX_ROWS = store_part.CHUNK_ROWS, store_part.MAX_ROWS
_READ_ROWS = 64 * CHUNK_ROWS


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
    return cls(paths.fetched(path), manifest)

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
    """Rows [stop - start, D]; int8 ones are multiplied by their scales.

    Raises:
      ValueError: They are not all complete, or damaged.
    """
    if not 0 <= start <= stop <= self.rows:
      raise ValueError(
        f'BehaviorStore.read({start}, {stop}): needed 0 <= start <= stop <='
        f' {self.rows}, the complete rows. Texts that are newer than the store'
        ' get theirs by launch/build_behavior_store.py.'
      )
    result = np.empty((stop - start, self.dim), dtype)
    for first, last, name in self.manifest.parts:
      first, last = max(first, start), min(last, stop)
      if first < last:
        part = store_part.opened(self.path, name, self.manifest.dtype, self.dim)
        result[first - start : last - start] = part.read(first, last)
    return result

  def load(self, dtype: Any = np.float32) -> np.ndarray:
    """Reads all rows, [rows, D], a block at a time."""
    result = np.empty((self.rows, self.dim), dtype)
    for start in range(0, self.rows, _READ_ROWS):
      stop = min(start + _READ_ROWS, self.rows)
      result[start:stop] = self.read(start, stop, dtype)
    return result


def read_manifest(path: str | os.PathLike[str]) -> Manifest | None:
  """The newest manifest; None where there is no store.

  Raises:
    ValueError: It is damaged.
  """
  file = paths.fetched(path, 'store') / manifest_lib.FILE_NAME
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
  ranges = functools.cache(
    lambda name: sorted(store_part.complete_ranges(path, name))
  )
  for start, stop, name in manifest.parts:
    problem = ''
    if not (path / PARTS / name / DATABASE).is_file():
      problem = 'is gone'
    elif _missing(ranges(name), start, stop):
      problem = f'lacks rows of {start} to {stop - 1}'
    if problem:
      raise ValueError(
        f'the store of behaviours at {path} is damaged: its part {name}'
        f' {problem}; delete {path} and build it again'
        ' (launch/build_behavior_store.py).'
      )


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
    self._path = paths.local(path, 'BehaviorStore: path')
    self._part: StorePart | None = None  # Made with the first row.
    self._name = secrets.token_hex(8)
    self._seen: dict[str, tuple[Range, list[Range]]] = {}
    self._texts = texts and functools.cache(texts)
    try:
      (self._path / PARTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise OSError(
        f'store of behaviours: cannot make {path} ({error.strerror}); choose a'
        ' folder that you may write to.'
      ) from error
    with self._locked():
      found = read_manifest(path)
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
    complete = [(first, last) for first, last, _ in self._complete()]
    return _missing(complete, start, stop)

  def write(self, start: int, rows: np.ndarray) -> None:
    """Writes rows; returns once they are on the disk.

    Args:
      start: Id of the first one.
      rows: float32 [n, D]; whole chunks (CHUNK_ROWS) take least space.

    Raises:
      ValueError: They do not fit the store: wrong width, not finite, or too
        large for float16.
      OSError: They cannot be written.
    """
    stop = start + len(rows)
    manifest = self.manifest
    if rows.ndim != 2 or rows.shape[1] != manifest.dim:
      raise ValueError(
        f'StoreWriter.write: rows of shape {rows.shape}; needed is [n,'
        f' {manifest.dim}].'
      )
    if stop > MAX_ROWS:
      raise ValueError(f'StoreWriter.write: row {stop - 1} is beyond int32.')
    encoded = _encode(start, rows, manifest.dtype)
    if self._part is None:
      self._part = StorePart.open(
        self._path, self._name, manifest.dtype, manifest.dim, create=True
      )
    self._part.write(start, *encoded, self._of_texts(start, stop), self._path)

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
      found = read_manifest(self._path)
      if found is None or found.store != self.manifest.store:
        raise RuntimeError(
          f'store of behaviours at {self._path}: another store took its place'
          ' while this one was written; build again.'
        )
      self.manifest = found
      if found.rows < rows:
        self.manifest = dataclasses.replace(
          found,
          rows=rows,
          parts=_cover(self._complete(), rows),
          texts=self._of_texts(0, rows),
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
    for folder in sorted((self._path / PARTS).iterdir()):
      try:
        status = (folder / DATABASE).stat()
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
    """Ranges of a part whose texts are not known to be others."""
    found = store_part.complete_ranges(
      self._path, name, with_made_of=self._texts is not None
    )
    return [
      part
      for part, made_of in found.items()
      # An older version wrote nothing.
      if not made_of or made_of == self._of_texts(*part)
    ]

  def _of_texts(self, start: int, stop: int) -> str:
    return '' if self._texts is None else self._texts(start, stop)


def _missing(complete: list[Range], start: int, stop: int) -> list[Range]:
  """The parts of start <= row < stop that are in none of the rising ranges."""
  result = []
  for first, last in [*complete, (stop, stop)]:
    if start < min(first, stop):
      result.append((start, min(first, stop)))
    start = max(start, last)
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
    return rows.astype(DTYPES[dtype]), None
  scales = (largest / 127).astype(np.float32)
  # A row of zeros has scale 0.
  quotients = rows / np.where(scales > 0, scales, 1)[:, None]
  return np.rint(np.clip(quotients, -127, 127)).astype(np.int8), scales
