# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows of a table in a memory-mapped file that can return to checkpoints.

A record is a stamp and the words of a row with its optimizer slots. Records are
in the order in which rows were first written, so the file takes no more of the
disk than they. Later they are written in place, but a checkpoint can still be
returned to: before a record is overwritten for the first time after a
checkpoint, it is appended to the log of that checkpoint. A process may be
killed at any instruction.
"""

from collections.abc import Iterator
import fcntl
import mmap
import os
import pathlib
import shutil

import numpy as np

# Bytes of the disk left free: a full disk kills who writes to a mapped file.
_SPARE = 64 << 20
NOTHING = np.zeros(1, np.int32)  # State of a new file.
_LOCKS = dict[pathlib.Path, int]()  # Open files, by folder.


class RowFile:
  """Records uint32 [num_rows, 1 + words], of which the first ones are used.

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
    self._forget_rows()
    # Records that the file holds in a newer version: (rising places, records).
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

  def _forget_rows(self) -> None:
    # Place + 1 of each row's record; 0: none. Pages not written take no memory.
    self._place = np.zeros(self._shape[0], np.int32)
    self._ids = np.zeros(self._shape[0], np.int32)  # By place.
    self._num_used = 0

  def has(self, ids: np.ndarray) -> np.ndarray:
    """Whether rows [n] were ever written."""
    return self._place[ids] > 0

  def touch(self, ids: np.ndarray) -> None:
    """Makes the kernel read the pages of rows [n]."""
    places = self._place[ids] - 1
    self._records[places[places >= 0], 0].max(initial=0)

  def read(self, ids: np.ndarray) -> np.ndarray:
    """Words uint32 [n, words] of rows [n] that it has."""
    places = self._place[ids] - 1
    found = self._records.take(places, axis=0)
    if self._older is not None:
      older, records = self._older
      at = np.minimum(np.searchsorted(older, places), len(older) - 1)
      is_older = older[at] == places
      found[is_older] = records[at[is_older]]
    return found[:, 1:]

  def write(self, ids: np.ndarray, words: np.ndarray) -> None:
    """Sets the words uint32 [n, words] of distinct rows [n]."""
    self.settle()
    size = 4 * len(ids) * self._shape[1]
    if shutil.disk_usage(self._folder).free < 2 * size + _SPARE:
      raise RuntimeError(
        f'Home of rows: the disk of {self._folder} is full; make room. The run'
        ' resumes from its last checkpoint.'
      )
    stamp = self.step + 1
    places = self._place[ids] - 1
    is_new = places < 0
    if self.step:
      kept = places[~is_new]
      kept = kept[self._records[kept, 0] != stamp]
      if kept.size:
        self._append(kept, self._records.take(kept, axis=0))
    new = ids[is_new]
    end = self._num_used + len(new)
    places[is_new] = np.arange(self._num_used, end)
    self._records[places] = np.insert(words, 0, stamp, axis=1)
    self._ids[self._num_used : end] = new
    self._num_used = end
    self._place[new] = 1 + places[is_new]  # Last: other threads read it.

  def _append(self, places: np.ndarray, records: np.ndarray) -> None:
    """Keeps records of the last checkpoint: complete before this returns."""
    head = np.insert(places.astype(np.int64), 0, len(places))
    with self._log(self.step).open('ab') as file:
      file.write(head.tobytes() + records.tobytes())

  def _log(self, step: int) -> pathlib.Path:
    return self._folder / f'before_{step}'

  def logs(self) -> list[int]:
    """Steps of the checkpoints that have a log, rising."""
    found = self._folder.glob('before_*')
    return sorted(int(path.name.removeprefix('before_')) for path in found)

  def state(self) -> np.ndarray:
    """What a checkpoint holds: number of records, and their ids."""
    return np.insert(self._ids[: self._num_used], 0, self._num_used)

  def return_to(self, step: int, state: np.ndarray) -> None:
    """Reads from now on what the rows were at a checkpoint.

    The file itself changes with the first write after that, by `settle`. At the
    start, step 0, the state is `NOTHING`.
    """
    self._forget_rows()
    self._num_used = len(state) - 1
    self._ids[: self._num_used] = state[1:]
    self._place[state[1:]] = np.arange(1, len(state))
    self.step, self._older = step, None
    self._is_settled, self._is_empty = False, step == 0
    parts = [
      part
      for log in self.logs()
      if log >= step > 0
      for part in self._blocks(log)
    ]
    if parts:
      places = np.concatenate([part[0] for part in parts])
      older, first = np.unique(places, return_index=True)
      records = np.concatenate([part[1] for part in parts])
      self._older = older, records[first]

  def _blocks(self, step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places and records of a log; a last block cut short changed no row."""
    data, width = self._log(step).read_bytes(), 4 * self._shape[1]
    at = 0
    while at + 8 <= len(data):
      size = int(np.frombuffer(data, np.int64, 1, at)[0])
      middle = at + 8 * (1 + size)
      if middle + size * width > len(data):
        return
      places = np.frombuffer(data, np.int64, size, at + 8)
      words = size * self._shape[1]
      records = np.frombuffer(data, np.uint32, words, middle)
      yield places, records.reshape(size, -1)
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
  file = os.open(folder / 'lock', os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
  try:
    # The kernel forgets it with the process, even after kill -9.
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    os.close(file)
    raise ValueError(
      f'Home of rows: another process uses {folder}. Wait until it has ended,'
      ' or name another folder.'
    ) from None
  _LOCKS[folder] = file
