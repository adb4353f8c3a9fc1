# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""HO-Ring: a ring over groups, and a ring inside each group.

Source: "Rethinking Memory and Communication Costs for Efficient Data Parallel
Training of Large Language Models" (arXiv 2310.06003), section 3.2 and appendix
A.2, where it is also called PaRO-CC. Every step is purely inside groups or
purely between them, all m lanes of a group drive their link to the next group,
and a group's uplink carries (n - 1) / n of the array, the least possible.

All-gather: in step t a device sends the newest block of its lane to the next
group, while the blocks that came in step t - 1 go round inside the group;
nothing in the program makes one wait for the other. Reduce-scatter is its
reverse in time. That is n - 1 permutes along `inter` and n (m - 1) along
`intra` for each chunk. How much of it overlaps is up to the backend: XLA:CPU
runs one collective of a device after the other.

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


def all_gather(
  x: jax.Array, dim: int = 0, *, num_chunks: int = 1, payload_dtype: Any = None
) -> jax.Array:
  """Gathers the pieces of all devices along `dim`.

  Args:
    x: This device's piece.
    dim: The dim that is split.
    num_chunks: Parts of the piece that travel one after the other; more of
      them overlap better and cost more latencies.
    payload_dtype: Floating-point arrays wider than this are rounded to it.

  Returns:
    The whole array, equal on all devices, of the dtype of `x`.
  """
  dim = blocks.dim_of(x, dim, 'ho_ring.all_gather')
  mine = to_varying(x).reshape(1, x.size)
  parts = [
    _gather(part[0], payload_dtype) for part in blocks.chunks(mine, num_chunks)
  ]
  return blocks.join(blocks.unchunk(parts), x.shape, dim)


def reduce_scatter(
  x: jax.Array, dim: int = 0, *, num_chunks: int = 1, payload_dtype: Any = None
) -> jax.Array:
  """Sums over all devices; each keeps its piece of `dim`.

  Args:
    x: This device's addend, whole.
    dim: The dim to split; must divide among all devices.
    num_chunks: See `all_gather`.
    payload_dtype: Partial sums wider than this are rounded to it to be sent;
      they are formed in at least fp32.

  Returns:
    This device's piece of the sum, of the dtype of `x`.
  """
  num = lax.axis_size(INTER) * lax.axis_size(INTRA)
  x, dim = blocks.addend(x), blocks.dim_of(x, dim, 'ho_ring.reduce_scatter')
  whole = blocks.split(x, dim, num, 'ho_ring.reduce_scatter')
  parts = [
    _scatter(part, payload_dtype).astype(x.dtype)[None]
    for part in blocks.chunks(whole, num_chunks)
  ]
  shape = [d // num if i == dim else d for i, d in enumerate(x.shape)]
  return blocks.unchunk(parts).reshape(shape)


def all_reduce(
  x: jax.Array, *, num_chunks: int = 1, payload_dtype: Any = None
) -> jax.Array:
  """Sums over all devices: a reduce-scatter and an all-gather; pads inside.

  Args:
    x: This device's addend.
    num_chunks: See `all_gather`.
    payload_dtype: See `reduce_scatter`; the sum is rounded to it as well.

  Returns:
    The sum, equal on all devices, of the shape and dtype of `x`.
  """
  num = lax.axis_size(INTER) * lax.axis_size(INTRA)
  x = blocks.addend(x)
  whole = blocks.flatten(x, num)
  parts = [
    _gather(_scatter(part, payload_dtype).astype(x.dtype), payload_dtype)
    for part in blocks.chunks(whole, num_chunks)
  ]
  return blocks.unflatten(blocks.unchunk(parts), x.shape)


def _gather(mine: jax.Array, payload_dtype: Any) -> jax.Array:
  """[q] -> [N, q]."""
  n, m, i, j = blocks.grid()
  newest = blocks.rounded(mine, payload_dtype)
  whole = blocks.empty(n * m, mine)
  for t in range(n):
    # What goes to the next group leaves before this round inside the group.
    moving, group = newest, (i - t) % n
    if t < n - 1:
      newest = blocks.permute(newest, INTER, n, payload_dtype)
    for k in range(m):
      if k:
        moving = blocks.permute(moving, INTRA, m, payload_dtype)
      whole = blocks.write(whole, (j - k) % m * n + group, moving)
  return whole


def _scatter(whole: jax.Array, payload_dtype: Any) -> jax.Array:
  """[N, q] -> [q], in the dtype of sums."""
  n, m, i, j = blocks.grid()
  dtype = blocks.summing_dtype(whole.dtype)
  wire = blocks.wire_dtype(whole, payload_dtype)
  total: jax.Array | None = None
  for t in range(n):
    group = (i - 1 - t) % n  # Whose blocks this round sums; our own last.

    def own(k: int) -> jax.Array:
      block = (j - 1 - k) % m * n + group
      return blocks.read(whole, block).astype(dtype)

    partial = own(0)
    for k in range(1, m):
      partial = own(k) + blocks.permute(partial, INTRA, m, wire)
    if total is None:
      total = partial
    else:
      total = partial + blocks.permute(total, INTER, n, wire)
  assert total is not None
  return total
