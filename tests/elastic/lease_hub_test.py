# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which prefetch process reads which pass; the processes are threads here."""

import pickle
import threading

import numpy as np
import pytest

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import lease_hub
from antjax.elastic.client import CoordinatorClient
from antjax.elastic.protocol import from_shard
from antjax.elastic.service_ledger import ServiceLedgerClient
from antjax.shards import ledger_state
from tests.elastic.jobs_server import eventually, JobsServer

NUM_SHARDS = 12


@pytest.fixture
def ledger():
  data_set = pb.DataSet(
    name='train', num_records=2 * NUM_SHARDS, shard_size=2, num_epochs=1
  )
  with JobsServer() as server:
    with CoordinatorClient(
      server.address, job='job', client='w', give_up_s=30.0
    ) as client:
      ledger = ServiceLedgerClient.connect(client, data_set, read_ahead=0)
      ledger.server = server
      yield ledger
      ledger.close()


def process(ledger, index, count=2):
  """What a prefetch process has: the client as it arrives there."""
  client = pickle.loads(pickle.dumps(ledger))
  client.set_slice(index, count)
  client.start()
  return client


def read(client):
  shard = client.lease()
  if shard is not None:
    client.ack(shard)
  return shard


def has_left(ledger, count):
  eventually(lambda: len(ledger._hub._processes) == count)


def num_begun(ledger):
  return sum(name == 'Begin' for name, _ in ledger.server.requests)


def test_processes_share_a_pass(ledger):
  processes = [process(ledger, i) for i in range(2)]
  seen = [read(processes[i % 2]).index for i in range(NUM_SHARDS)]
  assert sorted(seen) == list(range(NUM_SHARDS))
  assert [p.lease() for p in processes] == [None, None]
  assert num_begun(ledger) == 1
  states = [{**p.state(), 'share': None} for p in processes]
  assert ledger_state.merge(states)['first_epoch'] == 1
  eventually(lambda: ledger.server.ledger().counts()['consumed'] == NUM_SHARDS)


def test_a_second_iterator_begins_a_pass(ledger):
  for count in range(1, 4):
    processes = [process(ledger, i) for i in range(2)]
    seen = [read(processes[i % 2]).index for i in range(NUM_SHARDS)]
    assert sorted(seen) == list(range(NUM_SHARDS))
    assert num_begun(ledger) == count
    for one in processes:
      assert one.lease() is None
      one.close()
    has_left(ledger, 0)


def test_an_iterator_that_is_closed_before_all_its_processes_have_begun(ledger):
  process(ledger, 0)
  first = process(ledger, 1)
  read(first)
  first.close()
  has_left(ledger, 0)
  processes = [process(ledger, i) for i in range(2)]  # Of the next one.
  seen = [read(processes[i % 2]).index for i in range(NUM_SHARDS)]
  assert sorted(seen) == list(range(NUM_SHARDS))
  assert num_begun(ledger) == 2


def test_a_process_that_begins_late_finds_the_end_of_its_own_pass(ledger):
  fast = process(ledger, 0)
  for _ in range(NUM_SHARDS):
    read(fast)
  assert fast.lease() is None
  fast.close()
  has_left(ledger, 0)
  late = process(ledger, 1)
  assert late.lease() is None
  assert num_begun(ledger) == 1


def test_the_older_of_two_live_iterators_is_refused(ledger):
  old = process(ledger, 0)
  read(old)
  new = process(ledger, 0)
  read(new)
  with pytest.raises(RuntimeError, match='a newer iterator'):
    old.lease()
  assert read(new) is not None


def test_all_are_set_to_one_position(ledger):
  processes = [process(ledger, i) for i in range(2)]
  first = read(processes[0])
  state = {**processes[0].state(), 'share': None}
  for one in processes:
    one.load(state)
  seen = [read(processes[i % 2]).index for i in range(NUM_SHARDS - 1)]
  assert sorted([*seen, first.index]) == list(range(NUM_SHARDS))
  assert num_begun(ledger) == 2


def test_different_positions_are_refused(ledger):
  processes = [process(ledger, i) for i in range(2)]
  read(processes[0])
  for one in processes:
    one.load({**one.state(), 'share': None})
  read(processes[0])
  with pytest.raises(ValueError, match='different positions'):
    processes[1].lease()


def test_what_a_process_held_goes_back(ledger):
  processes = [process(ledger, i) for i in range(2)]
  shard = processes[0].lease()
  processes[0].mark(shard, np.array([shard.start]))
  processes[0]._leases.close()  # It dies.
  has_left(ledger, 0)
  seen = [read(processes[1]) for _ in range(NUM_SHARDS)]
  assert shard in seen
  assert processes[1].lease() is None


def test_no_process_waits_for_a_sibling(ledger):
  """Its sibling would wait for its turn, and so both forever."""
  processes = [process(ledger, i) for i in range(2)]
  held = processes[0].lease()
  for _ in range(NUM_SHARDS - 1):
    read(processes[1])
  assert processes[1].lease() is None
  processes[0].ack(held)
  assert processes[0].lease() is None


def test_errors_reach_the_process(ledger):
  one = process(ledger, 0)
  read(one)
  shard = one.lease()
  one.ack(shard)
  one._report(consumed=[from_shard(shard)])  # Twice: the coordinator refuses.
  with pytest.raises(ValueError, match='is named twice|is not leased'):
    while one.lease():
      pass


def test_what_cannot_be_sliced(ledger):
  with pytest.raises(TypeError, match='only mp_prefetch may slice'):
    ledger.set_slice(0, 2)
  with pytest.raises(TypeError, match='use one mp_prefetch'):
    pickle.dumps(process(ledger, 0))
  stream = pb.DataSet(name='s', shard_size=2, is_stream=True)
  with pytest.raises(TypeError, match='is a stream'):
    pickle.dumps(ServiceLedgerClient(ledger._leases, stream))


def test_a_hub_closes_whatever_its_thread_is_at(monkeypatch):
  monkeypatch.setattr(lease_hub.Hub, '_accept', lambda hub: None)  # It ended.
  hub = lease_hub.Hub(None)
  closing = threading.Thread(target=hub.close, daemon=True)
  closing.start()
  closing.join(10)
  assert not closing.is_alive()


def test_a_closed_hub_leaves_no_thread(ledger):
  process(ledger, 0)
  ledger._hub.close()
  eventually(
    lambda: not any(thread.name == 'hub' for thread in threading.enumerate())
  )
