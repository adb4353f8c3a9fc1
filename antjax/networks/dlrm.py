# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""DLRM: y = MLP([v, <v_i, v_j> for all i > j]), with one v of all numbers.

Source: Naumov et al. 2019, https://arxiv.org/abs/1906.00091. What adapts in an
inner loop of meta-learning goes by the names of the parts: 'top' and 'head'.
"""

import dataclasses
from typing import Annotated

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.layers import interaction, mlp
from antjax.networks.network import DeepConfig, Inputs, Sizes


class DLRM(nnx.Module):
  """Pairwise dot products and a top MLP."""

  needs: frozenset[str] = frozenset()

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(DeepConfig):
    """Sizes of the network."""

    widths: Annotated[tuple[int, ...], 'Hidden widths of the top MLP.'] = (
      64,
      64,
    )
    bottom_widths: Annotated[
      tuple[int, ...], 'Hidden widths of the MLP that makes a field of numbers.'
    ] = (64,)

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    num_vectors = sizes.num_fields + bool(sizes.dense_width)
    if num_vectors < 2:
      raise ValueError(
        f'dlrm: the interaction needs two vectors, and there is {num_vectors};'
        ' add a feature or use another model.'
      )
    self.num_outputs = sizes.num_outputs
    widths = *config.bottom_widths, sizes.dim
    self.bottom = (
      mlp.MLP(sizes.dense_width, widths, rngs=rngs)
      if sizes.dense_width
      else None
    )
    width = num_vectors * sizes.dim + num_vectors * (num_vectors - 1) // 2
    self.top = mlp.MLP(width, config.widths, rngs=rngs)
    self.head = nnx.Linear(self.top.out_features, sizes.num_outputs, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    """Logits [B], or [B, num_outputs] of several."""
    vectors_BFD = x.fields_BFD
    if self.bottom is not None and x.dense_BX is not None:
      vectors_BFD = jnp.concatenate(
        [vectors_BFD, self.bottom(x.dense_BX)[:, None]], axis=1
      )
    pairs = interaction.dot_interaction(vectors_BFD)
    flat = vectors_BFD.reshape(vectors_BFD.shape[0], -1)
    y = self.head(self.top(jnp.concatenate([flat, pairs], axis=-1)))
    return y[:, 0] if self.num_outputs == 1 else y
