# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Fake workers that load a coordinator, the same way for every side.

`harness.Worker` is the other end of a process of fake workers. What a worker
says to its coordinator is given by the side (`coordinator_workers` ours,
`coordinator_peers` the peer's); how often, and how it is timed, is here. Needs
nothing but grpc: the peer's environment has not our packages.

Every worker has a connection of its own, as workers on hosts of their own have,
and one round trip under way at a time.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
import json
import os
import random
import sys
import time
from typing import Any, Protocol

# Without it grpc shares one connection among the channels of a process.
CHANNEL_OPTIONS = (('grpc.use_local_subchannel_pool', 1),)


_AT_ONCE = 50  # Connections: a listen queue is finite.


class Worker(Protocol):
  """One fake worker: `open` leases a first shard."""

  async def open(self) -> None: ...

  async def round_trip(self) -> int:
    """Reports the shard it has, leases the next; the number of shards."""

  async def close(self) -> None: ...


async def drive(
  workers: Sequence[Worker],
  seconds: float,
  interval_s: float = 0.0,
  num_shards: int | None = None,
) -> dict[str, Any]:
  """Lets all workers make round trips for a while.

  Each makes one in `interval_s` at random first times, and a late one is timed
  from when it was due; 0: the next begins when the last ends. None begins once
  `num_shards` are reported.
  """
  latencies: list[float] = []
  shards = 0
  draw = random.Random(0)
  start = time.perf_counter()
  stop = start + seconds

  async def work(worker: Worker, due: float) -> None:
    nonlocal shards
    while num_shards is None or shards < num_shards:
      began = due if interval_s else time.perf_counter()
      if began >= stop:
        return
      if interval_s:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
      reported = await worker.round_trip()
      shards += reported
      latencies.append((time.perf_counter() - began) * 1e3)
      due += interval_s

  cpu = time.process_time()
  await asyncio.gather(
    *(work(w, start + draw.random() * interval_s) for w in workers)
  )
  wall_s = time.perf_counter() - start
  return {
    'round_trips': len(latencies),
    'shards': shards,
    'wall_s': wall_s,
    'cpu_s': time.process_time() - cpu,
    'latencies_ms': [round(t, 3) for t in latencies],
  }


async def serve(
  make_workers: Callable[..., Awaitable[Sequence[Worker]]],
) -> None:
  """Takes orders until stdin ends; `make_workers` gets the fields of `open`."""
  out = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # What libraries print must not get between the replies.
  workers: Sequence[Worker] = ()
  loop = asyncio.get_running_loop()
  while line := await loop.run_in_executor(None, sys.stdin.readline):
    order = json.loads(line)
    do = order.pop('do')
    reply: Any = None
    if do == 'open':
      workers = await make_workers(**order)
      for i in range(0, len(workers), _AT_ONCE):
        some = workers[i : i + _AT_ONCE]
        await asyncio.gather(*(worker.open() for worker in some))
    elif do == 'drive':
      reply = await drive(workers, **order)
    elif do == 'close':
      await asyncio.gather(*(worker.close() for worker in workers))
    else:
      await getattr(workers[0], do)()
    print(json.dumps(reply), file=out, flush=True)
