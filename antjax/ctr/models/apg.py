# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""APG: the scenario's vector makes the core of low-rank weights.

  h_{l+1} = relu(U_l C_l(s) V_l h_l + b_l),  h_0 = v,  y = w h_L + b
  C_l(s) = 1 + W'_l relu(W_l s + b_l) + b'_l, as a matrix [R, R]

with s the scenario's vector. The 1 is ours: a layer starts as a plain one of
rank R.

Source: Yan et al. 2022, https://arxiv.org/abs/2203.16218: its group-wise
condition, low rank, decomposed product, shared U and V. Left out: U and V as
products of larger matrices while training.
"""

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.ctr.models.inputs import Inputs, NetworkConfig, Sizes
from antjax.layers.mlp import MLP

# Shape suffixes: B = rows, D = width of a field, I, O = widths, R = rank.


class GeneratedLinear(nnx.Module):
  """U C(s) V x + b."""

  def __init__(
    self,
    in_features: int,
    out_features: int,
    condition: int,
    config: NetworkConfig,
    *,
    rngs: nnx.Rngs,
  ):
    self.rank = config.rank
    self.core = MLP(
      condition,
      (config.gate_width, self.rank**2),
      activate_last=False,
      rngs=rngs,
    )
    self.into = nnx.Linear(in_features, self.rank, use_bias=False, rngs=rngs)
    self.out = nnx.Linear(self.rank, out_features, rngs=rngs)

  def __call__(self, x_BI: jax.Array, condition_BD: jax.Array) -> jax.Array:
    """[B, O] of [B, I]."""
    core_BRR = self.core(condition_BD).reshape(-1, self.rank, self.rank)
    x_BR = self.into(x_BI)
    return self.out(x_BR + jnp.einsum('brs,bs->br', core_BRR, x_BR))


class APG(nnx.Module):
  """An MLP of generated layers."""

  def __init__(self, sizes: Sizes, config: NetworkConfig, *, rngs: nnx.Rngs):
    self.scenario_field = sizes.scenario_field
    sizes_in = sizes.flat_width, *config.widths
    self.layers = nnx.List(
      GeneratedLinear(i, o, sizes.dim, config, rngs=rngs)
      for i, o in zip(sizes_in, config.widths)
    )
    self.out = nnx.Linear(config.widths[-1], 1, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    """Logits [B]."""
    scenario_BD, h = x.fields_BFD[:, self.scenario_field], x.flat
    for layer in self.layers:
      h = jax.nn.relu(layer(h, scenario_BD))
    return self.out(h)[:, 0]
