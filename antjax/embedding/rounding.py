# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows of bfloat16 that are rounded up or down at random.

To the nearest, a step of less than half a unit in the last place changes
nothing, however often it is taken; at random, rows move by it on average. The
numbers depend on table, id and step alone: the same rows come of any placement.
"""

import jax
from jax import lax
import jax.numpy as jnp

_GOLDEN = 0x9E3779B9


def mixed(x: jax.Array) -> jax.Array:
  """MurmurHash3's finalizer: uint32, whose bits look independent."""
  x ^= x >> 16
  x *= jnp.uint32(0x85EBCA6B)
  x ^= x >> 13
  x *= jnp.uint32(0xC2B2AE35)
  return x ^ (x >> 16)


def seeds(ids: jax.Array, salt: jax.Array, step: jax.Array) -> jax.Array:
  """A number for each row uint32 [n], of its id, its table's salt, the step."""
  rows = mixed(ids.astype(jnp.uint32) ^ salt.astype(jnp.uint32))
  return mixed(rows + step.astype(jnp.uint32) * jnp.uint32(_GOLDEN))


def at_random(x: jax.Array, seed: jax.Array) -> jax.Array:
  """float32 [n, D] as bfloat16: a neighbor each, and x on average.

  What bfloat16 can hold stays as it is. `seed` uint32 [n] is that of each row.
  """
  column = jnp.arange(x.shape[1], dtype=jnp.uint32) * jnp.uint32(_GOLDEN)
  noise = mixed(seed[:, None] + column[None]) >> 16
  bits = lax.bitcast_convert_type(x, jnp.uint32) + noise
  kept = lax.bitcast_convert_type(bits >> 16 << 16, jnp.float32)
  return jnp.where(jnp.isfinite(x), kept, x).astype(jnp.bfloat16)
