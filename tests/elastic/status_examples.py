# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Jobs as the coordinator knows them, for the tests of what people see."""

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import decisions, node_check, rendezvous_room, status
from antjax.elastic.job_state import (
  DataSetState,
  GenerationRecord,
  JobState,
)
from antjax.elastic.rendezvous_room import AgentRecord
from antjax.elastic.view import ClusterView, WorkerView
from antjax.elastic.windows import Slice
from antjax.shards.data_shard import DataShard
from antjax.shards.ledger_spec import LedgerSpec

NOW = 1_800_000_000.0


class Ledger:
  """A ledger's figures, without its shards."""

  def __init__(
    self, num_records, shard_size, *, epoch=0, set_aside=(), **counts
  ):
    self.spec = LedgerSpec(num_records, shard_size, num_epochs=3)
    self.first_open_epoch, self.is_closed = epoch, False
    self._set_aside, self._counts = list(set_aside), counts

  def counts(self):
    states = ('todo', 'doing', 'consumed', 'done')
    counts = {state: self._counts.get(state, 0) for state in states}
    return {**counts, 'set_aside': len(self._set_aside)}

  def set_aside(self):
    return self._set_aside

  def outcome(self):
    return 'LEASED'


class Known:
  """Jobs, monitor and rendezvous in one, with what a test gives them."""

  def __init__(self, jobs=(), views=(), slices=(), agents=(), log=()):
    self._jobs = {job.name: job for job in jobs}
    self._views = {view.job: view for view in views}
    self._slices, self._agents = dict(slices), list(agents)
    self._log = list(log)
    self.times = set()

  def names(self):
    return list(self._jobs)

  def job(self, name):
    return self._jobs[name]

  def view(self, job, now):
    self.times.add(now)
    return self._views.get(job) or ClusterView(job=job)

  def series(self, job, now):
    self.times.add(now)
    return self._slices

  def agents(self, job, now):
    self.times.add(now)
    return self._agents

  def checks(self, job, now):
    return node_check.NodeChecks(
      job, rendezvous_room.Room(now), rendezvous_room.RendezvousConfig()
    )

  def restarts_left(self, job):
    return 3 - job.restarts_used

  def snapshot(self, now=NOW, *, steady_s=None, journal=None, **fields):
    log = decisions.ActionLog()
    for entry in self._log:
      log.record(*entry)
    return status.Snapshots(self, self, self, log, **fields).take(
      now, now if steady_s is None else steady_s, journal=journal
    )


def shard(epoch, index, start, stop):
  return DataShard(epoch=epoch, index=index, start=start, stop=stop)


def data_set(ledger):
  return DataSetState(pb.DataSet(), ledger)


def agent(name, address, changed_at=0.0, last_seen=0.0, status=0, log_tail=''):
  beat = pb.AgentBeatRequest(
    address=address, free_port=4000, status=status, log_tail=log_tail
  )
  return AgentRecord(name, 1, beat, changed_at=changed_at, last_seen=last_seen)


def lively(now=NOW):
  """A job in which something of everything has happened."""
  job = JobState(
    'ctr',
    generation=3,
    phase='running',
    members=['w0', 'w1', 'w2', 'w3'],
    restarts_used=1,
    is_managed=True,
    last_step=400,
    committed_unix_s=now - 30,
    plan=pb.Plan(
      version=7,
      num_micro_batches={'w0': 9, 'w1': 9, 'w2': 9, 'w3': 5},
      lr_scale=1.0,
      reason='w3 is 1.8 times slower than the median',
    ),
  )
  job.sets['train'] = data_set(
    Ledger(
      100_000,
      1000,
      epoch=1,
      set_aside=[(shard(1, 4, 4000, 5000), 'CRC of block 17 is wrong')],
      todo=39,
      doing=8,
      consumed=12,
      done=140,
    )
  )
  for number in (1, 2):
    job.history.append(
      GenerationRecord(
        number,
        ['w0', 'w1', 'w2', 'w3'],
        now - 4000 + 1000 * number,
        now - 3000 + 1000 * number,
        'w2: its worker was killed by SIGKILL',
        counts=number == 2,
      )
    )
  job.history.append(GenerationRecord(3, job.members, now - 600))
  job.actions.append((now - 600, 'generation 3 began with 4 workers'))
  workers = tuple(
    WorkerView(
      name,
      quota,
      state,
      short_s_per_sample=0.002 * slowness,
      long_s_per_sample=0.002 * slowness,
      short_slowness=slowness,
      num_steps=100,
      cpu_share=0.5,
      rss_bytes=2**31,
      memory_bytes=2**34,
      device_kind='cpu',
      num_devices=2,
      step=412,
      silent_s=silent_s,
    )
    for name, quota, state, slowness, silent_s in (
      ('w0', 9, 'normal', 1.0, 0.3),
      ('w1', 9, 'leader', 0.7, 0.8),
      ('w2', 9, 'normal', 1.0, 40.0),
      ('w3', 5, 'transient', 1.8, 0.1),
    )
  )
  view = ClusterView(
    'ctr',
    3,
    workers,
    remaining_samples=180_000,
    samples_per_s=1500.0,
    loss=0.6125,
    exit_codes={-9: 2},
  )
  slices = {
    w.worker: [
      Slice(
        n, 10, compute_s=0.8 * w.short_slowness + 0.01 * (n % 5), wait_s=0.5
      )
      for n in range(30)
    ]
    for w in workers
  }
  agents = [
    agent('w0', '10.0.0.1', now - 590, now - 1, pb.AgentBeatRequest.RUNNING),
    agent('spare', '10.0.0.9', now - 77, now - 1),
  ]
  figures = {'matmul_flops': 4e14, 'memory_bytes': 2e10, 'disk_bytes': 1e9}
  for one in agents:
    one.beat.check.MergeFrom(
      pb.NodeCheck(
        state=pb.NodeCheck.DONE,
        links=[pb.Link(peer='w1', bytes=3e9)],
        **figures,
      )
    )
  log = [
    ('ctr', now - 300, 'KILL_RESTART', 'w2 was slow for 5 min'),
    ('ctr', now - 20, 'ADJUST_BS', 'w3 is 1.8 times slower'),
  ]
  return Known([job], [view], slices, agents, log)


def huge(num_jobs):
  """Jobs of 5,000 workers and a million shards, all texts far too long."""
  long = 'é' * 5000
  aside = [(shard(0, i, 0, 1), long) for i in range(1000)]
  jobs, views = [], []
  for number in range(num_jobs):
    members = [f'{long}{number}-{n}' for n in range(5000 // num_jobs)]
    job = JobState(
      f'{long}{number}', phase='running', members=members, is_managed=True
    )
    job.plan.reason = long
    for n in range(100 if num_jobs == 1 else 3):
      job.sets[f'{long}{n}'] = data_set(
        Ledger(
          10**9,
          1000,
          todo=10**6,
          set_aside=aside,
        )
      )
    for n in range(1, 101):
      job.history.append(GenerationRecord(n, members, 0.0, 1.0, long))
    job.actions.extend((float(n), long) for n in range(200))
    views.append(
      ClusterView(
        job.name,
        1,
        tuple(WorkerView(m, 1, 'normal', device_kind=long) for m in members),
        exit_codes=dict.fromkeys(range(64), 1),
      )
    )
    jobs.append(job)
  points = [Slice(n, 3, compute_s=0.123456789) for n in range(200)]
  slices = dict.fromkeys(jobs[0].members, points)
  agents = [agent(f'{long}{n}', long, log_tail=long) for n in range(5000)]
  return Known(jobs, views, slices, agents)


def named(job_name, worker_name):
  """A job and a worker with names (and texts) that a test gives."""
  job = JobState(job_name, phase='running')
  job.plan.version = 1
  job.plan.reason = worker_name
  job.actions.append((NOW - 5, worker_name))
  job.history.append(GenerationRecord(1, [], NOW - 9, NOW - 7, worker_name))
  job.history.append(GenerationRecord(2, [], NOW - 6))
  job.sets[worker_name] = data_set(
    Ledger(10, 5, set_aside=[(shard(0, 0, 0, 5), worker_name)], todo=1)
  )
  view = ClusterView(
    job_name, 1, (WorkerView(worker_name, 1, device_kind=worker_name),)
  )
  only = agent(worker_name, worker_name, log_tail=worker_name)
  return Known([job], [view], agents=[only])
