# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sums of linear terms, products of field pairs and an MLP."""

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.layers.mlp import MLP
from antjax.networks.network import ClickNetwork, DeepConfig, Inputs, Sizes


class Deep(nnx.Module):
  """An MLP with one output, the deep part of most networks: [B] of [B, I]."""

  def __init__(self, in_features: int, widths, *, rngs: nnx.Rngs):
    self.mlp = MLP(in_features, widths, rngs=rngs)
    self.out = nnx.Linear(self.mlp.out_features, 1, rngs=rngs)

  def __call__(self, x_BI: jax.Array) -> jax.Array:
    return self.out(self.mlp(x_BI))[:, 0]


class LR(ClickNetwork):
  """Logistic regression: y = b + sum_i w_i.

  Source: Richardson et al. 2007, https://doi.org/10.1145/1242572.1242643.
  """

  needs = frozenset({'linear'})

  def __init__(self, sizes: Sizes, config: object, *, rngs: nnx.Rngs):
    del sizes, config, rngs
    self.bias = nnx.Param(jnp.zeros(()))

  def __call__(self, x: Inputs) -> jax.Array:
    return x.first_order_B + self.bias[...]


class FM(LR):
  """Factorization machine: y = b + sum_i w_i + sum_{i<j} <v_i, v_j>.

  Source: Rendle 2010, https://doi.org/10.1109/ICDM.2010.127.
  """

  def __call__(self, x: Inputs) -> jax.Array:
    return x.first_order_B + pairs(x.fields_BFD) + self.bias[...]


def pairs(fields_BFD: jax.Array) -> jax.Array:
  """Sum of the dot products of all pairs of fields [B], in O(F D) per row.

  ((sum_i v_i)^2 - sum_i v_i^2) / 2. Computed on a matrix: beside an MLP on the
  same vectors, sums over an inner dim took as long on XLA:CPU as the MLP
  itself.
  """
  num_rows, num_fields, dim = fields_BFD.shape
  flat = fields_BFD.reshape(num_rows, -1)
  ones = jnp.tile(jnp.eye(dim, dtype=flat.dtype), (num_fields, 1))
  sum_BD = jnp.dot(flat, ones, precision=jax.lax.Precision.HIGHEST)
  total = jnp.sum(jnp.square(sum_BD), axis=-1)
  return 0.5 * (total - jnp.sum(jnp.square(flat), axis=-1))


class MLPModel(ClickNetwork):
  """The deep part only: y = w relu(... relu(W_1 v + b_1)) + b.

  Source: Covington et al. 2016, https://doi.org/10.1145/2959100.2959190.
  """

  Config = DeepConfig

  def __init__(self, sizes: Sizes, config: DeepConfig, *, rngs: nnx.Rngs):
    self.deep = Deep(sizes.flat_width, config.widths, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    return self.deep(x.flat)


class WideDeep(MLPModel):
  """Wide & Deep: y = sum_i w_i + MLP(v).

  Source: Cheng et al. 2016, https://arxiv.org/abs/1606.07792. The paper's wide
  part also has hand-picked feature crosses; pass them as features.
  """

  needs = frozenset({'linear'})

  def __call__(self, x: Inputs) -> jax.Array:
    return x.first_order_B + self.deep(x.flat)


class DeepFM(WideDeep):
  """DeepFM: y = sum_i w_i + sum_{i<j} <v_i, v_j> + MLP(v) with one v.

  Source: Guo et al. 2017, https://arxiv.org/abs/1703.04247, section 2.1.
  """

  def __call__(self, x: Inputs) -> jax.Array:
    return x.first_order_B + pairs(x.fields_BFD) + self.deep(x.flat)
