# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Matrices of frozen layers in 8 or 4 bits, for training of adapters.

A matrix W [in, out] is stored as integers q and scales s, W = q s, symmetric
around 0, with one scale per output and group of inputs (as used by Dettmers et
al. 2023, https://arxiv.org/abs/2305.14314). So

  |W - q s| <= max |W of the group| / 254 in 8 bits, / 14 in 4.

8 bits have one group; 4 bits have groups of at most 32 inputs, two per byte.
Each use of a matrix restores it in the scales' dtype, one layer at a time.
"""

from typing import Any, Literal

from flax import nnx
import jax
import jax.numpy as jnp

Kind = Literal['int8', 'int4']
MATRICES = ('query', 'key', 'value', 'out', 'gate', 'up', 'down')
_MAX_GROUP = 32
# Shape suffixes of restored: N = groups, G = inputs of a group, O = outputs.


class Quantized(nnx.Variable[jax.Array]):
  """Integers or scales of a matrix; no nnx.Param, so optimizers skip them."""


def quantize(layers: nnx.Module, kind: Kind) -> None:
  """Quantizes the matrices of layers, which are then no longer trained.

  Args:
    layers: A `Block`, stacked or not.
    kind: Format of the integers.

  Raises:
    ValueError: With int4, a matrix has an odd number of inputs.
  """
  for name in MATRICES:
    if hasattr(layers, name):
      held: Any = getattr(layers, name)
      q, scale = split(held[...], kind)
      setattr(layers, name, Quantized(q))
      setattr(layers, f'{name}_scale', Quantized(scale))


def split(matrix: jax.Array, kind: Kind) -> tuple[jax.Array, jax.Array]:
  """(integers, scales [..., groups, out]) of a matrix [..., in, out]."""
  *lead, size, outputs = matrix.shape
  top, group = 127, size
  if kind == 'int4':
    fits = range(2, min(_MAX_GROUP, size) + 1, 2)
    top, group = 7, max((n for n in fits if size % n == 0), default=0)
  if not group:
    raise ValueError(
      f'quantize={kind}: a matrix has {size} inputs; needed is an even number.'
      ' Use int8.'
    )
  x = matrix.astype(jnp.float32).reshape(*lead, -1, group, outputs)
  scale = jnp.abs(x).max(axis=-2, keepdims=True) / top
  scale = jnp.where(scale > 0, scale, 1)
  q = jnp.round(x / scale).reshape(*lead, size, outputs)
  if kind == 'int4':
    q = (q + 8).astype(jnp.uint8)
    q = q[..., ::2, :] | (q[..., 1::2, :] << 4)
  return q.astype(jnp.uint8 if kind == 'int4' else jnp.int8), scale[
    ..., 0, :
  ].astype(matrix.dtype)


def restored(q: jax.Array, scale: jax.Array) -> jax.Array:
  """The matrix [..., in, out] in the scales' dtype."""
  if q.dtype == jnp.uint8:
    q = jnp.stack([q & 15, q >> 4], axis=-2).astype(jnp.int8) - 8
    q = q.reshape(*scale.shape[:-2], -1, scale.shape[-1])
  x_NGO = q.reshape(*scale.shape[:-1], -1, scale.shape[-1]).astype(scale.dtype)
  spread = jnp.broadcast_to(scale[..., None, :], x_NGO.shape)
  return (x_NGO * spread).reshape(q.shape)
