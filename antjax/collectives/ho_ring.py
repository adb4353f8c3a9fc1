# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""HO-Ring: a ring over groups, and a ring inside each group.

Source: "Rethinking Memory and Communication Costs for Efficient Data Parallel
Training of Large Language Models" (arXiv 2310.06003), section 3.2 and appendix
A.2, where it is also called PaRO-CC. Every step is purely inside groups or
purely between them, all m lanes of a group drive their link to the next group,
and a group's uplink carries (n - 1) / n of the array, the minimum.

All-gather: in step t a device sends the newest block of its lane to the next
group, while the blocks received in step t - 1 travel around inside the group.
The program has no dependency between the two. Reduce-scatter is the reverse in
time. That is n - 1 permutes along `inter` and n (m - 1) along `intra`. How much
overlaps depends on the backend: XLA:CPU runs a device's collectives one after
the other; XLA:GPU overlaps those of a gather beside products, and no others
(tests/plan/ho_ring_schedule_test.py). `Collectives` calls both functions, in
`shard_map`.
"""

from typing import Any

import jax

from antjax.collectives import blocks
from antjax.mesh.mesh import INTER, INTRA


def gather(mine: jax.Array, payload_dtype: Any) -> jax.Array:
  """All blocks [N, q] from each device's own [q]."""
  n, m, i, j = blocks.grid()
  newest = blocks.rounded(mine, payload_dtype)
  whole = blocks.empty(n * m, mine)
  for t in range(n):
    # The block for the next group leaves before this round inside the group.
    moving, group = newest, (i - t) % n
    if t < n - 1:
      newest = blocks.permute(newest, INTER, n, payload_dtype)
    for k in range(m):
      if k:
        moving = blocks.permute(moving, INTRA, m, payload_dtype)
      whole = blocks.write(whole, (j - k) % m * n + group, moving)
  return whole


def scatter(whole: jax.Array, payload_dtype: Any) -> jax.Array:
  """The sum [q], in the dtype of sums, of this device's block of [N, q]."""
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
