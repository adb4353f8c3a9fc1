# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Stochastic rounding of bfloat16 rows.

With rounding to nearest, repeated steps of less than half a unit in the last
place change nothing; here rows move by them on average. The random numbers
depend only on table, id and step, so every placement gives the same rows.
"""

import jax
from jax import lax
import jax.numpy as jnp

_GOLDEN = 0x9E3779B9


def mixed(x: jax.Array) -> jax.Array:
  """MurmurHash3's finalizer: uint32 with well-mixed bits."""
  x ^= x >> 16
  x *= jnp.uint32(0x85EBCA6B)
  x ^= x >> 13
  x *= jnp.uint32(0xC2B2AE35)
  return x ^ (x >> 16)


def seeds(
  ids: jax.Array, upper: jax.Array | None, salt: jax.Array, step: jax.Array
) -> jax.Array:
  """Seeds uint32 [n] of rows, from `Stack.ids`, salt of the table and step."""
  ids = ids.astype(jnp.uint32) ^ salt.astype(jnp.uint32)
  if upper is not None:
    ids ^= upper * jnp.uint32(_GOLDEN)
  rows = mixed(ids)
  return mixed(rows + step.astype(jnp.uint32) * jnp.uint32(_GOLDEN))


def at_random(x: jax.Array, seed: jax.Array) -> jax.Array:
  """Rounds float32 [n, D] to a neighboring bfloat16, to x on average.

  Values that bfloat16 represents do not change. `seed` is uint32 [n], per row.
  """
  column = jnp.arange(x.shape[1], dtype=jnp.uint32) * jnp.uint32(_GOLDEN)
  noise = mixed(seed[:, None] + column[None]) >> 16
  bits = lax.bitcast_convert_type(x, jnp.uint32) + noise
  kept = lax.bitcast_convert_type(bits >> 16 << 16, jnp.float32)
  return jnp.where(jnp.isfinite(x), kept, x).astype(jnp.bfloat16)
