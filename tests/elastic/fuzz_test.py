# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Garbage, half-true requests and slow clients at the coordinator's port.

The server is the real one, in this process so that its state can be compared
byte by byte: what is not answered with OK must have changed nothing, nothing
may fail inside, and what the journal holds must lead to the same state.
"""

import contextlib
import ctypes
import functools
import gc
import logging
import random
import socket
import struct

import grpc
import psutil
import pytest

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import protocol, requests, service
from antjax.elastic.jobs import Jobs
from tests.elastic import fuzz_requests
from tests.elastic.coordinator_server import CoordinatorServer, digest, WAIT_S
from tests.elastic.fuzz_wire import (
  call_head,
  frame,
  PREFACE,
  SETTINGS,
  wire_case,
)

# Who calls: a role, nobody, and one who guesses.
_CALLERS = (*protocol.ROLES, 'nobody', 'stranger')
_GROWTH = 64 << 20


def _fuzz_calls(server, seed, num_cases):
  """Sends requests, most of them wrong, and compares the state after each."""
  rng = random.Random(seed)
  valid = fuzz_requests.Valid(rng)
  if server.state() == digest(Jobs().to_bytes()):
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
        fuzz_requests.mutate(rng, request)
    data = request.SerializeToString()
    if kind == 'damaged':
      data = fuzz_requests.damaged(rng, data)
    elif kind == 'random':
      data = rng.randbytes(rng.choice([0, 1, 10, 1000]))
      method = rng.choice([method, method, 'Nothing', 'exchange', ''])
    if fuzz_requests.is_huge(method, data):
      continue
    code, reply = server.call(method, data, caller)
    codes[code.name] = codes.get(code.name, 0) + 1
    after = server.state()
    where = (
      f'seed {seed}, case {case}: {kind} {method} by {caller}: {reply[:200]!r}'
    )
    if code is grpc.StatusCode.OK:
      assert caller in protocol.ROLES, where
      assert protocol.METHODS[method].may_be_called_by(caller), where
      parsed = requests.parse(protocol.METHODS[method].request, data)
      valid.learn(method, parsed, reply)
    else:
      assert code.name not in ('UNKNOWN', 'INTERNAL', 'UNAVAILABLE'), where
      # A revision above the journal's is no wrong request.
      assert after == before or 'changes of the job are gone' in reply, where
    before = after
  return codes


def _fuzz_wire(server, seed, num_cases):
  """Opens connections, sends such bytes, and leaves in different ways."""
  rng = random.Random(seed)
  before = server.state()
  staying = []
  for _ in range(num_cases):
    connection = socket.create_connection(('127.0.0.1', server.port), WAIT_S)
    with contextlib.suppress(OSError):  # It may hang up first.
      connection.sendall(wire_case(rng))
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


def _grow(server, num_calls, num_wire):
  """Fuzzes a while; returns by how many bytes the process has grown."""
  process = psutil.Process()
  # After this many calls its memory has its full size and only swings.
  _fuzz_calls(server, 1, 700)
  _fuzz_wire(server, 1, 120)
  start = process.memory_info().rss
  codes = _fuzz_calls(server, 2, num_calls)
  _fuzz_wire(server, 2, num_wire)
  return process.memory_info().rss - start, codes


def test_wrong_requests_change_nothing(tmp_path):
  with CoordinatorServer(tmp_path) as server:
    growth, codes = _grow(server, 600, 120)
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
  with CoordinatorServer(tmp_path) as server:
    before = server.state()
    for method, size, code, said in (
      ('Exchange', requests.MAX_BYTES + 1, 'INVALID_ARGUMENT', 'at most'),
      ('Exchange', requests.MAX_STATE_BYTES + 8192, 'RESOURCE_EXHAUSTED', ''),
      ('Begin', requests.MAX_STATE_BYTES + 8192, 'RESOURCE_EXHAUSTED', ''),
    ):
      got, text = server.call(method, bytes(size), 'worker')
      assert got.name == code and said in text, text
    got, _ = server.call('Exchange', bytes(1 << 20), 'nobody')
    assert got.name == 'UNAUTHENTICATED'
    assert server.state() == before
    server.check()


@pytest.mark.parametrize('sent', ['a byte', 'a call without its message'])
def test_clients_that_stay_silent_keep_nobody_from_being_served(tmp_path, sent):
  data = b'P'
  if sent != 'a byte':
    data = PREFACE + SETTINGS + frame(1, 4, 1, call_head())
  with CoordinatorServer(tmp_path) as server, contextlib.ExitStack() as stack:
    for _ in range(200):
      connection = stack.enter_context(
        socket.create_connection(('127.0.0.1', server.port), WAIT_S)
      )
      connection.sendall(data)
    valid = fuzz_requests.Valid(random.Random(0))
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
  with CoordinatorServer(tmp_path) as server, contextlib.ExitStack() as stack:
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
  with CoordinatorServer(tmp_path) as server:

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
def test_100_000_cases(tmp_path, monkeypatch):
  process = psutil.Process()
  # gRPC keeps some 15 KiB for each call that may wait: half a GiB for 30,000,
  # which only millions of calls fill. And pytest would keep each line logged.
  small = functools.partial(service.make_server, max_calls=1000)
  monkeypatch.setattr(service, 'make_server', small)
  monkeypatch.setattr(logging.root.manager, 'disable', logging.CRITICAL)
  sizes = []
  for seed in range(10):
    folder = tmp_path / str(seed)
    folder.mkdir()
    with CoordinatorServer(folder) as server:
      _fuzz_calls(server, 100 + seed, 8000)
      _fuzz_wire(server, 100 + seed, 2000)
      server.tick()
      server.check()
      server.remember()
    server.check_journal()
    # Without what was given back, of which the C library keeps tens of MiB.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    sizes.append(process.memory_info().rss)
  assert sizes[-1] - sizes[1] < _GROWTH, sizes
