# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""MMoE: y = t_d(sum_e softmax(W_d v)_e f_e(v)), experts f_e for all scenarios.

Source: Ma et al. 2018, https://doi.org/10.1145/3219819.3220007, section 4.2,
where the gates and towers t_d are of tasks. A row needs those of its own
scenario only.
"""

from flax import nnx
import jax

from antjax.layers.experts import Experts, mix
from antjax.networks.network import Inputs, Sizes
from antjax.networks.towers import ExpertConfig, ScenarioLinear, Towers


class MMoE(nnx.Module):
  """Shared experts; a gate and a tower for each scenario."""

  Config = ExpertConfig
  needs = frozenset({'sorted_rows'})

  def __init__(self, sizes: Sizes, config: ExpertConfig, *, rngs: nnx.Rngs):
    num_scenarios, width = sizes.num_scenarios, sizes.flat_width
    self.experts = Experts(
      config.num_experts, width, config.expert_widths, rngs=rngs
    )
    self.gates = ScenarioLinear(
      num_scenarios, width, config.num_experts, use_bias=False, rngs=rngs
    )
    self.towers = Towers(
      num_scenarios, self.experts.out_features, config.tower_widths, rngs=rngs
    )

  def __call__(self, x: Inputs) -> jax.Array:
    """Logits [B]."""
    score_BE = self.gates(x.flat, x.scenario_B)
    return self.towers(mix(score_BE, self.experts(x.flat)), x.scenario_B)
