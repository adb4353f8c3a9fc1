# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Fake workers of our coordinator, and an echo server.

  python -m benchmarks.coordinator_workers workers   takes orders on stdin
  python -m benchmarks.coordinator_workers echo PORT

Processes of `coordinator_bench`. The echo server answers the same messages on
the same grpc.aio with one fake lease: no state, no checks, no journal. It is a
bound for any coordinator in Python on this gRPC.
"""

import asyncio
from collections.abc import Sequence
import dataclasses
import json
import secrets
import sys
from typing import Any

import grpc

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.protocol import METHODS, SERVICE
from benchmarks import coordinator_load

JOB = 'bench'
_TIMEOUT_S = 60.0
_RETRY_S = 0.05


@dataclasses.dataclass(frozen=True)
class Target:
  """Target of the fake workers: a data set without a last epoch."""

  address: str
  token: str = ''
  data_set: str = 'bench'
  num_shards: int = 1_000_000
  shard_size: int = 1000
  num_wanted: int = 1  # Number of shards per round trip.


class Worker:
  """A worker that reports its shards and leases the next ones in one call."""

  def __init__(self, target: Target, name: str):
    self._target = target
    self._head = pb.Head(
      job=JOB, client=name, incarnation=secrets.randbits(63) | 1
    )
    self._metadata = (('authorization', f'Bearer {target.token}'),)
    self._held: list[pb.Shard] = []
    self._calls: dict[str, Any] = {}

  async def open(self) -> None:
    target = self._target
    self._channel = grpc.aio.insecure_channel(
      target.address,
      options=[
        *coordinator_load.CHANNEL_OPTIONS,
        ('grpc.initial_reconnect_backoff_ms', 100),
        ('grpc.max_reconnect_backoff_ms', 500),
      ],
    )
    for name, method in METHODS.items():
      self._calls[name] = self._channel.unary_unary(
        f'/{SERVICE}/{name}',
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=method.reply.FromString,
      )
    await self._channel.channel_ready()
    await self._call(
      'CreateDataSet',
      pb.CreateDataSetRequest(
        data_set=pb.DataSet(
          name=target.data_set,
          num_records=target.num_shards * target.shard_size,
          shard_size=target.shard_size,
        )
      ),
    )
    await self._call(
      'Begin', pb.BeginRequest(data_set=target.data_set, pass_number=1)
    )
    await self.round_trip()

  async def round_trip(self) -> int:
    return await self._exchange(self._target.num_wanted)

  async def close(self) -> None:
    await self._exchange(0)
    await self._channel.close()

  async def commit_epoch(self) -> None:
    """Reports a checkpoint that includes all of the first epoch."""
    target = self._target
    state = {
      'version': 1,
      'num_records': target.num_shards * target.shard_size,
      'shard_size': target.shard_size,
      'seed': 0,
      'num_epochs': None,
      'share': None,
      'first_epoch': 1,
      'epochs': [],
    }
    request = pb.CommitRequest(step=1)
    request.states[target.data_set] = json.dumps(state).encode()
    await self._call('Commit', request)

  async def _exchange(self, num_wanted: int) -> int:
    request = pb.ExchangeRequest(
      data_set=self._target.data_set,
      pass_number=1,
      consumed=self._held,
      num_wanted=num_wanted,
    )
    reply = await self._call('Exchange', request)
    num_reported = len(self._held)
    self._held = [lease.shard for lease in reply.leases]
    assert len(self._held) == num_wanted, reply
    return num_reported

  async def _call(self, name: str, request: Any) -> Any:
    """Sends a request, with the same head, until it is answered."""
    self._head.sequence += 1
    request.head.CopyFrom(self._head)
    while True:
      try:
        return await self._calls[name](
          request, metadata=self._metadata, timeout=_TIMEOUT_S
        )
      except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
          raise
        await asyncio.sleep(_RETRY_S)


async def make_workers(
  names: Sequence[int], **target: Any
) -> Sequence[coordinator_load.Worker]:
  """Returns the workers for an order 'open', with the fields of `Target`."""
  return [Worker(Target(**target), f'worker-{name}') for name in names]


async def _echo(port: int) -> None:
  lease = pb.Lease(shard=pb.Shard(epoch=0, index=7, start=7000, stop=8000))

  async def answer(request: Any, context: Any) -> Any:
    del context
    if isinstance(request, pb.ExchangeRequest):
      return pb.ExchangeReply(leases=[lease] * request.num_wanted)
    return pb.Empty()

  server = grpc.aio.server()
  handlers = {
    name: grpc.unary_unary_rpc_method_handler(
      answer,
      request_deserializer=method.request.FromString,
      response_serializer=lambda message: message.SerializeToString(),
    )
    for name, method in METHODS.items()
  }
  server.add_generic_rpc_handlers(
    (grpc.method_handlers_generic_handler(SERVICE, handlers),)
  )
  server.add_registered_method_handlers(SERVICE, handlers)
  server.add_insecure_port(f'127.0.0.1:{port}')
  await server.start()
  await server.wait_for_termination()


if __name__ == '__main__':
  if sys.argv[1:] == ['workers']:
    asyncio.run(coordinator_load.serve(make_workers))
  else:
    asyncio.run(_echo(int(sys.argv[2])))
