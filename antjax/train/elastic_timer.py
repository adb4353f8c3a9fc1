# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Measures, on the host, the compute time of a process in a step.

Micro-batches run asynchronously: the host reads and dispatches one while the
previous one is still running. The timer waits until only that one is left,
reads the clock, and subtracts the time that devices were idle because of late
input.
"""

from collections.abc import Callable
from typing import Protocol


class Result(Protocol):
  """Result of a dispatched micro-batch, a `jax.Array`."""

  def is_ready(self) -> bool: ...
  def block_until_ready(self) -> object: ...


class StepTimer:
  """Times the micro-batches of consecutive steps.

  In each step call `pulling`, `dispatch` and `begin`, then `may_pull` and
  `dispatch` for each further micro-batch, and finally `end`.
  """

  def __init__(self, clock: Callable[[], float]):
    self.clock = clock
    self.pulling_at = 0.0  # When the input was last pulled.
    self._dispatched_at = 0.0
    self._begun = self._idle_s = 0.0
    self._running: list[Result] = []  # Dispatched and not known to be done.
    self._started = 0.0  # Start of the newest of them, as far as known.
    self._each_s = 0.0  # Duration of the last one observed from start to end.

  def pulling(self) -> None:
    """Called before the input is read."""
    self.pulling_at = self._dispatched_at = self.clock()

  def may_pull(self, deadline_s: float) -> bool:
    """Waits until at most one micro-batch runs; False if time is then up.

    Micro-batches of a step start within `deadline_s`; 0: no limit.
    """
    self._wait(1)
    ends_at = self.clock() + len(self._running) * self._each_s
    if deadline_s and ends_at >= self._begun + deadline_s:
      return False
    self.pulling()
    return True

  def dispatch(self, run: Callable[[], Result]) -> None:
    """Dispatches a micro-batch; `run` returns its result."""
    now = self.clock()
    if self._running and self._running[-1].is_ready():
      # Its end is unknown; estimated from the duration of the last one.
      done = min(now, self._started + self._each_s)
      self._idle_s += now - max(self.pulling_at, done)
      self._running.clear()
    if not self._running:
      self._started = now
    self._dispatched_at = now
    self._running.append(run())

  def begin(self, *, is_late: bool) -> None:
    """The previous step has ended: now, or, if late, before the dispatch."""
    self._begun = self._dispatched_at if is_late else self.clock()
    self._started, self._idle_s = self._begun, 0.0

  def end(self) -> tuple[float, float]:
    """Waits for all; returns (seconds of computation, time of its end)."""
    has_run = bool(self._running)
    self._wait(0)
    now = self.clock()
    if not has_run:
      return 0.0, now
    self._each_s = now - self._started
    return max(0.0, now - self._begun - self._idle_s), now

  def _wait(self, num_left: int) -> None:
    while len(self._running) > num_left:
      self._running.pop(0).block_until_ready()
      if self._running:
        self._started = self.clock()
