# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The coordinator benchmark: its load, its lines, and a small run of it."""

import asyncio

import pytest

from benchmarks import coordinator_bench, coordinator_load, machine
from tests.benchmarks import runs


class _Worker:
  """Answers itself; each round trip reports two shards."""

  def __init__(self):
    self.num_calls = 0

  async def open(self):
    pass

  async def round_trip(self):
    self.num_calls += 1
    await asyncio.sleep(0)
    return 2

  async def close(self):
    pass


def test_closed_load_goes_on_until_enough_shards_are_reported():
  workers = [_Worker() for _ in range(4)]
  block = asyncio.run(
    coordinator_load.drive(workers, seconds=60.0, num_shards=100)
  )
  assert block['round_trips'] == sum(w.num_calls for w in workers)
  assert block['shards'] == 2 * block['round_trips']
  # Those that were under way are counted too.
  assert 100 <= block['shards'] < 100 + 2 * len(workers)
  assert len(block['latencies_ms']) == block['round_trips']


def test_paced_load_asks_once_an_interval():
  workers = [_Worker() for _ in range(50)]
  block = asyncio.run(
    coordinator_load.drive(workers, seconds=0.3, interval_s=0.1)
  )
  assert [w.num_calls for w in workers] == [3] * 50
  assert block['round_trips'] == 150
  # From when it was due: never before.
  assert min(block['latencies_ms']) >= 0


def _block(round_trips, wall_s=2.0):
  return {
    'round_trips': round_trips,
    'shards': round_trips,
    'wall_s': wall_s,
    'cpu_s': 0.5,
    'server_cpu_s': 1.0,
    'latencies_ms': [1.0, 2.0, 9.0],
  }


def test_lines_compare_medians_over_blocks():
  blocks = {
    'antjax': [_block(600), _block(2000), _block(800)],
    'echo': [_block(1000)],
    'peer': [_block(200)] * 3,
    'quiet_peer': [_block(400)],
  }
  line = coordinator_bench.line_of('closed', 64, blocks)
  assert line['round_trips_per_s'] == 400.0  # Of the median block.
  assert line['peer_round_trips_per_s'] == 100.0
  assert line['ratio'] == 4.0
  assert line['quiet_ratio'] == 2.0
  assert line['share_of_bound'] == 0.8
  assert (line['p50_ms'], line['p99_ms']) == (2.0, 9.0)
  assert line['peer_server_cpu_us'] == 5000.0
  # All sides do what they are asked to where the load is paced.
  assert 'ratio' not in coordinator_bench.line_of('paced', 64, blocks)


def test_fsyncs_are_counted(tmp_path):
  assert coordinator_bench.fsyncs_per_s(tmp_path, seconds=0.05) > 0
  assert not list(tmp_path.iterdir())


def test_the_peer_is_pinned_and_names_no_registry():
  path = machine.ROOT / 'requirements-bench-dlrover.txt'
  lines = path.read_text().splitlines()
  pins = [line for line in lines if line and not line.startswith('#')]
  assert 'dlrover[k8s]==0.6.1' in pins
  assert all(line.count('==') == 1 for line in pins)
  assert not any('://' in line or line.startswith('-') for line in lines)


@pytest.mark.slow
def test_a_small_run_without_the_peer(tmp_path):
  lines = runs.lines(
    'coordinator_bench',
    *('--nowith_peer', '--clients=1,64', '--paced_clients=20'),
    *('--interval_s=0.1', '--seconds=0.5', '--num_blocks=1'),
    *('--million=20000', f'--journal_folder={tmp_path}'),
  )
  cases = [line['case'] for line in lines]
  assert cases == [
    *('closed', 'closed', 'paced', 'batch', 'million', 'kill', 'summary')
  ]
  by_case = dict(zip(cases, lines))
  assert by_case['million']['shards'] >= 20_000
  # Nothing that was reported is lost or counted twice.
  assert (
    by_case['kill']['kept_after_kill'] == (by_case['kill']['reported_shards'])
  )
  assert {
    'round_trips_per_s',
    'p50_ms',
    'p99_ms',
    'peak_bytes',
    'echo_round_trips_per_s',
    'fsyncs_per_s',
  } <= lines[-1].keys()
  assert not list(tmp_path.iterdir())  # It cleans up.
