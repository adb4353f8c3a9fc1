# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""M2M, reduced: --model=examples.m2m:M2M."""

import dataclasses
from typing import Annotated

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.layers import grouped
from antjax.layers.mlp import Experts, mix
from antjax.networks.network import ClickNetwork, Inputs, Sizes
from antjax.networks.towers import ExpertConfig, row_of_scenario

# Shape suffixes: B = rows, S = scenarios, E = experts, H = their width, K =
# width of what is known of a scenario, I = input width, O = output width.


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
