# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Random histories of ledgers: every record exactly once an epoch."""

from collections import Counter
import json

import hypothesis
from hypothesis import stateful
from hypothesis import strategies as st

from antjax.shards import data_shard
from antjax.shards.ledger_client import LocalLedgerClient

_SETTINGS = hypothesis.settings(max_examples=60, stateful_step_count=40)
_WORKERS = ('a', 'b', 'c')


def _through_json(state):
  return json.loads(json.dumps(state))


def _expected(num_records, num_epochs):
  return Counter(
    {
      (epoch, record): 1
      for epoch in range(num_epochs)
      for record in range(num_records)
    }
  )


def _drain(ledger):
  """Consumes all that is to do; yields (epoch, record)."""
  while (shard := ledger.lease('last')) is not None:
    for record in ledger.unconsumed(shard).tolist():
      ledger.mark('last', shard, record)
      yield shard.epoch, record
    ledger.ack('last', shard)


class SharedLedgerMachine(stateful.RuleBasedStateMachine):
  """One ledger, several workers that come and go."""

  NUM_RECORDS = 23  # The last shard is smaller.
  NUM_EPOCHS = 2

  def __init__(self):
    super().__init__()
    self.ledger = data_shard.ShardLedger(
      self.NUM_RECORDS, 4, seed=5, num_epochs=self.NUM_EPOCHS
    )
    self.held = {}  # Worker -> shards.
    self.consumed = Counter()
    self.saved = None
    self.effects_kept_over_a_crash = False

  @stateful.rule(
    plan=st.lists(
      st.tuples(st.sampled_from(_WORKERS), st.booleans(), st.integers(0, 5)),
      min_size=1,
      max_size=6,
    )
  )
  def run(self, plan):
    """Workers lease shards and consume records of the one leased first."""
    for worker, lease, count in plan:
      if lease and (shard := self.ledger.lease(worker)) is not None:
        self.held.setdefault(worker, []).append(shard)
      if self.held.get(worker):
        self.consume(worker, count)

  def consume(self, worker, count):
    shard = self.held[worker][0]
    todo = self.ledger.unconsumed(shard)
    for record in todo[:count]:
      self.ledger.mark(worker, shard, int(record))
      self.consumed[shard.epoch, int(record)] += 1
    if len(todo) <= count:
      self.ledger.ack(worker, shard)
      self.held[worker].remove(shard)

  @stateful.rule(worker=st.sampled_from(_WORKERS))
  def requeue(self, worker):
    if self.held.get(worker):
      self.ledger.requeue(worker, self.held[worker].pop())

  @stateful.rule(worker=st.sampled_from(_WORKERS))
  def die(self, worker):
    """What was marked is kept; the rest of its shards is to do again."""
    held = self.held.pop(worker, [])
    assert self.ledger.requeue_all(worker) == len(held)

  @stateful.rule()
  def restart(self):
    """A ledger restored from its state keeps progress and leases."""
    state = _through_json(self.ledger.to_json())
    self.ledger = data_shard.ShardLedger.from_json(state)
    assert self.ledger.to_json() == state

  @stateful.precondition(lambda self: not self.effects_kept_over_a_crash)
  @stateful.rule(data=st.data())
  def unmark(self, data):
    consumed = sorted(k for k, n in self.consumed.items() if n)
    if not consumed:
      return
    back = data.draw(st.lists(st.sampled_from(consumed), unique=True))
    keys = [epoch * self.NUM_RECORDS + record for epoch, record in back]
    state = data_shard.unmark(self.ledger.to_json(), keys)
    self.ledger = data_shard.ShardLedger.from_json(_through_json(state))
    self.consumed.subtract(back)

  @stateful.rule()
  def save(self):
    self.saved = _through_json(self.ledger.to_json()), Counter(self.consumed)

  @stateful.precondition(lambda self: self.saved is not None)
  @stateful.rule(keep_effects=st.booleans())
  def crash(self, keep_effects):
    """All is lost but the save; the effects of later records may survive."""
    state, consumed = self.saved
    self.ledger = data_shard.ShardLedger.from_json(state)
    self.ledger.requeue_all()
    self.held = {}
    if keep_effects:
      self.effects_kept_over_a_crash = True
      self.consumed |= consumed  # Also of what was unmarked since.
    else:
      self.consumed = Counter(consumed)

  @stateful.invariant()
  def states_partition_the_shards(self):
    num_shards = 6
    for counts in self.ledger.counts().values():
      assert sum(counts.values()) == num_shards
    doing = sum(counts['doing'] for counts in self.ledger.counts().values())
    assert doing == sum(map(len, self.held.values()))

  def teardown(self):
    self.ledger.requeue_all()
    self.consumed.update(_drain(self.ledger))
    assert self.ledger.is_finished()
    expected = _expected(self.NUM_RECORDS, self.NUM_EPOCHS)
    if self.effects_kept_over_a_crash:
      assert not expected - self.consumed
    else:
      assert +self.consumed == expected


class LocalClientsMachine(stateful.RuleBasedStateMachine):
  """P processes that do not talk, saved and restored as P' processes."""

  NUM_RECORDS = 33
  NUM_EPOCHS = 3
  SHARD_SIZE = 7  # Five shards, mostly partly consumed when saved.

  def __init__(self):
    super().__init__()
    self.consumed = Counter()
    self.start(1, None)
    self.save()

  def start(self, num_workers, state):
    ledger = data_shard.ShardLedger(
      self.NUM_RECORDS,
      self.SHARD_SIZE,
      seed=7,
      num_epochs=self.NUM_EPOCHS,
    )
    self.clients = [
      LocalLedgerClient(ledger, worker=p, num_workers=num_workers)
      for p in range(num_workers)
    ]
    if state is not None:
      for client in self.clients:
        client.load(state)
    self.shards = [None] * num_workers
    self.pending = [[] for _ in range(num_workers)]

  @stateful.rule(
    plan=st.lists(
      st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 9)),
      min_size=1,
      max_size=6,
    )
  )
  def run(self, plan):
    """Processes read records into their queues and use some, oldest first."""
    for p, num_read, num_used in plan:
      p %= len(self.clients)
      self.read(p, num_read)
      self.use(p, num_used)

  def read(self, p, count):
    for _ in range(count):
      if self.shards[p] is None:
        self.shards[p] = self.clients[p].lease()
      shard = self.shards[p]
      if shard is None:
        return
      todo = self.clients[p].unconsumed(shard)
      self.clients[p].mark(shard, int(todo[0]))
      self.pending[p].append((shard.epoch, int(todo[0])))
      if len(todo) == 1:
        self.clients[p].ack(shard)
        self.shards[p] = None

  def use(self, p, count):
    self.consumed.update(self.pending[p][:count])
    del self.pending[p][:count]

  def state_of(self, p):
    keys = [e * self.NUM_RECORDS + r for e, r in self.pending[p]]
    return _through_json(data_shard.unmark(self.clients[p].state(), keys))

  @stateful.rule()
  def save(self):
    """What is saved and what is used make up the whole, at every moment."""
    states = [self.state_of(p) for p in range(len(self.clients))]
    state = _through_json(data_shard.merge(states))
    self.saved = state, Counter(self.consumed)
    rest = data_shard.ShardLedger.from_json(state)
    todo = Counter(_drain(rest))
    expected = _expected(self.NUM_RECORDS, self.NUM_EPOCHS)
    assert +self.consumed + todo == expected

  @stateful.rule(
    num_workers=st.integers(1, 4),
    save_first=st.sampled_from((True, True, True, False)),
  )
  def restart(self, num_workers, save_first):
    """All processes end; others go on from what was saved last."""
    if save_first:
      self.save()
    state, consumed = self.saved
    self.consumed = Counter(consumed)
    self.start(num_workers, state)

  @stateful.rule(p=st.integers(0, 3))
  def restore_own_state(self, p):
    """A process goes on from its own state while the others run."""
    p %= len(self.clients)
    self.clients[p].load(self.state_of(p))
    self.shards[p], self.pending[p] = None, []

  @stateful.invariant()
  def no_record_twice(self):
    used = Counter(self.consumed)
    for pending in self.pending:
      used.update(pending)
    assert not used - _expected(self.NUM_RECORDS, self.NUM_EPOCHS)

  def teardown(self):
    self.restart(2, save_first=True)
    for p in range(2):
      self.read(p, self.NUM_RECORDS * self.NUM_EPOCHS)
      self.use(p, self.NUM_RECORDS * self.NUM_EPOCHS)
    assert self.consumed == _expected(self.NUM_RECORDS, self.NUM_EPOCHS)


TestSharedLedger = SharedLedgerMachine.TestCase
TestSharedLedger.settings = _SETTINGS
TestLocalClients = LocalClientsMachine.TestCase
TestLocalClients.settings = _SETTINGS
