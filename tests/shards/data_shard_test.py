# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rules of the ledger, one by one."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from antjax.shards import data_shard, ledger_state
from antjax.shards.data_shard import DataShard, ShardLedger
from antjax.shards.ledger_client import LocalLedgerClient


def _drain(ledger, worker='w'):
  """Leases and acknowledges all that is to do; returns the shards."""
  shards = []
  while (shard := ledger.lease(worker)) is not None:
    shards.append(shard)
    ledger.ack(worker, shard)
  return shards


def test_every_shard_once_an_epoch_in_another_order():
  shards = _drain(ShardLedger(1000, 32, num_epochs=2))
  assert len(shards) == 64
  first, second = shards[:32], shards[32:]
  for epoch, part in enumerate((first, second)):
    assert {s.epoch for s in part} == {epoch}
    ranges = sorted((s.start, s.stop) for s in part)
    assert ranges[0][0] == 0
    assert ranges[-1] == (992, 1000)
    assert all(a[1] == b[0] for a, b in zip(ranges, ranges[1:]))
    assert [s.start for s in part] != sorted(s.start for s in part)
  assert [s.start for s in first] != [s.start for s in second]


def test_order_is_pinned():
  """A changed order would make saved states repeat and lose records."""
  order, position_of = ledger_state.shard_order(8, seed=0, epoch=0)
  assert order.tolist() == ORDER_OF_8
  assert order[position_of].tolist() == list(range(8))
  assert ledger_state.record_order(10, 16, seed=3, epoch=2).tolist() == RECORDS


ORDER_OF_8 = [5, 6, 4, 2, 3, 0, 1, 7]
RECORDS = [10, 12, 13, 11, 15, 14]


def test_seed_decides_the_order():
  same = [_drain(ShardLedger(100, 5, seed=s)) for s in (1, 1, 2)]
  assert same[0] == same[1] != same[2]


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_orders_look_random(seed):
  order, _ = ledger_state.shard_order(10_000, seed, 0)
  assert sorted(order.tolist()) == list(range(10_000))
  neighbours = np.corrcoef(order[:-1], order[1:])[0, 1]
  assert abs(neighbours) < 0.05  # 5 standard deviations.
  again, _ = ledger_state.shard_order(10_000, seed, 1)
  assert abs(np.corrcoef(order, again)[0, 1]) < 0.05


def test_partly_consumed_shard_is_not_repeated():
  ledger = ShardLedger(10, 10)
  shard = ledger.lease('a')
  order = ledger.unconsumed(shard)
  for record in order[:4]:
    ledger.mark('a', shard, int(record))
  ledger.requeue('a', shard)
  assert ledger.lease('b') == shard
  np.testing.assert_array_equal(ledger.unconsumed(shard), order[4:])


def test_requeued_shards_come_first_and_in_order():
  ledger = ShardLedger(40, 4)
  held = [ledger.lease('a') for _ in range(3)]
  assert ledger.requeue_all('b') == 0
  assert ledger.requeue_all('a') == 3
  assert [ledger.lease('b') for _ in range(3)] == held


def test_next_epoch_begins_while_a_shard_is_being_done():
  ledger = ShardLedger(4, 2, num_epochs=None)
  slow = ledger.lease('slow')
  fast = _lease_and_ack(ledger, 5)
  assert [s.epoch for s in fast] == [0, 1, 1, 2, 2]
  ledger.requeue('slow', slow)
  assert ledger.lease('fast') == slow


def _lease_and_ack(ledger, count):
  shards = []
  for _ in range(count):
    shards.append(ledger.lease('fast'))
    ledger.ack('fast', shards[-1])
  return shards


def test_state_stays_small():
  ledger = ShardLedger(100_000 * 10, 10, num_epochs=None, share=(1, 4))
  for _ in range(4 * 25_000 + 5):
    ledger.ack('w', ledger.lease('w'))
  size = len(json.dumps(ledger.to_json()))
  # Four epochs that are alike and one begun, of two bit sets each.
  assert size < 4 * 100_000 / 4 + 1000


def test_own_state_of_many_epochs_loads_fast():
  ledger = ShardLedger(30_000, 10, num_epochs=None, share=(1, 3))
  for _ in range(1000 * 200 + 7):
    ledger.ack('w', ledger.lease('w'))
  state = json.loads(json.dumps(ledger.to_json()))
  start = time.perf_counter()
  ledger.load(state)
  assert time.perf_counter() - start < 0.5
  assert ledger.to_json() == state


def test_lease_is_constant_time():
  ledger = ShardLedger(10_000_000, 100)
  ledger.lease('w')  # Computes the order.
  start = time.perf_counter()
  for _ in range(10_000):
    ledger.lease('w')
  assert time.perf_counter() - start < 1


@pytest.mark.parametrize('call', ['ack', 'requeue', 'mark'])
def test_needs_a_lease(call):
  ledger = ShardLedger(10, 5)
  shard = ledger.lease('a')
  more = (shard.start,) if call == 'mark' else ()
  with pytest.raises(ValueError, match="is leased to 'a'; lease it first"):
    getattr(ledger, call)('b', shard, *more)
  ledger.ack('a', shard)
  with pytest.raises(ValueError, match='is not leased; lease it first'):
    getattr(ledger, call)('a', shard, *more)
  with pytest.raises(ValueError, match='not a shard of an epoch'):
    getattr(ledger, call)('a', DataShard(0, 0, 4, 0), *more)
  with pytest.raises(ValueError, match='not a shard of an epoch'):
    getattr(ledger, call)('a', DataShard(0, 0, 5, 7), *more)


def test_mark_twice_and_outside():
  ledger = ShardLedger(10, 5)
  shard = ledger.lease('a')
  ledger.mark('a', shard, shard.start)
  with pytest.raises(ValueError, match='is marked already'):
    ledger.mark('a', shard, shard.start)
  with pytest.raises(ValueError, match='is not in DataShard'):
    ledger.mark('a', shard, shard.stop)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    ({'num_records': 0}, 'num_records must be >= 1; got 0'),
    ({'shard_size': -1}, 'shard_size must be >= 1; got -1'),
    ({'num_epochs': 0}, 'num_epochs must be >= 1; got 0'),
    ({'share': (2, 2)}, r'share=\(2, 2\) must be'),
    ({'share': (0, 3)}, '2 shards are too few for 3 workers; .*size <= 3'),
  ],
)
def test_bad_arguments(arguments, message):
  with pytest.raises(ValueError, match=message):
    ShardLedger(**{'num_records': 10, 'shard_size': 5, **arguments})


@pytest.mark.parametrize(
  ('name', 'value'), [('num_records', 11), ('shard_size', 4), ('seed', 1)]
)
def test_state_of_another_data_set(name, value):
  state = ShardLedger(**{'num_records': 10, 'shard_size': 5, name: value})
  with pytest.raises(ValueError, match=f'different data sets: {name}='):
    ShardLedger(10, 5).load(state.to_json())


@pytest.mark.parametrize(
  'change',
  [
    {'version': 99},
    {'epochs': [{}]},
    {'epochs': None},
    {'share': 3},
    {'first_epoch': 1},
    {'first_epoch': 'x'},
  ],
)
def test_damaged_state(change):
  ledger = ShardLedger(10, 5)
  ledger.lease('a')
  damaged = {**ledger.to_json(), **change}
  with pytest.raises(ValueError, match='Not a state of a ShardLedger'):
    ShardLedger(10, 5).load(damaged)
  del damaged['seed']
  with pytest.raises(ValueError, match='Not a state of a ShardLedger'):
    ShardLedger(10, 5).load(damaged)


@pytest.mark.parametrize(
  'change', [{'done': 'zz'}, {'done': 'ff'}, {'marks': {'0': 'fff'}}]
)
def test_damaged_epoch(change):
  ledger = ShardLedger(10, 5)
  ledger.lease('a')
  damaged = ledger.to_json()
  damaged['epochs'][0].update(change)
  with pytest.raises(ValueError, match='Not a state of a ShardLedger'):
    ShardLedger(10, 5).load(damaged)


def test_merge_needs_every_worker_once():
  ledger = ShardLedger(10, 2)
  states = [
    LocalLedgerClient(ledger, worker=p, num_workers=3).state() for p in range(3)
  ]
  data_shard.merge(states)
  for wrong in (states[:2], [states[0], *states[:2]], [*states, states[0]]):
    with pytest.raises(ValueError, match='workers 0 to 2 of 3, once each'):
      data_shard.merge(wrong)
  with pytest.raises(ValueError, match='at least one worker'):
    data_shard.merge([])


def test_merge_of_two_runs():
  ledger = ShardLedger(10, 2)
  begun = ShardLedger(10, 2)
  begun.ack('w', begun.lease('w'))
  clients = [
    LocalLedgerClient(ledger, worker=0, num_workers=2),
    LocalLedgerClient(begun, worker=1, num_workers=2),
  ]
  for client in clients:
    client.lease()
  with pytest.raises(ValueError, match='two workers own the same shards'):
    data_shard.merge([client.state() for client in clients])


def test_own_state_does_not_fit_another_worker():
  ledger = ShardLedger(10, 2)
  state = LocalLedgerClient(ledger, worker=0, num_workers=2).state()
  for p, num_workers in ((1, 2), (0, 1), (0, 3)):
    other = LocalLedgerClient(ledger, worker=p, num_workers=num_workers)
    with pytest.raises(ValueError, match='all 2 workers with merge'):
      other.load(state)


def test_workers_that_drifted_apart_by_epochs():
  """One process is two epochs ahead of the other when both are saved."""
  ledger = ShardLedger(12, 3, num_epochs=4)
  fast = LocalLedgerClient(ledger, worker=0, num_workers=2)
  slow = LocalLedgerClient(ledger, worker=1, num_workers=2)
  seen = [_finish(fast) for _ in range(5)] + [_finish(slow)]
  merged = data_shard.merge([fast.state(), slow.state()])
  rest = ShardLedger(12, 3, num_epochs=4)
  rest.load(json.loads(json.dumps(merged)))
  seen += _drain(rest)
  expected = _drain(ShardLedger(12, 3, num_epochs=4))
  assert sorted(seen, key=repr) == sorted(expected, key=repr)


def _finish(client):
  shard = client.lease()
  client.ack(shard)
  return shard


def test_more_epochs_than_saved():
  ledger = ShardLedger(10, 5, num_epochs=1)
  _drain(ledger)
  assert ledger.is_finished()
  longer = ShardLedger(10, 5, num_epochs=2)
  longer.load(ledger.to_json())
  assert {s.epoch for s in _drain(longer)} == {1}


def test_unmark_reopens_an_epoch_that_was_over():
  ledger = ShardLedger(10, 5, num_epochs=3)
  first = _drain(ledger)
  state = data_shard.unmark(ledger.to_json(), [10 + 7, 3])
  again = ShardLedger.from_json(json.loads(json.dumps(state)))
  shards = [again.lease('w'), again.lease('w')]
  assert again.lease('w') is None
  assert [s.epoch for s in shards] == [0, 1]
  assert [again.unconsumed(s).tolist() for s in shards] == [[3], [7]]
  assert len(first) == 6


def _consume(client, count):
  """Consumes records of the shard that is next; returns them."""
  shard = client.lease()
  records = client.unconsumed(shard)[:count].tolist()
  for record in records:
    client.mark(shard, record)
  if not len(client.unconsumed(shard)):
    client.ack(shard)
  return records


def test_shard_used_up_in_three_runs():
  """Marks of before and after a restore add up, whoever is merged last."""
  ledger = ShardLedger(40, 10)
  seen, state = [], ledger.to_json()
  for count in (3, 4, 99):
    clients = []
    for p in range(2):
      clients.append(LocalLedgerClient(ledger, worker=p, num_workers=2))
      clients[p].load(state)
      seen += _consume(clients[p], count)
    state = data_shard.merge([c.state() for c in clients])
    assert state == data_shard.merge([c.state() for c in clients[::-1]])
  assert len(seen) == len(set(seen)) == 20


def test_unmark_in_an_epoch_that_was_over_for_all():
  """The last shard of an epoch is one worker's, which then takes it back."""
  ledger = ShardLedger(6, 2, num_epochs=2)
  for _ in range(2):
    ledger.ack('w', ledger.lease('w'))
  clients = [
    LocalLedgerClient(ledger, worker=p, num_workers=2) for p in range(2)
  ]
  (first, second) = _consume(clients[0], 2)  # The epoch is done for worker 0.
  own = data_shard.unmark(clients[0].state(), [second])
  clients[0].load(own)
  assert _consume(clients[0], 2) == [second]
  merged = data_shard.merge([own, clients[1].state()])
  clients[1].load(merged)
  rest = LocalLedgerClient(ShardLedger(6, 2, num_epochs=2))
  rest.load(merged)
  assert _consume(rest, 2) == [second]
  assert first != second


def test_unmark_what_was_not_consumed():
  ledger = ShardLedger(10, 5)
  shard = ledger.lease('w')
  ledger.mark('w', shard, shard.start)
  state = ledger.to_json()
  with pytest.raises(ValueError, match='was not consumed, or is given twice'):
    data_shard.unmark(state, [shard.start + 1])
  with pytest.raises(ValueError, match='was not consumed, or is given twice'):
    data_shard.unmark(state, [shard.start, shard.start])
  with pytest.raises(ValueError, match='epoch 1 has not begun'):
    data_shard.unmark(state, [10])
  assert state == ledger.to_json()


def test_needs_neither_jax_nor_grain():
  code = (
    'import sys; from antjax.input import ledger_client;'
    "print([m for m in ('grain', 'pyarrow') if m in sys.modules])"
  )
  result = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert result.stdout.strip() == '[]'
