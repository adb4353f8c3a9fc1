# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sums of rows by bags on NVIDIA GPUs, by a Pallas kernel (Mosaic GPU).

One warpgroup sums one bag: it reads the rows of the bag, a few at once, and
writes their sum. All bags of all tables are one launch.
"""

import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

# Shape suffixes: see `pooled`.

_WARPGROUP = 128  # Threads, each of which has some columns of a row.
_AT_ONCE = 4  # Rows of a bag that are read at once.
# Kinds of GPUs from Hopper on; Mosaic GPU does not compile for older ones.
_FROM_HOPPER = ('H100', 'H200', 'GH200', 'B200', 'GB200', 'B300', 'GB300')


def is_for(dim: int, device_kind: str) -> bool:
  """Whether there is a kernel for rows of this width on such a device."""
  return dim % _WARPGROUP == 0 and any(x in device_kind for x in _FROM_HOPPER)


def sums(
  rows_RD: jax.Array,
  index_N: jax.Array,
  weights_N: jax.Array | None,
  starts_G: jax.Array,
  interpret: Any = None,
) -> jax.Array:
  """See `pooled.Kernel`; `interpret` runs it on a CPU, for tests."""
  from jax.experimental.pallas import mosaic_gpu as plgpu

  num_rows, dim = rows_RD.shape
  num_bags = starts_G.size - 1

  def kernel(*refs):
    starts, index, *weights, rows, sums = refs
    bag = lax.axis_index('bag')
    start, stop = starts[bag], starts[bag + 1]
    size = max(rows_RD.dtype.itemsize, 4)
    layout = plgpu.Layout.WG_STRIDED(
      (dim,), vec_size=math.gcd(8 // size, dim // _WARPGROUP)
    )

    def some(step, sum_D):
      for i in range(_AT_ONCE):
        place = start + step * _AT_ONCE + i
        entry = jnp.minimum(place, stop - 1)
        at = index[entry]
        row_D = plgpu.layout_cast(
          rows[jnp.clip(at, 0, num_rows - 1)].astype(jnp.float32), layout
        )
        if weights:
          row_D = row_D * weights[0][entry]
        is_there = (place < stop) & (at >= 0) & (at < num_rows)
        # A row that is not there may hold anything.
        is_there_D = jnp.broadcast_to(is_there, (dim,))
        sum_D += jnp.where(is_there_D, row_D, zeros_D)
      return sum_D

    zeros_D = plgpu.layout_cast(jnp.zeros((dim,), jnp.float32), layout)
    num_steps = (stop - start + _AT_ONCE - 1) // _AT_ONCE
    sum_D = lax.fori_loop(0, num_steps, some, zeros_D)
    sums[bag] = sum_D.astype(sums.dtype)

  every = [] if weights_N is None else [weights_N.astype(jnp.float32)]
  call = plgpu.kernel(
    kernel,
    out_type=jax.typeof(rows_RD).update(shape=(num_bags, dim)),
    grid=(num_bags,),
    grid_names=('bag',),
    interpret=interpret,
  )
  return call(starts_G, index_N, *every, rows_RD)
