# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Wukong: stacked factorization machines."""

import dataclasses
from typing import Annotated

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.layers.mlp import MLP
from antjax.networks.deep import Deep
from antjax.networks.network import ClickNetwork, DeepConfig, Inputs, Sizes

# Shape suffixes: B = rows, F = input vectors of a layer, N = its output
# vectors, D = their width, K = rank.


class Recombination(nnx.Module):
  """W X: maps vectors [B, F, D] to [B, N, D]."""

  def __init__(self, num_vectors: int, num_new: int, *, rngs: nnx.Rngs):
    self.map = nnx.Linear(num_vectors, num_new, use_bias=False, rngs=rngs)

  def __call__(self, x_BFD: jax.Array) -> jax.Array:
    return jnp.swapaxes(self.map(jnp.swapaxes(x_BFD, 1, 2)), 1, 2)


class WukongLayer(nnx.Module):
  """LN([FMB(X), LCB(X)] + X): maps [B, F, D] to [B, N, D]."""

  def __init__(
    self,
    num_vectors: int,
    dim: int,
    config: 'Wukong.Config',
    *,
    rngs: nnx.Rngs,
  ):
    num_new = config.num_pairs + config.num_linear
    width = num_vectors * config.rank
    # X^T Y of the FM, whose D columns are rows of this product.
    self.compress = Recombination(num_vectors, config.rank, rngs=rngs)
    self.norm_pairs = nnx.LayerNorm(width, rngs=rngs)
    widths = *config.pair_widths, config.num_pairs * dim
    self.pairs = MLP(width, widths, activate_last=False, rngs=rngs)
    self.linear = Recombination(num_vectors, config.num_linear, rngs=rngs)
    self.residual = (
      None
      if num_vectors == num_new
      else Recombination(num_vectors, num_new, rngs=rngs)
    )
    self.norm = nnx.LayerNorm(dim, rngs=rngs)

  def __call__(self, x_BFD: jax.Array) -> jax.Array:
    num_rows, _, dim = x_BFD.shape
    pairs_BFK = jnp.einsum('bfd,bkd->bfk', x_BFD, self.compress(x_BFD))
    pairs = self.pairs(self.norm_pairs(pairs_BFK.reshape(num_rows, -1)))
    new_BND = jnp.concatenate(
      [pairs.reshape(num_rows, -1, dim), self.linear(x_BFD)], axis=1
    )
    rest = x_BFD if self.residual is None else self.residual(x_BFD)
    return self.norm(new_BND + rest)


class Wukong(ClickNetwork):
  """Wukong: layers of factorization machines, y = MLP(X_L).

  The rows of X_0 are the fields. A layer makes vectors from pairs of vectors,
  and linear ones:

    FMB(X) = MLP(LN(X X^T Y)),  LCB(X) = W X,  X' = LN([FMB(X), LCB(X)] + R X)

  where R is the identity if the numbers of vectors are equal.

  Source: Zhang et al. 2024, https://arxiv.org/abs/2403.02545, section 3, with
  an FM compressed by a learned Y [F, K]. The paper also has a Y computed by an
  MLP from the row. Dense inputs go to the last MLP.
  """

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(DeepConfig):
    """Sizes of the network."""

    num_layers: Annotated[int, 'Number of layers.'] = 2
    num_pairs: Annotated[int, 'Pair vectors (FM) per layer.'] = 8
    num_linear: Annotated[int, 'Number of linear vectors per layer.'] = 8
    rank: Annotated[int, 'Number of products per vector that an FM keeps.'] = 8
    pair_widths: Annotated[
      tuple[int, ...], 'Hidden widths of the MLP after an FM.'
    ] = (128,)

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    num_new = config.num_pairs + config.num_linear
    vectors = sizes.num_fields, *[num_new] * (config.num_layers - 1)
    self.layers = nnx.List(
      WukongLayer(number, sizes.dim, config, rngs=rngs) for number in vectors
    )
    width = num_new * sizes.dim + sizes.dense_width
    self.deep = Deep(width, config.widths, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    vectors = x.fields_BFD
    for layer in self.layers:
      vectors = layer(vectors)
    return self.deep(x.beside(vectors))
