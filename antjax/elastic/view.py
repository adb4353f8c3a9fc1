# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The Monitor's view of a job at one instant: the input of a policy.

Plain frozen values, so that a policy is a pure function of them and a test
writes them by hand.
"""

from collections.abc import Iterable, Mapping
import dataclasses
from typing import Literal

# leader: faster than the median. transient: slow now. persistent: slow now and
# for most of the long window. deterministic: slow by its device kind, or
# persistent again after a restart, so that another restart is of no use.
State = Literal['leader', 'normal', 'transient', 'persistent', 'deterministic']


@dataclasses.dataclass(frozen=True)
class StepMoments:
  """Sums over steps: a line of seconds over micro-batches is fitted to them."""

  num: int = 0  # Steps.
  x: float = 0.0  # Sum of the micro-batches in a step.
  xx: float = 0.0  # Sum of their squares.
  t: float = 0.0  # Sum of the busy seconds in a step.
  xt: float = 0.0  # Sum of the products.

  @classmethod
  def of(cls, work: float, busy_s: float) -> 'StepMoments':
    return cls(1, work, work * work, busy_s, work * busy_s)

  @classmethod
  def total(cls, parts: Iterable['StepMoments']) -> 'StepMoments':
    """The sum of many."""
    num, x, xx, t, xt = 0, 0.0, 0.0, 0.0, 0.0
    for part in parts:
      num += part.num
      x += part.x
      xx += part.xx
      t += part.t
      xt += part.xt
    return cls(num, x, xx, t, xt)


@dataclasses.dataclass(frozen=True)
class WorkerView:
  """One worker of the running generation.

  Times are busy times: computing, and for an input-bound worker also waiting
  for its own input; never waiting for other workers. They are per sample, so
  that a worker that was just given more work does not look slow. Figures of a
  worker that has no work any more are the last ones known; None: unknown.
  """

  worker: str  # Name.
  num_micro_batches: int  # Its quota in a step.
  state: State = 'normal'
  # Mean over the short window, or the median of the newest steps where the
  # speed has jumped in it.
  short_s_per_sample: float | None = None
  # Median over the time slices of the long window: a short bad spell does not
  # show.
  long_s_per_sample: float | None = None
  last_s_per_sample: float | None = None  # Of the newest step.
  # Before it is measured: its own figure of an earlier generation, or that of
  # its device kind.
  prior_s_per_sample: float | None = None
  is_measured: bool = False  # It has made enough steps in this generation.
  # Its quota is zero and the long window empty: only a probe can tell whether
  # it is still slow.
  is_idle: bool = False
  short_slowness: float = 1.0  # Short figure over the workers' low median.
  long_slowness: float = 1.0
  # Share of the steps in the short window in which it took longer to get its
  # input, beyond what all workers take, than to compute.
  input_share: float = 0.0
  is_input_bound: bool = False  # The share is at least a half.
  # Standard deviation of a step's time over its mean, without jumps of speed.
  noise: float = 0.0
  # Seconds per sample in each slice of the long window, oldest first, the same
  # slices for all workers; None: no step.
  history: tuple[float | None, ...] = ()
  newest: tuple[float, ...] = ()  # The same of the newest steps, oldest first.
  num_steps: int = 0  # In this generation, without its warm-up.
  num_samples: int = 0  # In the long window.
  samples_per_micro_batch: float = 0.0  # Over the long window; 0: unknown.
  max_micro_batches: int = 0  # Most that it can do in a step; 0: no limit.
  moments: StepMoments = StepMoments()  # Over the steps in the long window.
  device_kind: str = ''
  num_devices: int = 0
  restarts: int = 0  # Generations begun after its first one.
  cpu_share: float = 0.0  # Of all cores of its host, 0 to 1.
  rss_bytes: int = 0  # Memory that the worker uses.
  memory_bytes: int = 0  # Memory of its host.
  step: int = 0
  silent_s: float = 0.0  # Since its last heartbeat.

  @property
  def s_per_sample(self) -> float | None:
    """The best figure of its speed now; None: nothing is known yet."""
    if self.is_measured:
      return self.short_s_per_sample or self.long_s_per_sample
    return self.prior_s_per_sample


@dataclasses.dataclass(frozen=True)
class ClusterView:
  """A job: its workers, its work, and what a restart would cost."""

  job: str
  generation: int = 1
  workers: tuple[WorkerView, ...] = ()  # By name.
  # Micro-batches of a step over all workers, as the job was set up; 0: unknown.
  global_micro_batches: int = 0
  lr_scale: float = 1.0  # Factor on updates in the current plan.
  deadline_s: float = 0.0  # In the current plan; 0: none.
  remaining_samples: float | None = None  # To the end of the job.
  # Of all steps so far, and how much longer equal parts would have taken for
  # them; None: not measured.
  elapsed_s: float = 0.0
  won_s: float | None = None
  samples_per_s: float = 0.0  # Of all, over the short window; 0: unknown.
  # Median of the restarts seen, or a default, plus the work since the last
  # commit, which a restart repeats.
  restart_cost_s: float = 0.0
  pending_s: float = 0.0  # Longest recent wait of hosts to be placed.
  restarts_left: int = 0  # That a policy may still ask for now.
  # From the end of the last worker's micro-batches to the end of the step: the
  # exchange and the update; 0: unknown.
  exchange_s: float = 0.0
  usual_exchange_s: float | None = None  # While no worker was slow.
  loss: float | None = None  # Of the newest step that is known; None: none is.
  exit_codes: Mapping[int, int] = dataclasses.field(default_factory=dict)

  @property
  def num_micro_batches(self) -> dict[str, int]:
    """Worker -> its quota in force."""
    return {w.worker: w.num_micro_batches for w in self.workers}

  @property
  def samples_per_micro_batch(self) -> float:
    """Mean over the workers that know it; 1 if none does."""
    sizes = [w.samples_per_micro_batch for w in self.workers]
    sizes = [size for size in sizes if size > 0]
    return sum(sizes) / len(sizes) if sizes else 1.0

  @property
  def remaining_s(self) -> float | None:
    """Time to the end of the job at today's speed; None: unknown."""
    if self.remaining_samples is None or self.samples_per_s <= 0:
      return None
    return self.remaining_samples / self.samples_per_s

  def s_per_micro_batch(self, worker: WorkerView) -> float | None:
    """Seconds of a micro-batch of `worker`; None: nothing is known yet."""
    if worker.s_per_sample is None:
      return None
    size = worker.samples_per_micro_batch or self.samples_per_micro_batch
    return max(1e-9, worker.s_per_sample * size)  # Clocks are coarse.

  def exchange_s_at(self, slowness: float) -> float:
    """Seconds of the exchange if no worker were slower than that.

    A slow worker does its part of it slowly, too, however few micro-batches it
    has. Where it was never seen without one, all of it counts as such work.
    """
    worst = max([1.0, *(w.short_slowness for w in self.workers)])
    usual = self.usual_exchange_s
    least = self.exchange_s / worst if usual is None else usual
    least = min(least, self.exchange_s)
    if slowness >= worst:
      return self.exchange_s
    share = (max(1.0, slowness) - 1) / (worst - 1)
    return least + (self.exchange_s - least) * share

  def step_s(self, num_micro_batches: Mapping[str, int]) -> float | None:
    """Predicted seconds of a step: the slowest worker's; None: unknown."""
    longest = 0.0
    for worker in self.workers:
      count = num_micro_batches.get(worker.worker, worker.num_micro_batches)
      each = self.s_per_micro_batch(worker)
      if each is None:
        return None
      longest = max(longest, count * each)
    return longest
