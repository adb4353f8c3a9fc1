# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Collectives on one flat ring over all devices, as most libraries do them.

Devices are ordered in the ring group by group, so that one hop of each group
crosses to the next group. Every one of the N - 1 steps waits for those hops,
and a group's uplink carries (N - 1) / N of an array of N blocks. HO-Ring
(`antjax.collectives.ho_ring`) does better on both counts; this is what it is
measured against.

All functions are called inside `shard_map` on a mesh of `antjax.make_mesh`, and
equal `lax.all_gather`, `lax.psum_scatter` and `lax.psum` over
`mesh.GLOBAL_AXES`, tiled. The order of sums differs from XLA's.
"""

from typing import Any

import jax
from jax import lax

from antjax.collectives import blocks
from antjax.collectives.varying import to_varying
from antjax.mesh.mesh import INTER, INTRA

_RING = (INTER, INTRA)  # Group by group.


def all_gather(
  x: jax.Array, dim: int = 0, *, payload_dtype: Any = None
) -> jax.Array:
  """Gathers the pieces of all devices along `dim`, in N - 1 permutes.

  Args:
    x: This device's piece.
    dim: The dim that is split.
    payload_dtype: Floating-point arrays wider than this are rounded to it.

  Returns:
    The whole array, equal on all devices, of the dtype of `x`.
  """
  dim = blocks.dim_of(x, dim, 'ring.all_gather')
  whole = _gather(to_varying(x).reshape(-1), payload_dtype)
  return blocks.join(whole, x.shape, dim)


def reduce_scatter(
  x: jax.Array, dim: int = 0, *, payload_dtype: Any = None
) -> jax.Array:
  """Sums over all devices; each keeps its piece of `dim`. N - 1 permutes.

  Args:
    x: This device's addend, whole.
    dim: The dim to split; must divide among all devices.
    payload_dtype: Partial sums wider than this are rounded to it to be sent;
      they are formed in at least fp32.

  Returns:
    This device's piece of the sum, of the dtype of `x`.
  """
  num = lax.axis_size(INTER) * lax.axis_size(INTRA)
  x, dim = blocks.addend(x), blocks.dim_of(x, dim, 'ring.reduce_scatter')
  whole = blocks.split(x, dim, num, 'ring.reduce_scatter')
  shape = [d // num if i == dim else d for i, d in enumerate(x.shape)]
  return _scatter(whole, payload_dtype).astype(x.dtype).reshape(shape)


def all_reduce(x: jax.Array, *, payload_dtype: Any = None) -> jax.Array:
  """Sums over all devices, in 2 (N - 1) permutes; pads any shape inside.

  Args:
    x: This device's addend.
    payload_dtype: See `reduce_scatter`; the sum is rounded to it as well.

  Returns:
    The sum, equal on all devices, of the shape and dtype of `x`.
  """
  return blocks.all_reduce_flat(
    x,
    lambda whole: _scatter(whole, payload_dtype),
    lambda mine: _gather(mine, payload_dtype),
  )


def _gather(mine: jax.Array, payload_dtype: Any) -> jax.Array:
  """[q] -> [N, q]."""
  n, m, i, j = blocks.grid()
  rank = i * m + j
  moving = blocks.rounded(mine, payload_dtype)
  whole = blocks.write(blocks.empty(n * m, mine), j * n + i, moving)
  for step in range(1, n * m):
    moving = blocks.permute(moving, _RING, n * m, payload_dtype)
    source = (rank - step) % (n * m)
    whole = blocks.write(whole, _block_of(source, n, m), moving)
  return whole


def _scatter(whole: jax.Array, payload_dtype: Any) -> jax.Array:
  """[N, q] -> [q], in the dtype of sums."""
  n, m, i, j = blocks.grid()
  rank = i * m + j

  def own(step: int) -> jax.Array:
    block = _block_of((rank - 1 - step) % (n * m), n, m)
    x = blocks.read(whole, block)
    return x.astype(blocks.summing_dtype(x.dtype))

  total = own(0)
  wire = blocks.wire_dtype(whole, payload_dtype)
  for step in range(1, n * m):
    total = own(step) + blocks.permute(total, _RING, n * m, wire)
  return total


def _block_of(rank: jax.Array, n: int, m: int) -> jax.Array:
  """Block of the device at a place of the ring."""
  return (rank % m) * n + rank // m
