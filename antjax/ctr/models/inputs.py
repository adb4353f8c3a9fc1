# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What every click model reads, and the sizes that it is made of."""

from collections.abc import Sequence
import dataclasses
from typing import Annotated, NamedTuple

import jax

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

  def __post_init__(self) -> None:
    for name in ('num_fields', 'dim', 'num_scenarios'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name}={getattr(self, name)}: must be at least 1.')
    if self.max_history < 0:
      raise ValueError(f'max_history={self.max_history}: must not be negative.')
    for name in ('scenario_field', 'user_fields', 'item_fields'):
      fields = getattr(self, name)
      for field in fields if isinstance(fields, tuple) else (fields,):
        if not 0 <= field < self.num_fields:
          raise ValueError(
            f'{name}={fields}: there are fields 0 to {self.num_fields - 1}.'
          )

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


class Moments(NamedTuple):
  """Mean and variance of all fields among the rows of each scenario.

  Attributes:
    mean_SX: X = F D.
    variance_SX: Over the number of rows, not one less.
  """

  mean_SX: jax.Array
  variance_SX: jax.Array


class Inputs(NamedTuple):
  """One batch as a model sees it.

  Attributes:
    fields_BFD: A vector a field.
    first_order_B: Sum of the features' own weights, of linear terms.
    scenario_B: int32, from 0 to S - 1.
    history: What the user clicked and the candidate; None without.
    weight_B: 0 for rows that only fill the batch, which must not count where
      a model takes statistics of the batch; None: all rows count.
    moments: Those of the training rows, for models that normalise; None while
      training: those of the batch. See `antjax.ctr.models.moments`.
  """

  fields_BFD: jax.Array
  first_order_B: jax.Array
  scenario_B: jax.Array
  history: History | None = None
  weight_B: jax.Array | None = None
  moments: Moments | None = None

  @property
  def flat(self) -> jax.Array:
    """[B, F D]."""
    return self.fields_BFD.reshape(len(self.fields_BFD), -1)

  def joined(self, fields: Sequence[int]) -> jax.Array:
    """Some of the fields side by side, [B, len(fields) D]."""
    chosen = self.fields_BFD[:, fields, :]
    return chosen.reshape(len(chosen), -1)


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
  num_layers: Annotated[int, 'autoint, bst, m2m: layers.'] = 2
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
  gate_width: Annotated[
    int,
    'pepnet, hamur, apg: hidden width of the network that makes gates or'
    ' weights.',
  ] = 64
  rank: Annotated[
    int, 'apg, hamur: inner width of the weights that are generated.'
  ] = 16
  adapter_width: Annotated[int, 'hamur: width inside an adapter.'] = 32
  prune_below: Annotated[
    float, 'adasparse: neurons whose share of being kept is below this are 0.'
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
