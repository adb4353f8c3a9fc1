# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Data sets leased from a coordinator: exact, whatever dies and whenever.

Workers are threads or take turns here; the coordinator's state machine is the
real one. Named after what DLRover and tf.data service do in the same place.
"""

import threading

import grain
import numpy as np
import pytest

from antjax.elastic import lease_queue
from antjax.elastic.client import StaleError
from antjax.elastic.worker import Agent
from antjax.shards.dataset import LeasedDataset, merge_states
from antjax.shards.ledger_client import LocalLedgerClient
from antjax.shards.ledger_spec import LedgerSpec
from tests.elastic.jobs_server import eventually
from tests.elastic.lockstep_workers import (
  assert_each,
  consumed,
  NUM_RECORDS,
  Reading,
  Source,
  Workers,
)

# --- Exactness. ---------------------------------------------------------------


@pytest.mark.parametrize('num_workers', [1, 3])
def test_each_record_once_an_epoch(server, num_workers):
  with Workers(server, num_workers, 0) as workers:
    seen = workers.finish()
  assert_each(seen, 2)
  counts = server.ledger().counts()
  assert counts['consumed'] == 22 and counts['todo'] == counts['doing'] == 0


def test_workers_that_wait_for_each_other_in_threads(server):
  with Workers(server, 4, 0, lockstep=False) as workers:
    readings = [Reading(iterator) for iterator in workers.iterators]
    seen = [x for reading in readings for x in reading.end()]
  assert_each(seen, 2)


@pytest.mark.parametrize('before, after', [(1, 3), (3, 1), (2, 2), (3, 4)])
def test_saved_at_every_step_restored_by_other_workers(server, before, after):
  generation = 0
  for step in (0, 1, 4, 7, 11):
    generation += 1
    with Workers(server, before, generation) as workers:
      seen = [x for _ in range(step) for x in workers.step()]
      state = workers.state()
      workers.step()  # Lost with the generation.
    generation += 1
    with Workers(server, after, generation) as workers:
      workers.restore(state)
      seen += workers.finish()
    assert_each(seen, 2)


def test_a_chain_of_failures_and_commits(server):
  seen, state = [], None
  for generation in range(1, 9):
    with Workers(server, 1 + generation % 3, generation) as workers:
      if state is not None:
        workers.restore(state)
      for _ in range(generation % 4):
        seen += workers.step()
      state = workers.state()
      workers.agents[0].on_commit(generation, state)
      workers.step()
  with Workers(server, 2, 9) as workers:
    workers.restore(state)
    seen += workers.finish()
    workers.agents[0].on_commit(9, workers.state())
  assert_each(seen, 2)
  ledger = server.ledger()
  assert ledger.counts()['done'] == 22 and ledger.first_open_epoch == 2


def test_restart_with_prefetched_indices(server):
  """DLRover's defect 10: what was prefetched survives a restore, and repeats.

  Here what a prefetch thread holds is in no state, and the next generation
  reads it.
  """

  def prefetched(dataset):
    return grain.experimental.ThreadPrefetchIterDataset(
      dataset.batch(7), prefetch_buffer_size=5
    )

  with Workers(server, 2, 1, transform=prefetched) as workers:
    seen = workers.step() + workers.step()
    # The threads read as far ahead as they can.
    eventually(lambda: consumed(server) >= 4)
    state = workers.state()
  assert len(seen) == 28
  with Workers(server, 2, 2, transform=prefetched) as workers:
    workers.restore(state)
    seen += workers.finish()
  assert_each(seen, 2)


def test_local_positions_go_on_at_a_coordinator_and_back(server):
  def local(worker, num_workers):
    spec = LedgerSpec(NUM_RECORDS, 10, seed=0, num_epochs=2)
    client = LocalLedgerClient(spec, worker=worker, num_workers=num_workers)
    return iter(LeasedDataset(Source(), client).batch(7))

  first = [local(p, 2) for p in range(2)]
  seen = [x for i in first for x in next(i)['x'].tolist()]
  state = merge_states([i.get_state() for i in first])
  with Workers(server, 3, 1) as workers:
    workers.restore({**state, 'data_set': 'train'})
    seen += workers.step()
    state = workers.state()
  last = local(0, 1)
  last.set_state(state)
  seen += [x for batch in last for x in batch['x'].tolist()]
  assert_each(seen, 2)


def test_an_eval_set_is_read_again_and_again(server):
  with Workers(server, 1, 0, num_epochs=1) as workers:
    for _ in range(3):
      seen = [int(x) for b in workers.iterators[0] for x in np.ravel(b['x'])]
      assert_each(seen, 1)
      dataset = workers.agents[0]._ledgers['train']
      dataset.start()  # As a new iterator does.


# --- Who waits for whom. ------------------------------------------------------


def test_an_idle_worker_waits_for_a_shard_that_may_come_back(server):
  """DLRover's defect 3: WAIT is never sent, so idle workers leave."""
  with Workers(server, 1, 0, lockstep=False, num_epochs=1) as one:
    holder = one.iterators[0]
    first = next(holder)['x'].tolist()  # Of ten in the shard it holds.
    late = Agent(server.address, job='job', worker='late', lockstep=False)
    with late:
      records = late.dataset(Source(), shard_size=10, num_epochs=1)
      reading = Reading(records)
      # It has all but what is held: shards in use and read ahead.
      eventually(lambda: server.ledger().outcome() == 'WAIT')
      assert reading.is_alive()
      one.agents[0].close()
      seen = first + reading.end()
  assert_each(seen, 1)  # Also the rest of the shard in use.


def test_at_the_end_a_slow_worker_holds_nothing_in_reserve(server, monkeypatch):
  monkeypatch.setattr(lease_queue, '_PROGRESS_S', 0.5)
  agents = [
    Agent(server.address, job='job', worker=name, heartbeat_s=0.1)
    for name in ('slow', 'fast')
  ]
  with agents[0] as slow, agents[1] as fast:
    source = Source(60)
    first = iter(slow.dataset(source, shard_size=10, read_ahead=3))
    seen = [next(first)['x']]
    eventually(lambda: server.ledger().num_held('slow') == 4)
    others = Reading(fast.dataset(source, shard_size=10, read_ahead=3))
    # Only the shard that the slow one is in is not for the fast one.
    eventually(lambda: len(others.seen) == 50)
    assert server.ledger().num_held('slow') == 1
    seen += [record['x'] for record in first] + others.end()
  assert_each(map(int, seen), 1, 60)


def test_in_lockstep_nobody_waits(server):
  with Workers(server, 2, 0, num_epochs=1) as workers:
    agents, (slow, fast) = workers.agents, workers.iterators
    seen = next(slow)['x'].tolist()
    while (batch := next(fast, None)) is not None:
      seen += batch['x'].tolist()
    assert agents[1].may_get_more()  # What `slow` holds may come back.
    while (batch := next(slow, None)) is not None:
      seen += batch['x'].tolist()
    eventually(
      lambda: next(fast, None) is None and not agents[1].may_get_more()
    )
    assert not agents[0].may_get_more()
  assert_each(seen, 1)


def test_consumed_is_known_soon_and_unread_leases_go_back(server):
  with Workers(server, 1, 0, transform=lambda d: d) as workers:
    for _ in range(10):
      next(workers.iterators[0])
    eventually(lambda: consumed(server) == 1)
    assert server.ledger().counts()['doing'] == 2  # Read ahead.
  counts = server.ledger().counts()
  assert (counts['doing'], counts['consumed']) == (0, 1)


# --- The coordinator goes away. -----------------------------------------------


@pytest.mark.parametrize('breakpoint', [0, 25, 60, 102])
def test_coordinator_stops_while_it_is_read(server, breakpoint):
  """As tf.data service's testDispatcherStop; nothing is lost or repeated."""
  with Workers(server, 1, 0, transform=lambda d: d, num_epochs=1) as workers:
    iterator = workers.iterators[0]
    seen = [int(next(iterator)['x']) for _ in range(breakpoint)]
    server.stop()
    timer = threading.Timer(0.2, server.restart)
    timer.start()
    seen += [int(r['x']) for r in iterator]
    timer.join()
  assert_each(seen, 1)


def test_coordinator_restarts_many_times(server):
  with Workers(server, 2, 0) as workers:
    seen = []
    for _ in range(10):
      seen += workers.step()
      server.stop()
      server.restart()
    seen += workers.finish()
  assert_each(seen, 2)


@pytest.mark.parametrize('seed', range(2))
def test_lost_replies(server, seed):
  draw = np.random.default_rng(seed)
  server.break_call = lambda name, message: (
    'drop_reply' if draw.random() < 0.3 else None
  )
  with Workers(server, 2, 0) as workers:
    seen = workers.finish()
  assert_each(seen, 2)


def test_a_zombie_changes_nothing(server):
  """DLRover's defect 4: late reports hit nobody, or another shard."""
  with Workers(server, 1, 1) as zombie:
    next(zombie.iterators[0])
    with Workers(server, 1, 2) as workers:
      seen = workers.step()
      with pytest.raises(StaleError, match='generation'):
        zombie.finish()
      seen += workers.finish()
  assert_each(seen, 2)


def test_workers_that_restored_different_checkpoints_are_refused(server):
  with Workers(server, 2, 1) as workers:
    workers.step()
    state = workers.state()
  with Workers(server, 2, 2) as workers:
    workers.iterators[0].set_state(state)
    next(workers.iterators[0])
    with pytest.raises(StaleError, match='different checkpoints'):
      next(workers.iterators[1])
