# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Measures this host for its agent, in a few seconds on an idle host.

  python -m antjax.jobs.node_check --folder=runs

Measures matrix products on each local device, whose results are compared with
the host's bit by bit; the host's memory; and writes to the disk of a folder.
Each part is announced before it begins, so that it is known where a killed
check hung. The last line of output is JSON.
"""

from collections.abc import Callable, Sequence
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from typing import Any

import numpy as np

from antjax.elastic.host_check import RESULT, STAGE

_DEVICE_S = 0.5  # For each device, after its first product.
_MAX_DEVICES_S = 8.0  # For all of them.
_ROWS, _ROWS_ON_CPU = 4096, 512
_LARGEST = 3  # Of the matrices' whole numbers: sums are exact in float32.
_MEMORY_BYTES = 64 << 20
_DISK_BYTES = 32 << 20
_TRIES = 3
# (left, right, product of both, rows) -> entries that are wrong after `rows` of
# the left matrix went from its end to its beginning.
_Check = Callable[..., Any]


def check_devices(check: _Check | None = None) -> dict[str, Any]:
  """Measures all local devices, one after the other.

  `check` computes a product and counts wrong entries; None: compiled here.
  """
  import jax
  import jax.numpy as jnp

  def multiply(left: Any, right: Any, product: Any, rows: Any) -> Any:
    # Another matrix each time, lest a product be known.
    moved = jnp.dot(
      jnp.roll(left, rows, axis=0),
      right,
      preferred_element_type=jnp.float32,
    )
    return jnp.sum(moved != jnp.roll(product, rows, axis=0))

  count_wrong: _Check = check or jax.jit(multiply)
  print(f'{STAGE}the start of the devices', flush=True)
  devices = jax.local_devices()
  rows = _ROWS_ON_CPU if devices[0].platform == 'cpu' else _ROWS
  draw = np.random.default_rng(0).integers
  # Small whole numbers are exact in bfloat16, too.
  sides = [draw(-_LARGEST, _LARGEST, (rows, rows)) for _ in range(2)]
  left, right = (side.astype(np.float32) for side in sides)
  product = left @ right
  device_s = min(_DEVICE_S, _MAX_DEVICES_S / len(devices))
  flops, wrong = [], []
  for device in devices:
    print(f'{STAGE}products on {device}', flush=True)
    data = jax.device_put((left, right, product), device)
    errors = [count_wrong(*data, 0)]
    jax.block_until_ready(errors)  # Compiled.
    each_s: list[float] = []
    began = time.monotonic()
    while time.monotonic() - began < device_s or len(each_s) < _TRIES:
      start = time.monotonic()
      errors.append(jax.block_until_ready(count_wrong(*data, len(errors))))
      each_s.append(time.monotonic() - start)
    flops.append(2 * rows**3 / statistics.median(each_s))
    if num := sum(int(one) for one in errors):
      wrong.append(f'{num} wrong entries in products on {device}')
  return {
    'platform': devices[0].platform,
    'device_kind': devices[0].device_kind,
    'num_devices': len(devices),
    'matmul_flops': min(flops),
    'error': '; '.join(wrong),
  }


def memory_bytes() -> float:
  """The bytes a second that one thread reads and writes."""
  print(f'{STAGE}memory', flush=True)
  source = np.ones(_MEMORY_BYTES, np.uint8)
  target = np.empty_like(source)
  target[:] = 0  # Its pages are there.
  return 2 * _MEMORY_BYTES / _best_s(lambda: np.copyto(target, source))


def disk_bytes(folder: str) -> float:
  """The bytes a second that reach the disk of a folder; 0: no folder."""
  if not folder:
    return 0.0
  print(f'{STAGE}writes to {folder}', flush=True)
  pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
  data = np.random.default_rng(0).bytes(_DISK_BYTES)

  def write() -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())

  return _DISK_BYTES / _best_s(write)


def _best_s(work: Callable[[], Any]) -> float:
  """Seconds of the best of a few tries: others may be at work too."""
  times = []
  for _ in range(_TRIES):
    began = time.monotonic()
    work()
    times.append(time.monotonic() - began)
  return max(min(times), 1e-9)


def main(arguments: Sequence[str]) -> None:
  """Measures all and prints it."""
  folder = ''.join(arguments).removeprefix('--folder=')
  found = check_devices()
  found |= {'memory_bytes': memory_bytes(), 'disk_bytes': disk_bytes(folder)}
  print(RESULT + json.dumps(found), flush=True)


if __name__ == '__main__':
  main(sys.argv[1:])
