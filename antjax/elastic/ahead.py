# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Long computations of a request, in a thread before it is applied.

Only what is pure: to read the positions of checkpoints, and to compute the
order of a large epoch. The event loop serves others meanwhile, and `Jobs.apply`
gives the same without it, as when a journal is replayed.
"""

import asyncio
from concurrent import futures
from typing import Any

from google.protobuf.message import Message

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import job_data
from antjax.elastic.jobs import Jobs
from antjax.shards import data_shard
from antjax.shards.ledger_spec import LedgerSpec


class Ahead:
  """One thread, so that one large position at a time is in memory."""

  def __init__(self, jobs: Jobs):
    self._jobs = jobs
    self._thread = futures.ThreadPoolExecutor(1, 'ahead')
    self._turn = asyncio.Lock()

  async def prepare(self, request: Message) -> job_data.Parsed:
    """Returns the positions of a request, read.

    Raises:
      Refused: One is none.
    """
    if isinstance(request, (pb.BeginRequest, pb.CommitRequest)):
      job = self._jobs.job(request.head.job)
      if job_data.positions_to_read(job, request):
        async with self._turn:
          # Another worker may have begun the same pass meanwhile.
          given = job_data.positions_to_read(job, request)
          return await self._run(_parse_all, given) if given else {}
    elif isinstance(request, pb.ExchangeRequest) and self._orders(request):
      async with self._turn:
        for number in self._orders(request):
          data = self._jobs.job(request.head.job).sets[request.data_set]
          spec = data.ledger.spec
          order = await self._run(
            data_shard.shard_order, spec.num_shards, spec.seed, number
          )
          data.ledger.give_order(number, order)
    return {}

  def close(self) -> None:
    self._thread.shutdown()

  def _orders(self, request: pb.ExchangeRequest) -> list[int]:
    data = self._jobs.job(request.head.job).sets.get(request.data_set)
    return data.ledger.orders_needed(request.num_wanted) if data else []

  async def _run(self, function: Any, *arguments: Any) -> Any:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(self._thread, function, *arguments)


def _parse_all(given: dict[str, tuple[LedgerSpec, bytes]]) -> job_data.Parsed:
  return {name: job_data.parse(name, *one) for name, one in given.items()}
