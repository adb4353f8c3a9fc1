# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Random histories of a job: generations, zombies, lost replies and crashes."""

from collections import Counter
import json
import os
import pathlib
import tempfile

import hypothesis
from hypothesis import stateful
from hypothesis import strategies as st
import pytest

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import writer
from antjax.elastic.jobs import MESSAGES
from antjax.elastic.protocol import Refused
from antjax.shards import index_set, ledger_state
from antjax.shards.journal import Journal
from antjax.shards.ledger_spec import LedgerSpec
from tests.shards.states import state_of

_SETTINGS = hypothesis.settings(max_examples=30, stateful_step_count=40)
_SPEC = LedgerSpec(num_records=22, shard_size=4, seed=3, num_epochs=2)
_DATA_SET = pb.DataSet(
  name='d', num_records=22, shard_size=4, seed=3, num_epochs=2
)
_NAMES = ('a', 'b', 'c')


class Process:
  """A worker process: what it has sent, and what it holds."""

  def __init__(self, name, incarnation, generation):
    self.name = name
    self.head = pb.Head(
      job='j', client=name, incarnation=incarnation, generation=generation
    )
    self.sent = []
    self.replies = []
    self.pass_number = 1
    self.held = {}  # (epoch, index) -> [shard, consumed offsets].
    self.own = set()  # (epoch, record) that it has consumed.

  def send(self, request):
    self.head.sequence += 1
    request.head.CopyFrom(self.head)
    self.sent.append(request)
    return request


def _without_clients(jobs):
  """The durable state, less the last replies, which may be newer."""
  data = jobs.to_bytes()
  length = int.from_bytes(data[:8], 'little')
  head = json.loads(data[8 : 8 + length])
  for job in head['jobs']:
    job['clients'] = {
      name: [values[0], *values[3:]] for name, values in job['clients'].items()
    }
  return head, data[8 + length :]


class JobMachine(stateful.RuleBasedStateMachine):
  """One job under agents, its coordinator and its journal."""

  def __init__(self):
    super().__init__()
    folder = '/dev/shm' if os.path.isdir('/dev/shm') else None
    self.folder = tempfile.TemporaryDirectory(dir=folder)
    self.path = pathlib.Path(self.folder.name) / 'journal.db'
    self.journal = Journal(self.path)
    self.jobs = writer.load(self.journal)
    self.now = 0.0
    self.num_incarnations = 0
    self.processes = []
    self.zombies = []
    self.saved = self.restored = b''
    self.base = set()  # Consumed in the restored checkpoint.
    self.saved_set = set()

  def teardown(self):
    self.end_generation(True)
    self.start_generation(1)
    [process] = self.processes
    for _ in range(100):
      reply = self.exchange(process, 3)
      for lease in reply.leases:
        self.use_all(process, lease.shard)
      if reply.outcome == pb.ExchangeReply.FINISHED:
        break
    assert self.lineage() == Counter(
      {(e, r): 1 for e in range(2) for r in range(22)}
    )
    self.commit()
    assert self.jobs.job('j').data_sets['d'].first_open_epoch == 2
    self.journal.close()
    self.folder.cleanup()

  # --- The coordinator. -------------------------------------------------------

  def answer(self, request, is_durable=True):
    """As the writer does: applied, stored, answered; or lost in a crash."""
    self.now += 1
    reply, is_changed = self.jobs.answer(request, self.now)
    if is_changed and is_durable:
      number = MESSAGES.index(type(request))
      self.journal.append([(number, request.SerializeToString(), self.now)])
    return reply

  def decide(self, message):
    self.now += 1
    if self.jobs.decide(message, self.now):
      number = MESSAGES.index(type(message))
      self.journal.append([(number, message.SerializeToString(), self.now)])

  def reload(self):
    self.journal.close()
    self.journal = Journal(self.path)
    self.jobs = writer.load(self.journal)

  def ask(self, process, request, fate='answered'):
    """Sends a request whose reply, or which itself, may be lost in a crash."""
    process.send(request)
    if fate == 'request lost':
      self.answer(request, is_durable=False)
      self.reload()
    elif fate == 'reply lost':
      first = self.answer(request)
      self.reload()
      assert self.answer(request) == first
      process.replies.append(first)
      return first
    reply = self.answer(request)
    process.replies.append(reply)
    return reply

  @stateful.rule()
  def crash(self):
    before = _without_clients(self.jobs)
    self.reload()
    assert _without_clients(self.jobs) == before

  @stateful.rule()
  def snapshot(self):
    self.journal.snapshot(self.jobs.to_bytes())

  # --- Generations. -----------------------------------------------------------

  @stateful.precondition(lambda self: not self.processes)
  @stateful.rule(num_workers=st.integers(1, 3))
  def start_generation(self, num_workers):
    names = _NAMES[:num_workers]
    self.decide(
      pb.StartGeneration(job='j', members=names, jax_coordinator='h:1')
    )
    generation = self.jobs.job('j').generation
    self.restored = self.saved
    for name in names:
      self.num_incarnations += 1
      process = Process(name, self.num_incarnations, generation)
      self.processes.append(process)
      self.ask(process, pb.CreateDataSetRequest(data_set=_DATA_SET))
      self.begin(process)
    self.base = set(self.saved_set)

  def begin(self, process):
    self.ask(
      process,
      pb.BeginRequest(
        data_set='d', state=self.restored, pass_number=process.pass_number
      ),
    )

  @stateful.precondition(lambda self: self.processes)
  @stateful.rule(counts=st.booleans())
  def end_generation(self, counts):
    generation = self.jobs.job('j').generation
    self.decide(pb.EndGeneration(job='j', generation=generation, counts=counts))
    self.zombies += self.processes
    del self.zombies[:-4]
    self.processes = []
    self.base = set(self.saved_set)

  @stateful.precondition(lambda self: self.processes)
  @stateful.rule()
  def next_pass(self):
    """All go back to the last checkpoint without a new generation."""
    self.restored = self.saved
    for process in self.processes:
      process.pass_number += 1
      process.held, process.own = {}, set()
      self.begin(process)
    self.base = set(self.saved_set)

  # --- Workers. ---------------------------------------------------------------

  def use_all(self, process, shard):
    lease = process.held[shard.epoch, shard.index]
    for offset in range(shard.stop - shard.start):
      self.use_one(process, lease, offset)

  def use_one(self, process, lease, offset):
    shard, used = lease
    if offset not in used and offset < shard.stop - shard.start:
      used.add(offset)
      key = (shard.epoch, shard.start + offset)
      assert key not in process.own
      process.own.add(key)

  @stateful.precondition(lambda self: self.processes)
  @stateful.rule(data=st.data(), count=st.integers(1, 5))
  def use(self, data, count):
    process = data.draw(st.sampled_from(self.processes))
    for lease in list(process.held.values())[:1]:
      for offset in range(count):
        self.use_one(process, lease, offset)

  @stateful.precondition(lambda self: self.processes)
  @stateful.rule(
    data=st.data(),
    num_wanted=st.integers(0, 3),
    give_back=st.booleans(),
    fate=st.sampled_from(['answered', 'request lost', 'reply lost']),
  )
  def talk(self, data, num_wanted, give_back, fate):
    process = data.draw(st.sampled_from(self.processes))
    self.exchange(process, num_wanted, give_back, fate)

  def exchange(self, process, num_wanted, give_back=False, fate='answered'):
    request = pb.ExchangeRequest(
      data_set='d', pass_number=process.pass_number, num_wanted=num_wanted
    )
    for key, (shard, used) in list(process.held.items()):
      bits = index_set.bits(used).to_bytes(1, 'little')
      if len(used) == shard.stop - shard.start:
        request.consumed.append(shard)
        del process.held[key]
      elif give_back:
        request.returned.append(pb.Lease(shard=shard, consumed=bits))
        del process.held[key]
      else:
        request.progress.append(pb.Lease(shard=shard, consumed=bits))
    reply = pb.ExchangeReply.FromString(self.ask(process, request, fate))
    for lease in reply.leases:
      bits = int.from_bytes(lease.consumed, 'little')
      key = (lease.shard.epoch, lease.shard.index)
      assert key not in process.held
      process.held[key] = [
        lease.shard,
        set(index_set.members(bits).tolist()),
      ]
    return reply

  @stateful.precondition(lambda self: self.processes)
  @stateful.rule()
  def commit(self):
    num = len(self.processes)
    merged = ledger_state.merge(
      [
        state_of(self.base | process.own, _SPEC, (rank, num))
        for rank, process in enumerate(self.processes)
      ]
    )
    self.saved = json.dumps(merged).encode()
    self.saved_set = set(self.lineage())
    self.ask(
      self.processes[0],
      pb.CommitRequest(step=int(self.now), states={'d': self.saved}),
    )

  # --- What must change nothing. ----------------------------------------------

  @stateful.precondition(lambda self: self.processes)
  @stateful.rule(data=st.data())
  def repeat(self, data):
    """The last request again has the same reply; an older one none."""
    process = data.draw(st.sampled_from(self.processes))
    client = self.jobs.job('j').clients[process.name]
    if client.sequence < process.sent[-1].head.sequence:
      return  # It changed nothing, and is forgotten in a crash.
    before = _without_clients(self.jobs)
    assert self.answer(process.sent[-1]) == process.replies[-1]
    older = data.draw(st.sampled_from(process.sent))
    if older is not process.sent[-1]:
      with pytest.raises(Refused, match='FAILED_PRECONDITION'):
        self.answer(older)
    assert _without_clients(self.jobs) == before

  @stateful.precondition(lambda self: self.processes)
  @stateful.rule(data=st.data())
  def begin_again(self, data):
    """A worker that is late begins the pass in which others are at work."""
    process = data.draw(st.sampled_from(self.processes))
    ledger = self.jobs.job('j').data_sets['d']
    before = ledger.to_bytes()
    self.begin(process)
    assert ledger.to_bytes() == before

  @stateful.precondition(lambda self: self.zombies)
  @stateful.rule(data=st.data())
  def zombie(self, data):
    """A process of a generation that is over says something."""
    process = data.draw(st.sampled_from(self.zombies))
    before = self.jobs.to_bytes()
    late = data.draw(
      st.sampled_from(
        [
          process.sent[-1],
          pb.ExchangeRequest(data_set='d', pass_number=1, num_wanted=1),
          pb.BeginRequest(data_set='d', pass_number=99),
          pb.CommitRequest(states={'d': self.saved or b'{}'}),
          pb.CreateDataSetRequest(data_set=_DATA_SET),
        ]
      )
    )
    if late is not process.sent[-1]:
      process.send(late)
    with pytest.raises(Refused, match='FAILED_PRECONDITION'):
      self.answer(late)
    assert self.jobs.to_bytes() == before

  @stateful.precondition(lambda self: self.jobs.job('j').generation > 1)
  @stateful.rule()
  def late_decision(self):
    """A decision about an older generation comes too late."""
    before = self.jobs.to_bytes()
    generation = self.jobs.job('j').generation - 1
    self.decide(pb.EndGeneration(job='j', generation=generation))
    if self.processes:
      self.decide(pb.StartGeneration(job='j', members=['z']))
    assert self.jobs.to_bytes() == before

  def lineage(self):
    used = Counter(self.base)
    for process in self.processes:
      used.update(process.own)
    return used

  @stateful.invariant()
  def nothing_is_consumed_twice(self):
    assert max(self.lineage().values(), default=0) <= 1

  @stateful.invariant()
  def shards_are_partitioned(self):
    ledger = self.jobs.job('j').data_sets.get('d')
    if ledger is not None:
      counts = ledger.counts()
      assert sum(counts.values()) == 6 * ledger.num_begun_epochs
      assert counts['doing'] <= sum(len(p.held) for p in self.processes)


TestJob = JobMachine.TestCase
TestJob.settings = _SETTINGS
