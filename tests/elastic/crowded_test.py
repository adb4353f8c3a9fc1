# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Calls whose requests never come keep nobody else from being answered."""

import asyncio
import contextlib
import time

import grpc
import grpc.aio
import pytest

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import protocol, security, service
from antjax.elastic.client import CoordinatorClient
from tests.elastic.coordinator_server import head, join, Server
from tests.elastic.event_loop import beside

# A worker of each of two jobs.
_TOKENS = {job: f'a-token-of-the-job-{job}' for job in 'jk'}
_GRANTS = security.RoleTokens(
  tuple(
    (token.encode(), security.Grant('worker', job))
    for job, token in _TOKENS.items()
  )
)


@contextlib.asynccontextmanager
async def idle_calls(server, name, count):
  """So many calls of a worker of job k; none of them sends its request."""

  async def never():
    await asyncio.Event().wait()
    yield b''

  method = f'/{protocol.SERVICE}/{name}'
  metadata = [('authorization', f'Bearer {_TOKENS["k"]}')]
  async with contextlib.AsyncExitStack() as stack:
    calls = []
    for first in range(0, count, 90):
      options = [('grpc.use_local_subchannel_pool', 1), ('test', first)]
      channel = await stack.enter_async_context(
        grpc.aio.insecure_channel(f'127.0.0.1:{server.port}', options)
      )
      call = channel.stream_unary(method)
      calls += [
        call(never(), metadata=metadata) for _ in range(min(90, count - first))
      ]
    await asyncio.sleep(0.5)  # Until they are there.
    yield calls
    for call in calls:
      call.cancel()


@beside(Server, tokens=_GRANTS)
async def test_idle_begins_take_no_turn_of_another_job(server):
  await server.send(
    'CreateDataSet',
    pb.CreateDataSetRequest(
      head=head(1), data_set=pb.DataSet(name='d', num_records=8, shard_size=4)
    ),
    _TOKENS['j'],
  )
  async with idle_calls(server, 'Begin', 50):
    began = time.monotonic()
    begin = pb.BeginRequest(head=head(2), data_set='d', pass_number=1)
    await server.send('Begin', begin, _TOKENS['j'])
    # Within what a client waits for one answer, with much to spare.
    assert time.monotonic() - began < 4


@pytest.mark.parametrize('name', ['Heartbeat', 'Exchange', 'Commit'])
def test_idle_calls_are_few_and_end(name, monkeypatch, tmp_path):
  monkeypatch.setattr(service, '_MAX_CALLS', 100, raising=False)
  make = service.make_server
  monkeypatch.setattr(
    service, 'make_server', lambda *a, **k: make(*a, **k, max_calls=100)
  )
  monkeypatch.setattr(service, '_MAX_ARRIVING', (20, 40), raising=False)
  monkeypatch.setattr(service, '_READ_TIMEOUT_S', 1.0)

  @beside(Server, tokens=_GRANTS)
  async def check(server):
    async with idle_calls(server, name, 200) as calls:
      beat = pb.HeartbeatRequest(head=head(0))
      await server.send('Heartbeat', beat, _TOKENS['j'])
      done = sum(call.done() for call in calls)
      assert done >= 180
      if name != 'Commit':  # Which wait for their turn first.
        codes = [await asyncio.wait_for(call.code(), 10) for call in calls]
        # gRPC itself may refuse some of those that come at once.
        assert codes.count(grpc.StatusCode.UNAVAILABLE) >= 100

  check(tmp_path=tmp_path)


def test_requests_that_arrive_are_not_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(service, '_MAX_ARRIVING', (1, 1), raising=False)

  @beside(Server)
  async def check(server):
    for name in 'abc':
      await join(server, name)

  check(tmp_path=tmp_path)


def test_a_client_waits_where_grpc_has_too_many_calls(server):
  faults = [
    (grpc.StatusCode.RESOURCE_EXHAUSTED, 'Concurrent RPC limit exceeded!')
  ]
  server.break_call = lambda name, message: faults.pop() if faults else None
  with CoordinatorClient(
    server.address, job='job', client='w', give_up_s=30
  ) as client:
    client.call('Heartbeat', pb.HeartbeatRequest())
  assert not faults
