# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Lease and report round trips per second of our coordinator and DLRover's.

  python -m benchmarks.coordinator_bench > results.jsonl

prints one JSON line per case, and a summary line. Sides, all on this machine,
each with its own server process (`coordinator_sides`):

- antjax: `launch/coordinator.py` with its journal on disk (an fsync before the
  reply, shared by concurrent replies) and tokens. A round trip is one Exchange:
  the last shard consumed, the next one leased.
- peer: DLRover's local master with defaults, and again with its log off
  (`quiet_peer`), in the environment of `make peers-dlrover`. A round trip is
  two calls, report and get, on its own stub. It has no journal and no tokens.
- echo: a grpc.aio server that answers the same Exchange without doing anything,
  a bound for any coordinator in Python on this gRPC.

The fake workers of a side run in one process beside its server, on grpc.aio,
with one connection each, like workers on separate hosts. The sides take turns
in blocks after a warm-up; medians over blocks are compared. Cases:

- `closed`: each worker sends its next request when it is answered, so with W
  workers and R round trips per second each one takes W / R seconds, whatever
  the server does.
- `paced`: each worker sends a request every `--interval_s`, timed from its due
  time.
- `batch`: `closed`, with 8 shards per round trip of antjax, as by workers that
  lease ahead (`antjax/elastic/lease_queue.py`); the peer has only one.
- `million`: antjax serves 10^6 shards, for speed 1,000 per round trip;
  `peak_bytes` is the peak memory of the coordinator.
- `kill`: SIGKILL of the server in the middle of a block, and a restart by the
  same command: its knowledge of the shards whose reports it had acknowledged.

In the last line `round_trips_per_s` is for 64 workers, closed; `p50_ms` and
`p99_ms` are for 1,000 workers, paced.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import os
import pathlib
import platform
import statistics
import sys
import tempfile
import time
from typing import Annotated, Any

import numpy as np

from benchmarks import coordinator_sides, harness, machine
from benchmarks.coordinator_sides import Side

_PEER_PYTHON = machine.ROOT / '.venv-dlrover' / 'bin' / 'python'
_HEADLINE = 64
_BATCH = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Flags."""

  clients: Annotated[tuple[int, ...], 'Worker counts.'] = (1, 16, 64, 1000)
  paced_clients: Annotated[int, 'Paced workers; 0: no such case.'] = 1000
  interval_s: Annotated[float, 'Pace of workers.'] = 1.0
  seconds: Annotated[float, 'Length of a block.'] = 4.0
  num_blocks: Annotated[int, 'Blocks of each side.'] = 5
  million: Annotated[int, 'Shards of that case; 0: leave it out.'] = 1_000_000
  with_kill: Annotated[bool, 'Run that case.'] = True
  with_peer: Annotated[bool, 'Run the peer.'] = True
  journal_folder: Annotated[str | None, 'none: temporary.'] = None


def figures(blocks: Sequence[dict[str, Any]]) -> dict[str, float]:
  """Medians over the blocks of a side (see `coordinator_load.drive`)."""
  per_block = [
    {
      'round_trips_per_s': block['round_trips'] / block['wall_s'],
      'shards_per_s': block['shards'] / block['wall_s'],
      'p50_ms': _percentile(block, 50),
      'p99_ms': _percentile(block, 99),
      'server_cpu_us': block['server_cpu_s'] / block['round_trips'] * 1e6,
      'load_cpu_us': block['cpu_s'] / block['round_trips'] * 1e6,
    }
    for block in blocks
  ]
  return {
    key: statistics.median(one[key] for one in per_block)
    for key in per_block[0]
  }


def _percentile(block: dict[str, Any], share: int) -> float:
  found = np.percentile(block['latencies_ms'], share, method='inverted_cdf')
  return float(found)


def line_of(
  case: str, num_clients: int, blocks: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
  """Returns the line of a case; figures of other sides have a prefix."""
  line: dict[str, Any] = {'case': case, 'clients': num_clients}
  for side, its in blocks.items():
    prefix = '' if side == 'antjax' else f'{side}_'
    line |= {f'{prefix}{key}': value for key, value in figures(its).items()}
  ours = line.get('round_trips_per_s')
  if 'peer' in blocks and case == 'batch':
    ratio = line['shards_per_s'] / line['peer_shards_per_s']
    line['shards_ratio'] = ratio
  elif ours and case != 'paced':  # Paced sides all keep up.
    for side, key in (
      ('peer', 'ratio'),
      ('quiet_peer', 'quiet_ratio'),
      ('echo', 'share_of_bound'),
    ):
      if side in blocks:
        line[key] = ours / line[f'{side}_round_trips_per_s']
  return line


def fsyncs_per_s(folder: pathlib.Path, seconds: float = 1.0) -> float:
  """Returns the number of durable appends of a page per second."""
  path = folder / 'fsync'
  count, stop = 0, time.perf_counter() + seconds
  with path.open('wb', buffering=0) as file:
    start = time.perf_counter()
    while time.perf_counter() < stop:
      file.write(bytes(4096))
      os.fdatasync(file.fileno())
      count += 1
    took = time.perf_counter() - start
  path.unlink()
  return round(count / took)


def _alternate(
  config: Config, sides: Sequence[Side], num_clients: int, **options: Any
) -> dict[str, list[dict[str, Any]]]:
  """Opens the workers of all sides, and lets these take turns."""
  pace = {k: options.pop(k) for k in ('interval_s',) if k in options}
  for side in sides:
    side.open(num_clients, **options)
    side.drive(seconds=min(2.0, config.seconds), **pace)  # Warms up.
  blocks: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
  for _ in range(config.num_blocks):
    for side in sides:
      blocks[side.name].append(side.drive(seconds=config.seconds, **pace))
  for side in sides:
    side.order('close')
  return blocks


def _million(
  antjax: coordinator_sides.Antjax, num_shards: int
) -> dict[str, Any]:
  """Serves many shards, and measures the memory."""
  antjax.open(16, num_shards=num_shards, num_wanted=1000, data_set='million')
  block = antjax.drive(seconds=600.0, num_shards=num_shards)
  before = antjax.memory()
  antjax.order('commit_epoch')  # Commits all of the first epoch.
  line = {
    'case': 'million',
    'shards': block['shards'],
    'shards_per_s': round(block['shards'] / block['wall_s']),
    'peak_bytes': antjax.memory()['peak_bytes'],
    'bytes_before_commit': before['bytes'],
    'bytes_after_commit': antjax.memory()['bytes'],
    'journal_bytes': antjax.journal_bytes(),
    'counts': antjax.counts('million'),
  }
  antjax.order('close')
  return line


def _kill(sides: Sequence[Side], seconds: float) -> dict[str, Any]:
  """Kills each side's server during a block."""
  line: dict[str, Any] = {'case': 'kill', 'clients': _HEADLINE}
  for side in sides:
    prefix = '' if side.name == 'antjax' else 'peer_'
    found = side.kill_and_restart(_HEADLINE, seconds)
    line |= {f'{prefix}{key}': value for key, value in found.items()}
  return line


def _run(
  config: Config,
  antjax: coordinator_sides.Antjax,
  others: Sequence[Side],
  facts: dict[str, Any],
) -> None:
  """Prints the line of each case, and the summary."""
  summary: dict[str, Any] = {'case': 'summary'}
  sides = [antjax, *others]

  def emit(line: dict[str, Any], *keys: str, **renamed: str) -> None:
    """Prints a line; adds some of its figures to the summary."""
    harness.emit(line | facts)
    kept = dict.fromkeys(keys) | renamed
    summary.update({kept[k] or k: line[k] for k in kept if k in line})

  for num_clients in config.clients:
    blocks = _alternate(config, sides, num_clients)
    keys = (
      *('round_trips_per_s', 'peer_round_trips_per_s', 'ratio'),
      *('quiet_peer_round_trips_per_s', 'quiet_ratio'),
      *('echo_round_trips_per_s', 'share_of_bound'),
    )
    line = line_of('closed', num_clients, blocks)
    emit(line, *(keys if num_clients == _HEADLINE else ()))
  if num_paced := config.paced_clients:
    blocks = _alternate(config, sides, num_paced, interval_s=config.interval_s)
    offered = num_paced / config.interval_s
    line = line_of('paced', num_paced, blocks) | {'offered_per_s': offered}
    emit(line, 'p50_ms', 'p99_ms', 'peer_p99_ms')
    summary['latencies_of'] = (
      f'{num_paced} workers, paced, {offered:g} round trips a second in all'
    )
  two = [side for side in sides if side.name in ('antjax', 'peer')]
  blocks = _alternate(config, two, _HEADLINE, num_wanted=_BATCH)
  line = line_of('batch', _HEADLINE, blocks) | {'num_wanted': _BATCH}
  emit(
    line, shards_per_s='batch_shards_per_s', shards_ratio='batch_shards_ratio'
  )
  if config.million:
    emit(_million(antjax, config.million), 'peak_bytes')
  if config.with_kill:
    keys = ('kept_after_kill', 'peer_kept_after_kill', 'back_after_s')
    emit(_kill(two, 2 * config.seconds), *keys)
  harness.emit(summary | facts)


def main(config: Config) -> None:
  if config.with_peer and not _PEER_PYTHON.exists():
    sys.exit(
      'The peer needs DLRover: run `make peers-dlrover`, or give --nowith_peer.'
    )
  facts = harness.start(python=platform.python_version())
  with contextlib.ExitStack() as stack:
    folder = pathlib.Path(
      stack.enter_context(
        tempfile.TemporaryDirectory(dir=config.journal_folder)
      )
    )
    facts['fsyncs_per_s'] = fsyncs_per_s(folder)
    antjax = coordinator_sides.Antjax(folder / 'antjax')
    others: list[Side] = [coordinator_sides.Echo(folder / 'echo')]
    if config.with_peer:
      python = str(_PEER_PYTHON)
      for name, level in (('peer', 'INFO'), ('quiet_peer', 'ERROR')):
        others.append(
          coordinator_sides.Peer(folder / name, name, python, level)
        )
    for side in (antjax, *others):
      stack.callback(side.stop)
      side.start()
    _run(config, antjax, others, facts)


if __name__ == '__main__':
  harness.run(main, Config())
