# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""No request of a worker takes the coordinator's time or memory from others."""

import asyncio
import base64
from concurrent import futures
import contextlib
import gc
import json
import time
import zlib

import grpc
import psutil
import pytest

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import job_data, requests, service
from antjax.elastic.client import CoordinatorClient
from antjax.elastic.jobs import Jobs
from antjax.elastic.protocol import Refused
from antjax.shards import index_set
from antjax.shards.ledger import Ledger
from antjax.shards.ledger_spec import LedgerSpec, MAX_OPEN_EPOCHS
from tests.elastic.coordinator_server import (
  CoordinatorProcess,
  DATA_SET,
  exchange,
  head,
  join,
  Server,
)
from tests.elastic.event_loop import beside, run
from tests.elastic.jobs_test import INVALID, refused, Worker

# The loop of a busy test machine may be late by itself; what is tested blocked
# it for tens of seconds.
_LATE_S = 2.0


def position(epochs, num_records=400, shard_size=4, first=0, **fields):
  return {
    'version': 1,
    'num_records': num_records,
    'shard_size': shard_size,
    'seed': 0,
    'num_epochs': None,
    'share': None,
    'first_epoch': first,
    'epochs': epochs,
    **fields,
  }


def epochs(start, stop, done='0', marks=None):
  return {
    'start': start,
    'stop': stop,
    'done': done,
    'assigned': None,
    'marks': marks or {},
    'doing': {},
  }


_MANY = 2 * MAX_OPEN_EPOCHS
_LARGE_SET = index_set.encode((1 << (1 << 20)) - 1)
HOSTILE = {
  'epochs': position([epochs(0, 1 << 28)], 4),
  'epochs_of_two': position([epochs(0, _MANY, '1')], 8),
  'first_epoch': position([], first=1 << 70),
  'a_long_first': position([epochs(0, 1 << 70)]),
  'large_sets': position(
    [epochs(i, i + 1, _LARGE_SET) for i in range(999)], 1 << 22
  ),
  'large_marks': position(
    [epochs(0, 1, marks={str(i): _LARGE_SET for i in range(9999)})],
    1 << 36,
    1 << 20,
  ),
}


@pytest.mark.parametrize('name', HOSTILE)
@pytest.mark.parametrize('at_most_once', [False, True])
def test_a_position_that_is_too_much_is_refused_at_once(name, at_most_once):
  state = HOSTILE[name]
  ledger = Ledger(
    LedgerSpec(
      num_records=state['num_records'],
      shard_size=state['shard_size'],
      num_epochs=None,
      at_most_once=at_most_once,
    )
  )
  ledger.lease('a', 3)
  before = ledger.to_bytes()
  began = time.process_time()
  with pytest.raises(ValueError, match='epoch|runs|marks|whole'):
    ledger.begin(state)
  assert time.process_time() - began < _LATE_S
  assert ledger.to_bytes() == before


@pytest.mark.slow
def test_as_many_epochs_as_may_be_open_are_soon_begun_and_committed():
  ledger = Ledger(LedgerSpec(num_records=8, shard_size=4, num_epochs=None))
  state = position(
    [epochs(i, i + 1, '12'[i % 2]) for i in range(MAX_OPEN_EPOCHS)], 8
  )
  began = time.process_time()
  ledger.begin(state)
  ledger.commit(state)
  assert len(ledger.lease('a', 2 * MAX_OPEN_EPOCHS)) >= MAX_OPEN_EPOCHS
  # No more are opened; the others wait for those that are leased.
  assert ledger.lease('b', 1) == [] and ledger.outcome() == 'WAIT'
  Ledger.from_bytes(ledger.to_bytes()).begin(ledger.state())
  assert time.process_time() - began < 5 * _LATE_S


def test_epochs_that_end_in_any_order_take_little_time():
  ledger = Ledger(LedgerSpec(num_records=4, shard_size=4, num_epochs=None))
  shards = [shard for shard, _ in ledger.lease('a', 10_000)]
  began = time.process_time()
  for shard in [*shards[1::2], *shards[::2]]:
    ledger.consume('a', shard)
  assert time.process_time() - began < _LATE_S
  assert ledger.num_begun_epochs == 10_000 and not ledger.num_held('a')


def test_data_sets_share_the_memory_of_their_job(monkeypatch):
  size, most = 1 << 20, 32
  monkeypatch.setattr(job_data, 'MAX_OPEN_SHARDS', (most + 1) * size)
  jobs = Jobs()
  worker = Worker(jobs, 'a')

  def create(name):
    data_set = pb.DataSet(name=name, num_records=size, shard_size=1)
    worker.send(pb.CreateDataSetRequest(data_set=data_set))

  def begin(name, num_epochs):
    state = position([epochs(0, num_epochs)], size, 1)
    text = json.dumps(state).encode()
    request = pb.BeginRequest(data_set=name, pass_number=1, state=text)
    worker.send(request)

  create('a')
  refused(jobs, INVALID, 'at most', lambda: begin('a', most + 1))
  began = time.process_time()
  begin('a', most)
  assert time.process_time() - began < _LATE_S
  create('b')
  refused(jobs, INVALID, 'at most', lambda: begin('b', 2))
  begin('b', 1)
  refused(jobs, 'RESOURCE_EXHAUSTED', 'room for 0 of', lambda: create('c'))


def _keys(count):
  return b'{' + b','.join(b'"%d":[]' % i for i in range(count)) + b'}'


def _many_states(size):
  entry = b'\x1a\x06\x0a\x04%04d'
  parts = b''.join(entry % (i % 10_000) for i in range(10_000))
  return _requested(pb.CommitRequest) + parts * (size // len(parts))


def _requested(kind, **fields):
  return kind(head=head(3), **fields).SerializeToString()


LARGE = {
  'empty_dicts': lambda size: _requested(
    pb.BeginRequest,
    data_set='d',
    pass_number=1,
    state=b'[' + b'{},' * (size // 3) + b'{}]',
  ),
  'keys': lambda size: _requested(
    pb.BeginRequest, data_set='d', pass_number=1, state=_keys(size // 12)
  ),
  'keys_of_many': lambda size: _requested(
    pb.CommitRequest, states={f'd{i}': _keys(size // 600) for i in range(50)}
  ),
  'many_states': _many_states,
  'batch_times': lambda size: (
    _requested(pb.HeartbeatRequest) + b'\x22\x00' * (size // 100)
  ),
}
KINDS = {
  'batch_times': pb.HeartbeatRequest,
  'many_states': pb.CommitRequest,
  'keys_of_many': pb.CommitRequest,
}


@pytest.mark.parametrize('name', LARGE)
def test_what_takes_long_to_read_is_refused_before(name):
  data = LARGE[name](28 << 20)
  began = time.process_time()
  with pytest.raises(Refused, match='at most|<= 10000') as caught:
    requests.parse(KINDS.get(name, pb.BeginRequest), data)
  assert caught.value.code == INVALID
  assert time.process_time() - began < _LATE_S / 4


def test_the_largest_position_of_a_ledger_is_not_too_large():
  ledger = Ledger(
    LedgerSpec(num_records=4 << 11, shard_size=4, num_epochs=None)
  )
  state = {**position([], 4 << 11), 'epochs': []}
  for number in range(MAX_OPEN_EPOCHS):  # Each of other shards, at random.
    done = index_set.encode(1 << number % 2048 | 1 << number * 7 % 2048)
    state['epochs'].append(epochs(number, number + 1, done))
  marks = {str(i): '3' for i in range(2048)}
  state['epochs'][0] = epochs(0, 1, marks=marks)
  ledger.begin(state)
  text = json.dumps(ledger.state()).encode()
  begin = pb.BeginRequest(head=head(3), data_set='d', pass_number=1, state=text)
  assert requests.parse(pb.BeginRequest, begin.SerializeToString()) == begin


class Watch:
  """How late the event loop was, at worst, in CPU time."""

  async def __aenter__(self):
    self.late_s = 0.0
    self._task = asyncio.ensure_future(self._watch())
    return self

  async def _watch(self):
    while True:
      began = time.process_time()
      await asyncio.sleep(0.01)
      self.late_s = max(self.late_s, time.process_time() - began - 0.01)

  async def __aexit__(self, *exc):
    self._task.cancel()


def bomb(num_bits):
  """A set of no members as text that unpacks to so many zeros."""
  packed = zlib.compress(bytes(num_bits // 8))
  return 'z' + base64.b64encode(packed).decode()


OTHER = {  # Of a data set other than the ledger's, which has 400 records.
  'a_short_shard_of_many': position(
    [epochs(0, 1, marks={'0': '1'})], (2 << 30) + 1, 2
  ),
  'a_large_set': position([epochs(0, 1, bomb(1 << 30))], 1 << 30, 1),
  'many_marks': position(
    [epochs(0, 1, marks={str(i): '1' for i in range(100_000)})], 1 << 24, 1
  ),
}


@pytest.mark.parametrize('name', OTHER)
def test_runs_of_another_data_set_are_not_read(name):
  text = json.dumps(OTHER[name]).encode()
  began = time.process_time()
  with pytest.raises(Refused, match='different data sets: num_records'):
    job_data.parse('d', LedgerSpec(num_records=400, shard_size=4), text)
  assert time.process_time() - began < _LATE_S


def test_marks_of_many_shards_are_soon_read():
  spec = LedgerSpec(num_records=(2 << 21) + 1, shard_size=2)
  marks = dict.fromkeys(map(str, range(100_000)), '1')
  states = [
    position([epochs(0, 1, marks=marks)], spec.num_records, 2),  # One record
    position(
      [epochs(0, 1, marks=dict.fromkeys(marks, '3'))], spec.num_records, 2
    ),
  ]
  began = time.process_time()
  some, whole = (spec.read_runs(state)[0] for state in states)
  assert time.process_time() - began < 3 * _LATE_S
  assert len(some.marks) == 100_000 and not whole.marks
  assert whole.done == (1 << 100_000) - 1


@run
async def test_hostile_begins_are_refused_and_harm_nobody(tmp_path):
  async with Server(tmp_path) as server, Watch() as watch:
    await join(server)
    for number, state in enumerate(HOSTILE.values(), 3):
      state = {**state, 'num_records': 400, 'shard_size': 4}
      request = pb.BeginRequest(
        head=head(number),
        data_set='d',
        pass_number=number,
        state=json.dumps(state).encode(),
      )
      await server.refused('Begin', request, 'INVALID_ARGUMENT')
    assert (await server.send('Exchange', exchange(20))).leases
    assert watch.late_s < _LATE_S


@run
async def test_a_refused_request_is_let_go_of_at_once(tmp_path):
  freed = []

  class Request(bytes):
    def __del__(self):
      freed.append(len(self))

  async def read(context, read=service._read):
    return Request(await read(context))

  async with Server(tmp_path) as server:
    await join(server)
    gc.collect()
    gc.disable()  # Which may not come for minutes.
    try:
      with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, '_read', read)
        for name in ('d', 'none', '?'):
          begin = pb.BeginRequest(
            head=head(3), data_set=name, pass_number=9, state=b'{}'
          )
          with contextlib.suppress(grpc.aio.AioRpcError):
            await server.send('Begin', begin)
      await asyncio.sleep(0.1)
      assert len(freed) == 3
    finally:
      gc.enable()


@pytest.mark.slow
def test_large_requests_are_read_one_after_the_other(tmp_path):
  state = json.dumps(position([])).encode() + b' ' * (30 << 20)
  request = pb.BeginRequest(data_set='d', pass_number=1, state=state)
  with CoordinatorProcess(tmp_path) as process:
    coordinator = psutil.Process(process.process.pid)
    clients = [
      CoordinatorClient(process.address, job='j', client=f'w{i}')
      for i in range(10)
    ]
    for client in clients:
      client.call('CreateDataSet', pb.CreateDataSetRequest(data_set=DATA_SET))
    before = coordinator.memory_info().rss
    with futures.ThreadPoolExecutor(10) as threads:
      calls = [threads.submit(c.call, 'Begin', request) for c in clients]
      most, late_s = 0, 0.0
      while not all(call.done() for call in calls):
        began = time.monotonic()
        clients[0].call('Heartbeat', pb.HeartbeatRequest())
        late_s = max(late_s, time.monotonic() - began)
        most = max(most, coordinator.memory_info().rss - before)
        time.sleep(0.02)
    for call in calls:
      call.result()
    for client in clients:
      client.close()
  print(f'{most >> 20} MiB, {late_s:.2f} s')
  assert most < 600 << 20 and late_s < 5 * _LATE_S


@pytest.mark.slow
@beside(Server)
async def test_a_large_order_is_computed_beside_the_loop(server):
  large = pb.DataSet(name='d', num_records=1 << 22, shard_size=1)
  await server.send(
    'CreateDataSet', pb.CreateDataSetRequest(head=head(1), data_set=large)
  )
  await server.send(
    'Begin', pb.BeginRequest(head=head(2), data_set='d', pass_number=1)
  )
  async with Watch() as watch:
    assert (await server.send('Exchange', exchange(3))).leases
  assert watch.late_s < _LATE_S
