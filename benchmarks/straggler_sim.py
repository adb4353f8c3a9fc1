# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Simulates a job of slow and fast workers under a policy.

Steps, batch times, heartbeats, decisions and restarts run on a simulated clock;
Monitor, policy and Controller are the real ones. Everything is deterministic,
so that decisions can be compared with recorded ones; times are synthetic.
`replay` uses batch times recorded elsewhere.
"""

from collections.abc import Iterable
import dataclasses
import functools
import math
import random
from typing import Any, Protocol

from antjax.elastic import actions
from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.controller import Controller, ControllerConfig
from antjax.elastic.monitor import Monitor
from antjax.elastic.policy import Policy
from antjax.elastic.windows import MonitorConfig
from benchmarks.straggler_scenarios import Scenario

_JOB = 'simulated'
_Row = dict[str, Any]  # A worker's report of a step.


@dataclasses.dataclass(frozen=True)
class Decision:
  """An action, its time, and the step after which it was taken."""

  now: float
  step: int
  action: actions.Action


@dataclasses.dataclass(frozen=True)
class Outcome:
  """Outcome of a simulated job."""

  job_s: float  # Seconds until all work was committed.
  # Seconds of the same work at the summed speeds of all workers, without
  # overhead and restarts.
  ideal_s: float
  num_steps: int  # Number of steps made, including repeated ones.
  num_generations: int  # Number of generations of the job.
  decisions: tuple[Decision, ...]  # Decisions in order.

  @property
  def share_of_ideal(self) -> float:
    return self.ideal_s / self.job_s


def _tell(
  watch: Monitor,
  row: _Row,
  generation: int,
  clock_s: float = 0.0,
  now: float | None = None,
) -> None:
  """Reports a worker's step to a Monitor; `clock_s` is its clock's error."""
  names = ('step', 'compute_s', 'wait_s', 'num_micro_batches', 'num_samples')
  time = {name: row[name] for name in names}
  time['end_unix_s'] = clock_s + row['now']
  beat = pb.HeartbeatRequest(
    head=pb.Head(job=_JOB, client=row['worker'], generation=generation),
    step=row['step'],
    device_kind=row['device_kind'],
    num_devices=1,
    batch_times=[pb.BatchTime(**time)],
  )
  watch.record_heartbeat(beat, row['now'] if now is None else now)


@dataclasses.dataclass
class _Run:
  """A running job."""

  scenario: Scenario
  noise: random.Random
  now: float = 0.0
  step: int = 0
  generation: int = 1
  num_done: int = 0  # Number of completed micro-batches.
  plan: pb.Plan = dataclasses.field(
    default_factory=lambda: pb.Plan(lr_scale=1.0)
  )
  cured: set[int] = dataclasses.field(default_factory=set)
  # Last checkpoint: time, step, micro-batches.
  commit: tuple[float, int, int] = (0.0, 0, 0)

  def names(self) -> list[str]:
    return [f'w{at}' for at in range(self.scenario.num_workers)]

  def speeds(self) -> list[float]:
    """Current seconds per micro-batch of each worker."""
    scenario, when = self.scenario, self.now
    if scenario.by_work:
      when = min(1.0, self.num_done / scenario.total_micro_batches)
    return [
      scenario.s_per_micro_batch
      * (
        scenario.new_host(when)
        if at in self.cured
        else scenario.slowness(at, when)
      )
      for at in range(scenario.num_workers)
    ]

  def make_step(self) -> list[_Row]:
    """Makes a step; returns the workers' reports."""
    scenario = self.scenario
    counts, times, speeds = [], [], self.speeds()
    for name, each in zip(self.names(), speeds):
      count = self.plan.num_micro_batches.get(name, scenario.num_micro_batches)
      if self.plan.deadline_s and count:
        count = min(count, max(1, math.ceil(self.plan.deadline_s / each)))
      vary = 1 + scenario.noise * (2 * self.noise.random() - 1)
      counts.append(count)
      times.append(count * each * vary)
    own = [scenario.own_overhead_s] * len(speeds)
    if self.step in scenario.saves_after:
      own[0] += scenario.save_s
    slow = [each / scenario.s_per_micro_batch for each in speeds]
    longest = max(t + o * s for t, o, s in zip(times, own, slow))
    self.now += longest + scenario.overhead_s
    self.step += 1
    self.num_done += sum(counts)
    return [
      {
        'now': self.now,
        'worker': name,
        'device_kind': scenario.device_kinds[at],
        'step': self.step,
        'compute_s': times[at],
        'wait_s': longest - times[at] + scenario.overhead_s,
        'num_micro_batches': counts[at],
        'num_samples': counts[at] * scenario.samples_per_micro_batch,
      }
      for at, name in enumerate(self.names())
    ]

  def apply(self, action: actions.Action) -> None:
    """Carries out an action."""
    self.plan.version += 1
    actions.change_plan(self.plan, action)
    if isinstance(action, actions.KillRestart):
      self.cured.add(self.names().index(action.worker))

  def restart(self) -> None:
    """Starts a new generation from the last checkpoint."""
    self.generation += 1
    _, self.step, self.num_done = self.commit
    self.now += self.scenario.restart_s
    self.commit = (self.now, self.step, self.num_done)

  def is_commit_due(self) -> bool:
    if after := self.scenario.saves_after:
      return self.step in after
    return self.now - self.commit[0] >= self.scenario.commit_s


def _ideal_s(scenario: Scenario, tick_s: float = 1.0) -> float:
  """Time of the work with all workers always busy."""

  def rate(when: float) -> float:
    return sum(
      1 / (scenario.s_per_micro_batch * scenario.slowness(at, when))
      for at in range(scenario.num_workers)
    )

  if scenario.by_work:
    steps = range(scenario.num_steps)
    each = scenario.num_workers * scenario.num_micro_batches
    return sum(each / rate(step / scenario.num_steps) for step in steps)
  now, left = 0.0, float(scenario.total_micro_batches)
  while True:
    speed = rate(now)
    if speed * tick_s >= left:
      return now + left / speed
    now, left = now + tick_s, left - speed * tick_s


class Watcher(Protocol):
  """Observer of a simulated job."""

  def step(self, counts: dict[str, int]) -> None:
    """Called after a step, with each worker's number of micro-batches."""

  def commit(self) -> None:
    """Called after a checkpoint was written."""

  def restart(self) -> None:
    """Called when the job returns to the last checkpoint."""


def simulate(
  scenario: Scenario,
  policy: Policy,
  *,
  monitor: MonitorConfig | None = None,
  controller: ControllerConfig | None = None,
  seed: int = 0,
  watcher: Watcher | None = None,
) -> Outcome:
  """Simulates a job to its end.

  KILL_RESTART replaces a slow host by one with slowness 1.

  Args:
    scenario: Job and slowness.
    policy: Decides.
    monitor: Windows and thresholds; None: the defaults.
    controller: Periods and budgets; None: the defaults.
    seed: Seed of the noise.
    watcher: Observer of steps, checkpoints and restarts.
  """
  run = _Run(scenario, random.Random(seed))
  watch = Monitor(monitor or MonitorConfig())
  control = Controller(policy, controller or ControllerConfig())
  decisions: list[Decision] = []
  plan = pb.Plan(lr_scale=1.0)
  num_steps, total = 0, scenario.total_micro_batches
  untold: list[_Row] = []
  unheard: list[tuple[float, actions.Action]] = []  # And its time of delivery.
  told_at = 0.0
  while run.num_done < total:
    heard = [action for at, action in unheard if at <= run.now]
    unheard = [pair for pair in unheard if pair[0] > run.now]
    rows = run.make_step()
    for action in heard:
      run.apply(action)
    untold += rows
    if run.now - told_at >= scenario.report_s:
      for row in untold:
        # Clocks differ.
        clock_s = 1e6 * (1 + int(row['worker'][1:]))
        _tell(watch, row, run.generation, clock_s, run.now)
      untold, told_at = [], run.now
    num_steps += 1
    if watcher:
      watcher.step({row['worker']: row['num_micro_batches'] for row in rows})
    if run.is_commit_due():
      if watcher:
        watcher.commit()
      run.commit = (run.now, run.step, run.num_done)
      watch.note_commit(_JOB, run.now)
    left = (total - run.num_done) * scenario.samples_per_micro_batch
    watch.note_remaining(_JOB, left)
    if not control.is_due(_JOB, run.now):
      continue
    taken = control.decide(watch.view(_JOB, run.now), run.now)
    for action in taken:
      decisions.append(Decision(run.now, run.step, action))
      if scenario.report_s:
        unheard.append((run.now + scenario.report_s, action))
      else:
        run.apply(action)
      actions.change_plan(plan, action)
    if taken:
      watch.note_plan(_JOB, plan, run.now)
    if any(isinstance(action, actions.KillRestart) for action in taken):
      run.restart()
      if watcher:
        watcher.restart()
  return Outcome(
    run.now, _ideal_s(scenario), num_steps, run.generation, tuple(decisions)
  )


@functools.cache
def played(scenario: Scenario, policy: Policy) -> Outcome:
  """`simulate` with all defaults; shared by several tests."""
  return simulate(scenario, policy)


def record(scenario: Scenario, seed: int = 0) -> list[_Row]:
  """Returns the batch times of a job without a policy, for `replay`."""
  run = _Run(scenario, random.Random(seed))
  trace = []
  while run.num_done < scenario.total_micro_batches:
    trace += [
      {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in row.items()
      }
      for row in run.make_step()
    ]
  return trace


def replay(
  trace: Iterable[_Row],
  policy: Policy,
  *,
  monitor: MonitorConfig | None = None,
  controller: ControllerConfig | None = None,
) -> list[Decision]:
  """Returns the decisions of a policy on recorded batch times.

  The trace does not follow the decisions: its counts do not change.

  Args:
    trace: Values as from `record`, in order of time, optionally with
      `generation`.
    policy: Decides.
    monitor: Windows and thresholds; None: the defaults.
    controller: Periods and budgets; None: the defaults.
  """
  watch = Monitor(monitor or MonitorConfig())
  control = Controller(policy, controller or ControllerConfig())
  plan = pb.Plan(lr_scale=1.0)
  decisions = []
  for row in trace:
    now = row['now']
    _tell(watch, row, row.get('generation', 1))
    if not control.is_due(_JOB, now):
      continue
    for action in control.decide(watch.view(_JOB, now), now):
      decisions.append(Decision(now, row['step'], action))
      plan.version += 1
      actions.change_plan(plan, action)
      watch.note_plan(_JOB, plan, now)
  return decisions
