# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The coordinator's own decisions, made twice a second.

Rendezvous decides which generation starts or ends, Liveness which workers are
lost, and the Controller what to do about slow workers. All decisions become
messages that are applied and stored like requests.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
import dataclasses
import time

from absl import logging
from google.protobuf.message import Message

from antjax.elastic import actions
from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.controller import Controller
from antjax.elastic.job_state import JobState
from antjax.elastic.liveness import Liveness
from antjax.elastic.monitor import Monitor
from antjax.elastic.protocol import Refused
from antjax.elastic.rendezvous import Rendezvous
from antjax.elastic.writer import Writer

_MAX_LOGGED_JOBS = 1000
_MAX_LOGGED = 128
_MAX_KINDS = 16
_NAMES = {
  actions.AdjustBatch: 'ADJUST_BS',
  actions.BackupWorkers: 'BACKUP_WORKERS',
  actions.KillRestart: 'KILL_RESTART',
  actions.AdjustLR: 'ADJUST_LR',
}


class ActionLog:
  """What the controller did, by job."""

  def __init__(self) -> None:
    self._entries: dict[str, deque[tuple[float, str, str]]] = {}
    self._counts: dict[str, Counter[str]] = {}

  def record(self, job: str, unix_s: float, action: str, reason: str) -> None:
    """Notes an action, e.g. 'ADJUST_BS', and why it was taken."""
    if job not in self._entries and len(self._entries) >= _MAX_LOGGED_JOBS:
      oldest = next(iter(self._entries))
      del self._entries[oldest], self._counts[oldest]
    entries = self._entries.setdefault(job, deque(maxlen=_MAX_LOGGED))
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


@dataclasses.dataclass(eq=False)
class Decisions:
  """Decides about jobs, and applies it; `log` has the Controller's actions."""

  writer: Writer
  monitor: Monitor
  rendezvous: Rendezvous
  liveness: Liveness
  controller: Controller
  wall_clock: Callable[[], float] = time.time
  log: ActionLog = dataclasses.field(default_factory=ActionLog)

  def __post_init__(self) -> None:
    self._waiting_since: dict[str, float] = {}

  def tick(self, names: set[str], now: float) -> None:
    """Decides once about known jobs, and those with agents in `names`."""
    jobs = self.writer.jobs
    known = jobs.names()
    for name in {*known, *names}:
      try:
        self._tick_job(jobs.job(name), now, name in names)
      except Refused as error:
        logging.warning('Job %s: %s', name, error.text)
      # One job's trouble must not be that of the others.
      except Exception:
        if self.writer.error is not None:
          raise
        logging.exception('Deciding about job %s failed.', name)
    self.liveness.keep(known)
    for name in self._waiting_since.keys() - {*known, *names}:
      del self._waiting_since[name]

  def _tick_job(self, job: JobState, now: float, has_agents: bool) -> None:
    if job.phase == 'ended':
      self.controller.forget_job(job.name)
      return
    if job.phase == 'waiting' and has_agents:
      self._waiting_since.setdefault(job.name, now)
    hung = self.liveness.hung(job, now)
    has_stepped = self.liveness.has_stepped(job)
    for message in self.rendezvous.decide(job, now, hung, has_stepped):
      self._apply(message, job.name, now)
    if job.sets and (job.phase == 'running' or not job.is_managed):
      self.monitor.note_remaining(job.name, _remaining(job))
      self._control(job, now)

  def _apply(self, message: Message, name: str, now: float) -> None:
    if not self.writer.decide(message):
      return
    job = self.writer.jobs.job(name)
    if isinstance(message, pb.StartGeneration):
      logging.info(
        'Job %s: generation %d of %d hosts starts.',
        name,
        job.generation,
        len(job.members),
      )
      since = self._waiting_since.pop(name, now)
      self.monitor.note_pending(name, now - since, now)
      self.monitor.note_plan(name, job.plan, now)
    elif isinstance(message, pb.EndGeneration):
      logging.info(
        'Job %s: generation %d ended: %s', name, job.generation, message.reason
      )
      for worker in message.replaced:
        self.monitor.forget(name, worker)
    elif isinstance(message, pb.ExpireWorkers):
      workers = ', '.join(message.workers)
      logging.warning('Job %s: the leases of %s expired.', name, workers)
      self.liveness.forget(name, message.workers)
      if not job.is_managed:  # Its part of the work is the others' now.
        for worker in message.workers:
          self.monitor.forget(name, worker)

  def _control(self, job: JobState, now: float) -> None:
    """Asks the policy, and does what it wants."""
    if not self.controller.is_due(job.name, now):
      return  # A view of many workers takes long.
    view = self.monitor.view(job.name, now)
    if job.is_managed and len(view.workers) < len(job.members):
      return  # Who has not spoken yet would get no work, and the others all.
    decided = self.controller.decide(view, now, job.policy_restarts)
    failure = self.controller.take_failure(job.name)
    if failure is not None:
      reason = self.controller.idle_reason(job.name)
      self.log.record(job.name, self.wall_clock(), 'POLICY_FAILED', reason)
      logging.error('Job %s: %s', job.name, reason, exc_info=failure)
    plan = pb.Plan()
    plan.CopyFrom(job.plan)
    reasons = []
    for action in decided:
      if isinstance(action, actions.Nothing):
        continue
      name = _NAMES[type(action)]
      self.log.record(job.name, self.wall_clock(), name, action.reason)
      logging.info('Job %s: %s: %s', job.name, name, action.reason)
      if isinstance(action, actions.KillRestart):
        self.writer.decide(
          pb.OperateRequest(
            head=pb.Head(job=job.name, client='controller'),
            action='replace',
            target=action.worker,
            reason=action.reason,
          )
        )
        continue
      reasons.append(action.reason)
      actions.change_plan(plan, action)
    if reasons:
      plan.reason = '; '.join(reasons)
      self.writer.decide(pb.SetPlan(job=job.name, plan=plan))
      self.monitor.note_plan(job.name, job.plan, now)


def _remaining(job: JobState) -> float | None:
  """Records that are still to be consumed; None: no end, or not known yet."""
  left = 0
  ledgers = [
    data.ledger
    for data in job.sets.values()
    if data.generation == job.generation
  ]
  for ledger in ledgers:
    spec, counts = ledger.spec, ledger.counts()
    if spec.num_epochs is None or spec.is_growing:
      return None
    over = sum(counts[name] for name in ('consumed', 'done', 'set_aside'))
    shards = spec.num_epochs * spec.num_shards - over
    # The last shard of an epoch may be smaller.
    most = spec.num_epochs * spec.num_records
    left += min(shards * spec.shard_size, most)
  return float(left) if ledgers else None
