# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Factorization machine: y = b + sum_i w_i + sum_{i<j} <v_i, v_j>.

Source: Rendle 2010, https://doi.org/10.1109/ICDM.2010.127.
"""

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.networks.network import Inputs, Sized, Sizes


def pairs(fields_BFD: jax.Array) -> jax.Array:
  """Sum of the dot products of all pairs of fields [B], in O(F D) each.

  ((sum_i v_i)^2 - sum_i v_i^2) / 2. On a matrix: beside an MLP on the same
  vectors sums over an inner dim took XLA:CPU as long as the MLP itself.
  """
  num_rows, num_fields, dim = fields_BFD.shape
  flat = fields_BFD.reshape(num_rows, -1)
  ones = jnp.tile(jnp.eye(dim, dtype=flat.dtype), (num_fields, 1))
  sum_BD = jnp.dot(flat, ones, precision=jax.lax.Precision.HIGHEST)
  total = jnp.sum(jnp.square(sum_BD), axis=-1)
  return 0.5 * (total - jnp.sum(jnp.square(flat), axis=-1))


class FM(nnx.Module):
  """Linear terms and pairs."""

  Config = Sized
  needs = frozenset({'linear'})

  def __init__(self, sizes: Sizes, config: Sized, *, rngs: nnx.Rngs):
    del sizes, config, rngs
    self.bias = nnx.Param(jnp.zeros(()))

  def __call__(self, x: Inputs) -> jax.Array:
    """Logits [B]."""
    return x.first_order_B + pairs(x.fields_BFD) + self.bias[...]
