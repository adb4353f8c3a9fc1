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
from antjax.networks.deep import Deep
from antjax.networks.network import ClickNetwork, DeepConfig, Inputs, Sizes
from antjax.networks.towers import (
  ExpertConfig,
  row_of_scenario,
  ScenarioExperts,
  ScenarioLinear,
  TowerConfig,
  Towers,
)

# Shape suffixes: B = rows, S = scenarios, E = experts, H = their width, K =
# width of what is known of a scenario, I = input width, O = output width.


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
    super().__init__(num_scenarios, width, config, rngs=rngs)
    self.deep = Deep(config.expert_widths[-1], config.tower_widths, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    scale_BX = row_of_scenario(self.scale[...], x.scenario_B)
    h_BX = scale_BX * x.flat + row_of_scenario(self.bias[...], x.scenario_B)
    return self.deep(self.mixture(h_BX, h_BX, x.scenario_B))


class MetaLayer(nnx.Module):
  """Makes a layer of each scenario from what is known of it."""

  def __init__(
    self,
    knowledge: int,
    in_features: int,
    out_features: int,
    *,
    rngs: nnx.Rngs,
  ):
    self.shape = in_features, out_features
    scale = (knowledge * in_features) ** -0.5
    self.kernel = nnx.Linear(
      knowledge,
      in_features * out_features,
      kernel_init=nnx.initializers.normal(scale),
      bias_init=nnx.initializers.normal(in_features**-0.5),
      rngs=rngs,
    )
    self.bias = nnx.Linear(knowledge, out_features, rngs=rngs)

  def weights(self, known_SK: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Kernels [I, S, O] and biases [S, O]."""
    kernel_SIO = self.kernel(known_SK).reshape(-1, *self.shape)
    return jnp.swapaxes(kernel_SIO, 0, 1), self.bias(known_SK)

  def __call__(
    self, x_BI: jax.Array, known_SK: jax.Array, scenario_B: jax.Array
  ) -> jax.Array:
    """[B, O] of [B, I]."""
    return meta(x_BI, *self.weights(known_SK), scenario_B)


def meta(
  x_BI: jax.Array,
  kernel_ISO: jax.Array,
  bias_SO: jax.Array,
  scenario_B: jax.Array,
) -> jax.Array:
  """leaky_relu(M_d x + c_d) of each row's scenario, [B, O]."""
  y_BO = grouped.product(x_BI, kernel_ISO, scenario_B)
  return jax.nn.leaky_relu(y_BO + row_of_scenario(bias_SO, scenario_B))


class M2M(ClickNetwork):
  """M2M: a scenario's vector makes the weights of attention and tower.

  With k_d = relu(W s_d + b), s_d learned, a meta layer of scenario d is

    meta_d(x) = leaky_relu(M_d x + c_d), M_d and c_d linear in k_d, and
    a_e = v meta_d([f_e(x), t]),  r_0 = sum_e softmax(a)_e f_e(x),
    r_{l+1} = leaky_relu(meta_d(r_l) + r_l),  y = w r_L + b

  with experts f_e and t learned, the paper's view of the one task.

  Source: Zhang et al. 2022, https://arxiv.org/abs/2201.06814, sections on the
  meta unit, meta attention and meta tower. s_d is an own vector of the model,
  so that weights are made once for each scenario, not for each row. The paper's
  transformer over the history is left out.
  """

  needs = frozenset({'sorted_rows'})

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(ExpertConfig):
    """Sizes of the network."""

    num_layers: Annotated[int, 'Layers.'] = 2

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    width, known = config.expert_widths[-1], sizes.dim
    scenarios = sizes.num_scenarios, sizes.dim
    self.scenarios = nnx.Param(jax.random.normal(rngs.params(), scenarios))
    self.know = nnx.Linear(sizes.dim, known, rngs=rngs)
    self.experts = Experts(
      config.num_experts, sizes.flat_width, config.expert_widths, rngs=rngs
    )
    self.task = nnx.Param(jax.random.normal(rngs.params(), (width,)))
    hidden = config.tower_widths[0]
    self.attention = MetaLayer(known, 2 * width, hidden, rngs=rngs)
    self.score = nnx.Linear(hidden, 1, use_bias=False, rngs=rngs)
    self.tower = nnx.List(
      MetaLayer(known, width, width, rngs=rngs)
      for _ in range(config.num_layers)
    )
    self.out = nnx.Linear(width, 1, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    known_SK = jax.nn.relu(self.know(self.scenarios[...]))
    experts_BEH = self.experts(x.flat)
    num_rows, num_experts, width = experts_BEH.shape
    kernel_ISO, bias_SO = self.attention.weights(known_SK)
    # t is the same for all rows: its half of the product is made once.
    of_expert_ISO, of_task_ISO = jnp.split(kernel_ISO, 2)
    bias_SO += jnp.tensordot(self.task[...], of_task_ISO, axes=1)
    hidden = meta(
      experts_BEH.reshape(num_rows * num_experts, width),
      of_expert_ISO,
      bias_SO,
      jnp.repeat(x.scenario_B, num_experts),
    )
    score_BE = self.score(hidden).reshape(num_rows, num_experts)
    h = mix(score_BE, experts_BEH)
    for layer in self.tower:
      h = jax.nn.leaky_relu(layer(h, known_SK, x.scenario_B) + h)
    return self.out(h)[:, 0]
