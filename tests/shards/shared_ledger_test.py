# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
import copy
import json
import time
import tracemalloc

from antjax.shards.shared_ledger import LedgerSpec, MAX_SET_ASIDE, SharedLedger
import numpy as np
import pytest

from antjax.shards import data_shard, index_set, ledger_state
from antjax.shards.data_shard import DataShard, ShardLedger
from antjax.shards.ledger_client import LocalLedgerClient
from tests.shards.shared_ledger_machine_test import state_of


def make(num_records=20, shard_size=4, **fields):
  return SharedLedger(LedgerSpec(num_records, shard_size, **fields))


def lease_all(ledger, worker='a'):
  shards = []
  while leases := ledger.lease(worker, 3):
    shards += leases
  return shards


def consume_all(ledger, worker='a'):
  records = []
  while leases := ledger.lease(worker, 1):
    [(shard, bits)] = leases
    consumed = set((shard.start + index_set.members(bits)).tolist())
    records += sorted(set(range(shard.start, shard.stop)) - consumed)
    ledger.consume(worker, shard)
  return records


def through_bytes(ledger):
  return SharedLedger.from_bytes(ledger.to_bytes())


def test_it_leases_in_the_order_of_the_local_ledger():
  local = ShardLedger(50, 4, seed=9, num_epochs=2)
  expected = []
  while shard := local.lease('a'):
    expected.append(shard)
  ledger = make(50, 4, seed=9, num_epochs=2)
  assert [shard for shard, _ in lease_all(ledger)] == expected


def test_each_worker_may_have_several_shards():
  ledger = make()
  assert len(ledger.lease('a', 3)) == 3
  assert len(ledger.lease('b', 3)) == 2
  assert (ledger.num_held('a'), ledger.num_held('b')) == (3, 2)
  assert ledger.holders() == {'a', 'b'}
  assert not ledger.lease('c', 1)


def test_a_shard_that_comes_back_is_the_next_less_what_was_consumed():
  ledger = make()
  [(first, _), (second, _)] = ledger.lease('a', 2)
  ledger.progress('a', second, 0b0001)
  ledger.give_back('a', second, 0b0100)
  assert ledger.lease('b', 1) == [(second, 0b0101)]
  assert ledger.release(['a']) == 1
  assert ledger.lease('b', 1) == [(first, 0)]


def test_a_shard_given_back_when_all_is_consumed_is_consumed():
  ledger = make()
  [(shard, _)] = ledger.lease('a', 1)
  ledger.progress('a', shard, 0b0111)
  ledger.give_back('a', shard, 0b1000)
  assert ledger.counts()['consumed'] == 1
  assert shard not in [one for one, _ in lease_all(ledger)]


def test_the_next_epoch_begins_when_nothing_is_to_do():
  ledger = make(8, 4, num_epochs=2)
  [(first, _), (second, _)] = ledger.lease('a', 2)
  ledger.give_back('a', first, 0)
  [(again, _), (third, _)] = ledger.lease('b', 2)
  assert again == first and third.epoch == 1
  assert (second.epoch, ledger.num_begun_epochs) == (0, 2)


def test_no_shard_is_lost_between_the_last_lease_and_the_end():
  ledger = make(8, 4)
  [(first, _), (second, _)] = ledger.lease('a', 2)
  assert ledger.outcome() == 'WAIT'
  ledger.consume('a', first)
  ledger.give_back('a', second, 0)
  assert ledger.outcome() == 'LEASED'
  ledger.lease('b', 1)
  ledger.consume('b', second)
  assert ledger.outcome() == 'FINISHED'


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'num_records': 0}, 'num_records must be >= 1; got 0'),
    ({'shard_size': 0}, 'shard_size must be >= 1'),
    ({'num_epochs': 0}, 'num_epochs must be >= 1 or None'),
    ({'max_data_errors': 0}, 'max_data_errors must be >= 1'),
    ({'is_stream': True, 'num_epochs': 2}, 'a stream has one epoch'),
  ],
)
def test_what_cannot_be_leased_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    make(**{'num_records': 20, 'shard_size': 4, **fields})


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


# --- Checkpoints. -------------------------------------------------------------


def test_what_is_committed_is_done_and_the_epoch_is_left():
  ledger = make(8, 4, num_epochs=None)
  spec = ledger.spec
  [(first, _), (second, _), (third, _)] = ledger.lease('a', 3)
  ledger.consume('a', first)
  ledger.consume('a', second)
  assert ledger.first_open_epoch == 0
  records = {(0, record) for record in range(8)}
  ledger.commit(state_of(records, spec))
  assert ledger.first_open_epoch == 1
  ledger.consume('a', third)
  # Clients no longer have the first epoch in their states.
  ledger.commit(
    state_of(
      {(1, r) for r in range(third.start, third.stop)}, spec, first_epoch=1
    )
  )
  assert ledger.counts()['done'] == 3


def test_a_commit_may_come_before_the_report():
  """A checkpoint is of all workers; each reports when it comes to it."""
  ledger = make(8, 4)
  [(first, _), (second, _)] = ledger.lease('b', 2)
  records = {(0, record) for record in range(first.start, first.stop)}
  ledger.commit(state_of(records | {(0, second.start)}, ledger.spec))
  assert ledger.counts() == {
    'todo': 0,
    'doing': 1,
    'consumed': 0,
    'done': 1,
    'set_aside': 0,
  }
  ledger = through_bytes(ledger)
  ledger.progress('b', first, 0b1)
  ledger.consume('b', first)
  with pytest.raises(ValueError, match='not leased'):
    ledger.consume('a', first)
  ledger.release(['b'])
  assert ledger.lease('a', 1) == [(second, 0b1)]


def test_begin_takes_states_of_local_ledgers_and_they_its():
  local = ShardLedger(45, 4, seed=2, num_epochs=2)
  clients = [
    LocalLedgerClient(local, worker=p, num_workers=3) for p in range(3)
  ]
  used = []
  for p, client in enumerate(clients):
    for _ in range(p + 1):
      shard = client.lease()
      for record in client.unconsumed(shard)[: 4 - p].tolist():
        client.mark(shard, record)
        used.append(record)
      if p == 0:
        client.ack(shard)
  merged = ledger_state.merge([client.state() for client in clients])
  ledger = make(45, 4, seed=2, num_epochs=2)
  ledger.begin(json.loads(json.dumps(merged)))
  assert sorted(used + consume_all(ledger)) == sorted([*range(45), *range(45)])
  # And back: what a dynamic state has left, a local ledger serves.
  state = state_of({(0, record) for record in used}, ledger.spec)
  whole = ledger_state.merge([state])
  back = ShardLedger(45, 4, seed=2, num_epochs=1)
  back.load(whole)
  rest = []
  while shard := back.lease('x'):
    rest += back.unconsumed(shard).tolist()
    back.ack('x', shard)
  assert sorted(rest + used) == list(range(45))


def test_begin_with_epochs_done_in_part_out_of_order():
  spec = LedgerSpec(8, 4, num_epochs=4)
  consumed = {(0, 1), *((1, r) for r in range(8)), (2, 5), (2, 6)}
  ledger = SharedLedger(spec)
  ledger.begin(state_of(consumed, spec))
  assert ledger.first_open_epoch == 0
  left = sorted(consume_all(ledger))
  assert left == sorted(
    [0, 2, 3, 4, 5, 6, 7] + [0, 1, 2, 3, 4, 7] + list(range(8))
  )
  everything = {(e, r) for e in range(4) for r in range(8)}
  ledger.commit(state_of(everything, spec))
  assert ledger.first_open_epoch == 4


def bad_states():
  spec = LedgerSpec(20, 4)
  good = state_of({(0, 1)}, spec)

  def changed(**fields):
    return {**copy.deepcopy(good), **fields}

  run = good['epochs'][0]
  yield {}, 'Not a state'
  yield changed(num_records=21), 'num_records'
  yield changed(seed=1), 'seed'
  yield changed(is_stream=True), 'is_stream'
  yield changed(share=[0, 2]), 'unite the states of all 2'
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
  bomb = index_set.encode_flags(np.ones(80_000_000, np.uint8))
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
  order = [shard for shard, _ in lease_all(ledger)]
  assert len(order) == 5 and order[-1] == bad


def test_retry_makes_a_shard_to_do_again_with_its_marks():
  ledger = make(8, 4, num_epochs=2, max_data_errors=1)
  [(bad, _)] = ledger.lease('a', 1)
  ledger.progress('a', bad, 0b0011)
  assert ledger.fail('a', bad, 'torn')
  [(good, _)] = ledger.lease('a', 1)
  ledger.consume('a', good)
  ledger.lease('a', 1)  # The next epoch; the first one is over.
  ledger = through_bytes(ledger)
  assert ledger.set_aside() == [(bad, 'torn')]
  assert ledger.retry_set_aside() == 1
  assert ledger.set_aside() == []
  assert ledger.lease('b', 1) == [(bad, 0b0011)]


def test_what_was_set_aside_in_a_committed_epoch_is_not_tried_again():
  ledger = make(8, 4, num_epochs=2, max_data_errors=1)
  [(bad, _), (good, _)] = ledger.lease('a', 2)
  ledger.fail('a', bad, 'torn')
  ledger.consume('a', good)
  records = {(0, record) for record in range(good.start, good.stop)}
  ledger.commit(state_of(records, ledger.spec))
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


# --- Streams. -----------------------------------------------------------------


def stream(num_records=0):
  return make(num_records, 4, is_stream=True)


def test_a_stream_is_leased_in_order_as_it_grows():
  ledger = stream()
  assert ledger.outcome() == 'WAIT'
  ledger.extend(6, False)
  assert lease_all(ledger) == [(DataShard(0, 0, 4, 0), 0)]
  assert ledger.outcome() == 'WAIT'
  ledger.extend(10, False)
  ledger.extend(10, False)
  assert lease_all(ledger) == [(DataShard(1, 4, 8, 0), 0)]
  ledger.extend(10, True)
  [(tail, _)] = lease_all(ledger)
  assert tail == DataShard(2, 8, 10, 0)
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
  merged = ledger_state.merge(
    [
      state_of({(0, 0)}, short, (0, 2)),
      state_of({(0, 9), (0, 1)}, long, (1, 2)),
    ]
  )
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
  assert ledger.counts()['done'] == 1000
  assert ledger.counts()['consumed'] == 1000
  assert through_bytes(ledger).to_bytes() == ledger.to_bytes()


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
  used_s = time.process_time() - began
  half = ledger.to_bytes()
  state = ledger_state.merge([state_of(set(), ledger.spec)])
  state['epochs'] = [
    {
      'start': 0,
      'stop': 1,
      'done': index_set.encode_flags(np.arange(num_shards) % 3 > 0),
      'assigned': None,
      'marks': {},
      'doing': {},
    }
  ]
  ledger.begin(state)
  [(shard, _)] = ledger.lease('c', 1)
  assert ledger.counts()['done'] == 2 * num_shards // 3
  assert SharedLedger.from_bytes(half).counts()['consumed'] == 10_000
  return used_s


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
        ledger.give_back('a', shard, 0)
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
    given += [shard.index for shard, _ in lease_all(ledger)]
  assert given == list(range(10))


def test_dlrover_defect_7_the_last_shard_of_each_epoch_counts():
  ledger = make(1050, 100, num_epochs=2)
  assert len(lease_all(ledger)) == 22
  assert sum(ledger.counts().values()) == 22


# --- States. ------------------------------------------------------------------


def test_dynamic_states_are_united_without_shares():
  spec = LedgerSpec(20, 4, seed=1)
  states = [
    state_of({(0, r) for r in records}, spec, (p, 3))
    for p, records in enumerate([range(6), range(4, 10), ()])
  ]
  merged = ledger_state.merge(states)
  assert merged['share'] is None and 'dynamic' not in merged
  ledger = SharedLedger(spec)
  ledger.begin(merged)
  assert sorted(consume_all(ledger)) == list(range(10, 20))


def test_states_that_do_not_belong_together_are_not_united():
  spec = LedgerSpec(20, 4)
  dynamic = [state_of(set(), spec, (p, 2)) for p in range(2)]
  with pytest.raises(ValueError, match='once each; got 0/2, 0/2'):
    ledger_state.merge([dynamic[0], dynamic[0]])
  local = LocalLedgerClient(ShardLedger(20, 4), worker=1, num_workers=2)
  with pytest.raises(ValueError, match='share of their own'):
    ledger_state.merge([dynamic[0], local.state()])


def test_a_dynamic_state_of_one_of_several_is_not_loaded_alone():
  state = state_of({(0, 1)}, LedgerSpec(20, 4), (0, 2))
  local = LocalLedgerClient(ShardLedger(20, 4), worker=0, num_workers=2)
  with pytest.raises(ValueError, match='unite the states of all 2'):
    local.load(state)


def test_records_of_a_dynamic_state_are_unmarked():
  spec = LedgerSpec(20, 4)
  state = state_of({(0, r) for r in range(8)}, spec, (0, 2))
  state = data_shard.unmark(state, [1, 6, 7])
  other = state_of(set(), spec, (1, 2))
  ledger = SharedLedger(spec)
  ledger.begin(ledger_state.merge([state, other]))
  assert sorted(consume_all(ledger)) == [1, 6, 7, *range(8, 20)]


@pytest.mark.parametrize(
  'members', [[], [0], [63], range(1000), range(0, 100_000, 7), [99_999]]
)
def test_sets_are_read_as_they_were_written(members):
  bitset = index_set.bits(members)
  text = index_set.encode(bitset)
  assert len(text) <= max(1, len(f'{bitset:x}'))
  assert index_set.decode(text) == index_set.decode(f'{bitset:x}') == bitset
  flags = np.zeros(100_000, np.uint8)
  flags[list(members)] = 1
  assert index_set.encode_flags(flags) == text
  for form in (text, f'{bitset:x}'):
    assert np.array_equal(index_set.decode_flags(form, 100_000), flags)


def test_what_was_used_of_a_shard_set_aside_is_lost_with_the_model():
  ledger = SharedLedger(LedgerSpec(8, 4, max_data_errors=1))
  ((shard, _),) = ledger.lease('a', 1)
  ledger.progress('a', shard, 0b1)
  assert ledger.fail('a', shard, 'bad')
  ledger.begin(None)  # Restored: its first record is to be used again.
  assert len(ledger.lease('a', 2)) == 1  # The other one.
  assert ledger.retry_set_aside() == 1
  assert ledger.lease('a', 1) == [(shard, 0)]


@pytest.mark.parametrize('num_records', [8, 7])
def test_shards_whose_parts_make_a_whole_are_done_in_an_epoch_that_is_over(
  num_records,
):
  ledger = make(num_records, 4, max_data_errors=1)
  [(bad, _), (good, _)] = ledger.lease('a', 2)
  ledger.fail('a', bad, 'torn')
  ledger.consume('a', good)
  used = [(0, record) for record in range(good.start, good.stop)]
  states = [
    state_of(part, ledger.spec, (worker, 2))
    for worker, part in enumerate([used[:1], used[1:]])
  ]
  merged = ledger_state.merge(states)
  assert merged['epochs'][0]['marks']  # The test is of these.
  ledger.commit(merged)
  assert ledger.counts()['done'] == 1
  assert ledger.first_open_epoch == 1


def test_a_commit_tells_what_is_consumed_of_a_shard_set_aside_before():
  ledger = make(8, 4, num_epochs=2, max_data_errors=1)
  [(bad, _), (good, _)] = ledger.lease('a', 2)
  ledger.fail('a', bad, 'torn')  # Its first record was used: not yet said.
  ledger.consume('a', good)
  ledger.commit(state_of({(0, bad.start)}, ledger.spec))
  assert ledger.counts() == {
    'todo': 0,
    'doing': 0,
    'consumed': 1,
    'done': 0,
    'set_aside': 1,
  }
  assert ledger.retry_set_aside() == 1
  assert ledger.lease('b', 1) == [(bad, 0b0001)]


def test_a_later_epoch_whose_parts_are_done_is_over_with_the_earlier_one():
  ledger = make(8, 4, num_epochs=2)
  lease_all(ledger)
  shards = [(s, e) for e in (0, 1) for s in ((0, 4), (4, 8))]
  for (start, stop), epoch in shards:
    ledger.consume('a', DataShard(start // 4, start, stop, epoch))

  def commit(used):
    states = [
      state_of(part, ledger.spec, (worker, 2))
      for worker, part in enumerate([used[::2], used[1::2]])
    ]
    ledger.commit(ledger_state.merge(states))

  later = [(1, record) for record in range(8)]
  commit(later)
  assert ledger.counts()['done'] == 2
  commit([(0, record) for record in range(8)] + later)
  assert ledger.first_open_epoch == 2
