# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the coordinator decides by itself: when a controller may act."""

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.controller import Controller, ControllerConfig
from antjax.elastic.decisions import Decisions
from antjax.elastic.jobs import Jobs
from antjax.elastic.liveness import Liveness
from antjax.elastic.monitor import Monitor
from antjax.elastic.policy import static

HOSTS = ('host0', 'host1', 'host2')


class Writer:
  """Applies decisions at once; `plans` are those of the controller."""

  def __init__(self):
    self.jobs = Jobs()
    self.plans = []

  def decide(self, message):
    if isinstance(message, pb.SetPlan):
      self.plans.append(dict(message.plan.num_micro_batches))
    return self.jobs.decide(message, 0.0)


class NoRendezvous:
  """All agents are well."""

  def decide(self, job, now, hung=(), has_stepped=False):
    del job, now, hung, has_stepped
    return []


class Job:
  """A managed job whose workers all compute alike."""

  def __init__(self, policy=static):
    self.writer, self.monitor = Writer(), Monitor()
    self.decisions = Decisions(
      self.writer,
      self.monitor,
      NoRendezvous(),
      Liveness(1e9, 1e9),
      Controller(policy, ControllerConfig()),
      lambda: 0.0,
    )
    self.generation = 0
    self.start()
    self.writer.jobs.apply(
      pb.CreateDataSetRequest(
        head=pb.Head(
          job='j', client='host0', incarnation=1, sequence=1, generation=1
        ),
        data_set=pb.DataSet(
          name='train', num_records=100, shard_size=10, num_epochs=1
        ),
      ),
      0.0,
    )

  def start(self):
    if self.generation:
      end = pb.EndGeneration(job='j', generation=self.generation, reason='x')
      self.writer.decide(end)
    self.writer.decide(pb.StartGeneration(job='j', members=HOSTS))
    self.generation += 1

  def beat(self, host, now, step=0):
    times = pb.BatchTime(
      step=step,
      end_unix_s=now,
      compute_s=0.1,
      wait_s=0.01,
      num_micro_batches=2,
      num_samples=8,
    )
    self.monitor.record_heartbeat(
      pb.HeartbeatRequest(
        head=pb.Head(
          job='j',
          client=host,
          incarnation=self.generation,
          generation=self.generation,
        ),
        step=step,
        batch_times=[times] if step else [],
      ),
      now,
    )

  def tick(self, now):
    self.decisions.tick(set(), now)


def test_nothing_is_done_before_all_workers_have_spoken():
  """Else the first one after a restart would get the work of all."""
  job, now = Job(), 100.0
  for step in range(1, 60):
    now += 1
    for host in HOSTS:
      job.beat(host, now, step)
    job.tick(now)
  assert job.writer.plans == []  # All do the same already.
  job.start()
  now += 20
  job.beat('host0', now)
  job.tick(now)
  job.beat('host1', now + 1)
  job.tick(now + 1)
  assert job.writer.plans == []
  job.beat('host2', now + 2)
  job.tick(now + 2)
  assert job.writer.plans == []


def test_a_policy_that_fails_is_seen_in_the_log_and_on_the_page(caplog):
  def policy(view):
    raise KeyError('boom')

  job, now = Job(policy), 100.0
  for step in range(1, 60):
    now += 1
    for host in HOSTS:
      job.beat(host, now, step)
    job.tick(now)
  reason = "the policy failed: KeyError: 'boom'"
  assert job.decisions.log.entries('j') == ((0.0, 'POLICY_FAILED', reason),)
  (record,) = [r for r in caplog.records if 'boom' in r.getMessage()]
  assert record.getMessage() == f'Job j: {reason}'
  assert record.exc_info[1].__traceback__ is not None  # Where it failed.


def test_what_remains_is_known_to_the_end():
  """Else a restart would be weighed against an endless job."""
  job, now = Job(), 100.0
  head = pb.Head(
    job='j', client='host0', incarnation=1, sequence=2, generation=1
  )
  begin = pb.BeginRequest(head=head, data_set='train', pass_number=1)
  job.writer.jobs.apply(begin, 0.0)
  ledger = job.writer.jobs.job('j').data_sets['train']
  for left in range(100, -1, -10):
    for step in range(1, 4):
      now += 1
      for host in HOSTS:
        job.beat(host, now, step)
      job.tick(now)
    assert job.monitor.view('j', now).remaining_samples == left
    for shard, _ in ledger.lease('host0', 1):
      ledger.consume('host0', shard)
