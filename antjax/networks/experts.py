# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Towers and experts that scenarios share or own."""

from collections.abc import Sequence
import dataclasses
from typing import Annotated

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.layers import grouped
from antjax.layers.mlp import Experts, mix, MLP
from antjax.networks.network import ClickNetwork, DeepConfig, Inputs, Sizes
from antjax.networks.towers import (
  ExpertConfig,
  ScenarioExperts,
  ScenarioLinear,
  TowerConfig,
  Towers,
)

# Shape suffixes: B = rows, S = scenarios, E = experts, I = input width, O =
# output width.


class SharedBottom(ClickNetwork):
  """Shared bottom: y = t_d(f(v)), one f, and a tower t_d for each scenario d.

  Source: Caruana 1997, https://doi.org/10.1023/A:1007379606734, where the
  towers are of tasks.
  """

  needs = frozenset({'sorted_rows'})

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(DeepConfig, TowerConfig):
    """Sizes of the network."""

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    self.bottom = MLP(sizes.flat_width, config.widths, rngs=rngs)
    width = self.bottom.out_features
    self.towers = Towers(
      sizes.num_scenarios, width, config.tower_widths, rngs=rngs
    )

  def __call__(self, x: Inputs) -> jax.Array:
    return self.towers(self.bottom(x.flat), x.scenario_B)


class MMoE(ClickNetwork):
  """MMoE: y = t_d(sum_e softmax(W_d v)_e f_e(v)), experts f_e for all.

  Source: Ma et al. 2018, https://doi.org/10.1145/3219819.3220007, section 4.2,
  where the gates and towers t_d are of tasks. A row needs those of its own
  scenario only.
  """

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
    score_BE = self.gates(x.flat, x.scenario_B)
    return self.towers(mix(score_BE, self.experts(x.flat)), x.scenario_B)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnExpertConfig(ExpertConfig):
  """Sizes of a network with experts of each scenario besides."""

  num_specific: Annotated[int, 'Experts of each scenario.'] = 1


class OwnMixture(nnx.Module):
  """A scenario's own experts and the shared ones, mixed by its own gate."""

  def __init__(
    self,
    num_scenarios: int,
    in_features: int,
    config: OwnExpertConfig,
    *,
    rngs: nnx.Rngs,
  ):
    widths = config.expert_widths
    num_specific, num_shared = config.num_specific, config.num_experts
    self.specific = ScenarioExperts(
      num_scenarios, num_specific, in_features, widths, rngs=rngs
    )
    self.shared = Experts(num_shared, in_features, widths, rngs=rngs)
    self.gates = ScenarioLinear(
      num_scenarios,
      in_features,
      num_specific + num_shared,
      use_bias=False,
      rngs=rngs,
    )

  def mixture(
    self, own_BI: jax.Array, shared_BI: jax.Array, scenario_B: jax.Array
  ) -> jax.Array:
    """[B, O] of what the own and the shared experts read."""
    seen_BEO = jnp.concatenate(
      [self.specific(own_BI, scenario_B), self.shared(shared_BI)], axis=1
    )
    return mix(self.gates(own_BI, scenario_B), seen_BEO)


class SharedLevel(nnx.Module):
  """A level of PLE that another one follows: all scenarios are needed."""

  def __init__(
    self,
    sizes: Sizes,
    config: 'PLE.Config',
    in_features: int,
    *,
    is_first: bool,
    rngs: nnx.Rngs,
  ):
    self.num_scenarios = sizes.num_scenarios
    self.num_specific, num_shared = config.num_specific, config.num_experts
    # By scenario, the shared ones last.
    counts = [self.num_specific] * self.num_scenarios + [num_shared]
    groups = [sum(counts)] if is_first else counts  # First: one input for all.
    self.experts = nnx.List(
      Experts(n, in_features, config.expert_widths, rngs=rngs) for n in groups
    )

    def gate(num_experts):
      return nnx.Linear(in_features, num_experts, use_bias=False, rngs=rngs)

    num_seen = self.num_specific + num_shared
    self.gates = nnx.List(gate(num_seen) for _ in range(self.num_scenarios))
    self.shared_gate = gate(sum(counts))

  def __call__(self, inputs: Sequence[jax.Array]) -> list[jax.Array]:
    """S + 1 arrays [B, O]: a scenario's each, the shared one last.

    Args:
      inputs: As many [B, I]; of the first level one, v.
    """
    found_BEO = jnp.concatenate(
      [group(x) for group, x in zip(self.experts, inputs, strict=True)], axis=1
    )
    shared_BEO = found_BEO[:, self.num_scenarios * self.num_specific :]
    outputs = []
    for d, gate in enumerate(self.gates):
      own = slice(d * self.num_specific, (d + 1) * self.num_specific)
      seen_BEO = jnp.concatenate([found_BEO[:, own], shared_BEO], axis=1)
      x_BI = inputs[d] if len(inputs) > 1 else inputs[0]
      outputs.append(mix(gate(x_BI), seen_BEO))
    return [*outputs, mix(self.shared_gate(inputs[-1]), found_BEO)]


class PLE(ClickNetwork):
  """PLE: levels of experts that are shared and experts that a scenario owns.

  With g(z) = softmax(W z) and one input for each scenario d and one that is
  shared, all of them v at first, a level makes of them

    x_d' = g_d(x_d) [experts of d on x_d, shared experts on x_s]
    x_s' = g_s(x_s) [all experts, each on its own input]

  and y = t_d(x_d) after the last level. There a row needs its own scenario
  only: no x_s', no experts and gates of other scenarios. With one level it is
  CGC.

  Source: Tang et al. 2020, https://doi.org/10.1145/3383313.3412236, sections
  4.1 (CGC) and 4.2, where scenarios are tasks.
  """

  needs = frozenset({'sorted_rows'})

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(OwnExpertConfig):
    """Sizes of the network."""

    num_levels: Annotated[int, 'Levels of experts.'] = 1

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    width = config.expert_widths[-1]
    widths = [sizes.flat_width] + [width] * (config.num_levels - 1)
    self.levels = nnx.List(
      SharedLevel(sizes, config, size_in, is_first=i == 0, rngs=rngs)
      for i, size_in in enumerate(widths[:-1])
    )
    self.last = OwnMixture(sizes.num_scenarios, widths[-1], config, rngs=rngs)
    self.towers = Towers(
      sizes.num_scenarios, width, config.tower_widths, rngs=rngs
    )

  def __call__(self, x: Inputs) -> jax.Array:
    inputs = [x.flat]
    for level in self.levels:
      inputs = level(inputs)
    shared_BI = own_BI = inputs[-1]
    if len(inputs) > 1:
      own_BI = grouped.own(inputs[:-1], x.scenario_B)
    mixture_BO = self.last.mixture(own_BI, shared_BI, x.scenario_B)
    return self.towers(mixture_BO, x.scenario_B)
