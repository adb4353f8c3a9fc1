# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows of bfloat16 and int8, and their stochastic rounding.

With rounding to nearest, repeated steps of less than half a unit in the last
place change nothing; here rows move by them on average. The random numbers
depend only on table, id and step, so every placement gives the same rows.

A row of int8 is kept as D + 1 bytes: numbers from -127 to 127 in a common unit,
and its exponent. The unit is the smallest power of two that the row fits in: so
it seldom changes, and numbers that a step does not touch stay as they are. The
exponent -128 means NaN.
"""

from typing import Any, Literal

import jax
from jax import lax
import jax.numpy as jnp

Dtype = Literal['float32', 'bfloat16', 'int8']
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


def width(dim: int, dtype: Any) -> int:
  """Numbers that are kept of a row of `dim`."""
  return dim + 1 if jnp.dtype(dtype) == jnp.int8 else dim


def to_float(rows: Any) -> Any:
  """Rows [..., width] as they are kept as float32 [..., D]."""
  if rows.dtype != jnp.int8:
    return rows.astype(jnp.float32)
  exponent = rows[..., -1:].astype(jnp.int32)
  unit = lax.bitcast_convert_type(exponent + 127 << 23, jnp.float32)
  unit = jnp.where(exponent == -128, jnp.nan, unit)
  return rows[..., :-1].astype(jnp.float32) * unit


def to_kept(x: jax.Array, dtype: Any, seed: jax.Array | None) -> jax.Array:
  """Rows float32 [n, D] as they are kept, [n, width].

  They are rounded to x on average, by seeds uint32 [n]; None: to the nearest.
  Values that `dtype` represents do not change.
  """
  if jnp.dtype(dtype) == jnp.int8:
    return _to_int8(x, seed)
  return x.astype(dtype) if seed is None else _to_bfloat16(x, seed)


def _noise(x: jax.Array, seed: jax.Array) -> jax.Array:
  """Random numbers uint32 [n, D], below 2^16."""
  column = jnp.arange(x.shape[1], dtype=jnp.uint32) * jnp.uint32(_GOLDEN)
  return mixed(seed[:, None] + column[None]) >> 16


def _to_bfloat16(x: jax.Array, seed: jax.Array) -> jax.Array:
  bits = lax.bitcast_convert_type(x, jnp.uint32) + _noise(x, seed)
  kept = lax.bitcast_convert_type(bits >> 16 << 16, jnp.float32)
  return jnp.where(jnp.isfinite(x), kept, x).astype(jnp.bfloat16)


def _to_int8(x: jax.Array, seed: jax.Array | None) -> jax.Array:
  most = jnp.max(jnp.abs(x), axis=1, keepdims=True)
  bits = lax.bitcast_convert_type(most, jnp.int32)
  # 127 units must reach `most`, whose fraction is that of the lower bits.
  exponent = (bits >> 23) - 127 - 6
  exponent += (bits & 0x7FFFFF) > 0x7E0000
  exponent = jnp.clip(exponent, -63, 121)  # Also the inverse is a number.
  inverse = lax.bitcast_convert_type(127 - exponent << 23, jnp.float32)
  scaled = x * inverse
  if seed is None:
    numbers = jnp.round(scaled)
  else:  # Exact: the sum has at most 23 bits.
    numbers = jnp.floor(scaled + _noise(x, seed) * jnp.float32(2.0**-16))
  # XLA's maximum on CPUs may leave out NaN.
  is_number = jnp.isfinite(x).all(axis=1, keepdims=True)
  is_number &= most <= jnp.float32(127 * 2.0**121)
  exponent = jnp.where(is_number, exponent, -128)
  numbers = jnp.where(is_number, numbers, 0)
  return jnp.concatenate([numbers, exponent], 1).astype(jnp.int8)
