# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Data sets leased from a coordinator: bad data, streams, mixes."""

import json

import grain
import pytest

from antjax.elastic.worker import Agent
from antjax.shards.dataset import merge_states
from antjax.shards.held_back import HeldBack
from tests.elastic.jobs_server import eventually
from tests.elastic.lockstep_workers import (
  assert_each,
  consumed,
  NUM_RECORDS,
  Reading,
  Source,
  Stream,
  Workers,
)

# --- Bad data. ----------------------------------------------------------------


def test_a_poison_shard_is_named_and_set_aside(server, caplog):
  """DLRover's defects 1 and 2: it is dropped silently, or deaths drop it."""
  source = Source(bad=[41])
  with Workers(server, 2, 0, source=source, num_epochs=1) as workers:
    seen = workers.finish()
  assert sorted(seen) == [*range(40), *range(50, NUM_RECORDS)]
  ((shard, message),) = server.ledger().set_aside()
  assert (shard.start, shard.stop) == (40, 50)
  assert message == 'OSError: damaged at 40'
  assert 'the records 40 to 50 of epoch 0 cannot be read' in caplog.text


def test_a_worker_that_can_read_nothing_is_not_the_datas_fault(server):
  with Workers(server, 1, 0, source=Source(bad=range(103))) as workers:
    with pytest.raises(OSError, match='damaged'):
      workers.finish()
  assert not server.ledger().set_aside()


def test_at_most_once(server):
  with Workers(server, 2, 1, at_most_once=True, num_epochs=1) as workers:
    lost = set(workers.step())  # And what they held: nobody saved.
  with Workers(server, 2, 2, at_most_once=True, num_epochs=1) as workers:
    seen = workers.finish()
  assert len(seen) == len(set(seen)) and not lost & set(seen)
  assert len(seen) >= NUM_RECORDS - 20


# --- Streams and mixes. -------------------------------------------------------


def test_a_stream_grows_while_it_is_read(server):
  """DLRover's defect 5: refills hand out old shards again."""
  source = Stream(25)
  with Workers(server, 1, 1, source=source, lockstep=False) as workers:
    with workers.agents[0]:
      reading = Reading(workers.iterators[0])
      eventually(lambda: consumed(server) == 2)
      assert reading.is_alive()
      source.num_records = 58
      eventually(lambda: consumed(server) == 5)
      source.is_closed = True
      assert reading.end() == list(range(58))  # In order.


def test_a_stream_in_lockstep(server):
  source = Stream(40)
  with Workers(server, 2, 1, source=source) as workers:
    for ledger in (a._ledgers['train'] for a in workers.agents):
      ledger._leases._stream_wait_s = 0.0
    seen = []
    while len(seen) < 40:
      seen += workers.step()
    state = workers.state()
    assert all(a.may_get_more() for a in workers.agents)
  source.num_records = 61
  with Workers(server, 1, 2, source=source) as workers:
    workers.restore(state)
    with workers.agents[0]:
      source.is_closed = True
      seen += workers.finish()
  assert_each(seen, 1, 61)


def test_a_mix_of_two_data_sets(server):
  def mixed(agent):
    parts = [
      agent.dataset(Source(size), name=name, shard_size=5)
      .map(lambda r, first=first: {'x': r['x'] + first})
      .batch(1)
      for name, size, first in (('a', 60, 0), ('b', 30, 100))
    ]
    return grain.IterDataset.mix(parts, [2, 1])

  def agents(num, generation):
    return [
      Agent(
        server.address,
        job='job',
        worker=f'w{p}',
        generation=generation,
        rank=p,
        num_workers=num,
      )
      for p in range(num)
    ]

  first = agents(2, 1)
  iterators = [iter(mixed(agent)) for agent in first]
  seen = [
    int(next(it)['x'][0])
    for n, it in enumerate(iterators)
    for _ in range(15 + n)
  ]
  state = json.loads(
    json.dumps(merge_states([i.get_state() for i in iterators]))
  )
  first[0].on_commit(1, state)
  for agent in first:
    agent.close()
  for name in ('a', 'b'):
    assert server.ledger(name=name).counts()['done'] >= 2
  (last,) = agents(1, 2)
  iterator = iter(mixed(last))
  iterator.set_state(state)
  seen += [int(batch['x'][0]) for batch in iterator]
  last.close()
  assert len(seen) == len(set(seen)) >= 85  # One of the two is all used.


def test_what_a_shuffle_holds_back_is_read_again(server):
  def shuffled(dataset):
    return HeldBack(
      dataset,
      lambda records: grain.experimental.WindowShuffleIterDataset(
        records, window_size=9, seed=2
      ),
      key_field='key',
    )

  options = {'transform': shuffled, 'key_field': 'key', 'num_epochs': 1}
  with Workers(server, 3, 1, **options) as workers:
    seen = [x for _ in range(13) for x in workers.step()]
    state = workers.state()
    workers.agents[0].on_commit(1, state)
    workers.step()  # Not saved: it comes again.
  with Workers(server, 2, 2, **options) as workers:
    workers.restore(state)
    seen += workers.finish()
  assert_each(seen, 1)
