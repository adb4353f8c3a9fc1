# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Dense layers as functions over dict parameters.

`antjax.layers.mlp` is the same as a Flax module, whose layers the fast weights
of meta-learning reach.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

# Shape suffixes: I = input width, O = output width.

PyTree = Any


def init(
  key: jax.Array, in_features: int, out_features: int, *, use_bias: bool = True
) -> PyTree:
  """{'kernel': [I, O], 'bias': [O]}, LeCun normal (variance 1 / I) and 0."""
  kernel = jax.random.normal(key, (in_features, out_features)) * (
    in_features**-0.5
  )
  if not use_bias:
    return {'kernel': kernel}
  return {'kernel': kernel, 'bias': jnp.zeros(out_features)}


def apply(params: PyTree, x: jax.Array) -> jax.Array:
  """X W + b of [..., I]."""
  y = x @ params['kernel']
  return y + spread(params['bias'], y) if 'bias' in params else y


def spread(row: jax.Array, like: jax.Array) -> jax.Array:
  """[O] as [..., O]: said aloud, not by promotion of ranks."""
  return jnp.broadcast_to(row, like.shape)


def init_mlp(key: jax.Array, in_features: int, widths: Sequence[int]) -> PyTree:
  """A list of layers; see `mlp`.

  Raises:
    ValueError: A width that is not positive.
  """
  sizes = (in_features, *widths)
  if min(sizes) < 1:
    raise ValueError(f'init_mlp: widths {sizes} must all be positive.')
  keys = jax.random.split(key, len(widths))
  return [
    init(k, i, o) for k, i, o in zip(keys, sizes, sizes[1:], strict=False)
  ]


def mlp(params: PyTree, x: jax.Array) -> jax.Array:
  """Dense layers, each followed by a ReLU; x as it is without layers."""
  # As a matrix, see `antjax.layers.mlp`.
  y = x.reshape(-1, x.shape[-1])
  for layer in params:
    y = jax.nn.relu(apply(layer, y))
  return y.reshape(*x.shape[:-1], y.shape[-1])
