# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One flat ring over all devices, as in most collective libraries.

Devices are ordered in the ring group by group, so that one hop of each group
crosses to the next group. Every one of the N - 1 steps waits for those hops,
and a group's uplink carries (N - 1) / N of an array of N blocks. HO-Ring
(`antjax.collectives.ho_ring`) is better in both respects; this is its baseline.
Both functions use N - 1 permutes. `Collectives` calls them, in `shard_map`.
"""

from typing import Any

import jax

from antjax.collectives import blocks
from antjax.mesh.mesh import INTER, INTRA

_RING = (INTER, INTRA)  # Group by group.


def gather(mine: jax.Array, payload_dtype: Any) -> jax.Array:
  """All blocks [N, q] from each device's own [q]."""
  n, m, i, j = blocks.grid()
  rank = i * m + j
  moving = blocks.rounded(mine, payload_dtype)
  whole = blocks.write(blocks.empty(n * m, mine), j * n + i, moving)
  for step in range(1, n * m):
    moving = blocks.permute(moving, _RING, n * m, payload_dtype)
    source = (rank - step) % (n * m)
    whole = blocks.write(whole, _block_of(source, n, m), moving)
  return whole


def scatter(whole: jax.Array, payload_dtype: Any) -> jax.Array:
  """The sum [q], in the dtype of sums, of this device's block of [N, q]."""
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
  """Block of the device at position `rank` of the ring."""
  return (rank % m) * n + rank // m
