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

import dataclasses
from typing import Annotated

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.layers.mlp import MLP
from antjax.networks.network import DeepConfig, Inputs, Sizes

# Shape suffixes: B = rows, D = width of a field, I, O = widths, R = rank.


class GeneratedLinear(nnx.Module):
  """U C(s) V x + b."""

  def __init__(
    self,
    in_features: int,
    out_features: int,
    condition: int,
    config: 'APG.Config',
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

  needs: frozenset[str] = frozenset()

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(DeepConfig):
    """Sizes of the network."""

    gate_width: Annotated[
      int, 'Hidden width of the network that makes gates or weights.'
    ] = 64
    rank: Annotated[int, 'Inner width of the weights that are generated.'] = 16

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    sizes.need_scenario('apg')
    self.scenario_fields = sizes.scenario_fields
    sizes_in = sizes.flat_width, *config.widths
    self.layers = nnx.List(
      GeneratedLinear(i, o, sizes.dim, config, rngs=rngs)
      for i, o in zip(sizes_in, config.widths)
    )
    self.out = nnx.Linear(config.widths[-1], 1, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    """Logits [B]."""
    scenario_BD, h = x.joined(self.scenario_fields), x.flat
    for layer in self.layers:
      h = jax.nn.relu(layer(h, scenario_BD))
    return self.out(h)[:, 0]
