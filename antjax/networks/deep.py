# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""An MLP over all fields: y = w relu(... relu(W_1 [v_1, ..., v_F] + b_1)).

The deep part of most models here. Source: Covington et al. 2016,
https://doi.org/10.1145/2959100.2959190.
"""

from flax import nnx
import jax

from antjax.layers.mlp import MLP
from antjax.networks.network import DeepConfig, Inputs, Sizes


class Deep(nnx.Module):
  """An MLP and one output."""

  def __init__(self, in_features: int, widths, *, rngs: nnx.Rngs):
    self.mlp = MLP(in_features, widths, rngs=rngs)
    self.out = nnx.Linear(self.mlp.out_features, 1, rngs=rngs)

  def __call__(self, x_BI: jax.Array) -> jax.Array:
    """[B] of [B, I]."""
    return self.out(self.mlp(x_BI))[:, 0]


class MLPModel(nnx.Module):
  """The deep part alone."""

  Config = DeepConfig
  needs: frozenset[str] = frozenset()

  def __init__(self, sizes: Sizes, config: DeepConfig, *, rngs: nnx.Rngs):
    self.deep = Deep(sizes.flat_width, config.widths, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    """Logits [B]."""
    return self.deep(x.flat)
