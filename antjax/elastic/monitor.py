# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Detects slow workers, by windows over their batch times.

Memory is bounded whatever the length of the job (`windows.py`). All is soft:
after a restart of the coordinator the windows fill again within seconds.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
import dataclasses
import statistics

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.account import Account
from antjax.elastic.view import ClusterView, WorkerView
from antjax.elastic.windows import (
  ENTER_SLOWNESS,
  LEAVE_SLOWNESS,
  MonitorConfig,
  Slice,
  Usual,
  WorkerRecord,
)

PENDING_MEMORY_S = 1800.0  # For which a wait for hosts is remembered.
_MAX_EXIT_CODES = 64
_MAX_KINDS = 64
_DEVIATIONS = 4  # Of its noise by which a worker is not yet slow.


@dataclasses.dataclass
class _Job:
  heard_at: float
  workers: dict[str, WorkerRecord] = dataclasses.field(default_factory=dict)
  generation: int = 0
  num_members: int = 0  # Of it, as of the last view.
  stepped_at: float | None = None  # Newest step of this generation.
  ended_at: float | None = None  # Newest step of the generation before.
  restart_costs: deque[float] = dataclasses.field(
    default_factory=lambda: deque(maxlen=16)
  )
  committed_at: float | None = None
  pending: deque[tuple[float, float]] = dataclasses.field(
    default_factory=lambda: deque(maxlen=64)
  )
  quotas: dict[str, int] = dataclasses.field(default_factory=dict)
  lr_scale: float = 1.0
  deadline_s: float = 0.0
  default_micro_batches: int = 0  # For a worker that no plan names.
  global_micro_batches: int = 0
  learned_in: int | None = None  # Generation of global_micro_batches.
  usual: Usual = Usual()
  usual_exchange_s: float | None = None  # While no worker is slow.
  remaining_samples: float | None = None
  exit_codes: Counter[int] = dataclasses.field(default_factory=Counter)
  kinds: dict[str, float] = dataclasses.field(default_factory=dict)
  left_slow: set[str] = dataclasses.field(default_factory=set)
  account: Account = dataclasses.field(default_factory=Account)

  def members(self) -> dict[str, WorkerRecord]:
    return {
      name: worker
      for name, worker in self.workers.items()
      if worker.generation == self.generation
    }


class Monitor:
  """Collects workers' reports; `view` interprets them.

  Not thread-safe; every call takes its time, `now`, in seconds of any clock
  that does not go back.
  """

  def __init__(self, config: MonitorConfig | None = None):
    self._config = config or MonitorConfig()
    self._jobs: dict[str, _Job] = {}

  # --- What is told. ---------------------------------------------------------

  def record_heartbeat(self, request: pb.HeartbeatRequest, now: float) -> None:
    """Takes in a worker's batch times; those of an old generation are none."""
    head = request.head
    job = self._job(head.job, now)
    if head.generation < job.generation:
      return
    if head.generation > job.generation:
      job.generation = head.generation
      job.account.begin_generation()
      if job.stepped_at is not None:
        job.ended_at, job.stepped_at = job.stepped_at, None
    worker = self._worker(job, head.client, head.generation, now)
    worker.hear(request, now)
    for time in request.batch_times:
      if worker.record(time, now, job.usual):
        job.stepped_at = now
        if job.global_micro_batches and worker.first_at is not None:
          job.account.note(
            head.client, time, job.num_members, job.global_micro_batches
          )
    if job.stepped_at is not None and job.ended_at is not None:
      job.restart_costs.append(max(0.0, job.stepped_at - job.ended_at))
      job.ended_at = None

  def record_exit(self, job: str, worker: str, code: int, now: float) -> None:
    """Counts the exit code of a worker's process; below 0 it is a signal."""
    codes = self._job(job, now).exit_codes
    if code in codes or len(codes) < _MAX_EXIT_CODES:
      codes[code] += 1

  def forget(self, job: str, worker: str) -> None:
    """Drops a worker that has left the job.

    That it was persistently slow is kept under its name: whoever comes back by
    that name and is slow again shows that a restart does not help.
    """
    known = self._jobs.get(job)
    old = known.workers.pop(worker, None) if known else None
    if known and old and (old.was_persistent or old.state == 'persistent'):
      if len(known.left_slow) >= self._config.max_workers:
        known.left_slow.clear()
      known.left_slow.add(worker)

  def names(self) -> list[str]:
    return [name for name, job in self._jobs.items() if job.workers]

  def note_plan(self, job: str, plan: pb.Plan, now: float) -> None:
    """Says which plan is in force: after each SetPlan, and at the start."""
    noted = self._job(job, now)
    noted.quotas = dict(plan.num_micro_batches)
    noted.lr_scale = plan.lr_scale or 1.0
    noted.deadline_s = plan.deadline_s

  def note_remaining(self, job: str, num_samples: float | None) -> None:
    """Says how many samples the job has still to train on; None: unknown."""
    if job in self._jobs:
      self._jobs[job].remaining_samples = num_samples

  def note_commit(self, job: str, now: float) -> None:
    """Says that a checkpoint was committed: work before it is safe."""
    self._job(job, now).committed_at = now

  def note_pending(self, job: str, seconds: float, now: float) -> None:
    """Says how long a host has waited to be placed in the cluster."""
    self._job(job, now).pending.append((now, seconds))

  # --- What it means. --------------------------------------------------------

  def view(self, job: str, now: float) -> ClusterView:
    """Returns what is known of a job; without workers if it is unknown.

    States move here, with hysteresis: the view of a moment depends on the
    views before.
    """
    known = self._jobs.get(job)
    if known is None:
      return ClusterView(job=job, generation=0)
    members = known.members()
    known.num_members = len(members)
    self._learn_micro_batches(known, members, now)
    views = {
      name: worker.measure(
        name,
        known.quotas.get(name),
        known.default_micro_batches,
        known.kinds.get(worker.device_kind),
        now,
      )
      for name, worker in members.items()
    }
    self._judge(members, views, now)
    _remember_kinds(known, views.values())
    rests = [w.rest_s for w in members.values() if w.rest_s is not None]
    timed = [w for w in members.values() if w.device_s]
    known.usual = Usual(
      min(rests, default=0.0),
      min((w.device_s for w in timed), default=0.0),
      min((w.whole_s for w in timed), default=0.0),
    )
    waits = [w.wait_s for w in members.values() if w.wait_s is not None]
    exchange_s = min(waits, default=0.0)  # The last one waits for nobody.
    if waits and all(v.state in ('normal', 'leader') for v in views.values()):
      known.usual_exchange_s = exchange_s
    costs = known.restart_costs
    cost_s = statistics.median(costs) if costs else self._config.restart_cost_s
    since = [t for t in (known.committed_at,) if t is not None]
    firsts = [w.first_at for w in members.values() if w.first_at is not None]
    since += [min(firsts)] if firsts else []
    pending = [
      seconds for at, seconds in known.pending if now - at <= PENDING_MEMORY_S
    ]
    losses = [w.loss for w in members.values() if w.loss is not None]
    return ClusterView(
      job=job,
      generation=known.generation,
      loss=max(losses)[1] if losses else None,
      workers=tuple(views[name] for name in sorted(views)),
      global_micro_batches=known.global_micro_batches,
      lr_scale=known.lr_scale,
      deadline_s=known.deadline_s,
      remaining_samples=known.remaining_samples,
      elapsed_s=known.account.elapsed_s,
      won_s=known.account.won_s,
      samples_per_s=sum(w.samples_per_s for w in members.values()),
      restart_cost_s=cost_s + (max(0.0, now - max(since)) if since else 0.0),
      pending_s=max(pending, default=0.0),
      exchange_s=exchange_s,
      usual_exchange_s=known.usual_exchange_s,
      exit_codes=dict(known.exit_codes),
    )

  def series(self, job: str, now: float) -> dict[str, list[Slice]]:
    """Worker -> slices of its long window, oldest first: for a chart."""
    known = self._jobs.get(job)
    if known is None:
      return {}
    return {
      name: [dataclasses.replace(s) for s in worker.slices(now)]
      for name, worker in known.members().items()
    }

  # --- Bookkeeping. ----------------------------------------------------------

  def _job(self, name: str, now: float) -> _Job:
    if name not in self._jobs:
      if len(self._jobs) >= self._config.max_jobs:
        del self._jobs[min(self._jobs, key=lambda n: self._jobs[n].heard_at)]
      self._jobs[name] = _Job(now)
    job = self._jobs[name]
    job.heard_at = now
    return job

  def _worker(
    self, job: _Job, name: str, generation: int, now: float
  ) -> WorkerRecord:
    old = job.workers.get(name)
    if old is not None and old.generation == generation:
      return old
    if old is None and len(job.workers) >= self._config.max_workers:
      workers = job.workers
      del workers[min(workers, key=lambda n: workers[n].heard_at)]
    worker = WorkerRecord(self._config, generation, now, old)
    if name in job.left_slow:
      job.left_slow.remove(name)
      worker.was_persistent = True
    job.workers[name] = worker
    return worker

  def _learn_micro_batches(
    self, job: _Job, members: Mapping[str, WorkerRecord], now: float
  ) -> None:
    """Learns the counts that the job was set up with.

    They are those of the first generation that is heard of, and stay when
    workers come or go: the global batch is the job's. A plan that is in force
    by then is read backwards by the linear rule.
    """
    reported = {n: w.reported_micro_batches for n, w in members.items()}
    unplanned = [c for name, c in reported.items() if name not in job.quotas]
    job.default_micro_batches = max([job.default_micro_batches, *unplanned])
    total = sum(job.quotas.get(name, c) for name, c in reported.items())
    firsts = [w.first_at for w in members.values() if w.first_at is not None]
    if job.learned_in is None and 0 not in unplanned:
      # Until now some may not have been heard of.
      if firsts and now - min(firsts) >= self._config.slice_s:
        job.learned_in = job.generation
        # A deadline makes batches smaller that are planned whole.
        scale = 1.0 if job.deadline_s else job.lr_scale
        job.global_micro_batches = round(total / scale)
    elif job.learned_in == job.generation and not job.quotas:
      job.global_micro_batches = max(job.global_micro_batches, total)

  # --- Verdicts. -------------------------------------------------------------

  def _judge(
    self,
    members: dict[str, WorkerRecord],
    views: dict[str, WorkerView],
    now: float,
  ) -> None:
    """Fills in who is slower than the median, and of what kind.

    The low median: of two workers the faster one is the measure, and as long
    as half of them are well the slow ones cannot hide behind each other.
    """
    known = [v for v in views.values() if v.is_measured]
    shorts = {v.worker: v.short_s_per_sample or 0.0 for v in known}
    longs = {v.worker: v.long_s_per_sample or 0.0 for v in known}
    short_median = statistics.median_low(shorts.values()) if known else 0.0
    long_median = statistics.median_low(longs.values()) if known else 0.0
    kinds: dict[str, list[float]] = {}
    for v in known:
      kinds.setdefault(v.device_kind, []).append(shorts[v.worker])
    medians = {kind: statistics.median_low(of) for kind, of in kinds.items()}
    for v in known:
      worker = members[v.worker]
      short = shorts[v.worker] / short_median if short_median else 1.0
      long = longs[v.worker] / long_median if long_median else 1.0
      if not v.is_idle:
        own = medians[v.device_kind]
        self._move(
          worker,
          short,
          long,
          is_slow_kind=len(kinds) > 1
          and own > short_median * LEAVE_SLOWNESS
          and shorts[v.worker] <= own * ENTER_SLOWNESS,
          is_full=worker.is_full(now),
        )
      views[v.worker] = dataclasses.replace(
        v, state=worker.state, short_slowness=short, long_slowness=long
      )

  def _move(
    self,
    worker: WorkerRecord,
    short: float,
    long: float,
    is_slow_kind: bool,
    is_full: bool,
  ) -> None:
    """Moves a worker's state: entered beyond one threshold, left at another."""
    # What a worker's own noise explains is no slowness.
    noise = 1 + _DEVIATIONS * worker.noise
    enter = max(ENTER_SLOWNESS, noise)
    leave = max(LEAVE_SLOWNESS, (1 + noise) / 2)
    worker.is_short_slow = short > (leave if worker.is_short_slow else enter)
    worker.is_long_slow = long > (leave if worker.is_long_slow else enter)
    if worker.is_short_slow:
      if is_slow_kind or worker.was_persistent:
        worker.state = 'deterministic'
      elif worker.is_long_slow and is_full:
        worker.state = 'persistent'
      else:
        worker.state = 'transient'
      return
    if is_full and not worker.is_long_slow:
      worker.was_persistent = False  # The restart has helped.
    edge = leave if worker.state == 'leader' else enter
    worker.state = 'leader' if short * edge < 1 else 'normal'


def _remember_kinds(job: _Job, views: Iterable[WorkerView]) -> None:
  """Keeps the usual speed of each device kind, for workers to come."""
  kinds: dict[str, list[float]] = {}
  for view in views:
    if view.is_measured and view.long_s_per_sample:
      kinds.setdefault(view.device_kind, []).append(view.long_s_per_sample)
  for kind, figures in kinds.items():
    if kind in job.kinds or len(job.kinds) < _MAX_KINDS:
      job.kinds[kind] = statistics.median_low(figures)
