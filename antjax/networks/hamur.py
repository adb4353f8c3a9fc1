# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""HAMUR: adapters of each scenario, whose core a hyper-network makes of a row.

After each hidden layer of an MLP, with C = C(v) [R, R] of the hyper-network,

  down = sigmoid(V_d C U_d h + b_d),  up = V'_d C U'_d down + b'_d,
  h <- h + g_d * norm(up) + c_d

where U_d, V_d, U'_d, V'_d have an inner width R: no weight of a row is ever
larger than C.

Source: Li et al. 2023, https://arxiv.org/abs/2309.06217, sections on the
domain-specific adapter and the domain-shared hyper-network. norm
is over a row's neurons; the paper's is over the rows of a batch, which would
make a row's score depend on others.
"""

import dataclasses
import itertools
from typing import Annotated

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.layers.mlp import MLP
from antjax.networks.network import DeepConfig, Inputs, Sizes
from antjax.networks.towers import row_of_scenario, ScenarioLinear

# Shape suffixes: B = rows, I = width, R = rank.


class Adapter(nnx.Module):
  """Down, up, normalized and added."""

  def __init__(
    self,
    num_scenarios: int,
    width: int,
    inner: int,
    rank: int,
    *,
    rngs: nnx.Rngs,
  ):
    def own(size_in, size_out, use_bias):
      return ScenarioLinear(
        num_scenarios, size_in, size_out, use_bias=use_bias, rngs=rngs
      )

    self.factors = nnx.List(
      [
        own(width, rank, False),
        own(rank, inner, True),
        own(inner, rank, False),
        own(rank, width, True),
      ]
    )
    self.scale = nnx.Param(jnp.ones((num_scenarios, width)))
    self.bias = nnx.Param(jnp.zeros((num_scenarios, width)))
    self.norm = nnx.LayerNorm(width, use_scale=False, use_bias=False, rngs=rngs)

  def __call__(
    self, h_BI: jax.Array, core_BRR: jax.Array, scenario_B: jax.Array
  ) -> jax.Array:
    """[B, I] of [B, I]."""

    def through(x_BR):
      return jnp.einsum('brs,bs->br', core_BRR, x_BR)

    into_down, out_of_down, into_up, out_of_up = self.factors
    down = through(into_down(h_BI, scenario_B))
    down = jax.nn.sigmoid(out_of_down(down, scenario_B))
    up = out_of_up(through(into_up(down, scenario_B)), scenario_B)
    scale = row_of_scenario(self.scale[...], scenario_B)
    bias = row_of_scenario(self.bias[...], scenario_B)
    return h_BI + scale * self.norm(up) + bias


class HAMUR(nnx.Module):
  """An MLP with an adapter after each hidden layer."""

  needs = frozenset({'sorted_rows'})

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(DeepConfig):
    """Sizes of the network."""

    gate_width: Annotated[
      int, 'Hidden width of the network that makes gates or weights.'
    ] = 64
    rank: Annotated[int, 'Inner width of the weights that are generated.'] = 16
    adapter_width: Annotated[int, 'Width inside an adapter.'] = 32

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    self.rank = config.rank
    self.hyper = MLP(
      sizes.flat_width,
      (config.gate_width, self.rank**2),
      activate_last=False,
      rngs=rngs,
    )
    self.layers = nnx.List(
      nnx.Linear(i, o, rngs=rngs)
      for i, o in itertools.pairwise((sizes.flat_width, *config.widths, 1))
    )
    self.adapters = nnx.List(
      Adapter(
        sizes.num_scenarios, width, config.adapter_width, self.rank, rngs=rngs
      )
      for width in config.widths
    )

  def __call__(self, x: Inputs) -> jax.Array:
    """Logits [B]."""
    h = x.flat
    core_BRR = self.hyper(h).reshape(h.shape[0], self.rank, self.rank)
    for layer, adapter in zip(self.layers[:-1], self.adapters, strict=True):
      h = adapter(jax.nn.relu(layer(h)), core_BRR, x.scenario_B)
    return self.layers[-1](h)[:, 0]
