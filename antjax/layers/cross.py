# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Cross layers of DCN V2: products of features of bounded degree.

Source: Wang et al. 2021, https://arxiv.org/abs/2008.13535, sections 3.2 (full
rank) and 4 (low rank).
"""

from typing import Any

import jax
import jax.numpy as jnp

from antjax.layers import dense

# Shape suffixes: I = width, R = rank.

PyTree = Any


def init(
  key: jax.Array, in_features: int, num_layers: int, rank: int = 0
) -> PyTree:
  """A list of layers: 'kernel' [I, I], or 'down' [I, R] and 'up' [R, I].

  Args:
    key: Random key.
    in_features: Width, I.
    num_layers: Layers; products have up to that many factors and one more.
    rank: R; 0: full rank.

  Raises:
    ValueError: A negative rank, or no layer.
  """
  if num_layers < 1 or rank < 0:
    raise ValueError(
      f'cross.init: got num_layers={num_layers}, rank={rank}; needed are at'
      ' least one layer, and a rank that is positive, or 0 for full rank.'
    )

  def matrix(key: jax.Array, size_in: int, size_out: int) -> jax.Array:
    return jax.random.normal(key, (size_in, size_out)) * size_in**-0.5

  layers = []
  for k in jax.random.split(key, num_layers):
    layer = {'bias': jnp.zeros(in_features)}
    if rank:
      k_down, k_up = jax.random.split(k)
      layer['down'] = matrix(k_down, in_features, rank)
      layer['up'] = matrix(k_up, rank, in_features)
    else:
      layer['kernel'] = matrix(k, in_features, in_features)
    layers.append(layer)
  return layers


def cross(params: PyTree, x0: jax.Array) -> jax.Array:
  """x_{l+1} = x0 * (W x_l + b) + x_l over all layers, [..., I]."""
  x = x0
  for layer in params:
    if 'kernel' in layer:
      product = x @ layer['kernel']
    else:
      product = (x @ layer['down']) @ layer['up']
    x = x0 * (product + dense.spread(layer['bias'], product)) + x
  return x
