# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Layers with separate weights per scenario.

For rows sorted by scenario such a layer costs little more than a shared one,
see `antjax.layers.grouped`; in any other order it costs S times as much.
"""

from collections.abc import Sequence
import dataclasses
import functools
import itertools
from typing import Annotated

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.layers import grouped
from antjax.layers.mlp import Experts
from antjax.networks.network import Sized, Sizes

# Shape suffixes: B = rows, S = scenarios, I = input width, O = output width,
# K = experts of a scenario.


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowerConfig(Sized):
  """Sizes of a network with towers."""

  tower_widths: Annotated[
    tuple[int, ...], 'Hidden widths of the tower of each scenario or task.'
  ] = (64,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertConfig(TowerConfig):
  """Sizes of a network with experts and towers."""

  expert_widths: Annotated[tuple[int, ...], 'Hidden widths of an expert.'] = (
    128,
  )
  num_experts: Annotated[int, 'Number of experts shared by all scenarios.'] = 4


def row_of_scenario(table_SO: jax.Array, scenario_B: jax.Array) -> jax.Array:
  """Rows [B, O] of a table [S, O] by scenario; its gradient is no scatter."""
  mine_BS = jax.nn.one_hot(scenario_B, len(table_SO), dtype=table_SO.dtype)
  # Exact: on some backends the default rounds the factors.
  return jnp.dot(mine_BS, table_SO, precision=jax.lax.Precision.HIGHEST)


class ScenarioLinear(nnx.Module):
  """W_d x + b_d."""

  def __init__(
    self,
    num_scenarios: int,
    in_features: int,
    out_features: int,
    *,
    use_bias: bool = True,
    rngs: nnx.Rngs,
  ):
    shape = in_features, num_scenarios, out_features
    scale = in_features**-0.5
    self.kernel = nnx.Param(scale * jax.random.normal(rngs.params(), shape))
    self.bias = (
      nnx.Param(jnp.zeros((num_scenarios, out_features))) if use_bias else None
    )

  def __call__(self, x_BI: jax.Array, scenario_B: jax.Array) -> jax.Array:
    """[B, O] of [B, I]."""
    y_BO = grouped.product(x_BI, self.kernel[...], scenario_B)
    if self.bias is None:
      return y_BO
    return y_BO + row_of_scenario(self.bias[...], scenario_B)


class Towers(nnx.Module):
  """An MLP with one output for each scenario."""

  def __init__(
    self,
    num_scenarios: int,
    in_features: int,
    widths: Sequence[int],
    *,
    rngs: nnx.Rngs,
  ):
    self.layers = nnx.List(
      ScenarioLinear(num_scenarios, i, o, rngs=rngs)
      for i, o in itertools.pairwise((in_features, *widths, 1))
    )

  def __call__(self, x_BI: jax.Array, scenario_B: jax.Array) -> jax.Array:
    """The logit of each row's own tower, [B]."""
    x = x_BI
    for layer in self.layers[:-1]:
      x = jax.nn.relu(layer(x, scenario_B))
    return self.layers[-1](x, scenario_B)[:, 0]


class TaskTowers(nnx.Module):
  """Towers for each task and scenario."""

  def __init__(
    self,
    sizes: Sizes,
    in_features: int,
    widths: Sequence[int],
    *,
    rngs: nnx.Rngs,
  ):
    self.tasks = nnx.List(
      Towers(sizes.num_scenarios, in_features, widths, rngs=rngs)
      for _ in range(sizes.num_outputs)
    )

  def __call__(
    self, inputs: Sequence[jax.Array], scenario_B: jax.Array
  ) -> jax.Array:
    """Logits [B], or [B, T] of several tasks, from an input [B, I] per task."""
    found = [
      towers(x, scenario_B)
      for towers, x in zip(self.tasks, inputs, strict=True)
    ]
    return found[0] if len(found) == 1 else jnp.stack(found, axis=1)


class ScenarioExperts(Experts):
  """K MLPs per scenario, ReLU after each layer: [B, K, O] from [B, I]."""

  def __init__(
    self,
    num_scenarios: int,
    num_experts: int,
    in_features: int,
    widths: Sequence[int],
    *,
    rngs: nnx.Rngs,
  ):
    make = functools.partial(ScenarioLinear, num_scenarios, rngs=rngs)
    super().__init__(num_experts, in_features, widths, rngs=rngs, make=make)
