# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Positions of workers that share a ledger, against a plain set of records."""

import json
import random

import pytest

from antjax.elastic.service_ledger import Consumption
from antjax.shards import index_set, ledger_state
from antjax.shards.data_shard import DataShard
from antjax.shards.ledger import Ledger
from antjax.shards.ledger_spec import LedgerSpec
from tests.shards.states import remaining


@pytest.mark.parametrize('seed', range(8))
def test_united_positions_are_what_the_workers_consumed(seed):
  draw = random.Random(seed)
  num_records, size, epochs = draw.randint(5, 90), draw.randint(1, 12), 3
  spec = LedgerSpec(num_records, size, seed=7, num_epochs=epochs)
  everything = {(e, r) for e in range(epochs) for r in range(num_records)}
  done, base = set(), None
  for _ in range(4):  # Generations, each of another number of workers.
    num_workers = draw.randint(1, 4)
    workers = [Consumption(spec, (p, num_workers)) for p in range(num_workers)]
    for worker in workers:
      worker.load(base)
    for epoch, record in draw.sample(
      sorted(everything - done), k=min(len(everything - done), 40)
    ):
      shard = spec.shard(epoch, record // size)
      worker = draw.choice(workers)
      worker.mark(shard, 1 << record - shard.start)
      done.add((epoch, record))
    states = [json.loads(json.dumps(w.state())) for w in workers]
    draw.shuffle(states)
    base = ledger_state.merge(states)
    assert remaining(base, spec) == sorted(everything - done)


def test_takes_the_state_of_a_local_ledger():
  spec = LedgerSpec(23, 5, seed=1, num_epochs=2)
  ledger = Ledger(spec, (0, 1))
  for shard, _ in ledger.lease('a', 3):
    ledger.consume('a', shard)
  [(shard, _)] = ledger.lease('a', 1)
  ledger.progress('a', shard, 0b10)
  worker = Consumption(spec)
  worker.load(ledger.state())
  assert remaining(worker.state(), spec) == remaining(ledger.state(), spec)


def test_committed_epochs_are_forgotten():
  spec = LedgerSpec(20, 5, num_epochs=None)
  worker = Consumption(spec)
  for epoch in range(50):
    for index in range(4):
      worker.mark(spec.shard(epoch, index), 0b11111)
    worker.drop_before(epoch)
  state = worker.state()
  assert state['first_epoch'] == 49 and len(state['epochs']) == 1
  worker.drop_before(3)  # Never back.
  assert worker.state() == state


def test_a_stream_grows_in_order():
  worker = Consumption(LedgerSpec(0, 4, is_stream=True))
  shards = [DataShard(i, 4 * i, 4 * i + 4, 0) for i in (0, 1, 300)]
  assert worker.spec.unconsumed(shards[1], 0).tolist() == [4, 5, 6, 7]
  for shard in shards[1:]:
    worker.mark(shard, 0b1111)
  state = worker.state()
  assert state['num_records'] == 1204 and state['is_stream']
  again = Consumption(LedgerSpec(8, 4, is_stream=True))
  again.load(ledger_state.merge([state]))
  assert index_set.decode(again.state()['epochs'][0]['done']) == 1 << 300 | 2


def test_refuses_the_state_of_one_worker_of_several():
  spec = LedgerSpec(20, 5)
  one = Consumption(spec, (1, 2))
  with pytest.raises(ValueError, match='worker 1 of 2 .* unite the states'):
    Consumption(spec, (1, 2)).load(one.state())
  with pytest.raises(ValueError, match='seed=1'):
    Consumption(spec).load(Consumption(LedgerSpec(20, 5, seed=1)).state())
