# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The snapshot: complete, plain, and bounded whatever there is to say."""

import json

import pytest

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import decisions, status
from antjax.elastic import rates as rates_lib
from antjax.elastic.job_state import JobState
from antjax.elastic.jobs import Jobs
from antjax.elastic.monitor import Monitor
from antjax.elastic.rendezvous import Rendezvous
from antjax.elastic.view import ClusterView, WorkerView
from tests.elastic.jobs_test import counted, start, Worker
from tests.elastic.status_examples import huge, Known, lively, NOW


def test_snapshot_says_what_there_is():
  out = lively().snapshot()
  (job,) = out['jobs']
  assert (job['name'], job['phase'], job['generation']) == ('ctr', 'running', 3)
  assert (job['step'], job['committed_step']) == (412, 400)
  assert (job['samples_per_s'], job['remaining_s']) == (1500.0, 120.0)
  assert job['loss'] == 0.6125
  assert job['plan']['version'] == 7
  assert job['exit_codes'] == {'-9': 2}
  assert job['action_counts'] == {'KILL_RESTART': 1, 'ADJUST_BS': 1}
  assert job['worker_states'] == dict.fromkeys(
    ('normal', 'leader', 'silent', 'transient'), 1
  )
  w3 = job['workers'][3]
  assert (w3['name'], w3['rank'], w3['quota']) == ('w3', 3, 5)
  assert w3['seconds_per_sample_short'] == 0.0036
  assert len(w3['bpt_s']) == 30 and w3['bpt_s'][0] == 0.144
  assert 0.2 < w3['wait_share'] < 0.3
  (data,) = job['data_sets']
  assert data['shards'] == counted(39, 8, 12, 40, 1)
  assert data['num_used'] == 152_000
  assert data['set_aside'][0]['message'] == 'CRC of block 17 is wrong'
  assert [g['generation'] for g in job['generations']] == [3, 2, 1]
  assert [a['text'] for a in job['actions']] == [
    'ADJUST_BS',
    'KILL_RESTART',
    'generation 3 began with 4 workers',
  ]
  # Who waits comes first.
  assert [(a['name'], a['state']) for a in job['agents']] == [
    ('spare', 'waiting'),
    ('w0', 'running'),
  ]
  assert job['agents'][0]['state_age_s'] == 77.0


def test_snapshot_of_nothing():
  out = Known().snapshot()
  assert out['jobs'] == [] and out['num_jobs_left_out'] == 0


def test_workers_without_agents_are_those_the_monitor_knows():
  job = JobState('a', phase='running')
  view = ClusterView('a', 0, (WorkerView('x', 4), WorkerView('y', 4)))
  (shown,) = Known([job], [view]).snapshot()['jobs']
  assert [w['name'] for w in shown['workers']] == ['x', 'y']


def test_members_that_have_not_spoken_are_starting():
  job = JobState('a', phase='running', members=['x'], is_managed=True)
  (shown,) = Known([job]).snapshot()['jobs']
  (worker,) = shown['workers']
  assert worker['state'] == 'starting'
  assert worker['last_beat_age_s'] is None and worker['step'] is None


def test_monitor_and_rendezvous_are_asked_by_their_own_clock():
  known = lively()
  known.snapshot(steady_s=12.0)
  assert known.times == {12.0}


def test_numbers_that_json_cannot_say_are_unknown():
  view = ClusterView(
    'a', 0, (WorkerView('x', 1, short_s_per_sample=float('nan')),)
  )
  (job,) = Known([JobState('a')], [view]).snapshot()['jobs']
  json.dumps(job, allow_nan=False)
  assert job['workers'][0]['seconds_per_sample_short'] is None


@pytest.mark.parametrize(
  'points, rate',
  [
    ([(10.0, 100)], None),
    ([(10.0, 100), (12.0, 300)], 100.0),
    # A checkpoint is restored: it begins anew, and is never negative.
    ([(10.0, 100), (12.0, 300), (13.0, 50)], None),
    ([(10.0, 100), (12.0, 300), (13.0, 50), (14.0, 60)], 10.0),
    # What is old is forgotten.
    ([(float(s), 5 * min(s, 100)) for s in range(200)], 0.0),
    # Polls may be far apart.
    ([(0.0, 0), (300.0, 300), (600.0, 900)], 2.0),
  ],
)
def test_rates_of_records(points, rate):
  rates = rates_lib.Rates()
  assert [rates.note('a', 'd', value, now) for now, value in points][-1] == rate


def test_memory_is_bounded():
  log, rates = decisions.ActionLog(), rates_lib.Rates()
  for n in range(5000):
    rates.note(f'job {n}', 'd', 1.0, 1.0)
    log.record(f'job {n}', 0.0, 'NONE', '')
  assert len(rates._points) < 300 and len(log._entries) == 1000
  assert not log.entries('job 0')
  for n in range(5000):
    log.record('a', float(n), f'ACTION_{n}', 'x')
  assert len(log.entries('a')) == 128
  assert len(log.counts('a')) == 17 and sum(log.counts('a').values()) == 5000


def test_why_nothing_is_done():
  out = lively().snapshot(idle_reason_fn=lambda job: f'{job}: too small')
  assert out['jobs'][0]['idle_reason'] == 'ctr: too small'


@pytest.mark.parametrize('num_jobs', [1, 40, 500])
def test_size_is_bounded(num_jobs):
  out = huge(num_jobs).snapshot()
  assert len(json.dumps(out, ensure_ascii=False).encode()) < 2 * 2**20
  left = out['num_jobs_left_out']
  assert len(out['jobs']) + left == num_jobs
  for job in out['jobs']:
    assert (
      len(job['workers']) + job['num_workers_left_out'] == (job['num_workers'])
    )
    assert job['num_agents_left_out'] + len(job['agents']) == 5000
    assert job['num_actions_left_out'] + len(job['actions']) == 200
    assert job['num_generations_left_out'] + len(job['generations']) == 100
    for data_set in job['data_sets']:
      shown = len(data_set['set_aside'])
      assert shown + data_set['num_set_aside_left_out'] == 1000


def test_names_that_are_cut_stay_different():
  (job,) = huge(1).snapshot()['jobs']
  names = [worker['name'] for worker in job['workers']]
  assert len(set(names)) == len(names)
  assert max(map(len, names)) <= 80


def test_of_many_workers_those_with_trouble_are_shown():
  members = [f'w{n}' for n in range(5000)]
  job = JobState('a', phase='running', members=members, is_managed=True)
  view = ClusterView(
    'a',
    1,
    tuple(
      WorkerView(m, 1, 'persistent' if n in (77, 4999) else 'normal')
      for n, m in enumerate(members)
    ),
  )
  (shown,) = Known([job], [view]).snapshot()['jobs']
  states = {w['name']: w['state'] for w in shown['workers']}
  assert len(states) == status.MAX_WORKERS
  assert states['w77'] == states['w4999'] == 'persistent'
  assert shown['worker_states'] == {'normal': 4998, 'persistent': 2}


def test_of_the_real_parts():
  jobs, monitor, rendezvous = Jobs(), Monitor(), Rendezvous()
  beat = pb.AgentBeatRequest(
    head=pb.Head(job='j', client='h0', incarnation=7),
    address='10.0.0.1',
    free_port=4000,
  )
  rendezvous.beat(beat, jobs.job('j'), 5.0)
  # Of a job that has not begun only its agents are there.
  snapshots = status.Snapshots(jobs, monitor, rendezvous, decisions.ActionLog())
  (job,) = snapshots.take(NOW, 6.0, more_names=['j'])['jobs']
  assert (job['phase'], job['num_workers']) == ('waiting', 0)
  assert [a['state'] for a in job['agents']] == ['waiting']

  worker = Worker(jobs, 'h0', generation=start(jobs, 'h0'))
  worker.join(num_records=95, shard_size=10, num_epochs=2, max_data_errors=1)
  good, bad, *_ = (lease.shard for lease in worker.exchange(4).leases)
  error = pb.DataError(shard=bad, message='CRC is wrong')
  worker.exchange(consumed=[good], failed=[error])
  times = [
    pb.BatchTime(
      step=step,
      end_unix_s=NOW + step,
      compute_s=0.5,
      wait_s=0.5,
      num_micro_batches=2,
      num_samples=20,
    )
    for step in range(10)
  ]
  request = pb.HeartbeatRequest(head=worker.head, step=9, batch_times=times)
  monitor.record_heartbeat(request, 8.0)
  out = snapshots.take(NOW, 9.0)
  json.dumps(out, allow_nan=False)
  (job,) = out['jobs']
  (worker,), (data,) = job['workers'], job['data_sets']
  assert (worker['name'], worker['step']) == ('h0', 9)
  assert worker['bpt_s'] == [0.5] and worker['wait_share'] == 0.5
  assert worker['last_beat_age_s'] == 1.0
  assert data['shards'] == counted(6, 2, 1, 0, 1)
  assert data['set_aside'][0]['message'] == 'CRC is wrong'
  assert (data['epoch'], data['num_epochs']) == (0, 2)
  assert job['generations'][0]['members'] == ['h0']
  assert (job['restarts_used'], job['restarts_left']) == (0, 10)
