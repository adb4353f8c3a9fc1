# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Towers and experts, shared or owned by scenarios and tasks.

Each scenario has its own gates, towers and experts for each task.
"""

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
  TaskTowers,
  TowerConfig,
)

# Shape suffixes: B = rows, S = scenarios, T = tasks, E = experts, I = input
# width, O = output width.


class SharedBottom(ClickNetwork):
  """Shared bottom: y_k = t_k(f(v)), with one f and a tower t_k per task k.

  Source: Caruana 1997, https://doi.org/10.1023/A:1007379606734. Each scenario
  has its own towers.
  """

  needs = frozenset({'sorted_rows'})

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(DeepConfig, TowerConfig):
    """Sizes of the network."""

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    self.bottom = MLP(sizes.flat_width, config.widths, rngs=rngs)
    width = self.bottom.out_features
    self.num_tasks = sizes.num_outputs
    self.towers = TaskTowers(sizes, width, config.tower_widths, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    return self.towers([self.bottom(x.flat)] * self.num_tasks, x.scenario_B)


class MMoE(ClickNetwork):
  """MMoE: y_k = t_k(sum_e softmax(W_k v)_e f_e(v)), experts f_e for all tasks.

  Source: Ma et al. 2018, https://doi.org/10.1145/3219819.3220007, section 4.2.
  Each scenario has its own gates W_k and towers t_k.
  """

  Config = ExpertConfig
  needs = frozenset({'sorted_rows'})

  def __init__(self, sizes: Sizes, config: ExpertConfig, *, rngs: nnx.Rngs):
    num_scenarios, width = sizes.num_scenarios, sizes.flat_width
    self.experts = Experts(
      config.num_experts, width, config.expert_widths, rngs=rngs
    )
    self.gates = nnx.List(
      ScenarioLinear(
        num_scenarios, width, config.num_experts, use_bias=False, rngs=rngs
      )
      for _ in range(sizes.num_outputs)
    )
    self.towers = TaskTowers(
      sizes, self.experts.out_features, config.tower_widths, rngs=rngs
    )

  def __call__(self, x: Inputs) -> jax.Array:
    found_BEO = self.experts(x.flat)
    mixtures = [
      mix(gate(x.flat, x.scenario_B), found_BEO) for gate in self.gates
    ]
    return self.towers(mixtures, x.scenario_B)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnExpertConfig(ExpertConfig):
  """Sizes of a network with shared experts and experts per scenario, task."""

  num_specific: Annotated[int, 'Experts per scenario and task.'] = 1


class OwnMixture(nnx.Module):
  """Mixtures of each task's own experts and the shared ones, by its gate."""

  def __init__(
    self,
    sizes: Sizes,
    in_features: int,
    config: OwnExpertConfig,
    *,
    rngs: nnx.Rngs,
  ):
    widths, num_scenarios = config.expert_widths, sizes.num_scenarios
    num_specific, num_shared = config.num_specific, config.num_experts
    tasks = range(sizes.num_outputs)
    self.specific = nnx.List(
      ScenarioExperts(
        num_scenarios, num_specific, in_features, widths, rngs=rngs
      )
      for _ in tasks
    )
    self.shared = Experts(num_shared, in_features, widths, rngs=rngs)
    num_seen = num_specific + num_shared
    self.gates = nnx.List(
      ScenarioLinear(
        num_scenarios, in_features, num_seen, use_bias=False, rngs=rngs
      )
      for _ in tasks
    )

  def mixtures(
    self,
    own: Sequence[jax.Array],
    shared_BI: jax.Array,
    scenario_B: jax.Array,
  ) -> list[jax.Array]:
    """[B, O] for each task, from the inputs [B, I] of its own experts."""
    shared_BEO = self.shared(shared_BI)
    return [
      mix(
        gate(x_BI, scenario_B),
        jnp.concatenate([experts(x_BI, scenario_B), shared_BEO], axis=1),
      )
      for experts, gate, x_BI in zip(
        self.specific, self.gates, own, strict=True
      )
    ]


class SharedLevel(nnx.Module):
  """A level of PLE before the last level; all scenarios are needed.

  Its groups are pairs of a task and a scenario, scenario by scenario.
  """

  def __init__(
    self,
    sizes: Sizes,
    config: 'PLE.Config',
    in_features: int,
    *,
    is_first: bool,
    rngs: nnx.Rngs,
  ):
    self.num_groups = sizes.num_scenarios * sizes.num_outputs
    self.num_specific, num_shared = config.num_specific, config.num_experts
    # By group, shared experts last.
    counts = [self.num_specific] * self.num_groups + [num_shared]
    groups = [sum(counts)] if is_first else counts  # One input for all.
    self.experts = nnx.List(
      Experts(n, in_features, config.expert_widths, rngs=rngs) for n in groups
    )

    def gate(num_experts):
      return nnx.Linear(in_features, num_experts, use_bias=False, rngs=rngs)

    num_seen = self.num_specific + num_shared
    self.gates = nnx.List(gate(num_seen) for _ in range(self.num_groups))
    self.shared_gate = gate(sum(counts))

  def __call__(self, inputs: Sequence[jax.Array]) -> list[jax.Array]:
    """Arrays [B, O], one per group, the shared one last.

    Args:
      inputs: Arrays [B, I], one per output; in the first level only v.
    """
    found_BEO = jnp.concatenate(
      [group(x) for group, x in zip(self.experts, inputs, strict=True)], axis=1
    )
    shared_BEO = found_BEO[:, self.num_groups * self.num_specific :]
    outputs = []
    for d, gate in enumerate(self.gates):
      own = slice(d * self.num_specific, (d + 1) * self.num_specific)
      seen_BEO = jnp.concatenate([found_BEO[:, own], shared_BEO], axis=1)
      x_BI = inputs[d] if len(inputs) > 1 else inputs[0]
      outputs.append(mix(gate(x_BI), seen_BEO))
    return [*outputs, mix(self.shared_gate(inputs[-1]), found_BEO)]


class PLE(ClickNetwork):
  """PLE: levels of shared experts and experts per task.

  With g(z) = softmax(W z), an input x_k for each task k and a shared x_s, all
  of them v at first, a level computes

    x_k' = g_k(x_k) [experts of k on x_k, shared experts on x_s]
    x_s' = g_s(x_s) [all experts, each on its own input]

  and y_k = t_k(x_k) after the last level, which has no x_s'. With one level it
  is CGC.

  Source: Tang et al. 2020, https://doi.org/10.1145/3383313.3412236, sections
  4.1 (CGC) and 4.2. Here k is a pair of a task and a scenario; in the last
  level a row needs only those of its own scenario.
  """

  needs = frozenset({'sorted_rows'})

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(OwnExpertConfig):
    """Sizes of the network."""

    num_levels: Annotated[int, 'Number of levels of experts.'] = 1

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    width = config.expert_widths[-1]
    widths = [sizes.flat_width] + [width] * (config.num_levels - 1)
    self.levels = nnx.List(
      SharedLevel(sizes, config, size_in, is_first=i == 0, rngs=rngs)
      for i, size_in in enumerate(widths[:-1])
    )
    self.shape = sizes.num_outputs, sizes.num_scenarios
    self.last = OwnMixture(sizes, widths[-1], config, rngs=rngs)
    self.towers = TaskTowers(sizes, width, config.tower_widths, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    inputs = [x.flat]
    for level in self.levels:
      inputs = level(inputs)
    num_tasks, num_scenarios = self.shape
    own = inputs * num_tasks
    if len(inputs) > 1:
      own = [
        grouped.own(inputs[k * num_scenarios :][:num_scenarios], x.scenario_B)
        for k in range(num_tasks)
      ]
    found = self.last.mixtures(own, inputs[-1], x.scenario_B)
    return self.towers(found, x.scenario_B)
