# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""DLRM: an interaction of id vectors and a vector of numbers, then an MLP."""

import dataclasses
from typing import Annotated, ClassVar

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from antjax.layers.mlp import MLP
from antjax.networks.crosses import cross_layers, crossed
from antjax.networks.network import ClickNetwork, DeepConfig, Inputs, Sizes

# Shape suffixes: B = rows, F = vectors, D = embedding width, X = input width of
# the top MLP, O = outputs.


@dataclasses.dataclass(frozen=True, kw_only=True)
class DLRMConfig(DeepConfig):
  """Sizes of the two MLPs."""

  widths: Annotated[tuple[int, ...], 'Hidden widths of the top MLP.'] = (64, 64)
  bottom_widths: Annotated[
    tuple[int, ...], 'Hidden widths of the MLP that embeds numbers.'
  ] = (64,)


class DLRM(ClickNetwork):
  """DLRM: y = MLP([v, <v_i, v_j> for all i > j]), with one v for all numbers.

  With top_vectors=false the input of the top MLP is the vector of the numbers
  and the products, as published.

  Source: Naumov et al. 2019, https://arxiv.org/abs/1906.00091.
  """

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(DLRMConfig):
    """Sizes of the network."""

    top_vectors: Annotated[
      bool,
      'The top MLP sees all vectors and their products, not only the vector of'
      ' the numbers and the products.',
    ] = True

  def __init__(self, sizes: Sizes, config: DLRMConfig, *, rngs: nnx.Rngs):
    num_vectors = sizes.num_fields + bool(sizes.dense_width)
    if num_vectors < 2:
      raise ValueError(
        f'dlrm: the interaction needs two vectors, and there is {num_vectors};'
        ' add a feature or use another model.'
      )
    widths = *config.bottom_widths, sizes.dim
    self.bottom = (
      MLP(sizes.dense_width, widths, rngs=rngs) if sizes.dense_width else None
    )
    width = self._interaction(num_vectors, sizes.dim, config, rngs)
    self.top = MLP(width, config.widths, rngs=rngs)
    self.head = nnx.Linear(self.top.out_features, sizes.num_outputs, rngs=rngs)

  def _interaction(
    self, num_vectors: int, dim: int, config: DLRMConfig, rngs: nnx.Rngs
  ) -> int:
    """Creates the parts that `interact` uses; returns X."""
    del rngs
    assert isinstance(config, DLRM.Config)
    self.top_vectors = config.top_vectors
    num_seen = num_vectors if self.top_vectors else self.bottom is not None
    return num_seen * dim + num_vectors * (num_vectors - 1) // 2

  def interact(self, vectors_BFD: jax.Array) -> jax.Array:
    """Input of the top MLP [B, X]; the vector of numbers comes last."""
    pairs, seen_BFD = dot_pairs(vectors_BFD), vectors_BFD
    if not self.top_vectors:
      last = vectors_BFD.shape[1] - (self.bottom is not None)
      seen_BFD = vectors_BFD[:, last:]
    flat = seen_BFD.reshape(seen_BFD.shape[0], -1)
    return jnp.concatenate([flat, pairs], axis=-1)

  def __call__(self, x: Inputs) -> jax.Array:
    vectors_BFD = x.fields_BFD
    if self.bottom is not None and x.dense_BX is not None:
      numbers_B1D = self.bottom(x.dense_BX.astype(vectors_BFD.dtype))[:, None]
      vectors_BFD = jnp.concatenate([vectors_BFD, numbers_B1D], axis=1)
    return logits(self.head(self.top(self.interact(vectors_BFD))))


class DLRMDCN(DLRM):
  """MLPerf's DLRM v2: y = MLP(x_L) with cross layers on all vectors.

    x_{l+1} = x_0 * (W_l V_l x_l + b_l) + x_l,  x_0 = [v, MLP(numbers)]

  Source: https://arxiv.org/abs/2008.13535, and `DLRM_DCN` of TorchRec, with
  is MLPerf's model (github.com/mlcommons/training, recommendation_v2).
  """

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(DLRMConfig):
    """Sizes of the network."""

    may_be_zero: ClassVar[tuple[str, ...]] = ('cross_rank',)

    cross_layers: Annotated[int, 'Number of cross layers.'] = 3
    cross_rank: Annotated[
      int, 'Rank of the matrices of cross layers. 0: full rank.'
    ] = 32

  def _interaction(
    self, num_vectors: int, dim: int, config: DLRMConfig, rngs: nnx.Rngs
  ) -> int:
    assert isinstance(config, DLRMDCN.Config)
    width = num_vectors * dim
    self.cross = cross_layers(
      width, config.cross_layers, config.cross_rank, rngs=rngs
    )
    return width

  def interact(self, vectors_BFD: jax.Array) -> jax.Array:
    """See `DLRM.interact`."""
    flat = vectors_BFD.reshape(vectors_BFD.shape[0], -1)
    return crossed(self.cross, flat)


def dot_pairs(vectors_BFD: jax.Array) -> jax.Array:
  """Products of pairs (i, j), i > j, row by row: [..., F (F - 1) / 2]."""
  num_features = vectors_BFD.shape[-2]
  products_BFF = jnp.einsum('...fd,...gd->...fg', vectors_BFD, vectors_BFD)
  rows, columns = np.tril_indices(num_features, k=-1)
  flat = products_BFF.reshape(*products_BFF.shape[:-2], -1)
  # One gather with static indices: its transpose is a scatter without
  # collisions, which is cheap on every backend.
  index = rows * num_features + columns
  return flat.at[..., index].get(unique_indices=True)


def logits(y_BO: jax.Array) -> jax.Array:
  """Logits [B], or [B, O] for several outputs."""
  return y_BO[:, 0] if y_BO.shape[1] == 1 else y_BO
