# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A worker's pulse: what it says and hears, and how it ends."""

import json
import threading
import time

import grpc
import pytest

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import pulse
from antjax.elastic.client import CoordinatorGoneError, StaleError
from antjax.elastic.pulse import EXIT_STALE
from antjax.elastic.worker import Agent
from antjax.shards.dataset import merge_states
from tests.elastic.jobs_server import eventually
from tests.elastic.lockstep_workers import Source


def agent_of(server, **options):
  options = {
    'job': 'job',
    'worker': 'w',
    'heartbeat_s': 0.01,
    'give_up_s': 30.0,
    **options,
  }
  return Agent(server.address, **options)


def heartbeats(server):
  return [m for name, m in list(server.requests) if name == 'Heartbeat']


def test_a_heartbeat_says_what_the_worker_is_and_does(server):
  with agent_of(server) as agent:
    agent.describe(device_kind='cpu', num_devices=2, max_micro_batches=8)
    for step in range(2, 5):
      agent.on_batch_time(step, 0.25, 0.05, 4, 128)
    eventually(lambda: sum(len(m.batch_times) for m in heartbeats(server)) == 3)
  last = heartbeats(server)[-1]
  assert (last.step, last.num_samples) == (4, 3 * 128)
  assert (last.device_kind, last.num_devices) == ('cpu', 2)
  assert last.max_micro_batches == 8
  assert last.resources.rss_bytes > 1e6
  assert last.resources.memory_bytes > last.resources.rss_bytes
  times = [t for m in heartbeats(server) for t in m.batch_times]
  assert [t.step for t in times] == [2, 3, 4]  # Each once.
  assert (times[0].compute_s, times[0].wait_s) == (0.25, 0.05)
  assert (times[0].num_micro_batches, times[0].num_samples) == (4, 128)


def test_a_heartbeat_carries_a_loss_that_is_finite(server):
  with agent_of(server) as agent:
    eventually(lambda: heartbeats(server))
    assert not heartbeats(server)[-1].HasField('loss')
    agent.on_loss(-0.5)
    eventually(lambda: heartbeats(server)[-1].loss == -0.5)
    agent.on_loss(float('nan'))
    eventually(lambda: not heartbeats(server)[-1].HasField('loss'))


def test_times_are_kept_while_the_coordinator_is_away_but_not_all(server):
  server.break_call = lambda name, message: grpc.StatusCode.UNAVAILABLE
  with agent_of(server) as agent:
    for step in range(5000):
      agent.on_batch_time(step, 0.1, 0.0, 1, 1)
    server.break_call = lambda name, message: None
    eventually(lambda: any(m.step == 4999 for m in heartbeats(server)))
    assert len(agent._pulse._batch_times) <= 1000


def test_the_newest_plan_is_known(server):
  with agent_of(server) as agent:
    assert agent.plan().version == 0 and agent.plan().lr_scale == 1
    server.plan = pb.Plan(
      version=3, num_micro_batches={'w': 2}, lr_scale=0.5, deadline_s=1.5
    )
    eventually(lambda: agent.plan().version == 3)
    assert dict(agent.plan().num_micro_batches) == {'w': 2}
    server.plan = pb.Plan(version=2)  # Late.
    eventually(lambda: heartbeats(server)[-1].plan_version == 3)
    assert agent.plan().version == 3


@pytest.mark.parametrize('rank', [0, 1])
def test_steps_and_plans_are_kept_for_the_report(server, tmp_path, rank):
  file = tmp_path / 'timeline.w.jsonl'
  options = {'rank': rank, 'num_workers': 2, 'timeline': file}
  with agent_of(server, generation=1, **options) as agent:
    server.plan = pb.Plan(version=1, reason='w is slow')
    agent.on_batch_time(7, 0.25, 0.05, 4, 128)
    words = ('step',) if rank else ('step', 'PLAN')
    eventually(
      lambda: file.exists() and all(w in file.read_text() for w in words)
    )
  lines = [json.loads(line) for line in file.read_text().splitlines()]
  (step,) = [line for line in lines if 'step' in line]
  assert (step['step'], step['worker'], step['compute_s']) == (7, 'w', 0.25)
  marks = [(m['action'], m['reason']) for m in lines if 'action' in m]
  said_once = [('START', 'generation 1'), ('PLAN', 'w is slow')]
  assert marks == ([] if rank else said_once)


def test_is_stopping(server):
  with agent_of(server) as agent:
    assert not agent.is_stopping()
    server.is_stopping = True
    eventually(agent.is_stopping)


@pytest.mark.parametrize('rank', [0, 1])
def test_a_commit_comes_from_one_worker(server, rank):
  with agent_of(server, rank=rank, num_workers=2, lockstep=False) as agent:
    iterator = iter(agent.dataset(Source(20), shard_size=5).batch(5))
    next(iterator)
    state = iterator.get_state()
    state['ledger']['share'] = None
    agent.on_commit(7, merge_states([state]))
  commits = [m for name, m in server.requests if name == 'Commit']
  assert len(commits) == (rank == 0)
  if rank == 0:
    assert commits[0].step == 7 and list(commits[0].states) == ['train']
    assert server.ledger().counts()['done'] == 1


def test_the_last_commit_is_delivered_at_the_end(server):
  with agent_of(server, heartbeat_s=60.0) as agent:
    iterator = iter(agent.dataset(Source(20), shard_size=5).batch(5))
    list(iterator)
    server.stop()
    for step in range(10):
      agent.on_commit(step, iterator.get_state())  # Does not wait.
    threading.Timer(0.2, server.restart).start()
  assert server.ledger().first_open_epoch == 1
  assert server.jobs.job('job').last_step == 9


def test_work_is_done_when_the_loop_asks_for_more(server):
  done = []

  def rest(agent):
    for shard in agent.work(10, name='rows', shard_size=4):
      done.append((shard.start, shard.stop))

  with agent_of(server, worker='b') as b:
    with agent_of(server, worker='a') as a:
      mine = a.work(10, name='rows', shard_size=4)
      first, second = next(mine), next(mine)
      with pytest.raises(ValueError, match="name='rows' is taken"):
        a.work(10, name='rows', shard_size=4)
      thread = threading.Thread(target=rest, args=(b,))
      thread.start()
      eventually(lambda: len(done) == 1)
      time.sleep(0.3)
      assert len(done) == 1  # It waits for what a may give back.
    thread.join()  # And a gave its second one back.
  expected = {(first.start, first.stop), *done}
  assert (second.start, second.stop) in done
  assert len(done) == 2 and expected == {(0, 4), (4, 8), (8, 10)}


def test_work_of_no_items_is_refused(server):
  with agent_of(server) as agent:
    for options in ({'num_items': 0}, {'num_items': 4, 'shard_size': 0}):
      with pytest.raises(ValueError, match='both must be at least 1'):
        agent.work(**{'name': 'rows', 'shard_size': 1, **options})


def test_the_last_heartbeat_says_so(server):
  with agent_of(server) as agent:
    eventually(lambda: heartbeats(server))
    agent.on_batch_time(3, 0.1, 0.0, 1, 8)
  *others, last = heartbeats(server)
  assert last.is_last and last.step == 3
  assert not any(beat.is_last for beat in others)


def test_a_worker_leaves_without_a_coordinator_too(server, monkeypatch):
  monkeypatch.setattr(pulse, '_GOODBYE_S', 0.5)
  with agent_of(server):
    eventually(lambda: heartbeats(server))
    server.break_call = lambda name, message: grpc.StatusCode.UNAVAILABLE
    began = time.monotonic()
  assert time.monotonic() - began < 10


def test_a_stale_worker_ends_itself(server):
  exits = []
  agent = agent_of(server, generation=1, grace_s=0.2, exit_process=exits.append)
  with agent:
    eventually(lambda: heartbeats(server))
    with agent_of(server, generation=2) as newer:
      next(iter(newer.dataset(Source(20), shard_size=5)))
      # As in a collective that never ends: nobody calls the agent.
      eventually(lambda: exits == [EXIT_STALE])
      for call in (agent.plan, agent.is_stopping, agent.may_get_more):
        with pytest.raises(StaleError, match='generation'):
          call()
      with pytest.raises(StaleError, match='generation'):
        agent.on_batch_time(1, 0.1, 0.1, 1, 1)


def test_a_stale_worker_that_ends_by_itself_is_not_killed(server):
  exits = []
  agent = agent_of(server, generation=1, exit_process=exits.append)
  with agent_of(server, generation=2) as newer:
    next(iter(newer.dataset(Source(20), shard_size=5)))
    with pytest.raises(StaleError), agent:
      while True:
        agent.plan()
        time.sleep(0.001)
  assert not exits


def test_a_lease_that_waits_ends_with_the_worker(server):
  """A worker that waits for others is told that it is fenced off."""
  with agent_of(server, worker='holder', generation=1) as holder:
    next(iter(holder.dataset(Source(20), shard_size=20)))
    late = agent_of(server, generation=1, exit_process=lambda code: None)
    errors = []

    def read():
      try:
        list(late.dataset(Source(20), shard_size=20))
      except StaleError as error:
        errors.append(error)

    with late:
      thread = threading.Thread(target=read)
      thread.start()
      eventually(lambda: server.ledger().outcome() == 'WAIT')
      with agent_of(server, worker='next', generation=2) as newer:
        newer.dataset(Source(20), shard_size=20, name='other').__iter__()
        next(iter(newer.dataset(Source(20), shard_size=20)))
        thread.join(30)
    assert len(errors) == 1


def test_a_worker_without_coordinator_gives_up(server):
  exits = []
  agent = agent_of(
    server, give_up_s=0.3, grace_s=0.0, exit_process=exits.append
  )
  server.stop()
  with agent:
    eventually(lambda: exits)
    with pytest.raises(CoordinatorGoneError, match='did not answer'):
      agent.plan()


def test_wrong_arguments(server):
  with pytest.raises(ValueError, match='the rank must be'):
    agent_of(server, rank=2, num_workers=2)
  agent = agent_of(server)
  agent.dataset(Source(20), shard_size=5)
  with pytest.raises(ValueError, match="name='train'"):
    agent.dataset(Source(20), shard_size=5)
  with pytest.raises(ValueError, match='must be at least 1'):
    agent.dataset(Source(20), shard_size=0, name='other')
  for options in (
    {'read_ahead': -1},
    {'read_ahead': 901},
    {'max_data_errors': 0},
    {'max_data_errors': 1001},
  ):
    with pytest.raises(ValueError, match='read_ahead 0 to 900'):
      agent.dataset(Source(20), shard_size=5, name='other', **options)
  agent.close()
  agent.close()  # Again does nothing.


def test_an_agent_comes_from_the_environment(monkeypatch, tmp_path):
  monkeypatch.delenv('ANTJAX_COORDINATOR', raising=False)
  with pytest.raises(RuntimeError, match='start this program by launch/agent'):
    Agent.from_env()
  monkeypatch.setenv('ANTJAX_COORDINATOR', 'localhost:1')
  monkeypatch.setenv('ANTJAX_WORKER', 'host-7')
  monkeypatch.setenv('ANTJAX_GENERATION', '3')
  assert Agent.from_env(tmp_path).worker == 'host-7'
