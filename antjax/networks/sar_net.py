# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""SAR-Net: a linear map of each scenario, then shared and own experts.

  h = w_d * v + b_d,  y = MLP(sum_e softmax(W_d h)_e f_e(h))

over experts f_e that all scenarios share and those of scenario d; w_d starts at
1.

Source: Shen et al. 2021, https://arxiv.org/abs/2110.06475. Left out: attention
to past clicks by the scenario that they happened in, which histories here do
not say, and the weights of rows that the platform promoted by hand.
"""

import dataclasses
from typing import Annotated

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.layers.experts import Experts, mix
from antjax.networks.deep import Deep
from antjax.networks.network import Inputs, Sizes
from antjax.networks.towers import (
  ExpertConfig,
  row_of_scenario,
  ScenarioExperts,
  ScenarioLinear,
)


class SARNet(nnx.Module):
  """A scenario's view of the fields, and experts on it."""

  needs = frozenset({'sorted_rows'})

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(ExpertConfig):
    """Sizes of the network."""

    num_specific: Annotated[int, 'Experts of each scenario.'] = 1

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    num_scenarios, width = sizes.num_scenarios, sizes.flat_width
    widths = config.expert_widths
    self.scale = nnx.Param(jnp.ones((num_scenarios, width)))
    self.bias = nnx.Param(jnp.zeros((num_scenarios, width)))
    self.specific = ScenarioExperts(
      num_scenarios, config.num_specific, width, widths, rngs=rngs
    )
    self.shared = Experts(config.num_experts, width, widths, rngs=rngs)
    self.gates = ScenarioLinear(
      num_scenarios,
      width,
      config.num_specific + config.num_experts,
      use_bias=False,
      rngs=rngs,
    )
    self.deep = Deep(widths[-1], config.tower_widths, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    """Logits [B]."""
    scale_BX = row_of_scenario(self.scale[...], x.scenario_B)
    h_BX = scale_BX * x.flat + row_of_scenario(self.bias[...], x.scenario_B)
    experts_BEO = jnp.concatenate(
      [self.specific(h_BX, x.scenario_B), self.shared(h_BX)], axis=1
    )
    return self.deep(mix(self.gates(h_BX, x.scenario_B), experts_BEO))
