# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints by time: at the same step on all processes.

The clock of process 0 decides. From time to time all processes agree on the
step at which to check it again, sooner as the next checkpoint approaches, in
case steps become slower. Between two checks there is no communication.
"""

from collections.abc import Callable, Iterator
import contextlib
import math
import time

from antjax.mesh.gather import gather_json
from antjax.train.fit_options import FitOptions

_FIRST = 2  # Steps until the first check; the first step compiles.
_LEAST_SAVE_S = 0.01


class SaveClock:
  """Decides when to save, in addition to every `checkpoint_every` steps."""

  def __init__(
    self,
    options: FitOptions,
    number: int,
    clock: Callable[[], float] = time.perf_counter,
  ):
    """Starts after `number` steps."""
    self._options, self._clock = options, clock
    self._interval_s_fn = getattr(options.elastic, 'checkpoint_every_s', None)
    is_used = options.checkpoint_dir is not None and (
      options.checkpoint_every_s > 0 or self._interval_s_fn is not None
    )
    self._save_s = _LEAST_SAVE_S  # Duration of the last save.
    self._since = number  # Step of the last check, and below its time.
    self._since_s = self._saved_s = clock()
    self._next: float = number + _FIRST if is_used else math.inf

  @property
  def interval_s(self) -> float:
    """Seconds between two checkpoints, as decided by this process."""
    if self._options.checkpoint_every_s or self._interval_s_fn is None:
      return self._options.checkpoint_every_s or math.inf
    return float(self._interval_s_fn(self._save_s))

  def is_look(self, number: int) -> bool:
    """Whether all processes check the clock after this step."""
    return number >= self._next

  def look(self, number: int) -> bool:
    """Whether to save after this step; a collective call if `is_look`."""
    if not self.is_look(number):
      return False
    now = self._clock()
    step_s = max(1e-9, now - self._since_s) / max(1, number - self._since)
    left_s = self.interval_s - (now - self._saved_s)
    is_due = left_s < step_s / 2
    steps = (self.interval_s if is_due else left_s) / step_s
    # Half of the remaining steps, in case steps become slower.
    steps = max(1, round(steps / 2)) if steps < 1e9 else int(1e9)
    is_due, steps = gather_json([is_due, steps])[0]
    self._since, self._since_s = number, now
    self._next = number + steps
    return bool(is_due)

  @contextlib.contextmanager
  def saving(self) -> Iterator[None]:
    """Context of each save, whatever its cause."""
    if self._options.before_save is not None:
      self._options.before_save()
    began = self._clock()
    yield
    self._saved_s = self._clock()
    self._save_s = max(_LEAST_SAVE_S, self._saved_s - began)
