# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""STAR: each scenario's weights are shared weights times its own.

  z = g * g_d (v - mean_d) / sqrt(variance_d + e) + b + b_d
  h_{l+1} = relu((W * W_d) h_l + b + b_d), h_0 = z;  y = h_L + MLP(v)

with elementwise *. mean_d and variance_d are those of scenario d: of its rows
in the batch in training, of the training data (`Inputs.moments`) in scoring.
The auxiliary MLP sees the scenario's vector among the fields. W_d starts at 1.

Source: Sheng et al. 2021, https://arxiv.org/abs/2101.11427, sections on
partitioned normalization, the star topology FCN and the auxiliary network.
"""

import dataclasses
import itertools

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.layers import grouped
from antjax.networks import moments
from antjax.networks.deep import Deep
from antjax.networks.network import ClickNetwork, DeepConfig, Inputs, Sizes
from antjax.networks.towers import row_of_scenario, TowerConfig

_EPSILON = 1e-5


class PartitionedNorm(nnx.Module):
  """Normalizes each scenario's rows by the scenario's statistics."""

  def __init__(self, num_scenarios: int, width: int):
    self.num_scenarios = num_scenarios
    self.scale = nnx.Param(jnp.ones(width))
    self.own_scale = nnx.Param(jnp.ones((num_scenarios, width)))
    self.bias = nnx.Param(jnp.zeros(width))
    self.own_bias = nnx.Param(jnp.zeros((num_scenarios, width)))

  def __call__(self, x: Inputs) -> jax.Array:
    """[B, X]."""
    found = x.moments
    if found is None:
      found = moments.of_batch(x, self.num_scenarios)
    mean_SX = jnp.asarray(found.mean_SX)
    scale_SX = self.scale[...][None] * self.own_scale[...]
    scale_SX *= jax.lax.rsqrt(jnp.asarray(found.variance_SX) + _EPSILON)
    bias_SX = self.bias[...][None] + self.own_bias[...]
    # Not scale x + (bias - mean scale): if a field hardly varies, the scale is
    # large, and the difference would lose precision.
    centred = x.flat - row_of_scenario(mean_SX, x.scenario_B)
    both = row_of_scenario(
      jnp.concatenate([scale_SX, bias_SX], axis=1), x.scenario_B
    )
    scale_BX, bias_BX = jnp.split(both, 2, axis=1)
    return scale_BX * centred + bias_BX


class StarLinear(nnx.Module):
  """(W * W_d) x + b + b_d."""

  def __init__(
    self,
    num_scenarios: int,
    in_features: int,
    out_features: int,
    *,
    rngs: nnx.Rngs,
  ):
    shape = in_features, out_features
    scale = in_features**-0.5
    self.kernel = nnx.Param(scale * jax.random.normal(rngs.params(), shape))
    self.bias = nnx.Param(jnp.zeros(out_features))
    own_shape = in_features, num_scenarios, out_features
    self.own_kernel = nnx.Param(jnp.ones(own_shape))
    self.own_bias = nnx.Param(jnp.zeros((num_scenarios, out_features)))

  def __call__(self, x_BI: jax.Array, scenario_B: jax.Array) -> jax.Array:
    """[B, O] of [B, I]."""
    kernel_ISO = self.kernel[...][:, None] * self.own_kernel[...]
    bias_SO = self.bias[...][None] + self.own_bias[...]
    y_BO = grouped.product(x_BI, kernel_ISO, scenario_B)
    return y_BO + row_of_scenario(bias_SO, scenario_B)


class STAR(ClickNetwork):
  """Partitioned normalization, a star-shaped MLP, an auxiliary MLP."""

  needs = frozenset({'moments', 'sorted_rows'})

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(DeepConfig, TowerConfig):
    """Sizes of the network."""

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    self.norm = PartitionedNorm(sizes.num_scenarios, sizes.flat_width)
    self.layers = nnx.List(
      StarLinear(sizes.num_scenarios, i, o, rngs=rngs)
      for i, o in itertools.pairwise((sizes.flat_width, *config.widths, 1))
    )
    self.auxiliary = Deep(sizes.flat_width, config.tower_widths, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    h = self.norm(x)
    for layer in self.layers[:-1]:
      h = jax.nn.relu(layer(h, x.scenario_B))
    return self.layers[-1](h, x.scenario_B)[:, 0] + self.auxiliary(x.flat)
