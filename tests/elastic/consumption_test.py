# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Positions of workers that share a ledger, against a plain set of records."""

import json
import random

import numpy as np
import pytest

from antjax.elastic import consumption
from antjax.elastic.consumption import Consumption
from antjax.input import index_set, ledger_state
from antjax.input.data_shard import DataShard, ShardLedger


def shard_of(index, epoch, num_records, size):
  start = index * size
  return DataShard(index, start, min(start + size, num_records), epoch)


def unconsumed(state):
  """Returns (epoch, record) that a ledger with this state still gives."""
  ledger = ShardLedger.from_json(json.loads(json.dumps(state)))
  rest = []
  while shard := ledger.lease('w'):
    rest += [(shard.epoch, int(r)) for r in ledger.unconsumed(shard)]
  return sorted(rest)


@pytest.mark.parametrize('seed', range(8))
def test_united_positions_are_what_the_workers_consumed(seed):
  draw = random.Random(seed)
  num_records, size, epochs = draw.randint(5, 90), draw.randint(1, 12), 3
  everything = {(e, r) for e in range(epochs) for r in range(num_records)}
  done, base = set(), None
  for _ in range(4):  # Generations, each of another number of workers.
    num_workers = draw.randint(1, 4)
    workers = [
      Consumption(
        num_records, size, seed=7, num_epochs=epochs, share=(p, num_workers)
      )
      for p in range(num_workers)
    ]
    for worker in workers:
      worker.load(base)
    for epoch, record in draw.sample(
      sorted(everything - done), k=min(len(everything - done), 40)
    ):
      shard = shard_of(record // size, epoch, num_records, size)
      worker = draw.choice(workers)
      worker.mark(shard, np.array([record]))
      done.add((epoch, record))
    states = [json.loads(json.dumps(w.state())) for w in workers]
    draw.shuffle(states)
    base = ledger_state.merge(states)
    assert unconsumed(base) == sorted(everything - done)


def test_takes_the_state_of_a_local_ledger():
  ledger = ShardLedger(23, 5, seed=1, num_epochs=2)
  for _ in range(3):
    ledger.ack('a', ledger.lease('a'))
  shard = ledger.lease('a')
  ledger.mark('a', shard, shard.start + 1)
  worker = Consumption(23, 5, seed=1, num_epochs=2)
  worker.load(ledger.to_json())
  assert unconsumed(worker.state()) == unconsumed(
    ledger_state.merge([ledger.to_json()])
  )


def test_committed_epochs_are_forgotten():
  worker = Consumption(20, 5, num_epochs=None)
  for epoch in range(50):
    for index in range(4):
      shard = shard_of(index, epoch, 20, 5)
      worker.mark(shard, np.arange(shard.start, shard.stop))
    worker.drop_before(epoch)
  state = worker.state()
  assert state['first_epoch'] == 49 and len(state['epochs']) == 1
  worker.drop_before(3)  # Never back.
  assert worker.state() == state


@pytest.mark.parametrize('text', ['0', 'f0f', index_set.encode(7 << 900)])
def test_positions_are_text_all_along(text):
  draw = random.Random(0)
  size = 1000
  expected = index_set.decode(text)
  positions = consumption._Positions(text, size)
  for _ in range(200):
    number = draw.randrange(size + 500)
    assert (number in positions) == bool(expected >> number & 1)
    positions.add(number)
    expected |= 1 << number
    assert index_set.decode(positions.text()) == expected
  assert positions.text() is positions.text()


def test_a_stream_grows_in_order():
  worker = Consumption(0, 4, is_stream=True)
  shards = [DataShard(i, 4 * i, 4 * i + 4, 0) for i in (0, 1, 300)]
  nothing = np.zeros(4, np.uint8)
  assert worker.order(shards[1], nothing).tolist() == [4, 5, 6, 7]
  for shard in shards[1:]:
    worker.mark(shard, np.arange(shard.start, shard.stop))
  state = worker.state()
  assert state['num_records'] == 1204 and state['is_stream']
  ledger_state.check(state)
  again = Consumption(8, 4, is_stream=True)
  again.load(ledger_state.merge([state]))
  assert index_set.decode(again.state()['epochs'][0]['done']) == 1 << 300 | 2


def test_refuses_the_state_of_one_worker_of_several():
  one = Consumption(20, 5, share=(1, 2))
  with pytest.raises(ValueError, match='worker 1 of 2 alone'):
    Consumption(20, 5, share=(1, 2)).load(one.state())
  with pytest.raises(ValueError, match='seed=1'):
    Consumption(20, 5).load(Consumption(20, 5, seed=1).state())
