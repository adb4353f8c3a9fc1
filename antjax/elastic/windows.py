# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Recent activity of one worker, in bounded memory.

A ring of time slices spans the long window, whatever the length of the job. A
batch time goes into the slice of the moment it comes, so that clocks of hosts
need not agree; `end_unix_s` is only ever compared with the same worker's.
"""

from collections import deque
import dataclasses
import math
import statistics

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.protocol import MAX_HOSTS
from antjax.elastic.view import State, StepMoments, WorkerView

_SHORT_SLICES = 4  # In the short window: its reach is known to a quarter.
_NUM_JUMP = 3  # Steps that tell of a jump: their median bears one bad step.
_NUM_NEWEST = 16  # Steps that tell how much one differs from the next.
_MAX_KIND = 128  # Characters.
# Over the median: a worker becomes slow above the first, and is no longer slow
# below the second; with room between, so that noise does not switch states.
ENTER_SLOWNESS, LEAVE_SLOWNESS = 1.3, 1.15


@dataclasses.dataclass(frozen=True)
class MonitorConfig:
  """Windows and thresholds."""

  short_s: float = 30.0  # Short window: slow in it is slow now.
  # Long window: slow in most of it, once it is full, is persistent.
  long_s: float = 300.0
  min_steps: int = 5  # Before a worker's figures count.
  # First steps of a generation that are left out, beside the very first one,
  # which compiles and which no worker reports.
  num_warmup_steps: int = 1
  restart_cost_s: float = 60.0  # Until a restart has been seen.
  # Beyond these the worker of a job, or the job, that is silent for longest is
  # dropped.
  max_workers: int = MAX_HOSTS
  max_jobs: int = 256

  def __post_init__(self) -> None:
    if not 0 < self.short_s < self.long_s < math.inf:
      raise ValueError(
        f'MonitorConfig: short_s={self.short_s}, long_s={self.long_s}; needed'
        ' is 0 < short_s < long_s'
      )
    if not self.restart_cost_s >= 0:  # Nor nan.
      raise ValueError(
        f'MonitorConfig: restart_cost_s={self.restart_cost_s} must be at least'
        ' 0'
      )
    if min(self.min_steps, self.max_workers, self.max_jobs) < 1:
      raise ValueError(
        f'MonitorConfig: min_steps={self.min_steps},'
        f' max_workers={self.max_workers}, max_jobs={self.max_jobs}; each must'
        ' be at least 1'
      )

  @property
  def slice_s(self) -> float:
    """Seconds of a slice: slice n begins at n * slice_s."""
    return self.short_s / _SHORT_SLICES

  @property
  def num_slices(self) -> int:
    return math.ceil(self.long_s / self.slice_s)

  def number(self, now: float) -> int:
    return int(now // self.slice_s)


@dataclasses.dataclass(slots=True)
class Slice:
  """What a worker did in one stretch of time."""

  number: int  # Slice n begins at n * MonitorConfig.slice_s.
  num_steps: int = 0  # Those in which it had micro-batches.
  num_input_steps: int = 0  # Those that waited longer for input than computed.
  num_samples: int = 0
  compute_s: float = 0.0  # Computing, before the collective.
  wait_s: float = 0.0  # Waiting for other workers in the collective.
  rest_s: float = 0.0  # Other seconds: for input, update and saving.
  input_s: float = 0.0  # The part of rest_s that other workers did not take.
  device_s: float = 0.0  # Of the devices, waits in their programs included.
  moments: StepMoments = StepMoments()  # Of micro-batches and busy seconds.

  @property
  def busy_s(self) -> float:
    """Seconds that are the worker's own."""
    is_input_bound = 0 < self.num_steps <= 2 * self.num_input_steps
    return self.compute_s + (self.input_s if is_input_bound else 0.0)


@dataclasses.dataclass(frozen=True)
class Usual:
  """The least of all workers: seconds of a step, their mean in a window."""

  rest_s: float = 0.0  # Of `Slice.rest_s`.
  device_s: float = 0.0  # Of `Slice.device_s`, where workers report it.
  whole_s: float = 0.0  # Of these workers' steps.

  def waited_s(self, time: pb.BatchTime) -> float:
    """Seconds of a step's `device_s` spent waiting for other workers.

    In lock step all take equally long, and whoever comes last has the least
    device time. What a worker takes longer than the fastest is its own.
    """
    own_s = max(0.0, time.compute_s - self.whole_s)
    return max(0.0, time.device_s - self.device_s - own_s)


class WorkerRecord:
  """A worker in one generation; what outlives it is handed on."""

  def __init__(
    self,
    config: MonitorConfig,
    generation: int,
    now: float,
    before: 'WorkerRecord | None' = None,
  ):
    self.generation = generation
    self.heard_at = now
    self.restarts = 0  # Generations before, since it was first heard of.
    # In the generation before, and not yet seen to be well since.
    self.was_persistent = False
    self.is_short_slow = False  # In the short window; moves with hysteresis.
    self.is_long_slow = False
    self.state: State = 'normal'  # Last verdict.
    # Most in a step: the last steps of the data, and those with a deadline,
    # make fewer.
    self.reported_micro_batches = 0
    self.device_kind = ''
    self.first_at: float | None = None  # First step that counts.
    # As measured last: the speed in whole steps, and the seconds of a step
    # spent on neither, and waiting for others.
    self.samples_per_s = 0.0
    self.rest_s: float | None = None
    self.wait_s: float | None = None
    self.device_s = self.whole_s = 0.0
    self.noise = 0.0  # As in WorkerView.
    self._config = config
    self._slices: deque[Slice] = deque(maxlen=config.num_slices + 1)
    self._prior_s_per_sample: float | None = None
    self._num_steps = 0
    self._last_step: tuple[int, float] | None = None  # Number and end.
    # Seconds per sample of the newest steps, and the slice of the last.
    self._newest: deque[float] = deque(maxlen=_NUM_NEWEST)
    self._worked_in = 0
    # As long as the windows were not empty.
    self._short_s_per_sample: float | None = None
    self._long_s_per_sample: float | None = None
    self._beat = pb.HeartbeatRequest()
    if before is not None:
      self.restarts = before.restarts + 1
      self.was_persistent = (
        before.was_persistent or before.state == 'persistent'
      )
      self._prior_s_per_sample = (
        before._short_s_per_sample or before._prior_s_per_sample
      )

  def hear(self, beat: pb.HeartbeatRequest, now: float) -> None:
    """Takes in all of a heartbeat but its batch times."""
    self.heard_at = now
    self.device_kind = beat.device_kind[:_MAX_KIND]
    self._beat = pb.HeartbeatRequest(
      step=beat.step,
      resources=beat.resources,
      num_devices=beat.num_devices,
      max_micro_batches=beat.max_micro_batches,
      loss=beat.loss if beat.HasField('loss') else None,
    )

  @property
  def loss(self) -> tuple[int, float] | None:
    """The step of the newest loss, and that; None: it has told none."""
    beat = self._beat
    return (beat.step, beat.loss) if beat.HasField('loss') else None

  def record(self, time: pb.BatchTime, now: float, usual: Usual) -> bool:
    """Takes in a step, beside the others' usual one, reported `now`.

    False: it was known, or no clock can say it.
    """
    last = self._last_step
    if not _is_sound(time) or (
      last and time.step <= last[0] and time.end_unix_s <= last[1]
    ):
      return False
    self._last_step = (time.step, time.end_unix_s)
    self.reported_micro_batches = max(
      self.reported_micro_batches, time.num_micro_batches
    )
    has_work = time.num_micro_batches > 0 and time.num_samples > 0
    self._num_steps += has_work
    if self._num_steps <= self._config.num_warmup_steps:
      return True
    if self.first_at is None:
      self.first_at = now
    number = self._config.number(now)
    if not self._slices or self._slices[-1].number != number:
      self._slices.append(Slice(number))
    at = self._slices[-1]
    rest_s = 0.0
    if last and time.step == last[0] + 1:
      period_s = time.end_unix_s - last[1]
      rest_s = max(0.0, period_s - time.compute_s - time.wait_s)
    input_s = max(0.0, rest_s - usual.rest_s)
    waited_s = usual.waited_s(time) if time.device_s and usual.device_s else 0.0
    compute_s = time.compute_s - waited_s
    at.compute_s += compute_s
    at.wait_s += time.wait_s + waited_s
    at.device_s += time.device_s
    at.rest_s += rest_s
    at.input_s += input_s
    if has_work:
      is_input = input_s > compute_s
      busy_s = compute_s + (input_s if is_input else 0.0)
      num = time.num_micro_batches
      if number - self._worked_in > self._config.num_slices:
        self._newest.clear()  # It had no work for long.
      self._worked_in = number
      self._newest.append(busy_s / time.num_samples)
      at.num_steps += 1
      at.num_input_steps += is_input
      at.num_samples += time.num_samples
      at.moments = StepMoments.total([at.moments, StepMoments.of(num, busy_s)])
    return True

  def slices(self, now: float) -> list[Slice]:
    """Slices of the long window, oldest first."""
    oldest = self._config.number(now) - self._config.num_slices
    return [s for s in self._slices if s.number >= oldest]

  def _history(self, now: float) -> tuple[float | None, ...]:
    newest = self._config.number(now)
    filled = {
      s.number: s.busy_s / s.num_samples
      for s in self.slices(now)
      if s.num_steps
    }
    numbers = range(newest - self._config.num_slices, newest + 1)
    return tuple(map(filled.get, numbers))

  def is_full(self, now: float) -> bool:
    """True once the long window has been watched from end to end."""
    reach_s = self._config.long_s - self._config.slice_s
    return self.first_at is not None and now - self.first_at >= reach_s

  def measure(
    self,
    name: str,
    quota: int | None,
    default_quota: int,
    kind_s_per_sample: float | None,
    now: float,
  ) -> WorkerView:
    """Measures it; returns all figures, the state being the last verdict.

    The quota is that of the current plan; None: it does not name this worker.
    `kind_s_per_sample` is known of its device kind, or None.
    """
    filled = [s for s in self.slices(now) if s.num_steps]
    oldest = self._config.number(now) - _SHORT_SLICES
    # Where a step takes longer than the short window: the newest one.
    short = [s for s in filled if s.number >= oldest] or filled[-1:]
    short_steps = sum(s.num_steps for s in short)
    short_samples = sum(s.num_samples for s in short)
    input_share = sum(s.num_input_steps for s in short) / max(1, short_steps)
    self.noise = self._noise()
    if filled:
      self._long_s_per_sample = statistics.median(
        [s.busy_s / s.num_samples for s in filled]
      )
      mean = sum(s.busy_s for s in short) / short_samples
      self._short_s_per_sample = self._follow_jump(mean)
    rest_s = sum(s.rest_s for s in short)
    whole_s = sum(s.compute_s + s.wait_s for s in short) + rest_s
    self.samples_per_s = short_samples / whole_s if whole_s else 0.0
    self.rest_s = rest_s / short_steps if short_steps else None
    wait_s = sum(s.wait_s for s in short)
    self.wait_s = wait_s / short_steps if short_steps else None
    self.device_s = sum(s.device_s for s in short) / max(1, short_steps)
    self.whole_s = whole_s / max(1, short_steps)
    moments = StepMoments.total(s.moments for s in filled)
    num_samples = sum(s.num_samples for s in filled)
    num_steps = max(0, self._num_steps - self._config.num_warmup_steps)
    count = quota
    if count is None:
      count = max(self.reported_micro_batches, default_quota)
    resources = self._beat.resources
    return WorkerView(
      worker=name,
      num_micro_batches=count,
      state=self.state,
      short_s_per_sample=self._short_s_per_sample,
      long_s_per_sample=self._long_s_per_sample,
      last_s_per_sample=self._newest[-1] if self._newest else None,
      prior_s_per_sample=self._prior_s_per_sample or kind_s_per_sample,
      is_measured=num_steps >= self._config.min_steps,
      is_idle=quota == 0 and not filled,
      input_share=input_share,
      is_input_bound=input_share >= 0.5,
      noise=self.noise,
      history=self._history(now),
      newest=tuple(self._newest),
      num_steps=num_steps,
      num_samples=num_samples,
      samples_per_micro_batch=num_samples / moments.x if moments.x else 0.0,
      max_micro_batches=max(0, self._beat.max_micro_batches),
      moments=moments,
      device_kind=self.device_kind,
      num_devices=max(0, self._beat.num_devices),
      restarts=self.restarts,
      cpu_share=_share(resources.cpu_share),
      rss_bytes=max(0, resources.rss_bytes),
      memory_bytes=max(0, resources.memory_bytes),
      step=self._beat.step,
      silent_s=max(0.0, now - self.heard_at),
    )

  def _follow_jump(self, mean: float) -> float:
    """The mean of the short window, or what came after a jump.

    The mean would lag behind a sudden change; the median of the newest steps
    follows it, and one bad step does not move it.
    """
    if len(self._newest) < _NUM_JUMP:
      return mean
    newest = statistics.median(list(self._newest)[-_NUM_JUMP:])
    jump = ENTER_SLOWNESS
    return mean if mean < newest * jump and newest < mean * jump else newest

  def _noise(self) -> float:
    """Standard deviation of a step over its mean, from steps side by side.

    By the median: a jump of the speed is one difference among many.
    """
    newest = list(self._newest)
    if len(newest) < _NUM_NEWEST // 2:
      return 0.0
    sides = zip(newest, newest[1:])
    # Of normal noise, 0.954 deviations.
    return statistics.median(2 * abs(b - a) / (a + b) for a, b in sides) / 0.954


def _is_sound(time: pb.BatchTime) -> bool:
  times = (time.compute_s, time.wait_s, time.end_unix_s, time.device_s)
  return (
    all(0 <= x < math.inf for x in times)
    and time.device_s <= time.compute_s
    and time.num_micro_batches >= 0
    and time.num_samples >= 0
  )


def _share(x: float) -> float:
  return min(max(x, 0.0), 1.0) if math.isfinite(x) else 0.0
