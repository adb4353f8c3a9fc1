# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""APG, reduced: --model=examples.apg:APG."""

import dataclasses
import itertools
from typing import Annotated

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.layers.mlp import MLP
from antjax.networks.gates import GateConfig
from antjax.networks.network import ClickNetwork, Inputs, Sizes

# Shape suffixes: B = rows, D = width of a field, I = input width, O = output
# width, R = rank.


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoreConfig(GateConfig):
  """Sizes of a network with generated cores [R, R]."""

  rank: Annotated[int, 'Inner width of the weights that are generated.'] = 16


def core_network(
  in_features: int, config: CoreConfig, *, rngs: nnx.Rngs
) -> MLP:
  """Makes a core, flat, of each row."""
  widths = config.gate_width, config.rank**2
  return MLP(in_features, widths, activate_last=False, rngs=rngs)


def through_core(core: jax.Array, x_BR: jax.Array) -> jax.Array:
  """Each row through its own core, [B, R]."""
  rank = x_BR.shape[1]
  return jnp.einsum('brs,bs->br', core.reshape(-1, rank, rank), x_BR)


class GeneratedLinear(nnx.Module):
  """U (1 + C(s)) V x + b: [B, O] of [B, I] and [B, D]."""

  def __init__(
    self,
    in_features: int,
    out_features: int,
    condition: int,
    config: CoreConfig,
    *,
    rngs: nnx.Rngs,
  ):
    self.core = core_network(condition, config, rngs=rngs)
    self.into = nnx.Linear(in_features, config.rank, use_bias=False, rngs=rngs)
    self.out = nnx.Linear(config.rank, out_features, rngs=rngs)

  def __call__(self, x_BI: jax.Array, condition_BD: jax.Array) -> jax.Array:
    x_BR = self.into(x_BI)
    return self.out(x_BR + through_core(self.core(condition_BD), x_BR))


class APG(ClickNetwork):
  """APG: the scenario's vector makes the core of low-rank weights.

    h_{l+1} = relu(U_l C_l(s) V_l h_l + b_l),  h_0 = v,  y = w h_L + b
    C_l(s) = 1 + W'_l relu(W_l s + b_l) + b'_l, as a matrix [R, R]

  with s the scenario's vector. The 1 is ours: a layer starts as a plain one of
  rank R.

  Source: Yan et al. 2022, https://arxiv.org/abs/2203.16218: its group-wise
  condition, low rank, decomposed product, shared U and V. Left out: U and V as
  products of larger matrices while training.
  """

  Config = CoreConfig
  needs = frozenset({'scenario'})

  def __init__(self, sizes: Sizes, config: CoreConfig, *, rngs: nnx.Rngs):
    if sizes.scenario_field is None:
      raise ValueError(
        "apg makes weights of the scenario's vector, and the inputs have"
        ' none (Sizes.scenario_field=None); use another model.'
      )
    self.scenario_fields = sizes.scenario_fields
    self.layers = nnx.List(
      GeneratedLinear(i, o, sizes.dim, config, rngs=rngs)
      for i, o in itertools.pairwise((sizes.flat_width, *config.widths))
    )
    self.out = nnx.Linear(config.widths[-1], 1, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    scenario_BD, h = x.joined(self.scenario_fields), x.flat
    for layer in self.layers:
      h = jax.nn.relu(layer(h, scenario_BD))
    return self.out(h)[:, 0]
