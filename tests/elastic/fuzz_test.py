# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Garbage, half-true requests and slow clients at the coordinator's port.

The server is the real one, in this process so that its state can be compared
byte by byte: what is not answered with OK must have changed nothing, nothing
may fail inside, and what the journal holds must lead to the same state.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import random
import socket
import struct
import threading
import time
import zlib

from google.protobuf.message import DecodeError
import grpc
import psutil
import pytest

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import requests, security, service, writer
from antjax.elastic.controller import Controller
from antjax.elastic.coordinator import Coordinator, CoordinatorConfig
from antjax.elastic.jobs import Jobs
from antjax.input import index_set
from antjax.input.journal import Journal

_TOKENS = {role: f'a-token-of-the-{role}' for role in security.ROLES}
# Who calls: a role, nobody, and one who guesses.
_CALLERS = (*security.ROLES, 'nobody', 'stranger')
_WAIT_S = 30.0
_PREFACE = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'
_SETTINGS = b'\0\0\0\4\0\0\0\0\0'
_GROWTH = 64 << 20


class _Records(logging.Handler):
  """Keeps what the coordinator logs of failures inside."""

  def __init__(self):
    super().__init__(logging.ERROR)
    self.failures = []

  def emit(self, record):
    if record.exc_info or record.levelno >= logging.CRITICAL:
      self.failures.append(self.format(record))


def _digest(data):
  return hashlib.sha256(data).hexdigest()


class _Server:
  """The coordinator's server on an event loop in a thread; ticks when told."""

  def __init__(self, folder):
    self.journal = folder / 'journal.db'
    self._loop = asyncio.new_event_loop()
    self._thread = threading.Thread(target=self._loop.run_forever)
    self._records = _Records()

  def __enter__(self):
    logging.getLogger('absl').addHandler(self._records)
    self._thread.start()
    self.run(self._start())
    self.address = f'127.0.0.1:{self.port}'
    self._channel = grpc.insecure_channel(
      self.address,
      options=[
        ('grpc.max_send_message_length', -1),
        ('grpc.use_local_subchannel_pool', 1),
      ],
    )
    return self

  def __exit__(self, *exc):
    self._channel.close()
    self.run(self._stop())
    self._loop.call_soon_threadsafe(self._loop.stop)
    self._thread.join()
    self._loop.close()
    logging.getLogger('absl').removeHandler(self._records)

  def run(self, coroutine):
    return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(
      _WAIT_S
    )

  async def _start(self):
    self._store = Journal(self.journal)
    self._writer = writer.Writer(writer.load(self._store), self._store)
    self.coordinator = Coordinator(
      CoordinatorConfig(journal=str(self.journal)),
      self._writer,
      Controller(lambda view: []),
    )
    tokens = security.Tokens(
      tuple((token.encode(), role) for role, token in _TOKENS.items())
    )
    self._grpc, self.port = service.make_server(
      service.Service(self.coordinator.handlers(), tokens), '127.0.0.1', 0, None
    )
    await self._grpc.start()

  async def _stop(self):
    await self._grpc.stop(None)
    await self._writer.settled()
    self._writer._thread.shutdown()  # As a kill would: without a snapshot.
    self._store.close()

  def state(self):
    return _digest(self._jobs())

  def _jobs(self):
    async def read():
      return self._writer.jobs.to_bytes()

    return self.run(read())

  def tick(self):
    async def tick():
      self.coordinator.tick()

    self.run(tick())

  def call(self, method, data, caller, timeout=_WAIT_S):
    """Returns (status code, reply)."""
    metadata = []
    if caller != 'nobody':
      token = _TOKENS.get(caller, 'a-token-of-nobody-here')
      metadata = [('authorization', f'Bearer {token}')]
    try:
      path = f'/{service.SERVICE}/{method}'
      reply = self._channel.unary_unary(path)(
        data, timeout=timeout, metadata=metadata
      )
      return grpc.StatusCode.OK, reply
    except grpc.RpcError as error:
      return error.code(), error.details()

  def check(self):
    """Nothing failed inside, and others are still served."""
    assert not self._records.failures, self._records.failures[0]
    for _ in range(100):
      code, reply = self.call('Status', b'', 'operator')
      # gRPC sheds load so while a thousand calls wait; our client repeats too.
      if code is not grpc.StatusCode.CANCELLED:
        break
      time.sleep(0.1)
    assert code is grpc.StatusCode.OK, reply

  def check_journal(self):
    """What is stored leads to the state that was served. Call when stopped."""
    with Journal(self.journal) as journal:
      assert _digest(writer.load(journal).to_bytes()) == self._last

  def remember(self):
    jobs = self._jobs()
    self._last = _digest(jobs)
    assert _digest(Jobs.from_bytes(jobs).to_bytes()) == self._last


# --- Requests that are right, and what is done to them. -----------------------

_INTS = (0, 1, -1, 2, 7, 255, 1001, 10_001, 1 << 31, 1 << 53, (1 << 53) + 1)
_TEXTS = ('', 'train', 'other', 'x' * 129, 'ü', '\0', '../a', 'a\nb', '{}')
_DOUBLES = (0.0, -1.0, 1e308, float('inf'), float('nan'), 5e-324)
_RANGES = {
  'int32': (-(1 << 31), (1 << 31) - 1),
  'int64': (-(1 << 63), (1 << 63) - 1),
  'uint64': (0, (1 << 64) - 1),
}


class _Valid:
  """Makes requests that are right in the state that their answers tell of."""

  def __init__(self, rng):
    self._rng = rng
    self.sequence = 0
    self.held = []
    self.incarnation = rng.getrandbits(63) | 1

  def head(self):
    return pb.Head(
      job='job',
      client='worker',
      incarnation=self.incarnation,
      sequence=self.sequence + 1,
    )

  def start(self):
    """The requests that begin a job with a table and a stream."""
    for name, is_stream in (('train', False), ('stream', True)):
      yield (
        'CreateDataSet',
        pb.CreateDataSetRequest(
          head=self.head(),
          data_set=pb.DataSet(
            name=name,
            num_records=1000,
            shard_size=8,
            num_epochs=1 if is_stream else 0,
            is_stream=is_stream,
          ),
        ),
      )
      yield (
        'Begin',
        pb.BeginRequest(head=self.head(), data_set=name, pass_number=1),
      )

  def make(self):
    """Returns (method, request)."""
    rng, head = self._rng, self.head()
    method = rng.choice([*service.METHODS, 'Exchange', 'Exchange'])
    if method == 'CreateDataSet':
      return next(self.start())
    if method == 'Begin':
      return method, pb.BeginRequest(
        head=head, data_set='train', pass_number=1, state=self._state()
      )
    if method == 'Exchange':
      request = pb.ExchangeRequest(
        head=head,
        data_set='train',
        pass_number=1,
        num_wanted=rng.randrange(3),
      )
      for lease in self.held[:2]:
        kind = rng.randrange(4)
        if kind == 0:
          request.consumed.append(lease.shard)
        elif kind == 1:
          request.progress.append(pb.Lease(shard=lease.shard, consumed=b'\3'))
        elif kind == 2:
          request.returned.append(lease)
        else:
          request.failed.add(shard=lease.shard, message='cannot be read')
      return method, request
    if method == 'Commit':
      return method, pb.CommitRequest(
        head=head, step=rng.randrange(9), states={'train': self._state()}
      )
    if method == 'ExtendStream':
      return method, pb.ExtendStreamRequest(
        head=head, data_set='stream', num_records=1000 + rng.randrange(1000)
      )
    if method == 'Heartbeat':
      return method, pb.HeartbeatRequest(
        head=head,
        step=3,
        batch_times=[pb.BatchTime(step=3, compute_s=0.1, num_micro_batches=2)],
        resources=pb.Resources(cpu_share=0.5, rss_bytes=1 << 30),
        device_kind='cpu',
      )
    if method == 'AgentBeat':
      head.job, head.client = f'of-agents-{rng.randrange(3)}', 'agent'
      return method, pb.AgentBeatRequest(
        head=head,
        address='10.0.0.1',
        free_port=7000,
        status=rng.randrange(3),
        generation=rng.randrange(3),
        exit_code=rng.choice([0, 1, -9]),
        log_tail='the end',
      )
    if method == 'Status':
      return method, pb.StatusRequest(head=head)
    action = rng.choice(['stop', 'restart', 'replace', 'set_plan', 'dance'])
    return method, pb.OperateRequest(
      head=head,
      action=action,
      target='worker',
      plan=pb.Plan(num_micro_batches={'worker': 3}, lr_scale=1.0),
    )

  def learn(self, method, request, reply):
    """Notes that a request was taken."""
    if request.head.client == 'worker':
      if service.METHODS[method].is_journaled:
        self.sequence = max(self.sequence, request.head.sequence) % (1 << 62)
    if method == 'Exchange':
      self.held = list(pb.ExchangeReply.FromString(reply).leases)

  def _state(self):
    """Returns the JSON of a position in the table, often a broken one."""
    rng = self._rng
    state = {
      'version': 1,
      'num_records': 1000,
      'shard_size': 8,
      'seed': 0,
      'num_epochs': None,
      'share': None,
      'first_epoch': 0,
      'epochs': [
        {
          'start': 0,
          'stop': 1,
          'done': '3',
          'assigned': None,
          'marks': {'5': '1'},
          'doing': {},
        }
      ],
    }
    if rng.random() < 0.3:
      return json.dumps(state).encode()
    bomb = zlib.compress(bytes(1 << 20), 9)
    broken = (
      None,
      -1,
      0,
      1 << 70,
      1e300,
      float('nan'),
      '',
      'z' + index_set.base64.b64encode(bomb).decode(),
      'f' * 1000,
      [],
      {},
      {'a': {}},
      True,
    )
    one = rng.choice([state, state['epochs'][0], state['epochs'][0]['marks']])
    one[rng.choice([*one, 'more'])] = rng.choice(broken)
    text = json.dumps(state)
    if rng.random() < 0.1:
      text = '[' * rng.choice([10, 100_000])
    return text.encode()


def _mutate(rng, message):
  """Sets a field of a message, or of one in it, to something extreme."""
  field = rng.choice(message.DESCRIPTOR.fields)
  name, value = field.name, getattr(message, field.name)
  is_map = (
    field.message_type is not None and field.message_type.GetOptions().map_entry
  )
  if rng.random() < 0.1:
    message.ClearField(name)
  elif is_map:
    of = field.message_type.fields_by_name['value']
    key = rng.choice(_TEXTS[:-1])
    if of.type == of.TYPE_BYTES:
      value[key] = rng.randbytes(rng.choice([0, 3, 300]))
    else:
      value[key] = rng.choice([0, -1, 1 << 20, (1 << 31) - 1])
  elif field.is_repeated:
    if field.message_type is None or (value and rng.random() < 0.5):
      value.extend(list(value)[:1] * rng.choice([1, 3, 10_001]))
    else:
      value.add()
      _mutate(rng, value[rng.randrange(len(value))])
  elif field.message_type is not None:
    _mutate(rng, value)
  elif field.type == field.TYPE_STRING:
    setattr(message, name, rng.choice(_TEXTS) * rng.choice([1, 1, 5000]))
  elif field.type == field.TYPE_BYTES:
    setattr(message, name, rng.randbytes(rng.choice([0, 1, 9, 5000])))
  elif field.type == field.TYPE_DOUBLE:
    setattr(message, name, rng.choice(_DOUBLES))
  elif field.type == field.TYPE_BOOL:
    setattr(message, name, not value)
  elif field.type == field.TYPE_ENUM:
    setattr(message, name, rng.choice([-1, 0, 1, 99, (1 << 31) - 1]))
  else:
    kind = {
      field.TYPE_INT32: 'int32',
      field.TYPE_INT64: 'int64',
      field.TYPE_UINT64: 'uint64',
      field.TYPE_FIXED64: 'uint64',
    }[field.type]
    low, high = _RANGES[kind]
    number = rng.choice((*_INTS, low, high, value + 1, value - 1))
    setattr(message, name, min(max(number, low), high))


def _damaged(rng, data):
  """Changes, drops or doubles some bytes."""
  data = bytearray(data or b'\0')
  for _ in range(rng.randrange(1, 4)):
    at = rng.randrange(len(data))
    if rng.random() < 0.5:
      data[at] = rng.randrange(256)
    else:
      data[at:at] = data[at : at + rng.randrange(20)]
  return bytes(data[: rng.randrange(1, len(data) + 1)])


def _is_huge(method, data):
  """Whether it rightly asks for a data set that takes seconds to compare."""
  most = range(100_000, requests.MAX_SHARDS + 1)
  with contextlib.suppress(DecodeError):
    if method == 'CreateDataSet':
      one = pb.CreateDataSetRequest.FromString(data).data_set
      return one.shard_size > 0 and one.num_records // one.shard_size in most
    if method == 'ExtendStream':
      return pb.ExtendStreamRequest.FromString(data).num_records // 8 in most
  return False


def _fuzz_calls(server, seed, num_cases):
  """Sends requests, most of them wrong, and compares the state after each."""
  rng = random.Random(seed)
  valid = _Valid(rng)
  if server.state() == _digest(Jobs().to_bytes()):
    for method, request in valid.start():
      code, reply = server.call(method, request.SerializeToString(), 'worker')
      assert code is grpc.StatusCode.OK, reply
      valid.learn(method, request, reply)
  codes = {}
  before = server.state()
  for case in range(num_cases):
    method, request = valid.make()
    kind = rng.choice(['right', 'mutated', 'mutated', 'damaged', 'random'])
    caller = rng.choice((*_CALLERS, *('operator',) * 5))
    if kind == 'mutated':
      for _ in range(rng.randrange(1, 3)):
        _mutate(rng, request)
    data = request.SerializeToString()
    if kind == 'damaged':
      data = _damaged(rng, data)
    elif kind == 'random':
      data = rng.randbytes(rng.choice([0, 1, 10, 1000]))
      method = rng.choice([method, method, 'Nothing', 'exchange', ''])
    if _is_huge(method, data):
      continue
    code, reply = server.call(method, data, caller)
    codes[code.name] = codes.get(code.name, 0) + 1
    after = server.state()
    where = (
      f'seed {seed}, case {case}: {kind} {method} by {caller}: {reply[:200]!r}'
    )
    if code is grpc.StatusCode.OK:
      assert caller in security.ROLES, where
      assert security.may_call(caller, method), where
      parsed = requests.parse(service.METHODS[method].request, data)
      valid.learn(method, parsed, reply)
    else:
      assert code.name not in ('UNKNOWN', 'INTERNAL', 'UNAVAILABLE'), where
      assert after == before, where
    before = after
  return codes


# --- Bytes on the wire. ------------------------------------------------------


def _frame(kind, flags, stream, payload, length=None):
  size = len(payload) if length is None else length
  head = struct.pack('>I', size)[1:] + bytes([kind, flags])
  return head + struct.pack('>I', stream) + payload


def _literal(name, value):
  """A header that HPACK does not keep."""
  parts = [
    bytes([len(text)]) + text for text in (name.encode(), value.encode())
  ]
  return b'\0' + b''.join(parts)


def _call_head(method='Exchange', token='worker'):
  return b''.join(
    _literal(name, value)
    for name, value in (
      (':method', 'POST'),
      (':scheme', 'http'),
      (':path', f'/{service.SERVICE}/{method}'),
      (':authority', 'localhost'),
      ('content-type', 'application/grpc'),
      ('te', 'trailers'),
      ('authorization', f'Bearer {_TOKENS[token]}'),
    )
  )


def _wire_case(rng):
  """Returns bytes that no client of ours would send."""
  kind = rng.randrange(6)
  if kind == 0:
    return rng.randbytes(rng.choice([1, 9, 100, 5000]))
  if kind == 1:
    return b'GET /status HTTP/1.1\r\nHost: x\r\n\r\n' + rng.randbytes(9)
  data = _PREFACE + _SETTINGS
  if kind == 2:  # Frames of any type on any stream.
    for _ in range(rng.randrange(1, 10)):
      payload = rng.randbytes(rng.choice([0, 4, 5, 8, 100, 9000]))
      length = rng.choice([None, None, 0, 1 << 14, (1 << 24) - 1])
      data += _frame(
        rng.randrange(12),
        rng.randrange(256),
        rng.choice([0, 1, 2, 3, 7, (1 << 31) - 1, 1 << 31]),
        payload,
        length,
      )
  elif kind == 3:  # A call whose message is not what it says.
    body = rng.randbytes(rng.choice([0, 3, 50]))
    size = rng.choice([len(body), 0, 1 << 20, (1 << 32) - 1])
    message = bytes([rng.choice([0, 0, 1, 9])]) + struct.pack('>I', size) + body
    method = rng.choice([*service.METHODS, 'Nothing'])
    data += _frame(1, 4, 1, _call_head(method)) + _frame(0, 1, 1, message)
  elif kind == 4:  # Many calls, each given up at once.
    for stream in range(1, 2 * rng.randrange(1, 200), 2):
      data += _frame(1, 4, stream, _call_head())
      data += _frame(3, 0, stream, struct.pack('>I', 8))
  else:  # Headers without an end.
    data += _frame(1, 0, 1, _call_head())
    for _ in range(rng.randrange(50)):
      data += _frame(9, 0, 1, _literal('x' * 100, 'y' * 120))
  return data


def _fuzz_wire(server, seed, num_cases):
  """Opens connections, sends such bytes, and leaves in different ways."""
  rng = random.Random(seed)
  before = server.state()
  staying = []
  for _ in range(num_cases):
    connection = socket.create_connection(('127.0.0.1', server.port), _WAIT_S)
    with contextlib.suppress(OSError):  # It may hang up first.
      connection.sendall(_wire_case(rng))
      if rng.random() < 0.1:
        connection.shutdown(socket.SHUT_WR)
    if rng.random() < 0.2:
      staying.append(connection)
    else:
      if rng.random() < 0.5:  # Reset instead of an end.
        connection.setsockopt(
          socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)
        )
      connection.close()
    if len(staying) > 100:
      staying.pop(rng.randrange(100)).close()
  server.check()
  for connection in staying:
    connection.close()
  assert server.state() == before


# --- Tests. -------------------------------------------------------------------


def _grow(server, num_calls, num_wire):
  """Fuzzes a while; returns by how many bytes the process has grown."""
  process = psutil.Process()
  _fuzz_calls(server, 1, 200)
  _fuzz_wire(server, 1, 50)
  start = process.memory_info().rss
  codes = _fuzz_calls(server, 2, num_calls)
  _fuzz_wire(server, 2, num_wire)
  return process.memory_info().rss - start, codes


def test_wrong_requests_change_nothing(tmp_path):
  with _Server(tmp_path) as server:
    growth, codes = _grow(server, 1500, 250)
    server.tick()
    server.check()
    server.remember()
  server.check_journal()
  assert growth < _GROWTH
  # The cases are not all refused for the same reason, and not all refused.
  assert {
    'OK',
    'INVALID_ARGUMENT',
    'FAILED_PRECONDITION',
    'UNAUTHENTICATED',
    'PERMISSION_DENIED',
    'UNIMPLEMENTED',
  } <= codes.keys()


def test_messages_that_are_too_large_are_refused(tmp_path):
  with _Server(tmp_path) as server:
    before = server.state()
    for size, code in (
      (requests.MAX_BYTES + 1, 'INVALID_ARGUMENT'),
      (requests.MAX_STATE_BYTES + 8192, 'RESOURCE_EXHAUSTED'),
    ):
      got, text = server.call('Exchange', bytes(size), 'worker')
      assert got.name == code, text
    got, _ = server.call('Exchange', bytes(1 << 20), 'nobody')
    assert got.name == 'UNAUTHENTICATED'
    assert server.state() == before
    server.check()


@pytest.mark.parametrize('sent', ['a byte', 'a call without its message'])
def test_clients_that_stay_silent_keep_nobody_from_being_served(tmp_path, sent):
  data = b'P'
  if sent != 'a byte':
    data = _PREFACE + _SETTINGS + _frame(1, 4, 1, _call_head())
  with _Server(tmp_path) as server, contextlib.ExitStack() as stack:
    for _ in range(200):
      connection = stack.enter_context(
        socket.create_connection(('127.0.0.1', server.port), _WAIT_S)
      )
      connection.sendall(data)
    valid = _Valid(random.Random(0))
    for method, request in valid.start():
      code, reply = server.call(method, request.SerializeToString(), 'worker')
      assert code is grpc.StatusCode.OK, reply
      valid.learn(method, request, reply)
    for _ in range(50):
      request = pb.ExchangeRequest(
        head=valid.head(),
        data_set='train',
        pass_number=1,
        consumed=[lease.shard for lease in valid.held],
        num_wanted=1,
      )
      code, reply = server.call(
        'Exchange', request.SerializeToString(), 'worker'
      )
      assert code is grpc.StatusCode.OK, reply
      valid.learn('Exchange', request, reply)
    server.check()


@pytest.mark.slow
def test_half_open_connections_are_closed(tmp_path):
  with _Server(tmp_path) as server, contextlib.ExitStack() as stack:
    connections = []
    for _ in range(200):
      connection = stack.enter_context(
        socket.create_connection(('127.0.0.1', server.port), 60)
      )
      connection.sendall(b'P')
      connections.append(connection)
    for connection in connections:
      with contextlib.suppress(ConnectionResetError):
        while connection.recv(4096):
          pass


@pytest.mark.slow
def test_memory_does_not_grow_with_names(tmp_path):
  """Beats of agents that nobody knows, each under a name of its own."""
  process = psutil.Process()
  with _Server(tmp_path) as server:

    def beat(case):
      head = pb.Head(job=f'job-{case % 5000}', client=f'agent-{case}')
      request = pb.AgentBeatRequest(head=head, log_tail='x' * 60_000)
      return server.call('AgentBeat', request.SerializeToString(), 'agent')

    for case in range(2000):
      beat(case)
    start = process.memory_info().rss
    for case in range(2000, 12_000):
      beat(case)
      if not case % 1000:
        server.tick()
    server.check()
  assert process.memory_info().rss - start < _GROWTH


@pytest.mark.slow
def test_100_000_cases(tmp_path):
  process = psutil.Process()
  sizes = []
  for seed in range(10):
    folder = tmp_path / str(seed)
    folder.mkdir()
    began = time.monotonic()
    with _Server(folder) as server:
      _fuzz_calls(server, 100 + seed, 8000)
      _fuzz_wire(server, 100 + seed, 2000)
      server.tick()
      server.check()
      server.remember()
    server.check_journal()
    sizes.append(process.memory_info().rss)
    print(f'seed {seed}: {time.monotonic() - began:.0f} s, {sizes[-1]} bytes')
  assert sizes[-1] - sizes[1] < _GROWTH, sizes


if __name__ == '__main__':
  raise SystemExit(pytest.main([__file__]))
