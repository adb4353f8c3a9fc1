# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What this machine can do, and what a run took of it."""

import resource
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

_REPEATS = 5


def matmul_flops(dtype: Any, size: int | None = None) -> float:
  """FLOP/s of one device in a large matrix product, all devices at work.

  Devices that share cores share their speed too. The best of a few runs.

  Args:
    dtype: Dtype of the matrices.
    size: Width of the matrices; by default 512 on CPU, 8192 elsewhere.
  """
  devices = jax.local_devices()
  if size is None:
    size = 512 if devices[0].platform == 'cpu' else 8192
  mesh = jax.sharding.Mesh(np.asarray(devices), ('device',))
  sharding = NamedSharding(mesh, P('device'))
  product = jax.jit(
    lambda x: jnp.einsum('dij,djk->dik', x, x),
    in_shardings=sharding,
    out_shardings=sharding,
  )
  x = jax.device_put(
    np.full((len(devices), size, size), 1 / size, jnp.dtype(dtype)), sharding
  )
  jax.block_until_ready(product(x))
  times = []
  for _ in range(_REPEATS):
    start = time.perf_counter()
    jax.block_until_ready(product(x))
    times.append(time.perf_counter() - start)
  return 2 * size**3 / min(times)


def peak_bytes() -> dict[str, int]:
  """The most memory this process and its devices have had, so far.

  Devices that keep no account (CPU) are left out: theirs is the process's.
  """
  unit = 1 if sys.platform == 'darwin' else 1024
  found = {'process': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
  for device in jax.local_devices():
    stats = device.memory_stats() or {}
    if 'peak_bytes_in_use' in stats:
      found[f'device {device.id}'] = stats['peak_bytes_in_use']
  return found
