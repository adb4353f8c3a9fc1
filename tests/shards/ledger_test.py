# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rules of the ledger, one by one; both ways to hand shards out."""

import copy
import json
import time
import tracemalloc

import numpy as np
import pytest

from antjax.shards import data_shard, index_set, ledger_state
from antjax.shards.data_shard import DataShard
from antjax.shards.ledger import Ledger, MAX_SET_ASIDE
from antjax.shards.ledger_client import LocalLedgerClient
from antjax.shards.ledger_spec import LedgerSpec
from tests.shards.states import (
  drain,
  records_of,
  remaining,
  state_of,
  through_json,
)


def make(num_records=20, shard_size=4, share=None, **fields):
  return Ledger(LedgerSpec(num_records, shard_size, **fields), share)


def clients_of(spec, num_workers, state=None):
  clients = [
    LocalLedgerClient(spec, worker=p, num_workers=num_workers)
    for p in range(num_workers)
  ]
  for client in clients if state else ():
    client.load(state)
  return clients


def lease_all(ledger, worker='a'):
  shards = []
  while leases := ledger.lease(worker, 3):
    shards += [shard for shard, _ in leases]
  return shards


def consume_all(ledger, worker='a'):
  return [record for _, record in drain(ledger, worker)]


def through_bytes(ledger):
  return Ledger.from_bytes(ledger.to_bytes())


def counts(**numbers):
  names = ('todo', 'doing', 'consumed', 'done', 'set_aside')
  return {**dict.fromkeys(names, 0), **numbers}


# --- Order. -------------------------------------------------------------------


def test_every_shard_once_an_epoch_in_another_order():
  shards = lease_all(make(1000, 32, num_epochs=2))
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


def test_static_shares_take_turns_in_the_order_of_all():
  spec = {'seed': 9, 'num_epochs': 2}
  whole = lease_all(make(50, 4, **spec))
  parts = [lease_all(make(50, 4, (p, 3), **spec)) for p in range(3)]
  for epoch in range(2):
    in_turn = [s for s in whole if s.epoch == epoch]
    for p, part in enumerate(parts):
      assert [s for s in part if s.epoch == epoch] == in_turn[p::3]


def test_order_is_pinned():
  """A changed order would make saved states repeat and lose records."""
  order = data_shard.shard_order(8, seed=0, epoch=0)
  assert order.tolist() == [5, 6, 4, 2, 3, 0, 1, 7]
  places = data_shard.shard_positions(8, seed=0, epoch=0)
  assert order[places].tolist() == list(range(8))
  records = data_shard.record_order(10, 16, seed=3, epoch=2)
  assert records.tolist() == [10, 12, 13, 11, 15, 14]


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_orders_look_random(seed):
  order, again, other = (
    data_shard.shard_order(10_000, *key)
    for key in [(seed, 0), (seed, 1), (seed + 1, 0)]
  )
  assert sorted(order.tolist()) == list(range(10_000))
  for one, two in ((order[:-1], order[1:]), (order, again), (order, other)):
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.05  # 5 standard deviations.


# --- Leases. ------------------------------------------------------------------


def test_shards_that_come_back_are_the_next_less_what_was_consumed():
  ledger = make()
  [(first, _), (second, _), (third, _)] = ledger.lease('a', 3)
  ledger.progress('a', second, 0b0001)
  ledger.give_back('a', second, 0b0100)
  assert ledger.lease('b', 1) == [(second, 0b0101)]
  assert ledger.release(['a']) == 2
  assert ledger.lease('b', 2) == [(first, 0), (third, 0)]
  ledger.give_back('b', first, 0b1111)
  assert ledger.counts()['consumed'] == 1


def test_the_next_epoch_begins_when_nothing_is_to_do():
  ledger = make(8, 4, num_epochs=2)
  [(first, _), (second, _)] = ledger.lease('a', 2)
  ledger.give_back('a', first)
  [(again, _), (third, _)] = ledger.lease('b', 2)
  assert again == first and third.epoch == 1
  assert (second.epoch, ledger.num_begun_epochs) == (0, 2)


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'num_records': 0}, 'num_records must be >= 1; got 0'),
    ({'shard_size': 0}, 'shard_size must be >= 1; got 0'),
    ({'num_epochs': 0}, 'num_epochs must be >= 1 or None; got 0'),
    ({'max_data_errors': 0}, 'max_data_errors must be >= 1'),
    ({'is_stream': True, 'num_epochs': 2}, 'a stream has one epoch'),
    ({'share': (2, 2)}, r'share=\(2, 2\) must be'),
    ({'share': (0, 6)}, '5 shards are too few for 6 workers; .*size <= 3'),
    ({'share': (0, 2), 'is_stream': True}, 'lease them from a coordinator'),
    ({'share': (0, 2), 'at_most_once': True}, 'lease them from a coordinator'),
  ],
)
def test_what_cannot_be_leased_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    make(**fields)


@pytest.mark.parametrize(
  'shard',
  [
    DataShard(0, 0, 4, 1),
    DataShard(7, 28, 32, 0),
    DataShard(0, 0, 3, 0),
    DataShard(-1, -4, 0, 0),
    DataShard(0, 0, 4, -1),
    DataShard(10**30, 4 * 10**30, 4 * 10**30 + 4, 0),
  ],
)
def test_what_is_not_held_is_refused(shard):
  ledger = make()
  leased = [one for one, _ in ledger.lease('b', 9)]
  before = ledger.to_bytes()
  for call in (
    lambda: ledger.consume('a', shard),
    lambda: ledger.progress('a', shard, 1),
    lambda: ledger.give_back('a', shard, 1),
    lambda: ledger.fail('a', shard, 'x'),
    lambda: ledger.progress('b', leased[0], 0b10000),
    lambda: ledger.progress('b', leased[0], -1),
  ):
    with pytest.raises(ValueError):
      call()
  assert ledger.to_bytes() == before


@pytest.mark.parametrize('call', ['ack', 'requeue', 'mark'])
def test_a_local_client_needs_a_lease(call):
  client = LocalLedgerClient(LedgerSpec(10, 5))
  shard = client.lease()
  more = (shard.start,) if call == 'mark' else ()
  client.ack(shard)
  with pytest.raises(ValueError, match='is not leased; lease it first'):
    getattr(client, call)(shard, *more)
  with pytest.raises(ValueError, match='not a shard of the data set'):
    getattr(client, call)(DataShard(0, 0, 4, 0), *((0,) if more else ()))
  ledger = make()
  [(shard, _)] = ledger.lease('a', 1)
  with pytest.raises(ValueError, match="is leased to 'a'; lease it first"):
    ledger.consume('b', shard)


def test_a_record_is_marked_once():
  client = LocalLedgerClient(LedgerSpec(10, 5))
  shard = client.lease()
  client.mark(shard, np.array([shard.start, shard.start + 2]))
  for again in ([shard.start + 1, shard.start + 2], [shard.start + 1] * 2):
    with pytest.raises(ValueError, match='are marked already'):
      client.mark(shard, np.array(again))
  for outside in (shard.start - 1, shard.stop):
    with pytest.raises(ValueError, match='are not all in DataShard'):
      client.mark(shard, outside)


# --- Checkpoints. -------------------------------------------------------------


def test_what_is_committed_is_done_and_the_epoch_is_left():
  ledger = make(8, 4, num_epochs=None)
  spec = ledger.spec
  [(first, _), (second, _), (third, _)] = ledger.lease('a', 3)
  ledger.consume('a', first)
  ledger.consume('a', second)
  assert ledger.first_open_epoch == 0
  ledger.commit(state_of({(0, record) for record in range(8)}, spec))
  assert ledger.first_open_epoch == 1
  ledger.consume('a', third)
  # Clients no longer have the first epoch in their states.
  ledger.commit(state_of(set(records_of(third)), spec, first_epoch=1))
  assert ledger.counts()['done'] == 3


def test_a_commit_may_come_before_the_report():
  """A checkpoint is of all workers; each reports when it comes to it."""
  ledger = make(8, 4)
  [(first, _), (second, _)] = ledger.lease('b', 2)
  records = {*records_of(first), (0, second.start)}
  ledger.commit(state_of(records, ledger.spec))
  assert ledger.counts() == counts(doing=1, done=1)
  ledger = through_bytes(ledger)
  ledger.progress('b', first, 0b1)
  ledger.consume('b', first)
  with pytest.raises(ValueError, match='not leased'):
    ledger.consume('a', first)
  ledger.release(['b'])
  assert ledger.lease('a', 1) == [(second, 0b1)]


def test_a_state_of_a_shared_job_is_taken_up_by_local_ones():
  spec = LedgerSpec(45, 4, seed=2, num_epochs=2)
  used = {(0, record) for record in range(1, 45, 3)}
  states = [
    state_of({key for key in used if key[1] % 2 == p}, spec, (p, 2))
    for p in range(2)
  ]
  merged = ledger_state.merge(states)
  assert merged['share'] is None and 'dynamic' not in merged
  rest = set()
  for p in range(3):
    ledger = Ledger(spec, (p, 3))
    ledger.begin(merged)
    rest.update(drain(ledger))
  assert rest == {(e, r) for e in range(2) for r in range(45)} - used


def test_a_state_of_one_worker_of_several_fits_no_other():
  spec = LedgerSpec(10, 2)
  state = LocalLedgerClient(spec, worker=0, num_workers=2).state()
  for share in (None, (1, 2), (0, 1), (0, 3)):
    with pytest.raises(ValueError, match='all 2 workers with merge'):
      Ledger(spec, share).begin(state)
  Ledger(spec, (0, 2)).begin(state)
  dynamic = state_of({(0, 1)}, spec, (0, 2))
  with pytest.raises(ValueError, match='unite the states of all 2'):
    Ledger(spec, (0, 2)).begin(dynamic)


def test_more_epochs_than_saved():
  ledger = make(10, 5, (0, 1), num_epochs=1)
  drain(ledger)
  assert ledger.outcome() == 'FINISHED'
  longer = make(10, 5, (0, 1), num_epochs=2)
  longer.begin(ledger.state())
  assert {s.epoch for s in lease_all(longer)} == {1}


def bad_states():
  good = state_of({(0, 1)}, LedgerSpec(20, 4))

  def changed(**fields):
    return {**copy.deepcopy(good), **fields}

  run = good['epochs'][0]
  yield {}, 'Not a state'
  yield [], 'Not a state'
  yield {k: v for k, v in good.items() if k != 'seed'}, 'no seed'
  yield changed(version=99), 'version 99, needed: 1'
  yield changed(epochs=None), 'Not a state'
  yield changed(epochs=[{}]), "no 'start'"
  yield changed(share=3, epochs=[]), 'Not a state'
  yield changed(share=[0], epochs=[]), 'Not a state'
  yield changed(share=''), 'Not a state'
  yield changed(share=[0, 'b'], epochs=[]), 'share .* is no whole number'
  yield changed(num_records=21), 'num_records'
  yield changed(num_records=20.0), 'whole number'
  yield changed(shard_size=0), 'no whole number from 1'
  yield changed(shard_size=5), 'shard_size'
  yield changed(seed=1), 'seed'
  yield changed(is_stream=True), 'is_stream'
  yield changed(share=[0, 2]), 'unite the states of all 2'
  yield changed(first_epoch=1), 'epoch 1 is missing'
  yield changed(first_epoch=-1, epochs=[{**run, 'start': -1}]), 'whole number'
  yield changed(first_epoch=0.0, epochs=[{**run, 'start': 0.0}]), 'whole'
  yield changed(epochs=[{**run, 'done': 'ff'}]), 'members'
  yield changed(epochs=[{**run, 'done': '-1'}]), 'no set'
  yield changed(epochs=[{**run, 'done': 'zAAAA'}]), 'damaged'
  yield changed(epochs=[{**run, 'done': 'z' + 'A' * 401}]), 'damaged'
  yield changed(epochs=[{**run, 'marks': {'5': '1'}}]), 'more than 5 shards'
  yield changed(epochs=[{**run, 'marks': {'-1': '1'}}]), 'more than 5 shards'
  yield changed(epochs=[{**run, 'marks': {'0': '10'}}]), 'members'
  yield changed(epochs=[{**run, 'stop': 10**12}]), 'too large'


@pytest.mark.parametrize('state, message', list(bad_states()))
def test_a_state_that_does_not_fit_changes_nothing(state, message):
  ledger = make(num_epochs=1)
  ledger.lease('a', 2)
  before = ledger.to_bytes()
  with pytest.raises(ValueError, match=message):
    ledger.begin(state)
  with pytest.raises(ValueError):
    ledger.commit(state)
  assert ledger.to_bytes() == before
  local = LocalLedgerClient(ledger.spec)
  shard = local.lease()
  with pytest.raises(ValueError, match=message):
    local.load(state)
  local.ack(shard)


def test_a_commit_of_epochs_that_have_not_begun_is_refused():
  ledger = make(num_epochs=3)
  ledger.lease('a', 1)
  for state in (
    state_of({(1, 0)}, ledger.spec),
    {**state_of(set(), ledger.spec), 'first_epoch': 2},
  ):
    with pytest.raises(ValueError, match='only 1 epochs have begun'):
      ledger.commit(state)


def test_a_compressed_set_that_is_a_bomb_is_refused():
  bomb = index_set.encode((1 << 80_000_000) - 1)
  assert bomb.startswith('z') and len(bomb) < 20_000
  ledger = make()
  state = state_of({(0, 1)}, ledger.spec)
  state['epochs'][0]['done'] = bomb
  tracemalloc.start()
  with pytest.raises(ValueError, match='members >= 5'):
    ledger.begin(state)
  assert tracemalloc.get_traced_memory()[1] < 2**20
  tracemalloc.stop()


# --- Poison. ------------------------------------------------------------------


def test_a_shard_that_fails_is_tried_again_last():
  ledger = make()
  [(bad, _)] = ledger.lease('a', 1)
  assert not ledger.fail('a', bad, 'torn')
  order = lease_all(ledger)
  assert len(order) == 5 and order[-1] == bad


def bad_and_good(num_records=8, **fields):
  """A ledger whose first shard is set aside, its second one consumed."""
  ledger = make(num_records, 4, max_data_errors=1, **fields)
  [(bad, _), (good, _)] = ledger.lease('a', 2)
  ledger.fail('a', bad, 'torn')
  ledger.consume('a', good)
  return ledger, bad, good


def test_what_was_set_aside_in_a_committed_epoch_is_not_tried_again():
  ledger, _, good = bad_and_good(num_epochs=2)
  ledger.commit(state_of(set(records_of(good)), ledger.spec))
  assert ledger.first_open_epoch == 1
  assert ledger.retry_set_aside() == 0
  assert ledger.counts()['set_aside'] == 1


def test_a_data_set_that_is_bad_as_a_whole_is_refused():
  ledger = make(MAX_SET_ASIDE + 10, 1, max_data_errors=1)
  for shard, _ in ledger.lease('a', MAX_SET_ASIDE):
    ledger.fail('a', shard, 'torn')
  [(shard, _)] = ledger.lease('a', 1)
  with pytest.raises(ValueError, match='repair the data set'):
    ledger.fail('a', shard, 'torn')
  assert ledger.counts()['doing'] == 1


@pytest.mark.parametrize('num_records', [8, 7])
def test_shards_whose_parts_make_a_whole_are_done_in_an_epoch_that_is_over(
  num_records,
):
  ledger, _, good = bad_and_good(num_records)
  used = records_of(good)
  states = [
    state_of(part, ledger.spec, (worker, 2))
    for worker, part in enumerate([used[:1], used[1:]])
  ]
  merged = ledger_state.merge(states)
  assert merged['epochs'][0]['marks']  # The test is of these.
  ledger.commit(merged)
  assert ledger.counts()['done'] == 1
  assert ledger.first_open_epoch == 1


# --- Streams. -----------------------------------------------------------------


def stream(num_records=0):
  return make(num_records, 4, is_stream=True)


def test_a_stream_is_leased_in_order_as_it_grows():
  ledger = stream()
  assert ledger.outcome() == 'WAIT'
  ledger.extend(6, False)
  assert lease_all(ledger) == [DataShard(0, 0, 4, 0)]
  assert ledger.outcome() == 'WAIT'
  ledger.extend(10, False)
  ledger.extend(10, False)
  assert lease_all(ledger) == [DataShard(1, 4, 8, 0)]
  ledger.extend(10, True)
  assert lease_all(ledger) == [DataShard(2, 8, 10, 0)]
  for index, stop in enumerate((4, 8, 10)):
    ledger.consume('a', DataShard(index, 4 * index, stop, 0))
  assert ledger.outcome() == 'FINISHED'
  ledger.commit(state_of({(0, r) for r in range(10)}, ledger.spec))
  assert ledger.first_open_epoch == 1


def test_a_stream_that_is_empty_and_closed_is_finished():
  ledger = stream()
  ledger.extend(0, True)
  assert ledger.outcome() == 'FINISHED'
  assert through_bytes(ledger).outcome() == 'FINISHED'


def test_a_stream_does_not_shrink_nor_grow_after_its_end():
  ledger = stream(8)
  with pytest.raises(ValueError, match='has 8 records already; got 7'):
    ledger.extend(7, False)
  ledger.extend(9, True)
  ledger.extend(9, True)
  for args in ((10, True), (9, False)):
    with pytest.raises(ValueError, match='was closed with 9'):
      ledger.extend(*args)
  with pytest.raises(ValueError, match='no stream'):
    make().extend(30, False)


def test_a_stream_goes_on_from_a_checkpoint_that_knows_more_of_it():
  """The coordinator lost its journal; who fills the stream will speak up."""
  ledger = stream(4)
  longer = LedgerSpec(17, 4, is_stream=True)
  ledger.begin(state_of({(0, r) for r in range(10)}, longer))
  assert ledger.spec.num_records == 17
  assert ledger.lease('a', 9) == [
    (DataShard(2, 8, 12, 0), 0b0011),
    (DataShard(3, 12, 16, 0), 0),
  ]


def test_states_of_a_stream_are_united_at_different_lengths():
  short, long = (LedgerSpec(n, 4, is_stream=True) for n in (8, 12))
  states = [
    state_of({(0, 0)}, short, (0, 2)),
    state_of({(0, 9), (0, 1)}, long, (1, 2)),
  ]
  merged = ledger_state.merge(states)
  assert merged['num_records'] == 12
  ledger = stream(12)
  ledger.begin(merged)
  assert [bits for _, bits in ledger.lease('a', 9)] == [0b11, 0, 0b10]


# --- Size. --------------------------------------------------------------------


def test_epochs_that_are_over_take_no_room():
  ledger = make(3, 4, num_epochs=None)
  for epoch in range(2000):
    [(shard, _)] = ledger.lease('a', 1)
    assert shard.epoch == epoch
    ledger.consume('a', shard)
  assert len(ledger.to_bytes()) < 1000
  state = {**state_of(set(), ledger.spec), 'first_epoch': 1000}
  ledger.commit(state)
  assert ledger.first_open_epoch == 1000
  assert ledger.counts() == counts(done=1000, consumed=1000)
  assert through_bytes(ledger).to_bytes() == ledger.to_bytes()


def test_the_state_of_many_epochs_of_a_share_is_small_and_loads_fast():
  ledger = make(30_000, 10, (1, 3), num_epochs=None)
  for _ in range(1000 * 200 + 7):
    [(shard, _)] = ledger.lease('w', 1)
    ledger.consume('w', shard)
  text = json.dumps(ledger.state())
  # Two hundred epochs that are alike and one begun, of two sets each.
  assert len(text) < 4 * 3000 / 4 + 1000
  began = time.process_time()
  ledger.begin(json.loads(text))
  assert time.process_time() - began < 0.5
  assert json.dumps(ledger.state()) == text


def check_size(num_shards, most_bytes):
  tracemalloc.start()
  ledger = make(num_shards, 1, seed=3)
  ledger.lease('a', 1)
  kept, _ = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert kept < most_bytes
  began = time.process_time()
  for _ in range(1000):
    for shard, _ in ledger.lease('b', 10):
      ledger.consume('b', shard)
  assert time.process_time() - began < 1  # A lease takes constant time.
  half = ledger.to_bytes()
  state = ledger_state.merge([state_of(set(), ledger.spec)])
  done = index_set.from_flags(np.arange(num_shards) % 3 > 0)
  state['epochs'] = [ledger_state.EpochRun(0, 1, done).to_json()]
  ledger.begin(state)
  ledger.lease('c', 1)
  assert ledger.counts()['done'] == 2 * num_shards // 3
  assert Ledger.from_bytes(half).counts()['consumed'] == 10_000


def test_a_million_shards():
  check_size(10**6, 8 * 10**6)


@pytest.mark.slow
def test_ten_million_shards_take_a_hundred_megabytes():
  check_size(10**7, 100 * 10**6)


# --- Defects of DLRover, by their number in the dossier. ----------------------


def test_dlrover_defect_1_a_bad_shard_is_named_and_counted_not_dropped():
  ledger = make(100, 10)
  [(bad, _)] = ledger.lease('a', 1)
  for attempt in range(3):
    assert ledger.fail('a', bad, 'CRC of row 7 is wrong') == (attempt == 2)
    leases = ledger.lease('a', 20)
    assert (bad in [shard for shard, _ in leases]) == (attempt < 2)
    for shard, _ in leases:
      if shard != bad:
        ledger.give_back('a', shard)
  assert ledger.set_aside() == [(bad, 'CRC of row 7 is wrong')]
  ledger.release()
  records = consume_all(ledger)
  assert ledger.counts()['set_aside'] == 1
  assert sorted([*records, *range(bad.start, bad.stop)]) == list(range(100))


def test_dlrover_defect_2_deaths_of_workers_are_no_errors_of_a_shard():
  ledger = make(100, 10)
  for death in range(50):
    [(shard, _)] = ledger.lease(f'worker-{death}', 1)
    ledger.release([f'worker-{death}'])
  assert ledger.set_aside() == []
  assert sorted(consume_all(ledger)) == list(range(100))


def test_dlrover_defect_3_idle_workers_wait_while_shards_may_come_back():
  ledger = make(8, 4)
  [(shard, _), _] = ledger.lease('a', 2)
  assert ledger.lease('idle', 1) == [] and ledger.outcome() == 'WAIT'
  ledger.release(['a'])
  assert ledger.lease('idle', 1) == [(shard, 0)]


def test_dlrover_defect_5_a_stream_gives_each_record_once():
  ledger = stream()
  given = []
  for size in range(0, 44, 4):
    ledger.extend(size, False)
    before = ledger.to_bytes()
    assert ledger.to_bytes() == before  # Storing it does not change it.
    ledger = through_bytes(ledger)
    given += [shard.index for shard in lease_all(ledger)]
  assert given == list(range(10))


def test_dlrover_defect_7_the_last_shard_of_each_epoch_counts():
  ledger = make(1050, 100, num_epochs=2)
  assert len(lease_all(ledger)) == 22
  assert sum(ledger.counts().values()) == 22


# --- States. ------------------------------------------------------------------


def test_merge_needs_every_worker_once():
  spec = LedgerSpec(10, 2)
  states = [client.state() for client in clients_of(spec, 3)]
  ledger_state.merge(states)
  for wrong in (states[:2], [states[0], *states[:2]], [*states, states[0]]):
    with pytest.raises(ValueError, match='workers 0 to 2 of 3, once each'):
      ledger_state.merge(wrong)
  with pytest.raises(ValueError, match='at least one worker'):
    ledger_state.merge([])
  dynamic = [state_of(set(), spec, (p, 2)) for p in range(2)]
  with pytest.raises(ValueError, match='once each; got 0/2, 0/2'):
    ledger_state.merge([dynamic[0], dynamic[0]])
  with pytest.raises(ValueError, match='share of their own'):
    ledger_state.merge([dynamic[0], clients_of(spec, 2)[1].state()])


def test_merge_of_two_runs():
  spec = LedgerSpec(10, 2)
  begun = LocalLedgerClient(spec)
  begun.ack(begun.lease())
  first, _ = clients_of(spec, 2)
  _, second = clients_of(spec, 2, begun.state())
  for client in (first, second):
    client.lease()
  with pytest.raises(ValueError, match='two workers own the same shards'):
    ledger_state.merge([first.state(), second.state()])


def test_unmark_reopens_epochs_that_were_over():
  spec = LedgerSpec(10, 5, num_epochs=3)
  ledger = Ledger(spec, (0, 1))
  assert len(drain(ledger)) == 30
  before = through_json(ledger.state())
  state = ledger_state.unmark(ledger.state(), [10 + 7, 3])
  assert remaining(state, spec) == [(0, 3), (1, 7)]
  assert ledger.state() == before


def test_unmark_what_was_not_consumed():
  client = LocalLedgerClient(LedgerSpec(10, 5))
  shard = client.lease()
  client.mark(shard, shard.start)
  state = client.state()
  for keys in ([shard.start + 1], [shard.start, shard.start]):
    with pytest.raises(ValueError, match='was not consumed, or is given twice'):
      ledger_state.unmark(state, keys)
  with pytest.raises(ValueError, match='epoch 1 has not begun'):
    ledger_state.unmark(state, [10])
  assert state == client.state()


@pytest.mark.parametrize(
  'members', [[], [0], [63], range(1000), range(0, 100_000, 7), [99_999]]
)
def test_sets_are_read_as_they_were_written(members):
  bitset = index_set.bits(members)
  text = index_set.encode(bitset)
  assert len(text) <= max(1, len(f'{bitset:x}'))
  assert index_set.decode(text) == index_set.decode(f'{bitset:x}') == bitset
  assert index_set.members(bitset).tolist() == list(members)
  flags = np.zeros(100_000, np.uint8)
  flags[list(members)] = 1
  assert index_set.from_flags(flags) == bitset
  assert np.array_equal(index_set.flags(bitset, 100_000), flags)
