# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Decides when to act on a policy: only if the action is worth it.

A policy proposes the best action now. The Controller asks it once per period,
waits for enough steps, ignores changes too small to matter, and spends restarts
from a budget with a cooldown.
"""

import dataclasses
import math

from antjax.elastic import actions
from antjax.elastic.policy import Policy
from antjax.elastic.view import ClusterView

# A step of more than so many times the job's micro-batches is a mistake.
_MAX_GROWTH = 4


@dataclasses.dataclass(frozen=True)
class ControllerConfig:
  """When a Controller lets actions pass."""

  period_s: float = 10.0  # Between decisions on a job.
  # Steps of every worker before the first decision in a generation; a worker
  # whose speed is known from before needs none.
  min_samples: int = 5
  cooldown_s: float = 300.0  # After a KILL_RESTART without another.
  max_policy_restarts: int = 3  # That a job may spend on slow workers.
  # An ADJUST_BS or BACKUP_WORKERS that changes the predicted step time, or the
  # deadline, by less than this share is ignored.
  min_change: float = 0.03
  # So long after an ADJUST_BS one that changes the predicted step time by less
  # than `large_change` waits: small gains are mostly noise.
  settle_s: float = 60.0
  large_change: float = 0.15

  def __post_init__(self) -> None:
    values = dataclasses.astuple(self)
    if self.min_samples < 1 or not all(value >= 0 for value in values):
      raise ValueError(
        f'{self}: min_samples must be at least 1, all else not negative'
      )


@dataclasses.dataclass
class _Job:
  decided_at: float = -math.inf
  restarted_at: float = -math.inf
  adjusted_at: float = -math.inf
  num_restarts: int = 0
  idle_reason: str = 'no decision yet'
  failure_reason: str = ''  # While the policy fails.
  new_failure: Exception | None = None


class Controller:
  """Turns views of jobs into the actions to take. Not thread-safe."""

  def __init__(
    self,
    policy: Policy,
    config: ControllerConfig = ControllerConfig(),
  ):
    self._policy = policy
    self._config = config
    self._jobs: dict[str, _Job] = {}

  def decide(
    self, view: ClusterView, now: float, restarts_used: int | None = None
  ) -> list[actions.Action]:
    """Returns what is to be done now; empty: nothing.

    May be called at any time; it decides once a period. A KILL_RESTART comes
    alone (or with others of its kind, for one restart): all else would be
    undone by the new generation. An exception or a wrong answer of a policy is
    logged, and nothing is done.

    `now` is on the Monitor's clock. `restarts_used` are those of the job's
    budget, where a durable count exists; None: those that this Controller has
    decided on.
    """
    job = self._jobs.setdefault(view.job, _Job())
    if not self.is_due(view.job, now):
      return []
    job.decided_at = now
    waiting = self._waiting(view)
    if waiting:
      job.idle_reason = waiting
      return []
    left = self.restarts_left(view.job, now, restarts_used)
    view = dataclasses.replace(view, restarts_left=left)
    try:
      wanted = list(self._policy(view))
      for action in wanted:
        _check(action, view)
    # A user's policy may raise anything; the coordinator must keep running.
    except Exception as error:  # pylint: disable=broad-except
      job.idle_reason = f'the policy failed: {type(error).__name__}: {error}'
      # It will fail again a period later: once is enough.
      if job.idle_reason != job.failure_reason:
        job.failure_reason, job.new_failure = job.idle_reason, error
      return []
    passed: list[actions.Action] = []
    for action in wanted:
      held = self._held(action, view, now - job.adjusted_at)
      if held is None:
        passed.append(action)
      else:
        job.idle_reason = held
    restarts = [a for a in passed if isinstance(a, actions.KillRestart)]
    if restarts:
      passed = [*restarts]
      job.restarted_at = now
      job.num_restarts += 1
    if passed:
      job.failure_reason = ''
    if any(isinstance(a, actions.AdjustBatch) for a in passed):
      job.adjusted_at = now
    return passed

  def is_due(self, job: str, now: float) -> bool:
    """False while `decide` would do nothing: no need to make a view."""
    known = self._jobs.get(job)
    return known is None or now - known.decided_at >= self._config.period_s

  def restarts_left(
    self, job: str, now: float, restarts_used: int | None = None
  ) -> int:
    """Restarts that may be asked for now; 0 during the cooldown."""
    known = self._jobs.get(job)
    if restarts_used is None:
      restarts_used = known.num_restarts if known else 0
    if known and now - known.restarted_at < self._config.cooldown_s:
      return 0
    return max(0, self._config.max_policy_restarts - restarts_used)

  def idle_reason(self, job: str) -> str:
    """Why the last action was held back, or none was asked for."""
    return self._jobs[job].idle_reason if job in self._jobs else ''

  def take_failure(self, job: str) -> Exception | None:
    """What the policy failed with; once for the same reason."""
    if job not in self._jobs:
      return None
    known = self._jobs[job]
    failure, known.new_failure = known.new_failure, None
    return failure

  def forget_job(self, job: str) -> None:
    self._jobs.pop(job, None)

  def _waiting(self, view: ClusterView) -> str:
    """What there is too little of to decide; empty: nothing."""
    if not view.workers:
      return 'no workers'
    unknown = [
      w.worker
      for w in view.workers
      if (not w.is_measured or w.num_steps < self._config.min_samples)
      and w.prior_s_per_sample is None
    ]
    if not unknown:
      return ''
    return (
      f'{len(unknown)} of {len(view.workers)} workers have made fewer than'
      f' {self._config.min_samples} steps: {", ".join(unknown[:3])}'
    )

  def _held(
    self, action: actions.Action, view: ClusterView, adjusted_s: float
  ) -> str | None:
    """Why an action is not to pass, so long after an ADJUST_BS; None: it is."""
    if isinstance(action, actions.Nothing):
      return action.reason
    if isinstance(action, actions.KillRestart):
      if view.restarts_left < 1:
        return f'no restart is left, or it is too soon: {action.reason}'
    elif isinstance(action, actions.AdjustLR):
      if math.isclose(action.lr_scale, view.lr_scale, rel_tol=1e-6):
        return 'the learning rate is as asked for'
    elif isinstance(action, actions.BackupWorkers):
      if self._is_small(view.deadline_s, action.deadline_s):
        return 'the deadline is about as asked for'
    else:
      old = view.num_micro_batches
      new = {**old, **action.num_micro_batches}
      old_s, new_s = view.step_s(old), view.step_s(new)
      if new == old:
        return 'the counts are as asked for'
      if (
        sum(new.values()) != sum(old.values()) or old_s is None or new_s is None
      ):
        return None  # A sum that is wrong is put right at any price.
      if self._is_small(old_s, new_s):
        return f'too small a change: {action.reason}'
      if (
        adjusted_s < self._config.settle_s
        and abs(new_s - old_s) < self._config.large_change * old_s
      ):
        return f'a small change, so soon after the last: {action.reason}'
    return None

  def _is_small(self, old: float, new: float) -> bool:
    return old == new or abs(new - old) < self._config.min_change * old


def _check(action: actions.Action, view: ClusterView) -> None:
  """Raises ValueError for what cannot be carried out."""
  workers = {w.worker: w for w in view.workers}
  if isinstance(action, actions.AdjustBatch):
    for name, count in action.num_micro_batches.items():
      if name not in workers:
        raise ValueError(f'AdjustBatch: {name!r} is no worker of {view.job!r}')
      top = workers[name].max_micro_batches
      if count < 0 or count != int(count) or (top and count > top):
        raise ValueError(
          f'AdjustBatch: {count} micro-batches for {name!r}; needed is a whole'
          f' number from 0 to {top or "any"}'
        )
    old = view.num_micro_batches
    total = sum({**old, **action.num_micro_batches}.values())
    if not total:
      raise ValueError('AdjustBatch: no worker would have a micro-batch')
    most = _MAX_GROWTH * (view.global_micro_batches or sum(old.values()))
    if most and total > max(most, sum(old.values())):
      raise ValueError(
        f'AdjustBatch: {total} micro-batches a step; needed are at most {most},'
        f' {_MAX_GROWTH} times those of the job'
      )
  elif isinstance(action, actions.BackupWorkers):
    if not 0 <= action.deadline_s < math.inf:
      raise ValueError(f'BackupWorkers: deadline_s={action.deadline_s}')
  elif isinstance(action, actions.AdjustLR):
    if not 0 < action.lr_scale < math.inf:
      raise ValueError(f'AdjustLR: lr_scale={action.lr_scale} must be > 0')
  elif isinstance(action, actions.KillRestart):
    if action.worker not in workers:
      raise ValueError(
        f'KillRestart: {action.worker!r} is no worker of {view.job!r}'
      )
  elif not isinstance(action, actions.Nothing):
    raise ValueError(f'{action!r} is no action of antjax.elastic.actions')
