# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A store of behaviors: one row of numbers for each distinct text.

BAHE's "behaviors embedding table" (Geng et al. 2024, section 3.2,
https://arxiv.org/abs/2403.19347): row i is the pooled output of the low half
for text i of a vocabulary. Row 0, the padding, is zeros; row 1, the unknown
behavior, is what the model makes of its text, '[UNK]'.

A folder:

  manifest.json    what the rows go with, and which file holds which of them
  parts/           the files, see `store_rows`

Whoever builds writes files of its own, and the manifest is replaced after them.
So readers, who trust the manifest alone, see whole rows only, whatever runs or
was killed, and a resumed build knows from the files' names what is left. A
commit then joins small neighbors, so that a build a day leaves few files. A
reader has the files open, and keeps them though they are deleted.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import fcntl
import functools
import os
import pathlib
import secrets
import shutil
import time
from typing import Any

import numpy as np

from antjax import paths
from antjax.ctr.bahe import manifest as manifest_lib
from antjax.ctr.bahe import store_rows
from antjax.ctr.bahe.manifest import IDENTITY, Manifest
from antjax.ctr.bahe.store_rows import MappedRows, Part, PARTS, Range

# Files of more rows are never joined: what a commit copies has a bound.
_MERGED_ROWS = 262_144
_COPIED_ROWS = 8192  # At once.
_STALE_S = 3600.0  # Age of a half-written file that nobody writes any more.


@dataclasses.dataclass(frozen=True)
class BehaviorStore:
  """The complete rows of a store, as they were when it was opened.

  Attributes:
    path: Its folder.
    manifest: What the rows go with; see `Manifest.check`.
    files: Its files, open.
  """

  path: pathlib.Path
  manifest: Manifest
  files: Sequence[store_rows.File] = dataclasses.field(repr=False)

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
    folder = paths.fetched(path, 'store')
    try:
      files = store_rows.opened(
        folder, manifest.parts, manifest.dtype, manifest.dim
      )
    except (FileNotFoundError, ValueError) as error:
      if read_manifest(path) != manifest:
        return cls.open(path)  # A commit has joined files meanwhile.
      problem = str(error)
      if isinstance(error, FileNotFoundError):
        problem = f'part {pathlib.Path(error.filename).name} is gone'
      raise ValueError(
        f'the store of behaviours at {path} is damaged: its {problem}; delete'
        f' {path} and build it again (launch/build_behavior_store.py).'
      ) from error
    return cls(folder, manifest, files)

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
    return self.rows * store_rows.row_bytes(self.manifest.dtype, self.dim)

  def table(self, dtype: Any = np.float32, hot_bytes: int = 0) -> MappedRows:
    """All rows as an array that is read where it is indexed."""
    return MappedRows(
      *(self.files, self.rows, self.manifest.dtype, self.dim, dtype, hot_bytes)
    )

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
    return self.table(dtype)[start:stop]

  def load(self, dtype: Any = np.float32) -> np.ndarray:
    """Reads all rows, [rows, D], a block at a time."""
    return self.table(dtype)[:]


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
        self.manifest = new
        self._replace(rows=0, parts=(), store=secrets.token_hex(8))
        found = self.manifest
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
      rows: float32 [n, D].

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
    if stop > store_rows.MAX_ROWS:
      raise ValueError(f'StoreWriter.write: row {stop - 1} is beyond int32.')
    if not len(rows):
      return
    encoded = store_rows.encode(start, rows, manifest.dtype)
    name = store_rows.file_name(start, stop, self._of_texts(start, stop))
    store_rows.write(self._path / PARTS / name, [encoded])

  def commit(self, rows: int) -> Manifest:
    """Lets readers see the first `rows` rows; all must be written.

    Repeating it, by any process, changes nothing.

    Raises:
      RuntimeError: Rows are missing.
      OSError: The manifest cannot be written.
    """
    with self._locked():
      found = read_manifest(self._path)
      if found is None or found.store != self.manifest.store:
        raise RuntimeError(
          f'store of behaviours at {self._path}: another store took its place'
          ' while this one was written; build again.'
        )
      self.manifest = found
      if lost := self.missing(0, rows):
        raise RuntimeError(
          f'store of behaviours at {self._path}: the rows'
          f' {", ".join(f"{a} to {b - 1}" for a, b in lost[:5])} are not'
          ' written; run the build again, it makes what is missing.'
        )
      if found.rows < rows:
        self._replace(
          rows=rows,
          parts=_cover(self._complete(), rows),
          texts=self._of_texts(0, rows),
        )
      self._join()
    return self.manifest

  @contextlib.contextmanager
  def _locked(self) -> Iterator[None]:
    """Keeps other writers from the manifest; ends with the process."""
    with open(self._path / '.lock', 'a') as file:
      fcntl.flock(file, fcntl.LOCK_EX)
      yield

  def _replace(self, **fields: Any) -> None:
    self.manifest = dataclasses.replace(self.manifest, **fields)
    content = self.manifest.to_json()
    store_rows.write(self._path / manifest_lib.FILE_NAME, [content])

  def _join(self) -> None:
    """Joins small files and deletes what no reader will ask for.

    Killed at any point, it leaves a store that is whole. A row is copied about
    log2(builds) times in all.
    """
    manifest = self.manifest
    self._sweep()
    for group in _groups(manifest.parts):
      start, stop = group[0][0], group[-1][1]
      name = store_rows.file_name(start, stop, self._of_texts(start, stop))
      files = store_rows.opened(self._path, group, manifest.dtype, manifest.dim)
      rows = MappedRows(files, stop, manifest.dtype, manifest.dim)
      blocks = range(start, stop, _COPIED_ROWS)
      store_rows.write(
        self._path / PARTS / name,
        (
          rows.raw(np.arange(at, min(at + _COPIED_ROWS, stop))) for at in blocks
        ),
      )
      rest = set(self.manifest.parts) - set(group)
      self._replace(parts=tuple(sorted({*rest, (start, stop, name)})))
      self._sweep()

  def _sweep(self) -> None:
    """Deletes files of complete rows that the manifest does not name."""
    named = {name for _, _, name in self.manifest.parts}
    for path in [*(self._path / PARTS).iterdir(), *self._path.glob('.*.new')]:
      found = store_rows.NAME.fullmatch(path.name)
      if path.name in named or found and int(found[2]) > self.manifest.rows:
        continue
      if path.suffix == '.new':  # Somebody may be at it.
        with contextlib.suppress(FileNotFoundError):
          if time.time() - path.stat().st_mtime > _STALE_S:
            path.unlink()
      elif path.is_dir():
        shutil.rmtree(path)
      else:
        path.unlink(missing_ok=True)

  def _complete(self) -> list[Part]:
    """What is written; what readers see comes first."""
    written = []
    for name in os.listdir(self._path / PARTS):
      if found := store_rows.NAME.fullmatch(name):
        start, stop = int(found[1]), int(found[2])
        if found[3] == self._of_texts(start, stop):
          written.append((start, stop, name))
    return [*self.manifest.parts, *sorted(written)]

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


def _cover(complete: list[Part], rows: int) -> tuple[Part, ...]:
  """Which file to read each row from."""
  result: list[Part] = []
  at = 0
  for start, stop, name in complete:
    stop = min(stop, rows)
    if at < stop:
      assert start <= at  # `missing` has looked.
      result.append((at, stop, name))
      at = stop
  return tuple(result)


def _groups(parts: Sequence[Part]) -> list[list[Part]]:
  """Neighbors to be joined: from the end, while the next is not larger.

  A database is always joined: it takes more bytes than its rows.
  """
  groups: list[list[Part]] = []
  total = 0
  for part in reversed(parts):
    size = part[1] - part[0]
    is_small = size <= total or store_rows.OLD_NAME.fullmatch(part[2])
    if groups and is_small and total + size <= _MERGED_ROWS:
      groups[-1].insert(0, part)
      total += size
    else:
      groups.append([part])
      total = size
  return [group for group in groups if len(group) > 1]
