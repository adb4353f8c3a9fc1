# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a status snapshot needs of the past; in memory, bounded."""

from collections import Counter, deque
from collections.abc import Mapping, Sequence

_MAX_JOBS = 1000
_MAX_ENTRIES = 128
_MAX_KINDS = 16
_MAX_DATA_SETS = 256
_RATE_WINDOW_S = 60.0


class ActionLog:
  """What the controller did, by job."""

  def __init__(self) -> None:
    self._entries: dict[str, deque[tuple[float, str, str]]] = {}
    self._counts: dict[str, Counter[str]] = {}

  def record(self, job: str, unix_s: float, action: str, reason: str) -> None:
    """Notes an action, e.g. 'ADJUST_BS', and why it was taken."""
    if job not in self._entries and len(self._entries) >= _MAX_JOBS:
      oldest = next(iter(self._entries))
      del self._entries[oldest], self._counts[oldest]
    entries = self._entries.setdefault(job, deque(maxlen=_MAX_ENTRIES))
    entries.append((unix_s, action, reason))
    counts = self._counts.setdefault(job, Counter())
    is_known = action in counts or len(counts) < _MAX_KINDS
    counts[action if is_known else 'other'] += 1

  def entries(self, job: str) -> Sequence[tuple[float, str, str]]:
    """Returns the last (unix time, action, reason), oldest first."""
    return tuple(self._entries.get(job, ()))

  def counts(self, job: str) -> Mapping[str, int]:
    """Returns how often each action was taken since the coordinator began."""
    return self._counts.get(job, {})


class Rates:
  """How fast counters grow, over the last minute of snapshots."""

  def __init__(self) -> None:
    self._points: dict[tuple[str, str], deque[tuple[float, float]]] = {}

  def note(
    self, job: str, data_set: str, value: float, now: float
  ) -> float | None:
    """Notes a value; returns its growth a second, None: not known yet."""
    if len(self._points) > _MAX_DATA_SETS:  # Some belong to jobs long over.
      self._points.clear()
    points = self._points.setdefault((job, data_set), deque(maxlen=128))
    if points and (value < points[-1][1] or now < points[-1][0]):
      points.clear()  # A checkpoint was restored.
    points.append((now, value))
    while len(points) > 2 and points[1][0] <= now - _RATE_WINDOW_S:
      points.popleft()
    first_s, first = points[0]
    return (value - first) / (now - first_s) if now > first_s else None
