# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a policy has won over equal parts, measured step by step."""

import dataclasses

from antjax.elastic import coordinator_pb2 as pb

_MAX_STEPS = 1024  # Of which some workers' reports have not come.


@dataclasses.dataclass(slots=True)
class _Step:
  """What the workers heard so far say of a step: maxima, but for numbers."""

  num_workers: int = 0
  num_micro_batches: int = 0
  s_per_micro_batch: float = 0.0
  compute_s: float = 0.0
  whole_s: float = 0.0


@dataclasses.dataclass
class Account:
  """Seconds of a job's steps, and of the same work in equal parts."""

  elapsed_s: float = 0.0  # Of the steps that all workers have reported.
  won_s: float = 0.0  # Equal parts would have taken so much longer for them.
  _steps: dict[int, _Step] = dataclasses.field(default_factory=dict)
  # Worker -> its last one, for steps in which it had none.
  _s_per_micro_batch: dict[str, float] = dataclasses.field(default_factory=dict)

  def note(
    self, worker: str, time: pb.BatchTime, num_workers: int, total: int
  ) -> None:
    """Takes in one of so many reports of a step of `total` micro-batches."""
    if time.step not in self._steps and len(self._steps) >= _MAX_STEPS:
      del self._steps[next(iter(self._steps))]
    step = self._steps.setdefault(time.step, _Step())
    if time.num_micro_batches:
      each_s = time.compute_s / time.num_micro_batches
      self._s_per_micro_batch[worker] = each_s
    else:
      each_s = self._s_per_micro_batch.get(worker, 0.0)
    step.num_workers += 1
    step.num_micro_batches += time.num_micro_batches
    step.s_per_micro_batch = max(step.s_per_micro_batch, each_s)
    step.compute_s = max(step.compute_s, time.compute_s)
    step.whole_s = max(step.whole_s, time.compute_s + time.wait_s)
    if step.num_workers < num_workers:
      return
    del self._steps[time.step]
    equal_s = step.s_per_micro_batch * total / num_workers
    equal_s += step.whole_s - step.compute_s
    self.elapsed_s += step.whole_s
    self.won_s += equal_s * step.num_micro_batches / total - step.whole_s

  def begin_generation(self) -> None:
    """Forgets steps that are not complete, and who made them."""
    self._steps.clear()
    self._s_per_micro_batch.clear()
