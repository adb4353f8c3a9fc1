# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Random histories of a shared ledger: every record once in a lineage.

A lineage is what led to a model: all that was consumed since the restored
checkpoint, and what is in that.
"""

from collections import Counter
import json

import hypothesis
from hypothesis import stateful
from hypothesis import strategies as st

from antjax.shards import data_shard, index_set, ledger_state
from antjax.shards.ledger_spec import LedgerSpec
from antjax.shards.shared_ledger import SharedLedger

_SETTINGS = hypothesis.settings(max_examples=60, stateful_step_count=40)
_WORKERS = ('a', 'b', 'c')


def state_of(consumed, spec, share=(0, 1), first_epoch=0):
  """A dynamic state with these (epoch, record)."""
  shards = ledger_state.num_shards(spec.num_records, spec.shard_size)
  runs = []
  for epoch in range(
    first_epoch, max((e for e, _ in consumed), default=-1) + 1
  ):
    _, position_of = ledger_state.shard_order(shards, spec.seed, epoch)
    offsets = {}
    for other, record in consumed:
      if other == epoch:
        index, offset = divmod(record, spec.shard_size)
        place = index if spec.is_stream else int(position_of[index])
        offsets.setdefault((place, index), []).append(offset)
    done, marks = [], {}
    for (place, index), values in offsets.items():
      start = index * spec.shard_size
      if len(values) == min(spec.shard_size, spec.num_records - start):
        done.append(place)
      else:
        marks[str(place)] = index_set.encode(index_set.bits(values))
    runs.append(
      {
        'start': epoch,
        'stop': epoch + 1,
        'done': index_set.encode(index_set.bits(done)),
        'assigned': None,
        'marks': marks,
        'doing': {},
      }
    )
  state = {
    'version': 1,
    'num_records': spec.num_records,
    'shard_size': spec.shard_size,
    'seed': spec.seed,
    'num_epochs': spec.num_epochs,
    'share': list(share),
    'dynamic': True,
    'first_epoch': first_epoch,
    'epochs': runs,
  }
  if spec.is_stream:
    state['is_stream'] = True
  return json.loads(json.dumps(state))


class LedgerMachine(stateful.RuleBasedStateMachine):
  """Workers that come and go; checkpoints; a coordinator that crashes."""

  SPEC = LedgerSpec(
    num_records=23, shard_size=4, seed=5, num_epochs=3, max_data_errors=2
  )
  NUM_SHARDS = 6

  def __init__(self):
    super().__init__()
    self.ledger = SharedLedger(self.SPEC)
    self.held = {}  # (worker, shard) -> records consumed, in all.
    self.reported = {}  # The same, what the ledger was told.
    self.lineage = Counter()
    self.saved = (None, Counter())

  def length(self, index):
    return min(4, self.SPEC.num_records - 4 * index)

  def bits(self, shard, records):
    return index_set.bits(record - shard.start for record in records)

  @stateful.rule(
    plan=st.lists(
      st.tuples(
        st.sampled_from(_WORKERS),
        st.sampled_from(['lease', 'use', 'use', 'say', 'say', 'back', 'fail']),
        st.integers(1, 4),
      ),
      min_size=4,
      max_size=16,
    )
  )
  def run(self, plan):
    """Workers lease shards, consume records, and say so now or later."""
    for worker, what, count in plan:
      mine = [key for key in self.held if key[0] == worker]
      if what == 'lease' or not mine:
        self.lease(worker, count)
      elif what == 'use':
        self.use(mine[0], count)
      else:
        self.report(mine[-1] if what == 'back' else mine[0], what)

  def lease(self, worker, count):
    for _ in range(count):
      todo, begun = self.ledger.counts()['todo'], self.ledger.num_begun_epochs
      outcome = self.ledger.outcome()
      leases = self.ledger.lease(worker, 1)
      if self.ledger.num_begun_epochs > begun:
        assert not todo, 'an epoch began while shards were to do'
      if not leases:
        assert outcome == ('WAIT' if self.doing() else self.at_the_end())
        continue
      [(shard, bits)] = leases
      assert outcome == 'LEASED'
      consumed = {shard.start + int(o) for o in index_set.members(bits)}
      before = {r for e, r in self.lineage if e == shard.epoch}
      assert consumed == before & set(range(shard.start, shard.stop))
      assert len(consumed) < len(shard)
      self.held[worker, shard] = set(consumed)
      self.reported[worker, shard] = set(consumed)

  def at_the_end(self):
    return 'FINISHED'

  def doing(self):
    return self.ledger.counts()['doing']

  def use(self, key, count):
    _, shard = key
    left = sorted(set(range(shard.start, shard.stop)) - self.held[key])
    for record in left[:count]:
      self.lineage[shard.epoch, record] += 1
      self.held[key].add(record)

  def report(self, key, what):
    worker, shard = key
    bits = self.bits(shard, self.held[key])
    self.reported[key] = set(self.held[key])
    if bits.bit_count() == len(shard):
      self.ledger.consume(worker, shard)
    elif what == 'back':
      self.ledger.give_back(worker, shard, bits)
    else:
      self.ledger.progress(worker, shard, bits)
      if what == 'say':
        return
      self.ledger.fail(worker, shard, 'cannot be read')
    del self.held[key], self.reported[key]

  @stateful.rule(workers=st.sets(st.sampled_from(_WORKERS)))
  def expire(self, workers):
    """What they consumed and did not say is not in any model."""
    held = self.ledger.counts()['doing']
    assert self.ledger.release(workers) <= held
    for key in [k for k in self.held if k[0] in workers]:
      _, shard = key
      for record in self.held.pop(key) - self.reported.pop(key):
        del self.lineage[shard.epoch, record]

  @stateful.rule(num_workers=st.integers(1, 3), data=st.data())
  def save(self, num_workers, data):
    """A checkpoint, whose state is that of several workers united."""
    parts = [set() for _ in range(num_workers)]
    for key in sorted(self.lineage):
      parts[data.draw(st.integers(0, num_workers - 1))].add(key)
    states = [
      state_of(part, self.SPEC, (p, num_workers))
      for p, part in enumerate(parts)
    ]
    merged = ledger_state.merge(states)
    self.ledger.commit(merged)
    once = self.ledger.to_bytes()
    self.ledger.commit(merged)
    assert self.ledger.to_bytes() == once
    done = Counter((e, r // 4) for e, r in self.lineage)
    sizes = [self.length(index) for _, index in done]
    whole = sum(n == size for n, size in zip(done.values(), sizes))
    assert self.ledger.counts()['done'] == whole
    self.saved = json.loads(json.dumps(merged)), Counter(self.lineage)
    for key, records in self.held.items():
      self.reported[key] = set(records)

  @stateful.rule()
  def restore(self):
    state, lineage = self.saved
    self.ledger.begin(state)
    once = self.ledger.to_bytes()
    self.ledger.begin(state)
    assert self.ledger.to_bytes() == once
    self.lineage = Counter(lineage)
    self.held, self.reported = {}, {}
    assert not self.ledger.counts()['doing']

  @stateful.rule(then=st.booleans())
  def crash(self, then):
    data = self.ledger.to_bytes()
    again = SharedLedger.from_bytes(data)
    assert again.to_bytes() == data
    if then:  # The next leases are those that it would have given.
      leases = self.ledger.lease('last', 2)
      assert again.lease('last', 2) == leases
      again.release(['last'])
    self.ledger = again

  @stateful.rule()
  def retry(self):
    known = len(self.ledger.set_aside())
    count = self.ledger.retry_set_aside()
    assert len(self.ledger.set_aside()) == known - count

  @stateful.rule(worker=st.sampled_from(_WORKERS), index=st.integers(-1, 6))
  def a_stranger_changes_nothing(self, worker, index):
    before = self.ledger.to_bytes()
    shard = data_shard.DataShard(
      index, index * 4, min(index * 4 + 4, self.SPEC.num_records), 0
    )
    if (worker, shard) in self.held:
      return
    for call in (
      lambda: self.ledger.progress(worker, shard, 1),
      lambda: self.ledger.give_back(worker, shard, 1),
      lambda: self.ledger.fail(worker, shard, 'x'),
      lambda: self.ledger.consume(worker, shard),
    ):
      try:
        call()
      except ValueError:
        pass
    assert self.ledger.to_bytes() == before

  @stateful.invariant()
  def shards_are_partitioned(self):
    counts = self.ledger.counts()
    begun = self.ledger.num_begun_epochs
    assert min(counts.values()) >= 0
    assert sum(counts.values()) == begun * self.NUM_SHARDS
    assert counts['doing'] <= len(self.held)
    assert counts['set_aside'] == len(
      [s for s, _ in self.ledger.set_aside() if s.epoch < begun]
    )

  @stateful.invariant()
  def nothing_is_consumed_twice(self):
    assert max(self.lineage.values(), default=0) <= 1

  def teardown(self):
    self.expire(set(_WORKERS))
    for _ in range(1000):
      leases = self.ledger.lease('last', 2)
      if not leases:
        break
      for shard, bits in leases:
        consumed = shard.start + index_set.members(bits)
        for record in set(range(shard.start, shard.stop)) - set(consumed):
          self.lineage[shard.epoch, record] += 1
        self.ledger.consume('last', shard)
    self.nothing_is_consumed_twice()
    assert self.ledger.outcome() == 'FINISHED'
    lost = {
      (shard.epoch, record)
      for shard, _ in self.ledger.set_aside()
      for record in range(shard.start, shard.stop)
    }
    expected = {
      (epoch, record)
      for epoch in range(self.SPEC.num_epochs)
      for record in range(self.SPEC.num_records)
    }
    assert expected - lost <= set(self.lineage) <= expected
    self.ledger.commit(state_of(self.lineage, self.SPEC))
    assert self.ledger.first_open_epoch == self.SPEC.num_epochs


class AtMostOnceMachine(stateful.RuleBasedStateMachine):
  """Whatever happens, no record is leased twice."""

  SPEC = LedgerSpec(
    num_records=23, shard_size=4, seed=5, num_epochs=2, at_most_once=True
  )

  def __init__(self):
    super().__init__()
    self.ledger = SharedLedger(self.SPEC)
    self.leased = set()
    self.consumed = set()
    self.held = set()
    self.saved = None

  @stateful.rule(worker=st.sampled_from(_WORKERS))
  def lease(self, worker):
    for shard, bits in self.ledger.lease(worker, 1):
      assert shard not in self.leased and not bits
      self.leased.add(shard)
      self.held.add((worker, shard))

  @stateful.precondition(lambda self: self.held)
  @stateful.rule(data=st.data(), how=st.sampled_from(['use', 'back', 'fail']))
  def end(self, data, how):
    key = data.draw(st.sampled_from(sorted(self.held, key=str)))
    worker, shard = key
    self.held.remove(key)
    if how == 'use':
      self.ledger.consume(worker, shard)
      self.consumed |= {
        (shard.epoch, record) for record in range(shard.start, shard.stop)
      }
    elif how == 'back':
      self.ledger.give_back(worker, shard, 1)
    else:
      assert self.ledger.fail(worker, shard, 'cannot be read')

  @stateful.rule(workers=st.sets(st.sampled_from(_WORKERS)))
  def expire(self, workers):
    self.ledger.release(workers)
    self.held = {key for key in self.held if key[0] not in workers}

  @stateful.rule()
  def save(self):
    self.saved = state_of(self.consumed, self.SPEC)
    self.ledger.commit(self.saved)

  @stateful.rule()
  def restore(self):
    self.ledger.begin(self.saved)
    self.held = set()

  @stateful.rule()
  def crash(self):
    self.ledger = SharedLedger.from_bytes(self.ledger.to_bytes())

  @stateful.invariant()
  def shards_are_partitioned(self):
    counts = self.ledger.counts()
    assert sum(counts.values()) == self.ledger.num_begun_epochs * 6
    assert counts['doing'] == len(self.held)

  def teardown(self):
    self.restore()
    while leases := self.ledger.lease('last', 1):
      assert leases[0][0] not in self.leased
      self.leased.add(leases[0][0])
      self.ledger.consume('last', leases[0][0])
    assert len(self.leased) == 12


class StreamMachine(LedgerMachine):
  """The same for a stream that grows while it is consumed, and ends."""

  SPEC = LedgerSpec(
    num_records=0, shard_size=4, is_stream=True, max_data_errors=2
  )

  def __init__(self):
    super().__init__()
    self.size = 0

  @stateful.rule(count=st.integers(0, 9))
  def grow(self, count):
    if self.size < 60:
      self.size += count
      self.ledger.extend(self.size, False)
      self.SPEC = self.ledger.spec

  @stateful.invariant()
  def shards_are_partitioned(self):
    counts = self.ledger.counts()
    assert sum(counts.values()) == self.size // 4
    assert counts['doing'] <= len(self.held)

  def at_the_end(self):
    return 'WAIT'

  @stateful.rule()
  def restore(self):
    super().restore()
    assert self.ledger.spec.num_records == self.size

  def teardown(self):
    self.ledger.extend(self.size, True)
    self.SPEC = self.ledger.spec
    super().teardown()


TestLedger = LedgerMachine.TestCase
TestLedger.settings = _SETTINGS
TestAtMostOnce = AtMostOnceMachine.TestCase
TestAtMostOnce.settings = _SETTINGS
TestStream = StreamMachine.TestCase
TestStream.settings = _SETTINGS
