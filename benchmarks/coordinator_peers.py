# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""DLRover's master as the peer of our coordinator: server and fake workers.

  python -m benchmarks.coordinator_peers workers   takes orders on stdin
  python -m benchmarks.coordinator_peers kept ADDRESS

run in the environment of `make peers-dlrover`. DLRover's packages conflict with
ours, so neither our packages nor absl are imported here.

A round trip of a fake worker is two calls, `report` of the last task and `get`
of the next one, since the peer has no call for both. They use DLRover's stub
and messages, on grpc.aio like ours. Its own `GrpcMasterClient` blocks, so 64
workers need 64 threads, which reached a fifth to two thirds fewer pairs with
the same master.
"""

import asyncio
from collections.abc import Sequence
import importlib
import json
import sys
from typing import Any

import grpc

from benchmarks import coordinator_load

DATA_SET = 'bench'


# A local master, as started by `dlrover-run`; a port is appended.
MASTER = (
  *('dlrover.python.master.main', '--platform=local', '--job_name=bench'),
)


def _dlrover(module: str) -> Any:
  """Returns one of DLRover's modules, which setup.cfg cannot require."""
  return importlib.import_module(f'dlrover.{module}')


class Worker:
  """A fake worker on DLRover's stub."""

  def __init__(self, address: str, node_id: int):
    self._address = address
    self._node_id = node_id
    self._comm = _dlrover('python.common.comm')
    self._pb = _dlrover('proto').elastic_training_pb2
    self._task_id = -1

  async def open(self) -> None:
    grpc_module = _dlrover('proto').elastic_training_pb2_grpc
    self._channel = grpc.aio.insecure_channel(
      self._address, options=coordinator_load.CHANNEL_OPTIONS
    )
    self._stub = grpc_module.MasterStub(self._channel)
    await self._channel.channel_ready()
    await self._get_task()

  async def round_trip(self) -> int:
    result = self._comm.TaskResult(DATA_SET, self._task_id, '')
    reply = await self._stub.report(self._request(result), timeout=60)
    assert reply.success, self._task_id
    await self._get_task()
    return 1

  async def close(self) -> None:
    await self._channel.close()

  async def _get_task(self) -> None:
    reply = await self._stub.get(
      self._request(self._comm.TaskRequest(DATA_SET)), timeout=60
    )
    task = self._comm.deserialize_message(reply.data)
    assert task.shard.end > task.shard.start, task
    self._task_id = task.task_id

  def _request(self, message: Any) -> Any:
    return self._pb.Message(
      node_id=self._node_id, node_type='worker', data=message.serialize()
    )


def _master_client(address: str, node_id: int) -> Any:
  module = _dlrover('python.elastic_agent.master_client')
  return module.GrpcMasterClient(address, node_id, 'worker', timeout=60)


async def _make_workers(
  address: str, names: Sequence[int], num_shards: int, shard_size: int
) -> Sequence[coordinator_load.Worker]:
  client = await asyncio.to_thread(_master_client, address, 0)
  batch_size = max(1, shard_size // 10)
  await asyncio.to_thread(
    client.report_dataset_shard_params,
    batch_size=batch_size,
    num_minibatches_per_shard=shard_size // batch_size,
    dataset_size=num_shards * shard_size,
    num_epochs=1000,
    shuffle=True,
    dataset_name=DATA_SET,
    storage_type='table',
  )
  return [Worker(address, name) for name in names]


def _kept(address: str) -> dict[str, Any]:
  """Returns a master's state of the data set."""
  client = _master_client(address, 0)
  is_ok, task = client.get_task(DATA_SET)
  shard = [task.shard.start, task.shard.end]
  comm, pb = _dlrover('python.common.comm'), _dlrover('proto')
  request = pb.elastic_training_pb2.Message(
    node_id=0,
    node_type='worker',
    data=comm.ShardCheckpointRequest(DATA_SET).serialize(),
  )
  try:  # Not by its client, which retries for a minute.
    reply = client._stub.get(request, timeout=10)
    checkpoint = str(comm.deserialize_message(reply.data))
  except grpc.RpcError as error:
    checkpoint = f'{error.code().name}: {error.details()}'
  return {
    'kept': 0 if shard[1] <= shard[0] else None,
    'get_task_ok': bool(is_ok),
    'shard': shard,
    'checkpoint': checkpoint,
  }


if __name__ == '__main__':
  if sys.argv[1] == 'workers':
    asyncio.run(coordinator_load.serve(_make_workers))
  else:
    print(json.dumps(_kept(sys.argv[2])))
