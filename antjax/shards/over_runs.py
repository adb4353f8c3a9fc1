# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Fast operations on finished epochs and other sets of epochs.

A request may end thousands of epochs, and a checkpoint have as many.
"""

import bisect
from collections.abc import Mapping
import dataclasses
import heapq
from typing import Any

from antjax.shards.ledger_state import EpochRun


class OverRuns:
  """Runs of epochs of which nothing is to do or leased, in order.

  Those that are alike are one run.
  """

  def __init__(self, num_shards: int, *, has_share: bool):
    self.runs: list[EpochRun] = []
    self._has_share = has_share
    self.grow(num_shards)

  def grow(self, num_shards: int) -> None:
    """Sets how many shards each epoch has."""
    self._every = (1 << num_shards) - 1

  def add(self, run: EpochRun) -> None:
    """Adds a run; only its neighbours may be alike."""
    at = bisect.bisect_left(self.runs, run.start, key=lambda one: one.start)
    low, high = max(0, at - 1), at + 1
    self.runs[low:high] = self._joined(
      [*self.runs[low:at], run, *self.runs[at:high]]
    )

  def advanced(self, first_open: int) -> int:
    """Joins all that are alike, and drops as `dropped` does."""
    self.runs = self._joined(self.runs)
    return self.dropped(first_open)

  def dropped(self, first_open: int) -> int:
    """Forgets the first runs, as far as they are done.

    Before `first_open` all epochs are done; returns the same as it is now.
    """
    count = 0
    for run in self.runs:
      if run.start != first_open:
        break
      # With static shares nobody says more of a shard than its own worker.
      if run.done | run.own != self._every if self._has_share else run.own:
        break
      first_open = run.stop
      count += 1
    del self.runs[:count]
    return first_open

  def between(self, start: int, stop: int) -> list[EpochRun]:
    """Returns these epochs, as far as they are over, cut out of their runs."""
    low = bisect.bisect_right(self.runs, start, key=lambda one: one.stop)
    high = bisect.bisect_left(self.runs, stop, key=lambda one: one.start)
    cut = [run for over in self.runs[low:high] for run in over.cut(start, stop)]
    self.runs[low:high] = cut
    return [run for run in cut if start <= run.start < stop]

  def _joined(self, runs: list[EpochRun]) -> list[EpochRun]:
    joined: list[EpochRun] = []
    for run in runs:
      last = joined[-1] if joined else run
      # Epochs with shards set aside stay apart.
      is_whole = self._has_share or last.done | last.own == self._every
      same = dataclasses.replace(last, start=run.start, stop=run.stop) == run
      if last.stop == run.start and is_whole and same:
        last.stop = run.stop
      else:
        joined.append(run)
    return joined


class LeastFirst:
  """A set whose least member is found at once."""

  def __init__(self) -> None:
    self._heap: list[int] = []
    self._members: set[int] = set()

  def add(self, number: int) -> None:
    if number not in self._members:
      self._members.add(number)
      heapq.heappush(self._heap, number)

  def least(self) -> int | None:
    return self._heap[0] if self._heap else None

  def pop(self) -> None:
    self._members.remove(heapq.heappop(self._heap))


def epochs_in(run: EpochRun, by_epoch: Mapping[int, Any]) -> list[int]:
  """Returns the epochs of a run that are in a mapping; the shorter way."""
  if run.length < len(by_epoch):
    return [n for n in range(run.start, run.stop) if n in by_epoch]
  return [n for n in by_epoch if run.start <= n < run.stop]
