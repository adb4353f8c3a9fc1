# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Two-phase collectives: XLA's own along one axis, then along the other.

A group's uplink carries the minimum, (n - 1) / n of the array, as with HO-Ring,
but the phases do not overlap. MiCS and BlueConnect do the same.

`Collectives` calls all functions, in `shard_map`. Without a payload dtype,
results that are equal on all devices are marked as such.
"""

from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from antjax.collectives import blocks
from antjax.collectives.varying import to_varying
from antjax.mesh.mesh import INTER, INTRA


def all_gather(x: jax.Array, dim: int, payload_dtype: Any) -> jax.Array:
  """Gathers the pieces of all devices along `dim`: between groups, then inside.

  Floating-point arrays wider than `payload_dtype` are rounded to it.
  """
  wire = blocks.to_wire(to_varying(x), payload_dtype)
  for axis in (INTER, INTRA):
    wire = lax.all_gather(wire, axis, axis=dim, tiled=True, to='invarying')
  return blocks.from_wire(wire, x.dtype, payload_dtype)


def reduce_scatter(x: jax.Array, dim: int, payload_dtype: Any) -> jax.Array:
  """Sums over all devices; each keeps its piece of `dim`. Inside groups first.

  Arrays wider than `payload_dtype` are rounded to it for sending; sums are
  formed in at least fp32.
  """
  for axis in (INTRA, INTER):
    if blocks.narrows(x.dtype, payload_dtype):
      # Addends are sent narrow and summed wide.
      wire = blocks.exchange(blocks.to_wire(x, payload_dtype), axis, dim)
      addends = blocks.from_wire(wire, jnp.float32, payload_dtype)
      x = jnp.sum(addends, dim).astype(x.dtype)
    else:
      x = blocks.scatter_sum(x, axis, dim)
  return x


def all_reduce(x: jax.Array, payload_dtype: Any) -> jax.Array:
  """Sums over all devices; for the payload dtype see `reduce_scatter`."""
  n, m = lax.axis_size(INTER), lax.axis_size(INTRA)
  if not x.size:
    return lax.psum(x, (INTER, INTRA))
  if blocks.narrows(x.dtype, payload_dtype):
    flat = blocks.flatten(x, n * m).reshape(-1)
    mine = reduce_scatter(flat, 0, payload_dtype)
    whole = all_gather(mine, 0, payload_dtype)
  else:
    flat = blocks.flatten(x, m).reshape(-1)
    mine = blocks.scatter_sum(flat, INTRA, 0)
    mine = lax.psum(mine, INTER)
    whole = lax.all_gather(mine, INTRA, axis=0, tiled=True, to='invarying')
  return blocks.unflatten(whole, x.shape)
