# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Fake workers that load a coordinator in the same way for every side.

`harness.Worker` controls a process of fake workers. Each side defines the
requests of its workers (`coordinator_workers`, `coordinator_peers`); this
module defines their frequency and timing. It needs only grpc, since the peer's
environment lacks our packages.

Every worker has its own connection, like workers on separate hosts, and one
round trip in progress at a time.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
import gc
import json
import os
import random
import sys
import time
from typing import Any, Protocol

# Otherwise grpc shares one connection among the channels of a process.
CHANNEL_OPTIONS = (('grpc.use_local_subchannel_pool', 1),)


# Number of connections opened or closed at once: listen queues are finite.
_AT_ONCE = 50


class Worker(Protocol):
  """One fake worker: `open` leases a first shard."""

  async def open(self) -> None: ...

  async def round_trip(self) -> int:
    """Reports its shard and leases the next; returns the number of shards."""

  async def close(self) -> None: ...


async def drive(
  workers: Sequence[Worker],
  seconds: float,
  interval_s: float = 0.0,
  num_shards: int | None = None,
) -> dict[str, Any]:
  """Lets all workers make round trips for some time.

  Each makes one per `interval_s`, from a random first time on; late ones are
  timed from their due time. 0: the next one starts when the last one ends. None
  starts after `num_shards` are reported.
  """
  latencies: list[float] = []
  shards = 0
  draw = random.Random(0)
  # Paced ones begin when the tasks of all exist, which takes time of 10,000.
  start = time.perf_counter() + (1.0 if interval_s else 0.0)
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


async def _in_parts(
  workers: Sequence[Worker], do: Callable[[Worker], Awaitable[None]]
) -> None:
  for i in range(0, len(workers), _AT_ONCE):
    await asyncio.gather(*map(do, workers[i : i + _AT_ONCE]))


async def serve(
  make_workers: Callable[..., Awaitable[Sequence[Worker]]],
) -> None:
  """Takes orders until stdin ends; `make_workers` gets the fields of `open`."""
  out = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # Output of libraries must not mix with the replies.
  workers: Sequence[Worker] = ()
  loop = asyncio.get_running_loop()
  while line := await loop.run_in_executor(None, sys.stdin.readline):
    order = json.loads(line)
    do = order.pop('do')
    reply: Any = None
    if do == 'open':
      workers = await make_workers(**order)
      await _in_parts(workers, lambda worker: worker.open())
      # A pass over 10,000 workers would stop the clock of all for .3 s.
      gc.collect()
      gc.freeze()
    elif do == 'drive':
      reply = await drive(workers, **order)
    elif do == 'close':
      await _in_parts(workers, lambda worker: worker.close())
    else:
      await getattr(workers[0], do)()
    print(json.dumps(reply), file=out, flush=True)
