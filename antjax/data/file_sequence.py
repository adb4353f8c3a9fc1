# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Record files one after another."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from antjax.shards.record_source import check_block, Record


class FileSequence:
  """The records of several Arrow or Parquet files, as those of one.

  `take` is for Arrow files only; `path` is the first file.
  """

  def __init__(self, sources: Sequence[Any]):
    """Takes the sources of the files, at least one; reads no records."""
    self._sources = sources
    self._stops = np.cumsum([len(source) for source in sources])
    self.path: str = sources[0].path

  def __len__(self) -> int:
    return int(self._stops[-1])

  def table(
    self, start: int, stop: int, columns: Sequence[str] | None = None
  ) -> pa.Table:
    """See `ParquetSource.table`."""
    check_block(self.path, start, stop, len(self))
    parts = [s.table(*part, columns) for s, part in self._parts(start, stop)]
    return pa.concat_tables(parts or [self._sources[0].table(0, 0, columns)])

  def drop(self, start: int, stop: int) -> None:
    """See `ArrowSource.drop`."""
    for source, part in self._parts(start, stop):
      source.drop(*part)

  def _parts(
    self, start: int, stop: int
  ) -> Iterator[tuple[Any, tuple[int, int]]]:
    """Sources with these records, and which of theirs they are."""
    first = 0
    for source, end in zip(self._sources, self._stops.tolist(), strict=True):
      low, high = max(start, first), min(stop, end)
      if low < high:
        yield source, (low - first, high - first)
      first = end

  def read(self, start: int, stop: int) -> Sequence[Record]:
    """Returns the records start <= index < stop; see `RecordSource`."""
    return self._sources[0].decode(self.table(start, stop))

  def take(self, numbers: Sequence[int]) -> Sequence[Record]:
    """Returns the records of any numbers, in their order."""
    if numbers:
      check_block(self.path, min(numbers), max(numbers) + 1, len(self))
    place = np.searchsorted(self._stops, numbers, side='right')
    found = dict[int, Record]()
    for number in np.unique(place).tolist():
      source, first = self._sources[number], 0
      if number:
        first = int(self._stops[number - 1])
      mine = np.flatnonzero(place == number).tolist()
      wanted = [numbers[i] - first for i in mine]
      found |= dict(zip(mine, source.take(wanted), strict=True))
    return [found[i] for i in range(len(numbers))]
