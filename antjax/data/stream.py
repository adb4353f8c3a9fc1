# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A stream: a folder to which files of records are added while it is read.

A file counts once it has its name: write it under another one (or one that
begins with a dot) and rename it, as `record_writer` does. Files are read in the
order of their names, so a later file needs a later name: a running number or a
time. An empty file `_END` in the folder ends the stream.

Neither jax nor grain is imported here.
"""

from bisect import bisect_right
import os
import pathlib
import threading
from typing import Any

from antjax.data import records
from antjax.shards import record_source

END = '_END'
_MAX_OPEN = 16


class FileStream:
  """The records of all files of a folder, and of those still to come.

  A `RecordSource`; `antjax.Agent.dataset` takes it as a stream.
  """

  def __init__(
    self,
    folder: str | os.PathLike[str],
    suffix: str = '.array_record',
  ):
    """Counts the records of the files that are there; there may be none.

    Files end in `suffix`: .array_record, .parquet or .arrow.

    Raises:
      ValueError: No such folder, or a file is no record file.
    """
    self._folder = pathlib.Path(folder)
    if not self._folder.is_dir():
      raise ValueError(f'FileStream: no such folder: {folder}; make it first.')
    self._suffix = suffix
    self._lock = threading.Lock()
    self._names: list[str] = []
    self._stops = [0]  # Records up to the end of each file; 0 before the first.
    self._open: dict[str, record_source.RecordSource] = {}
    self.poll()

  def __len__(self) -> int:
    return self._stops[-1]

  def __reduce__(self) -> tuple[Any, ...]:
    return type(self), (str(self._folder), self._suffix)

  def poll(self) -> tuple[int, bool]:
    """Looks for new files.

    Returns:
      (number of records so far, whether the stream has ended).

    Raises:
      ValueError: A file has come whose name is before one that was there, so
        that the records would have other numbers; or one has gone.
    """
    with self._lock:
      # In this order: what comes after the end does not count.
      has_ended = (self._folder / END).exists()
      names = sorted(
        name
        for name in os.listdir(self._folder)
        if name.endswith(self._suffix) and name[0] not in '._'
      )
      if names[: len(self._names)] != self._names:
        wrong = set(names[: len(self._names)]) ^ set(self._names)
        raise ValueError(
          f'FileStream: {self._folder}: {", ".join(sorted(wrong)[:3])}: files'
          ' of a stream stay, and a later one needs a later name.'
        )
      for name in names[len(self._names) :]:
        self._stops.append(self._stops[-1] + len(self._source(name)))
        self._names.append(name)
      return self._stops[-1], has_ended

  def read(self, start: int, stop: int) -> list[record_source.Record]:
    if stop > len(self):
      self.poll()  # Another worker has seen more.
    if not 0 <= start <= stop <= len(self):
      raise ValueError(
        f'read({start}, {stop}) of {self._folder}: it has {len(self)} records.'
      )
    result: list[record_source.Record] = []
    with self._lock:
      at = bisect_right(self._stops, start) - 1
      while start < stop:
        first, end = self._stops[at], min(stop, self._stops[at + 1])
        source = self._source(self._names[at])
        result += source.read(start - first, end - first)
        start, at = end, at + 1
    return result

  def _source(self, name: str) -> record_source.RecordSource:
    source = self._open.pop(name, None)
    if source is None:
      source = records.open_source(self._folder / name)
    self._open[name] = source  # The newest is the last.
    if len(self._open) > _MAX_OPEN:
      del self._open[next(iter(self._open))]
    return source
