# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows of a table in a memory-mapped file that can return to checkpoints.

A record is a stamp and the words of a row with its optimizer slots. The file is
sparse: a row that was never written is a hole, whose stamp is 0. Rows are
written in place, but a checkpoint can still be returned to: before a record is
overwritten for the first time after a checkpoint, it is appended to the log of
that checkpoint. A process may be killed at any instruction.
"""

from collections.abc import Iterator
import fcntl
import mmap
import pathlib
import shutil
from typing import Any

import numpy as np

# Bytes of the disk left free: a full disk kills who writes to a mapped file.
_SPARE = 64 << 20
_LOCKS = dict[pathlib.Path, Any]()  # Open files, by folder.


class RowFile:
  """Records uint32 [num_rows, 1 + words], by id.

  Only one process may write. Reads and writes of different rows may run in
  different threads.
  """

  def __init__(self, folder: pathlib.Path, num_rows: int, num_words: int):
    """Maps the file, which is created if there is none.

    Raises:
      ValueError: Another process uses it, or it is of another table.
    """
    self._folder, self._shape = folder, (num_rows, 1 + num_words)
    self.step = 0  # Of the last checkpoint.
    self._is_settled = True
    self._is_empty = False  # Whether all that the file holds is void.
    # Records that the file holds in a newer version: (rising ids, records).
    self._older: tuple[np.ndarray, np.ndarray] | None = None
    _lock(folder)
    self._map()

  def _map(self) -> None:
    size = 4 * self._shape[0] * self._shape[1]
    with (self._folder / 'rows').open('a+b') as file:
      if (old := file.tell()) not in (0, size):
        raise ValueError(
          f'Home of rows: {self._folder} has {old} bytes of another table; this'
          f' one, {self._shape[0]} rows with their optimizer slots, has {size}.'
          ' Name another folder, or delete that one.'
        )
      file.truncate(size)
      mapped = mmap.mmap(file.fileno(), 0)
    mapped.madvise(mmap.MADV_RANDOM)  # No pages beside those asked for.
    self._records = np.frombuffer(mapped, np.uint32).reshape(self._shape)

  def touch(self, ids: np.ndarray) -> None:
    """Makes the kernel read the pages of rows [n]."""
    self._records[ids, 0].max(initial=0)

  def read(self, ids: np.ndarray) -> np.ndarray:
    """Records uint32 [n, 1 + words]; those of new rows begin with 0."""
    if self._is_empty:
      return np.zeros((len(ids), self._shape[1]), np.uint32)
    found = self._records.take(ids, axis=0)
    if self._older is not None:
      older, records = self._older
      at = np.minimum(np.searchsorted(older, ids), len(older) - 1)
      is_older = older[at] == ids
      found[is_older] = records[at[is_older]]
    return found

  def write(self, ids: np.ndarray, words: np.ndarray) -> None:
    """Sets the words uint32 [n, words] of distinct rows [n]."""
    self.settle()
    size = len(ids) * (4 * self._shape[1] + mmap.PAGESIZE)
    if shutil.disk_usage(self._folder).free < 2 * size + _SPARE:
      raise RuntimeError(
        f'Home of rows: the disk of {self._folder} is full; make room. The run'
        ' resumes from its last checkpoint.'
      )
    stamp = self.step + 1
    old = self._records.take(ids, axis=0)
    is_kept = old[:, 0] != stamp
    if self.step and is_kept.any():
      self._append(ids[is_kept], old[is_kept])
    self._records[ids] = np.insert(words, 0, stamp, axis=1)

  def _append(self, ids: np.ndarray, records: np.ndarray) -> None:
    """Keeps records of the last checkpoint: complete before this returns."""
    head = np.array([len(ids), *ids], np.int64)
    with self._log(self.step).open('ab') as file:
      file.write(head.tobytes() + records.tobytes())

  def _log(self, step: int) -> pathlib.Path:
    return self._folder / f'before_{step}'

  def logs(self) -> list[int]:
    """Steps of the checkpoints that have a log, rising."""
    found = self._folder.glob('before_*')
    return sorted(int(path.name.removeprefix('before_')) for path in found)

  def return_to(self, step: int) -> None:
    """Reads from now on what the rows were at a checkpoint; 0: at the start.

    The file itself changes with the first write after that, by `settle`.
    """
    self.step, self._older = step, None
    self._is_settled, self._is_empty = False, step == 0
    parts = [
      part
      for log in self.logs()
      if log >= step > 0
      for part in self._blocks(log)
    ]
    if parts:
      ids = np.concatenate([part[0] for part in parts])
      older, first = np.unique(ids, return_index=True)
      records = np.concatenate([part[1] for part in parts])
      self._older = older, records[first]

  def _blocks(self, step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ids and records of a log; a last block cut short changed no row."""
    data, width = self._log(step).read_bytes(), 4 * self._shape[1]
    at = 0
    while at + 8 <= len(data):
      size = int(np.frombuffer(data, np.int64, 1, at)[0])
      middle = at + 8 * (1 + size)
      if middle + size * width > len(data):
        return
      ids = np.frombuffer(data, np.int64, size, at + 8)
      words = size * self._shape[1]
      records = np.frombuffer(data, np.uint32, words, middle)
      yield ids, records.reshape(size, -1)
      at = middle + size * width

  def settle(self) -> None:
    """Makes the file what `return_to` said; later checkpoints are lost.

    May be repeated if it was interrupted: the logs go last, the newest first.
    """
    if self._is_settled:
      return
    if self._is_empty:
      (self._folder / 'rows').unlink()
    elif self._older is not None:
      self._records[self._older[0]] = self._older[1]
    for log in reversed(self.logs()):
      if log >= self.step:
        self._log(log).unlink()
    if self._is_empty:
      self._map()
    self._is_settled, self._is_empty, self._older = True, False, None

  def forget(self, step: int) -> None:
    """Removes what is needed only for checkpoints before this step."""
    for log in self.logs():
      if log < step:
        self._log(log).unlink()


def _lock(folder: pathlib.Path) -> None:
  """Keeps other processes from a folder until this one ends."""
  folder = folder.resolve()
  if folder in _LOCKS:
    return
  folder.mkdir(parents=True, exist_ok=True)
  file = (folder / 'lock').open('a')
  try:
    # The kernel forgets it with the process, even after kill -9.
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    file.close()
    raise ValueError(
      f'Home of rows: another process uses {folder}. Wait until it has ended,'
      ' or name another folder.'
    ) from None
  _LOCKS[folder] = file
