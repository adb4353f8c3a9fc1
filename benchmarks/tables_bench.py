# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Bytes of a row exchange by count, and time of the host's part of a look-up.

  python -m benchmarks.tables_bench --case=exchange
  python -m benchmarks.tables_bench --case=routing

prints a JSON line a case. `exchange` counts what devices send between groups,
as a multiple of the least (`embedding/traffic.py`), in one level and two.
`routing` times `EmbeddingTables.prepare` for 8 devices x 8,192 x 26 ids.
"""

from collections.abc import Iterator
import json
import time
from typing import Any

from absl import app, flags
import numpy as np

from antjax.embedding import routing, traffic
from antjax.embedding.layout import Stack, TableSpec
from antjax.mesh.paro import Level

_CASE = flags.DEFINE_enum(
  'case', 'exchange', ['exchange', 'routing'], 'What to measure.'
)
_IDS = flags.DEFINE_integer('ids', 8192, 'Ids of a device, for exchange.')
_MOST = flags.DEFINE_integer('most', 4096, 'Most devices, for exchange.')
_ROWS = 100_000_000
_MESHES = ((8, 4), (64, 8), (1024, 8), (1024, 32), (4096, 8), (4096, 64))


def draw(rng: np.random.Generator, kind: str, size: Any) -> np.ndarray:
  """Ids of all rows alike, or of Zipf's law with exponent 1."""
  if kind == 'uniform':
    return rng.integers(0, _ROWS, size)
  return np.exp(rng.random(size) * np.log(_ROWS)).astype(np.int64) - 1


def stack_of(num_devices: int, num_groups: int) -> Stack:
  """Rows over all devices."""
  spec = TableSpec('rows', _ROWS, 32, 'global')
  return Stack('rows', (spec,), Level.GLOBAL, num_devices, num_groups)


def exchanges() -> Iterator[dict[str, Any]]:
  """What is sent for uniform and Zipf ids, by mesh and number of levels."""
  for num_devices, group in _MESHES:
    for kind in ('uniform', 'zipf') if num_devices <= _MOST.value else ():
      rng = np.random.default_rng(0)
      stack = stack_of(num_devices, num_devices // group)
      positions = []
      for _ in range(num_devices):
        ids = np.unique(draw(rng, kind, _IDS.value))
        row, owner = np.divmod(ids, num_devices)
        positions.append(
          np.sort(owner * stack.rows_per_device + row).astype(np.int32)
        )
      for levels in (1, 2):
        found = traffic.count(stack, positions, levels=levels)
        yield {
          'devices': num_devices,
          'group': group,
          'ids': kind,
          'ids_a_device': _IDS.value,
          'distinct': round(float(np.mean([*map(len, positions)]))),
          'levels': levels,
          'rounds': found.rounds,
          'of_least': round(found.between / found.least, 2),
          'between_bytes': found.between,
          'inside_bytes': found.inside,
        }


def routings(repeats: int = 7) -> Iterator[dict[str, Any]]:
  """Milliseconds of the host's part, wall and CPU, the median of some."""
  for kind in ('uniform', 'zipf'):
    rng = np.random.default_rng(0)
    stack = stack_of(8, 2)
    size = (8, 8192 * 26)
    positions = (draw(rng, kind, size) % _ROWS).astype(np.int32)
    row = positions // 8
    positions = (positions - row * 8) * stack.rows_per_device + row
    times = []
    for _ in range(repeats):
      wall, cpu = time.perf_counter(), time.process_time()
      routing.deduplicate(
        stack, [positions], max_unique=None, capacity_factor=1.25
      )
      times.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = np.median(times, axis=0)
    yield {
      'ids': kind,
      'devices': 8,
      'ids_a_device': size[1],
      'wall_ms': round(1e3 * wall, 1),
      'cpu_ms': round(1e3 * cpu, 1),
    }


def main(argv: list[str]) -> None:
  del argv
  cases = {'exchange': exchanges, 'routing': routings}
  for found in cases[_CASE.value]():
    print(json.dumps({'case': _CASE.value, **found}), flush=True)


if __name__ == '__main__':
  app.run(main)
