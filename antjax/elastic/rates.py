# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Growth rates of the counters in snapshots."""

from collections import deque

_MAX_RATES = 256
_RATE_WINDOW_S = 60.0


class Rates:
  """How fast counters grow, over the last minute of snapshots."""

  def __init__(self) -> None:
    self._points: dict[tuple[str, str], deque[tuple[float, float]]] = {}

  def note(
    self, job: str, data_set: str, value: float, now: float
  ) -> float | None:
    """Notes a value; returns its growth a second, None: not known yet."""
    if len(self._points) > _MAX_RATES:  # Some belong to jobs long over.
      self._points.clear()
    points = self._points.setdefault((job, data_set), deque(maxlen=128))
    if points and (value < points[-1][1] or now < points[-1][0]):
      points.clear()  # A checkpoint was restored.
    points.append((now, value))
    while len(points) > 2 and points[1][0] <= now - _RATE_WINDOW_S:
      points.popleft()
    first_s, first = points[0]
    return (value - first) / (now - first_s) if now > first_s else None
