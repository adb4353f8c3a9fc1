# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Times collectives on the devices at hand, to know the speeds of links."""

from collections.abc import Callable, Sequence
import statistics
import time

import jax
from jax import lax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from antjax.collectives import cost_model
from antjax.mesh.mesh import (
  BATCH_AXES,
  check_mesh,
  group_size,
  INTER,
  INTRA,
  num_groups,
)


def measure(
  mesh: Mesh,
  sizes_bytes: Sequence[int] = (1 << 16, 1 << 20, 1 << 23),
  repeats: int = 5,
) -> cost_model.Links:
  """Fits the links of a mesh to timed collectives along each axis.

  All processes of the job call it; all get the same links. Use the devices for
  nothing else meanwhile.

  Args:
    mesh: From `make_mesh`.
    sizes_bytes: Bytes that a device holds after each all-gather.
    repeats: Calls of each; their median counts.

  Raises:
    ValueError: The mesh has one device, or other axes.
  """
  return cost_model.fit(samples(mesh, sizes_bytes, repeats))


def samples(
  mesh: Mesh, sizes_bytes: Sequence[int], repeats: int
) -> list[cost_model.Sample]:
  """Timings of all-gathers along each axis; the same in every process."""
  check_mesh(mesh, 'measure')
  n, m = num_groups(mesh), group_size(mesh)
  found = []
  for axis, size in ((INTRA, m), (INTER, n)):
    if size == 1:
      continue
    lanes = (m, 1) if axis == INTER and m > 1 else (m,)
    for num_lanes in lanes:
      for num_bytes in sizes_bytes:
        piece = max(num_bytes // size // 4, 1)
        seconds = _time(mesh, _chain(axis, size, m, num_lanes), piece, repeats)
        found.append(
          cost_model.Sample(
            'all_gather', axis, 4 * piece * size, n, m, seconds, num_lanes
          )
        )
  if jax.process_count() > 1:
    # Clocks differ, and a program must not: process 0 decides for all.
    times = np.array([s.seconds for s in found], np.float32)
    times = np.asarray(multihost_utils.broadcast_one_to_all(times))
    found = [
      cost_model.Sample(s.op, s.axis, s.num_bytes, n, m, float(t), s.num_lanes)
      for s, t in zip(found, times, strict=True)
    ]
  return found


def _chain(
  axis: str, size: int, m: int, num_lanes: int
) -> Callable[[jax.Array], jax.Array]:
  """The permutes of a ring all-gather, without keeping what passes by."""
  if axis == INTRA or num_lanes == m:
    axes: str | tuple[str, ...] = axis
    pairs = [(k, (k + 1) % size) for k in range(size)]
  else:
    axes = (INTER, INTRA)
    pairs = [(k * m, (k + 1) % size * m) for k in range(size)]

  def chain(x: jax.Array) -> jax.Array:
    for _ in range(size - 1):
      x = lax.ppermute(x, axes, pairs)
    return x

  return chain


def _time(
  mesh: Mesh,
  fn: Callable[[jax.Array], jax.Array],
  piece: int,
  repeats: int,
) -> float:
  """Median seconds of a call on float32 [piece] of each device."""
  spec = P(BATCH_AXES)
  call = jax.jit(jax.shard_map(fn, mesh=mesh, in_specs=spec, out_specs=spec))
  x = jax.jit(
    lambda: jnp.ones((mesh.size * piece,), jnp.float32),
    out_shardings=NamedSharding(mesh, spec),
  )()
  jax.block_until_ready(call(x))
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(call(x))
    times.append(time.perf_counter() - start)
  return statistics.median(times)
