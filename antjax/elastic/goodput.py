# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Goodput: the share of time that a job spends in steps not done before.

The rest is steps repeated after a restart, and everything else: starts,
compilation, checkpoints, evaluations, waiting for hosts. One worker per
generation is tracked, because all run in lock step.
"""

from collections.abc import Iterable
import dataclasses
from typing import Any

from antjax.elastic import coordinator_pb2 as pb

_MAX_JOBS = 256


@dataclasses.dataclass
class _Time:
  since_s: float  # The first heartbeat that was heard.
  heard_s: float
  worker: str = ''
  generation: int = -1
  step: int = 0  # The newest of this worker, and its end on its own clock.
  end_unix_s: float = 0.0
  most: int = 0  # The newest step of any generation.
  new_s: float = 0.0
  again_s: float = 0.0


class Goodput:
  """Since the coordinator began; soft, as all that heartbeats tell."""

  def __init__(self) -> None:
    self._jobs: dict[str, _Time] = {}

  def note(self, beat: pb.HeartbeatRequest, now: float) -> None:
    head = beat.head
    job = self._jobs.get(head.job)
    if job is None:
      if len(self._jobs) >= _MAX_JOBS:
        del self._jobs[min(self._jobs, key=lambda n: self._jobs[n].heard_s)]
      job = self._jobs[head.job] = _Time(now, now)
    if head.generation > job.generation:
      job.worker, job.generation, job.step = head.client, head.generation, 0
    if (head.client, head.generation) == (job.worker, job.generation):
      job.heard_s = now
      self._steps(job, beat.batch_times)

  def _steps(self, job: _Time, times: Iterable[pb.BatchTime]) -> None:
    for time in times:
      if time.step <= job.step:
        continue
      took_s = time.compute_s + time.wait_s
      if job.step and time.step == job.step + 1:
        # The input is part of a step; a save between two is not.
        took_s = max(took_s, min(time.end_unix_s - job.end_unix_s, 2 * took_s))
      if time.step > job.most:
        job.new_s += took_s
        job.most = time.step
      else:
        job.again_s += took_s
      job.step, job.end_unix_s = time.step, time.end_unix_s

  def shares(self, job: str, now: float) -> dict[str, Any] | None:
    """Returns seconds by kind, and the share of new steps; None: none yet."""
    known = self._jobs.get(job)
    if known is None or not known.new_s:
      return None
    whole_s = max(now - known.since_s, known.new_s + known.again_s)
    return {
      'goodput': round(known.new_s / whole_s, 4),
      'new_steps_s': round(known.new_s, 3),
      'repeated_steps_s': round(known.again_s, 3),
      'other_s': round(whole_s - known.new_s - known.again_s, 3),
    }
