# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""SAR-Net, reduced: --model=examples.sar_net:SARNet."""

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.networks.deep import Deep
from antjax.networks.experts import OwnExpertConfig, OwnMixture
from antjax.networks.network import ClickNetwork, Inputs, Sizes
from antjax.networks.towers import row_of_scenario


class SARNet(OwnMixture, ClickNetwork):
  """SAR-Net: a linear map of each scenario, then shared and own experts.

    h = w_d * v + b_d,  y = MLP(sum_e softmax(W_d h)_e f_e(h))

  over experts f_e that all scenarios share and those of scenario d; w_d starts
  at 1.

  Source: Shen et al. 2021, https://arxiv.org/abs/2110.06475. Left out:
  attention to past clicks by the scenario that they happened in, which
  histories here do not say, and the weights of rows that the platform promoted
  by hand.
  """

  Config = OwnExpertConfig
  needs = frozenset({'sorted_rows'})

  def __init__(self, sizes: Sizes, config: OwnExpertConfig, *, rngs: nnx.Rngs):
    num_scenarios, width = sizes.num_scenarios, sizes.flat_width
    self.scale = nnx.Param(jnp.ones((num_scenarios, width)))
    self.bias = nnx.Param(jnp.zeros((num_scenarios, width)))
    super().__init__(sizes, width, config, rngs=rngs)
    self.deep = Deep(config.expert_widths[-1], config.tower_widths, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    scale_BX = row_of_scenario(self.scale[...], x.scenario_B)
    h_BX = scale_BX * x.flat + row_of_scenario(self.bias[...], x.scenario_B)
    return self.deep(self.mixtures([h_BX], h_BX, x.scenario_B)[0])
