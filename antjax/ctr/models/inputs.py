# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What every click model reads, and the sizes that it is made of."""

import dataclasses
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from antjax.ctr.heads import History

# Shape suffixes: B = rows, F = fields, D = embedding width, S = scenarios.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
  """Shapes of a model's inputs; static.

  Attributes:
    num_fields: F: one vector each of ids, numbers, a history's mean, a text.
    dim: D.
    num_scenarios: S.
    scenario_field: Which of the fields is the scenario's own vector.
    user_fields: Which of the fields tell about the user.
    item_fields: Which tell about the item.
    max_history: Places of the history; 0: there is none.
  """

  num_fields: int
  dim: int
  num_scenarios: int = 1
  scenario_field: int = 0
  user_fields: tuple[int, ...] = ()
  item_fields: tuple[int, ...] = ()
  max_history: int = 0

  @property
  def flat_width(self) -> int:
    """Width of all fields side by side."""
    return self.num_fields * self.dim

  def need_history(self, model: str) -> None:
    """Raises ValueError where there is no history."""
    if not self.max_history:
      raise ValueError(
        f'{model} looks at what a user clicked before, and the inputs have no'
        ' history; use data with one, or another model.'
      )


class Inputs(NamedTuple):
  """One batch as a model sees it.

  Attributes:
    fields_BFD: A vector a field.
    first_order_B: Sum of the features' own weights, of linear terms.
    scenario_B: int32, from 0 to S - 1.
    history: What the user clicked and the candidate; None without.
  """

  fields_BFD: jax.Array
  first_order_B: jax.Array
  scenario_B: jax.Array
  history: History | None = None

  @property
  def flat(self) -> jax.Array:
    """[B, F D]."""
    return self.fields_BFD.reshape(len(self.fields_BFD), -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig:
  """Sizes of a network; each model reads those that it has."""

  widths: Annotated[tuple[int, ...], 'Hidden widths of the deep part.'] = (
    256,
    128,
  )
  tower_widths: Annotated[
    tuple[int, ...], "Hidden widths of each scenario's or task's tower."
  ] = (64,)
  cross_layers: Annotated[int, 'dcnv2: cross layers.'] = 3
  cin_widths: Annotated[
    tuple[int, ...], 'xdeepfm: feature maps of each layer.'
  ] = (32, 32)
  num_layers: Annotated[int, 'autoint, bst: attention layers.'] = 2
  num_heads: Annotated[int, 'autoint, bst, finalmlp: heads.'] = 2
  attention_widths: Annotated[
    tuple[int, ...], 'din: hidden widths of the attention.'
  ] = (64, 32)
  expert_widths: Annotated[
    tuple[int, ...], 'mmoe, ple, sar_net, m2m: hidden widths of an expert.'
  ] = (128,)
  num_experts: Annotated[
    int, 'mmoe, m2m: experts; ple, sar_net: those that scenarios share.'
  ] = 4
  num_specific: Annotated[int, 'ple, sar_net: experts of each scenario.'] = 1
  num_levels: Annotated[int, 'ple: levels of experts.'] = 1
  rank: Annotated[
    int, 'apg, hamur: inner width of the weights that are generated.'
  ] = 8
  prune_below: Annotated[
    float, 'adasparse: factors of neurons below this become 0.'
  ] = 0.25

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if isinstance(value, tuple):
        if not value or min(value) < 1:
          raise ValueError(
            f'{field.name}={value}: give one or more positive widths.'
          )
      elif field.name != 'prune_below' and value < 1:
        raise ValueError(f'{field.name}={value}: must be at least 1.')
    if not 0 <= self.prune_below < 1:
      raise ValueError(
        f'prune_below={self.prune_below}: must be from 0 to below 1.'
      )


def of_scenario(y_BSO: jax.Array, scenario_B: jax.Array) -> jax.Array:
  """Each row's own scenario, [B, O].

  A sum over few scenarios, whose gradient is no scatter.
  """
  mine_BS = jax.nn.one_hot(scenario_B, y_BSO.shape[1], dtype=y_BSO.dtype)
  return jnp.sum(mine_BS[..., None] * y_BSO, axis=1)
