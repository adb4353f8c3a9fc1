# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Random histories of ledgers: every record once in a lineage.

A lineage is what led to a model: all that was consumed since the restored
checkpoint, and what is in that. One machine plays all ways to hand shards out:
workers that share a ledger, workers with static shares, and streams.
"""

from collections import Counter

import hypothesis
from hypothesis import stateful
from hypothesis import strategies as st

from antjax.shards import index_set, ledger_state
from antjax.shards.data_shard import DataShard
from antjax.shards.ledger import Ledger
from antjax.shards.ledger_spec import LedgerSpec
from tests.shards.states import (
  drain,
  records_of,
  remaining,
  state_of,
  through_json,
)

_SETTINGS = hypothesis.settings(max_examples=30, stateful_step_count=40)
_WORKERS = ('a', 'b', 'c', 'd')


class LedgerMachine(stateful.RuleBasedStateMachine):
  """Workers that come and go, checkpoints and crashes."""

  SPEC = LedgerSpec(
    num_records=23, shard_size=4, seed=5, num_epochs=3, max_data_errors=2
  )

  def __init__(self):
    super().__init__()
    self.lineage = Counter()
    self.saved = (None, set())
    self.committed = set()  # In any checkpoint since the restored one.
    self.begin_run()

  def begin_run(self):
    self.held = {}  # (worker, shard) -> records consumed, in all.
    self.reported = {}  # The same, what the ledger was told.
    self.own = {}  # (epoch, record) -> worker that has consumed it.

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
      worker = list(self.ledgers)[_WORKERS.index(worker) % len(self.ledgers)]
      mine = [key for key in self.held if key[0] == worker]
      if what == 'lease' or not mine:
        self.lease(worker, count)
      elif what == 'use':
        self.use(mine[0], count)
      else:
        self.report(mine[-1] if what == 'back' else mine[0], what)

  def lease(self, worker, count):
    ledger = self.ledgers[worker]
    for _ in range(count):
      counts, begun = ledger.counts(), ledger.num_begun_epochs
      outcome = ledger.outcome()
      leases = ledger.lease(worker, 1)
      if ledger.num_begun_epochs > begun:
        assert not counts['todo'], 'an epoch began while shards were to do'
      if not leases:
        assert outcome == ('WAIT' if counts['doing'] else self.at_the_end())
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

  def use(self, key, count):
    worker, shard = key
    left = sorted(set(range(shard.start, shard.stop)) - self.held[key])
    for record in left[:count]:
      self.lineage[shard.epoch, record] += 1
      self.own[shard.epoch, record] = worker
      self.held[key].add(record)

  def report(self, key, what):
    worker, shard = key
    ledger, records = self.ledgers[worker], self.held[key]
    bits = index_set.bits(record - shard.start for record in records)
    self.reported[key] = set(records)
    if bits.bit_count() == len(shard):
      ledger.consume(worker, shard)
    elif what == 'back':
      ledger.give_back(worker, shard, bits)
    else:
      ledger.progress(worker, shard, bits)
      if what == 'say':
        return
      self.fail(worker, shard)
    del self.held[key], self.reported[key]

  @stateful.rule(workers=st.sets(st.sampled_from(_WORKERS)))
  def expire(self, workers):
    """What they consumed and did not say is not in any model."""
    ledgers = set(self.ledgers.values())
    held = sum(ledger.counts()['doing'] for ledger in ledgers)
    assert sum(ledger.release(workers) for ledger in ledgers) <= held
    for key in [k for k in self.held if k[0] in workers]:
      _, shard = key
      for record in self.held.pop(key) - self.reported.pop(key):
        del self.lineage[shard.epoch, record], self.own[shard.epoch, record]

  @stateful.rule(data=st.data(), num_workers=st.integers(1, 3))
  def save(self, data, num_workers=1):
    """A checkpoint; some records were read and wait in a queue: not in it."""
    new = sorted(key for key in self.own if key not in self.committed)
    waiting = data.draw(st.sets(st.sampled_from(new))) if new else set()
    merged = through_json(self.merged(data, num_workers, waiting))
    saved = set(self.lineage) - waiting
    assert not saved & set(remaining(merged, self.SPEC))
    self.saved = merged, saved
    self.committed |= saved

  def keys(self, waiting):
    return [e * self.SPEC.num_records + r for e, r in sorted(waiting)]

  @stateful.rule(
    worker=st.sampled_from(_WORKERS), index=st.integers(-1, 6), epoch=st.just(0)
  )
  def a_stranger_changes_nothing(self, worker, index, epoch):
    shard = DataShard(
      index, index * 4, min(index * 4 + 4, self.SPEC.num_records), epoch
    )
    if (worker, shard) in self.held:
      return
    for ledger in set(self.ledgers.values()):
      before = through_json(ledger.state()), ledger.counts()
      for call in (
        lambda: ledger.progress(worker, shard, 1),
        lambda: ledger.give_back(worker, shard, 1),
        lambda: ledger.fail(worker, shard, 'x'),
        lambda: ledger.consume(worker, shard),
      ):
        try:
          call()
        except ValueError:
          pass
      assert (through_json(ledger.state()), ledger.counts()) == before

  @stateful.invariant()
  def nothing_is_consumed_twice(self):
    assert max(self.lineage.values(), default=0) <= 1

  def teardown(self):
    self.expire(set(_WORKERS))
    for worker, ledger in self.ledgers.items():
      self.lineage.update(drain(ledger, worker))
      assert ledger.outcome() == 'FINISHED'
    self.nothing_is_consumed_twice()
    lost = {r for shard in self.lost() for r in records_of(shard)}
    expected = {
      (epoch, record)
      for epoch in range(self.SPEC.num_epochs)
      for record in range(self.SPEC.num_records)
    }
    assert expected - lost <= set(self.lineage) <= expected

  def lost(self):
    return []


class SharedMachine(LedgerMachine):
  """All workers lease from the coordinator's ledger."""

  def __init__(self):
    super().__init__()
    self.ledgers = dict.fromkeys(_WORKERS[:3], Ledger(self.SPEC))

  @property
  def ledger(self):
    return self.ledgers['a']

  def fail(self, worker, shard):
    self.ledger.fail(worker, shard, 'cannot be read')

  def merged(self, data, num_workers, waiting):
    parts = [set() for _ in range(num_workers)]
    for key in sorted(self.lineage):
      parts[data.draw(st.integers(0, num_workers - 1))].add(key)
    states = [
      state_of(part, self.SPEC, (p, num_workers))
      for p, part in enumerate(parts)
    ]
    return ledger_state.unmark(ledger_state.merge(states), self.keys(waiting))

  @stateful.rule(data=st.data(), num_workers=st.integers(1, 3))
  def save(self, data, num_workers):
    super().save(data, num_workers)
    state, saved = self.saved
    self.ledger.commit(state)
    once = self.ledger.to_bytes()
    self.ledger.commit(state)
    assert self.ledger.to_bytes() == once
    done = Counter((e, r // 4) for e, r in self.committed)
    whole = [len(self.SPEC.shard(*key)) == n for key, n in done.items()]
    assert self.ledger.counts()['done'] == sum(whole)
    for (worker, shard), records in self.held.items():
      self.reported[worker, shard] |= {
        record for record in records if (shard.epoch, record) in saved
      }

  @stateful.rule()
  def restore(self):
    state, saved = self.saved
    self.ledger.begin(state)
    once = self.ledger.to_bytes()
    self.ledger.begin(state)
    assert self.ledger.to_bytes() == once
    assert not self.ledger.counts()['doing']
    self.lineage, self.committed = Counter(saved), set(saved)
    self.begin_run()

  @stateful.rule(then=st.booleans())
  def crash(self, then):
    data = self.ledger.to_bytes()
    again = Ledger.from_bytes(data)
    assert again.to_bytes() == data
    if then:  # The next leases are those that it would have given.
      leases = self.ledger.lease('last', 2)
      assert again.lease('last', 2) == leases
      again.release(['last'])
    self.ledgers = dict.fromkeys(self.ledgers, again)

  @stateful.rule()
  def retry(self):
    known = len(self.ledger.set_aside())
    count = self.ledger.retry_set_aside()
    assert len(self.ledger.set_aside()) == known - count

  @stateful.invariant()
  def shards_are_partitioned(self):
    counts = self.ledger.counts()
    begun = self.ledger.num_begun_epochs
    assert min(counts.values()) >= 0
    assert sum(counts.values()) == begun * self.num_shards()
    assert counts['doing'] <= len(self.held)
    assert self.ledger.holders() <= {worker for worker, _ in self.held}
    assert counts['set_aside'] == len(
      [s for s, _ in self.ledger.set_aside() if s.epoch < begun]
    )

  def num_shards(self):
    return 6

  def lost(self):
    return [shard for shard, _ in self.ledger.set_aside()]

  def teardown(self):
    super().teardown()
    self.ledger.commit(state_of(self.lineage, self.SPEC))
    assert self.ledger.first_open_epoch == self.SPEC.num_epochs


class StreamMachine(SharedMachine):
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

  def num_shards(self):
    return self.size // 4

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


class StaticMachine(LedgerMachine):
  """Workers that do not talk; a run may resume with another number of them."""

  SPEC = LedgerSpec(num_records=33, shard_size=7, seed=7, num_epochs=3)

  def __init__(self):
    super().__init__()
    self.start(1, None)

  def start(self, num_workers, state):
    self.begin_run()
    self.ledgers = {}
    for p, worker in enumerate(_WORKERS[:num_workers]):
      self.ledgers[worker] = Ledger(self.SPEC, (p, num_workers))
      self.ledgers[worker].begin(state)

  def fail(self, worker, shard):
    self.ledgers[worker].give_back(worker, shard)

  def own_state(self, worker, waiting):
    """The state of a worker, which tells its ledger all before."""
    for key in [k for k in self.held if k[0] == worker]:
      self.report(key, 'say')
    mine = {key for key in waiting if self.own[key] == worker}
    state = self.ledgers[worker].state()
    return through_json(ledger_state.unmark(state, self.keys(mine)))

  def merged(self, data, num_workers, waiting):
    states = [self.own_state(worker, waiting) for worker in self.ledgers]
    return ledger_state.merge(data.draw(st.permutations(states)))

  @stateful.rule(data=st.data())
  def save(self, data):
    super().save(data)
    # What is saved and what is to do make up the whole, at every moment.
    state, saved = self.saved
    assert len(saved) + len(remaining(state, self.SPEC)) == 99

  @stateful.rule(
    data=st.data(),
    num_workers=st.integers(1, 4),
    save_first=st.sampled_from((True, True, True, False)),
  )
  def restart(self, data, num_workers, save_first):
    """All processes end; others resume from what was saved last."""
    if save_first:
      self.save(data)
    state, saved = self.saved
    self.lineage, self.committed = Counter(saved), set(saved)
    self.start(num_workers, state)

  @stateful.rule(data=st.data(), worker=st.sampled_from(_WORKERS))
  def restore_own_state(self, data, worker):
    """A process resumes from its own state while the others run."""
    if worker not in self.ledgers:
      return
    new = sorted(
      key
      for key in self.own
      if self.own[key] == worker and key not in self.committed
    )
    waiting = data.draw(st.sets(st.sampled_from(new))) if new else set()
    state = self.own_state(worker, waiting)
    for key in waiting:
      del self.lineage[key], self.own[key]
    for key in [k for k in self.held if k[0] == worker]:
      del self.held[key], self.reported[key]
    share = (_WORKERS.index(worker), len(self.ledgers))
    self.ledgers[worker] = Ledger(self.SPEC, share)
    self.ledgers[worker].begin(state)

  @stateful.invariant()
  def leases_are_known(self):
    for worker, ledger in self.ledgers.items():
      held = [key for key in self.held if key[0] == worker]
      assert ledger.counts()['doing'] == ledger.num_held(worker) == len(held)


class AtMostOnceMachine(stateful.RuleBasedStateMachine):
  """Whatever happens, no record is leased twice."""

  SPEC = LedgerSpec(
    num_records=23, shard_size=4, seed=5, num_epochs=2, at_most_once=True
  )

  def __init__(self):
    super().__init__()
    self.ledger = Ledger(self.SPEC)
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
      self.consumed.update(records_of(shard))
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
    self.ledger = Ledger.from_bytes(self.ledger.to_bytes())

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


TestShared = SharedMachine.TestCase
TestShared.settings = _SETTINGS
TestStatic = StaticMachine.TestCase
TestStatic.settings = _SETTINGS
TestStream = StreamMachine.TestCase
TestStream.settings = _SETTINGS
TestAtMostOnce = AtMostOnceMachine.TestCase
TestAtMostOnce.settings = _SETTINGS
