# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Lease and report round trips a second of the coordinator, beside DLRover's.

  python -m benchmarks.coordinator_bench > results.jsonl

prints one JSON line a case, and a last one that sums up. Sides, all on this
machine, each served by a process of its own (`coordinator_sides`):

- antjax: `launch/coordinator.py` with its journal on disk (an fsync before the
  reply; replies of one moment share it) and tokens. A round trip is one
  Exchange: the last shard consumed, the next one leased.
- peer: DLRover's local master as it comes, and once more with its log off
  (`quiet_peer`), in an environment of its own that is made in `--peer_venv`
  from requirements-bench-dlrover.txt. A round trip is two calls, report and
  get, on its own stub. It has no journal and no tokens.
- echo: a grpc.aio server that answers the same Exchange without doing anything:
  the bound of any coordinator in Python on this gRPC.

The fake workers of a side run in one process beside its server, on grpc.aio,
with a connection each, as workers on hosts of their own have. The sides take
turns in blocks after a warm-up; medians over blocks are compared. Cases:

- `closed`: each worker asks again as soon as it is answered, so that with W
  workers and R round trips a second each one takes W / R seconds, whatever the
  server does.
- `paced`: each worker asks once in `--interval_s`, timed from when it was due.
- `batch`: `closed`, with 8 shards in a round trip of antjax; the peer gives and
  takes one. Workers that lease ahead do so (`antjax/elastic/lease_queue.py`).
- `million`: 10^6 shards go through antjax, sped up by 1,000 in a round trip;
  `peak_bytes` is the most memory that the coordinator ever had.
- `kill`: SIGKILL to the server in the middle of a block, and the same command
  again: what it knows of the shards whose reports it had answered.

In the last line `round_trips_per_s` is of 64 workers, closed; `p50_ms` and
`p99_ms` are of 1,000 workers, paced.
"""

from collections.abc import Sequence
import contextlib
import os
import pathlib
import platform
import statistics
import tempfile
import time
from typing import Any

from absl import app, flags

from benchmarks import coordinator_sides, harness
from benchmarks.coordinator_sides import Side

_CLIENTS = flags.DEFINE_list(
  'clients', ['1', '16', '64', '1000'], 'Numbers of workers, closed.'
)
_PACED_CLIENTS = flags.DEFINE_integer(
  'paced_clients', 1000, 'Number of workers, paced; 0: leave the case out.', 0
)
_INTERVAL_S = flags.DEFINE_float('interval_s', 1.0, 'Pace of workers.', 0.01)
_SECONDS = flags.DEFINE_float('seconds', 4.0, 'Length of a block.', 0.01)
_NUM_BLOCKS = flags.DEFINE_integer('num_blocks', 5, 'Blocks of each side.', 1)
_MILLION = flags.DEFINE_integer(
  'million', 1_000_000, 'Shards of that case; 0: leave it out.', 0
)
_WITH_KILL = flags.DEFINE_bool('with_kill', True, 'Run that case.')
_WITH_PEER = flags.DEFINE_bool('with_peer', True, 'Run the peer.')
_PEER_VENV = flags.DEFINE_string(
  'peer_venv', '.cache/dlrover', "Folder of the peer's environment; is made."
)
_JOURNAL_FOLDER = flags.DEFINE_string(
  'journal_folder', None, 'Makes its folder there; default: the temporary one.'
)

_HEADLINE = 64
_BATCH = 8
_NUM_SHARDS = 1_000_000
_KILL_CLIENTS = 64


def percentile(values: Sequence[float], share: float) -> float:
  """Returns the smallest value that a share of them does not exceed."""
  ordered = sorted(values)
  return ordered[max(0, -int(-len(ordered) * share // 1) - 1)]


def figures(blocks: Sequence[dict[str, Any]]) -> dict[str, float]:
  """Medians over the blocks of a side (see `coordinator_load.drive`)."""
  per_block = [
    {
      'round_trips_per_s': block['round_trips'] / block['wall_s'],
      'shards_per_s': block['shards'] / block['wall_s'],
      'p50_ms': percentile(block['latencies_ms'], 0.5),
      'p99_ms': percentile(block['latencies_ms'], 0.99),
      'server_cpu_us': block['server_cpu_s'] / block['round_trips'] * 1e6,
      'load_cpu_us': block['cpu_s'] / block['round_trips'] * 1e6,
    }
    for block in blocks
  ]
  return {
    key: round(statistics.median(one[key] for one in per_block), 2)
    for key in per_block[0]
  }


def line_of(
  case: str, num_clients: int, blocks: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
  """Returns the line of a case: antjax's figures bare, the others' prefixed."""
  line: dict[str, Any] = {'case': case, 'clients': num_clients}
  for side, its in blocks.items():
    prefix = '' if side == 'antjax' else f'{side}_'
    line |= {f'{prefix}{key}': value for key, value in figures(its).items()}
  ours = line.get('round_trips_per_s')
  if 'peer' in blocks and case == 'batch':
    ratio = line['shards_per_s'] / line['peer_shards_per_s']
    line['shards_ratio'] = round(ratio, 3)
  elif ours and case != 'paced':  # There all do what they are asked to.
    for side, key in (
      ('peer', 'ratio'),
      ('quiet_peer', 'quiet_ratio'),
      ('echo', 'share_of_bound'),
    ):
      if side in blocks:
        line[key] = round(ours / line[f'{side}_round_trips_per_s'], 3)
  return line


def fsyncs_per_s(folder: pathlib.Path, seconds: float = 1.0) -> float:
  """Returns how often a second a page can be appended and made durable."""
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
  sides: Sequence[Side],
  num_clients: int,
  *,
  num_wanted: int = 1,
  **drive: float,
) -> dict[str, list[dict[str, Any]]]:
  """Opens workers at all sides, and lets these take turns."""
  blocks: dict[str, list[dict[str, Any]]] = {side.name: [] for side in sides}
  for side in sides:
    side.open(num_clients, num_shards=_NUM_SHARDS, num_wanted=num_wanted)
    side.drive(seconds=min(2.0, _SECONDS.value), **drive)  # Warms up.
  for _ in range(_NUM_BLOCKS.value):
    for side in sides:
      blocks[side.name].append(side.drive(seconds=_SECONDS.value, **drive))
  for side in sides:
    side.close()
  return blocks


def _million(antjax: coordinator_sides.Antjax) -> dict[str, Any]:
  """Lets many shards go through, and looks at the memory."""
  antjax.open(
    16, num_shards=_MILLION.value, num_wanted=1000, data_set='million'
  )
  block = antjax.drive(seconds=600.0, num_shards=_MILLION.value)
  before = antjax.memory()
  antjax.commit_epoch()
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
  antjax.close()
  return line


def _kill(sides: Sequence[Side]) -> dict[str, Any]:
  """Kills each side's server in a block."""
  line: dict[str, Any] = {'case': 'kill', 'clients': _KILL_CLIENTS}
  for side in sides:
    if side.name in ('antjax', 'peer'):
      prefix = '' if side.name == 'antjax' else 'peer_'
      found = side.kill_and_restart(_KILL_CLIENTS, 2 * _SECONDS.value)
      line |= {f'{prefix}{key}': value for key, value in found.items()}
  return line


def main(argv: Sequence[str]) -> None:
  facts = harness.start(argv, python=platform.python_version())
  summary: dict[str, Any] = {'case': 'summary'}
  with contextlib.ExitStack() as stack:
    folder = pathlib.Path(
      stack.enter_context(
        tempfile.TemporaryDirectory(dir=_JOURNAL_FOLDER.value)
      )
    )
    facts['fsyncs_per_s'] = fsyncs_per_s(folder)

    def emit(line: dict[str, Any]) -> None:
      harness.emit(line | facts)

    antjax = coordinator_sides.Antjax(folder / 'antjax')
    sides: list[Side] = [antjax, coordinator_sides.Echo(folder / 'echo')]
    if _WITH_PEER.value:
      python = coordinator_sides.peer_python(pathlib.Path(_PEER_VENV.value))
      for name, level in (('peer', 'INFO'), ('quiet_peer', 'ERROR')):
        sides.append(coordinator_sides.Peer(folder / name, name, python, level))
    for side in sides:
      stack.callback(side.stop)
      side.start()
    for num_clients in map(int, _CLIENTS.value):
      line = line_of('closed', num_clients, _alternate(sides, num_clients))
      emit(line)
      if num_clients == _HEADLINE:
        keys = ('round_trips_per_s', 'peer_round_trips_per_s', 'ratio')
        keys += ('quiet_peer_round_trips_per_s', 'quiet_ratio')
        keys += ('echo_round_trips_per_s', 'share_of_bound')
        summary |= {key: line[key] for key in keys if key in line}
    if _PACED_CLIENTS.value:
      blocks = _alternate(
        sides, _PACED_CLIENTS.value, interval_s=_INTERVAL_S.value
      )
      line = line_of('paced', _PACED_CLIENTS.value, blocks)
      line['offered_per_s'] = round(_PACED_CLIENTS.value / _INTERVAL_S.value, 1)
      emit(line)
      summary |= {key: line[key] for key in ('p50_ms', 'p99_ms')}
      if 'peer_p99_ms' in line:
        summary['peer_p99_ms'] = line['peer_p99_ms']
      summary['latencies_of'] = (
        f'{_PACED_CLIENTS.value} workers, paced,'
        f' {line["offered_per_s"]:g} round trips a second in all'
      )
    batch_sides = [side for side in sides if side.name in ('antjax', 'peer')]
    line = line_of(
      'batch', _HEADLINE, _alternate(batch_sides, _HEADLINE, num_wanted=_BATCH)
    )
    emit(line | {'num_wanted': _BATCH})
    summary['batch_shards_per_s'] = line['shards_per_s']
    if 'shards_ratio' in line:
      summary['batch_shards_ratio'] = line['shards_ratio']
    if _MILLION.value:
      line = _million(antjax)
      emit(line)
      summary['peak_bytes'] = line['peak_bytes']
    if _WITH_KILL.value:
      line = _kill(sides)
      emit(line)
      keys = ('kept_after_kill', 'peer_kept_after_kill', 'back_after_s')
      summary |= {key: line[key] for key in keys if key in line}
    emit(summary)


if __name__ == '__main__':
  app.run(main)
