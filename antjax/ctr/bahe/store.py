# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A store of behaviors: one row of numbers for each distinct text.

BAHE's "behaviors embedding table" (Geng et al. 2024, section 3.2,
https://arxiv.org/abs/2403.19347): row i is the pooled output of the low half
for text i of a vocabulary. Row 0, the padding, is zeros; row 1, the unknown
behavior, is the output for its text, '[UNK]'.

A folder:

  manifest.json    inputs of the rows, and the files that hold them
  parts/           the files, see `store_rows`

Each build writes its own files and then replaces the manifest. So readers, who
rely only on the manifest, see complete rows, whatever runs or was killed, and a
resumed build finds the missing rows from the names of files. A commit then
joins small neighboring files, so that daily builds leave few files. Readers
have the files open, and keep them after deletion.
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

# Maximum number of rows of a joined file, which bounds the copying.
_MERGED_ROWS = 262_144
_COPIED_ROWS = 8192  # Number of rows copied at once.
_STALE_S = 3600.0  # Age of an abandoned incomplete file.


@dataclasses.dataclass(frozen=True)
class BehaviorStore:
  """The complete rows of a store, as of opening it."""

  path: pathlib.Path  # Folder of the store.
  manifest: Manifest  # Inputs of the rows; see `Manifest.check`.
  # Open files of the store.
  files: Sequence[store_rows.File] = dataclasses.field(repr=False)

  @classmethod
  def open(cls, path: str | os.PathLike[str]) -> 'BehaviorStore':
    """Opens the newest state; reads no rows.

    Raises:
      FileNotFoundError: There is no store.
      ValueError: It is damaged, lacks rows of its manifest, or has no complete
        rows yet.
    """
    manifest = read_manifest(path)
    if manifest is None:
      raise FileNotFoundError(
        f'{path} holds no store of behaviors; launch/build_behavior_store.py'
        ' makes one.'
      )
    if not manifest.rows:
      raise ValueError(
        f'the store of behaviors at {path} has no complete rows: its first'
        ' build has not ended. Start launch/build_behavior_store.py again, it'
        ' resumes.'
      )
    folder = paths.fetched(path, 'store')
    try:
      files = store_rows.opened(
        folder, manifest.parts, manifest.dtype, manifest.dim
      )
    except (FileNotFoundError, ValueError) as error:
      if read_manifest(path) != manifest:
        return cls.open(path)  # Meanwhile, a commit has joined files.
      problem = str(error)
      if isinstance(error, FileNotFoundError):
        problem = f'part {pathlib.Path(error.filename).name} is gone'
      raise ValueError(
        f'the store of behaviors at {path} is damaged: its {problem}; delete'
        f' {path} and build it again (launch/build_behavior_store.py).'
      ) from error
    return cls(folder, manifest, files)

  @property
  def rows(self) -> int:
    """Number of complete rows."""
    return self.manifest.rows

  @property
  def dim(self) -> int:
    """Width of a row."""
    return self.manifest.dim

  @property
  def stored_bytes(self) -> int:
    """Bytes of the stored rows."""
    return self.rows * store_rows.row_bytes(self.manifest.dtype, self.dim)

  def table(self, dtype: Any = np.float32, hot_bytes: int = 0) -> MappedRows:
    """All rows as an array that is read when indexed."""
    return MappedRows(
      *(self.files, self.rows, self.manifest.dtype, self.dim, dtype, hot_bytes)
    )

  def read(self, start: int, stop: int, dtype: Any = np.float32) -> np.ndarray:
    """Reads rows [stop - start, D]; int8 rows are multiplied by scales.

    Raises:
      ValueError: Rows are incomplete or damaged.
    """
    if not 0 <= start <= stop <= self.rows:
      raise ValueError(
        f'BehaviorStore.read({start}, {stop}): needed 0 <= start <= stop <='
        f' {self.rows}, the complete rows. Texts that are newer than the store'
        ' get theirs by launch/build_behavior_store.py.'
      )
    return self.table(dtype)[start:stop]

  def load(self, dtype: Any = np.float32) -> np.ndarray:
    """Reads all rows, [rows, D], block by block."""
    return self.table(dtype)[:]


def read_manifest(path: str | os.PathLike[str]) -> Manifest | None:
  """The newest manifest; None if there is no store.

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
      f'{file} is no manifest of a store of behaviors ({error}); restore it,'
      ' or build the store again in another folder.'
    ) from error


class StoreWriter:
  """Writes rows, in any order and in any number of processes.

  Rows are invisible to readers before `commit`. A row may be written twice,
  with the same values.
  """

  def __init__(
    self,
    path: str | os.PathLike[str],
    new: Manifest,
    texts: Callable[[int, int], str] | None = None,
  ):
    """Opens or creates a store.

    Args:
      path: Folder, created if missing, on a disk shared by all writers.
      new: Manifest of the rows to write. An existing store must match it, but
        keeps its `rows`, `store` and vocabulary fingerprint.
      texts: Function (start, stop) -> fingerprint of the rows' texts. Rows that
        a killed build wrote for other texts are then rewritten.

    Raises:
      ValueError: An existing store does not match, or is damaged.
      OSError: The store cannot be written.
    """
    self._path = paths.local(path, 'BehaviorStore: path')
    self._texts = texts and functools.cache(texts)
    try:
      (self._path / PARTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise OSError(
        f'store of behaviors: cannot make {path} ({error.strerror}); choose a'
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
    """Ranges of start <= row < stop that are not written yet, ascending."""
    complete = [(first, last) for first, last, _ in self._complete()]
    return _missing(complete, start, stop)

  def write(self, start: int, rows: np.ndarray) -> None:
    """Writes float32 rows [n, D] from id `start` on; returns when on disk.

    Raises:
      ValueError: Rows have the wrong width, are not finite, or are too large
        for float16.
      OSError: The rows cannot be written.
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
    """Makes the first `rows` rows visible; all must be written.

    Repeated calls, by any process, change nothing.

    Raises:
      RuntimeError: Rows are missing.
      OSError: The manifest cannot be written.
    """
    with self._locked():
      found = read_manifest(self._path)
      if found is None or found.store != self.manifest.store:
        raise RuntimeError(
          f'store of behaviors at {self._path}: another store took its place'
          ' while this one was written; build again.'
        )
      self.manifest = found
      if lost := self.missing(0, rows):
        raise RuntimeError(
          f'store of behaviors at {self._path}: the rows'
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
    """Locks the manifest against other writers; ends with the process."""
    with open(self._path / '.lock', 'a') as file:
      fcntl.flock(file, fcntl.LOCK_EX)
      yield

  def _replace(self, **fields: Any) -> None:
    self.manifest = dataclasses.replace(self.manifest, **fields)
    content = self.manifest.to_json()
    store_rows.write(self._path / manifest_lib.FILE_NAME, [content])

  def _join(self) -> None:
    """Joins small files and deletes unreferenced ones.

    Killed at any point, it leaves a valid store. A row is copied about
    log2(builds) times in total.
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
    """Deletes files of complete rows that the manifest does not reference."""
    named = {name for _, _, name in self.manifest.parts}
    for path in [*(self._path / PARTS).iterdir(), *self._path.glob('.*.new')]:
      found = store_rows.NAME.fullmatch(path.name)
      if path.name in named or found and int(found[2]) > self.manifest.rows:
        continue
      if path.suffix == '.new':  # May be in use by another writer.
        with contextlib.suppress(FileNotFoundError):
          if time.time() - path.stat().st_mtime > _STALE_S:
            path.unlink()
      elif path.is_dir():
        shutil.rmtree(path)
      else:
        path.unlink(missing_ok=True)

  def _complete(self) -> list[Part]:
    """Written parts, starting with those visible to readers."""
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
  """Parts of start <= row < stop outside all of the ascending ranges."""
  result = []
  for first, last in [*complete, (stop, stop)]:
    if start < min(first, stop):
      result.append((start, min(first, stop)))
    start = max(start, last)
  return result


def _cover(complete: list[Part], rows: int) -> tuple[Part, ...]:
  """Selects a file for each row."""
  result: list[Part] = []
  at = 0
  for start, stop, name in complete:
    stop = min(stop, rows)
    if at < stop:
      assert start <= at  # Checked by `missing`.
      result.append((at, stop, name))
      at = stop
  return tuple(result)


def _groups(parts: Sequence[Part]) -> list[list[Part]]:
  """Groups of neighbors to join: from the end, while the next is not larger.

  A database is always joined, since it takes more bytes than its rows.
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
