# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the coordinator decides by itself: when a controller may act."""

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.controller import Controller, ControllerConfig
from antjax.elastic.decisions import Decisions
from antjax.elastic.jobs import Jobs
from antjax.elastic.liveness import Liveness
from antjax.elastic.policy import static
from antjax.elastic.windows import MonitorConfig
from tests.elastic import monitored_job
from tests.elastic.jobs_test import end, start, Worker

HOSTS = ('host0', 'host1', 'host2')


class NoRendezvous:
  """All agents are well."""

  def decide(self, job, now, hung=(), has_stepped=False):
    del job, now, hung, has_stepped
    return []


class Job(monitored_job.Job):
  """A managed job whose workers all compute alike; it is its own writer."""

  def __init__(self, policy=static):
    super().__init__(MonitorConfig(), HOSTS)
    self.jobs, self.plans = Jobs(), []  # `plans` are those of the controller.
    self.decisions = Decisions(
      self,
      self.monitor,
      NoRendezvous(),
      Liveness(1e9, 1e9),
      Controller(policy, ControllerConfig()),
      lambda: 0.0,
    )
    start(self.jobs, *HOSTS, job='job')
    worker = Worker(self.jobs, 'host0', generation=1, job='job')
    worker.join(num_records=100, shard_size=10)

  def decide(self, message):
    if isinstance(message, pb.SetPlan):
      self.plans.append(dict(message.plan.num_micro_batches))
    return self.jobs.decide(message, 0.0)

  def restart(self, seconds=20.0):
    super().restart(seconds)
    end(self.jobs, job='job')
    start(self.jobs, *HOSTS, job='job')

  def run(self, num_steps, **fields):
    for _ in range(num_steps):
      super().run(1, **fields)
      self.decisions.tick(set(), self.now)


def test_nothing_is_done_before_all_workers_have_spoken():
  """Else the first one after a restart would get the work of all."""
  job = Job()
  job.run(60)
  assert job.plans == []  # All do the same already.
  job.restart()
  for host in HOSTS:
    job.beat(host)
    job.decisions.tick(set(), job.now)
    assert job.plans == []
    job.now += 1


def test_a_policy_that_fails_is_seen_in_the_log_and_on_the_page(caplog):
  def policy(view):
    raise KeyError('boom')

  job = Job(policy)
  job.run(60)
  reason = "the policy failed: KeyError: 'boom'"
  assert job.decisions.log.entries('job') == ((0.0, 'POLICY_FAILED', reason),)
  (record,) = [r for r in caplog.records if 'boom' in r.getMessage()]
  assert record.getMessage() == f'Job job: {reason}'
  assert record.exc_info[1].__traceback__ is not None  # Where it failed.


def test_what_remains_is_known_to_the_end():
  """Else a restart would be weighed against an endless job."""
  job = Job()
  ledger = job.jobs.job('job').data_sets['d']
  for left in range(100, -1, -10):
    job.run(3)
    assert job.view().remaining_samples == left
    for shard, _ in ledger.lease('host0', 1):
      ledger.consume('host0', shard)
