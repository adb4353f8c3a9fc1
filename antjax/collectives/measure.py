# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Times collectives on the available devices to measure link speeds."""

from collections.abc import Callable, Sequence
import dataclasses
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
from antjax.collectives.choose import Collectives
from antjax.mesh.mesh import (
  BATCH_AXES,
  check_mesh,
  group_size,
  INTER,
  INTRA,
  num_groups,
)

_Fn = Callable[[jax.Array], jax.Array]


def measure(
  mesh: Mesh,
  sizes_bytes: Sequence[int] = (1 << 16, 1 << 20, 1 << 22, 1 << 24),
  repeats: int = 3,
) -> cost_model.Links:
  """Fits the links of a mesh, and times every algorithm on it.

  A collective call that returns the same links in all processes. Do not use the
  devices for anything else meanwhile.

  Args:
    mesh: Mesh from `make_mesh`.
    sizes_bytes: Sizes of the whole array in bytes, at least two.
    repeats: Number of calls, of which the median is used.

  Raises:
    ValueError: The mesh has a single device or other axes.
  """
  links = cost_model.fit(samples(mesh, sizes_bytes, repeats))
  found = timings(mesh, sizes_bytes, repeats)
  return dataclasses.replace(links, timings=found)


def timings(
  mesh: Mesh, sizes_bytes: Sequence[int], repeats: int
) -> tuple[cost_model.Timing, ...]:
  """Times of every algorithm; the same in every process.

  Algorithms take turns, so that other load on the machine affects all alike.
  """
  n, m = num_groups(mesh), group_size(mesh)
  # At least a few elements per device.
  sizes = sorted(
    {max(size // (4 * n * m), 1) * 4 * n * m for size in sizes_bytes}
  )
  ops, algorithms = cost_model.OPS, cost_model.ALGORITHMS
  table = np.zeros((len(ops), len(algorithms), len(sizes)), np.float32)
  for i, op in enumerate(ops):
    calls = [_call(mesh, getattr(Collectives(a), op)) for a in algorithms]
    for k, size in enumerate(sizes):
      piece = size // 4 // (n * m if op == 'all_gather' else 1)
      table[i, :, k] = _times(mesh, calls, piece, repeats)
  table = _of_process_0(table)
  return tuple(
    cost_model.Timing(op, algorithm, n, m, tuple(sizes), tuple(times.tolist()))
    for op, of_op in zip(ops, table)
    for algorithm, times in zip(algorithms, of_op)
  )


def samples(
  mesh: Mesh, sizes_bytes: Sequence[int], repeats: int
) -> list[cost_model.Sample]:
  """Timings along each axis; the same in every process.

  Permutes of a ring along both, named as the reduce-scatter that takes as many,
  and XLA's own all-gather inside groups.
  """
  check_mesh(mesh, 'measure')
  n, m = num_groups(mesh), group_size(mesh)
  inter_lanes = (m, 1) if m > 1 else (m,)
  calls: list[tuple[cost_model.Op, str, int, _Fn]] = [
    ('all_gather', INTRA, m, _gather),
    ('reduce_scatter', INTRA, m, _chain(INTRA, m, m, m)),
    *(
      ('reduce_scatter', INTER, k, _chain(INTER, n, m, k)) for k in inter_lanes
    ),
  ]
  found = []
  for op, axis, num_lanes, fn in calls:
    size = m if axis == INTRA else n
    for num_bytes in sizes_bytes if size > 1 else ():
      piece = max(num_bytes // size // 4, 1)
      (seconds,) = _times(mesh, [_call(mesh, fn)], piece, repeats)
      found.append(
        cost_model.Sample(op, axis, 4 * piece * size, n, m, seconds, num_lanes)
      )
  times = _of_process_0(np.array([s.seconds for s in found], np.float32))
  return [
    dataclasses.replace(s, seconds=float(t))
    for s, t in zip(found, times, strict=True)
  ]


def _of_process_0(times: np.ndarray) -> np.ndarray:
  """Times of process 0: clocks differ, but programs must be the same."""
  if jax.process_count() == 1:
    return times
  return np.asarray(multihost_utils.broadcast_one_to_all(times))


def _gather(x: jax.Array) -> jax.Array:
  return lax.all_gather(x, INTRA, tiled=True)


def _chain(axis: str, size: int, m: int, num_lanes: int) -> _Fn:
  """The permutes of a ring, without storing or adding blocks."""
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


def _call(mesh: Mesh, fn: _Fn) -> _Fn:
  spec = P(BATCH_AXES)
  return jax.jit(
    jax.shard_map(fn, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
  )


def _times(
  mesh: Mesh,
  calls: Sequence[_Fn],
  piece: int,
  repeats: int,
) -> list[float]:
  """Median seconds of each call on a float32 [piece] per device."""
  x = jax.jit(
    lambda: jnp.ones((mesh.size * piece,), jnp.float32),
    out_shardings=NamedSharding(mesh, P(BATCH_AXES)),
  )()
  for call in calls:
    jax.block_until_ready(call(x))
  seconds: list[list[float]] = [[] for _ in calls]
  for _ in range(repeats):
    for call, found in zip(calls, seconds, strict=True):
      start = time.perf_counter()
      jax.block_until_ready(call(x))
      found.append(time.perf_counter() - start)
  return [statistics.median(found) for found in seconds]
