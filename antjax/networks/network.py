# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Interface of a click network: its declarations and inputs.

A click network is a Flax NNX module that maps `Inputs` to one logit per row.
The click job, BAHE's head and the meta-learner accept any of them, by name or
as 'package.module:Class' (`antjax.networks.load`):

  class Net(nnx.Module):
    needs = frozenset()

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config:
      width: int = 64

    def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
      self.deep = Deep(sizes.flat_width, (config.width,), rngs=rngs)

    def __call__(self, x: Inputs) -> jax.Array:
      return self.deep(x.flat)
"""

from collections.abc import Sequence
import dataclasses
from typing import Annotated, Any, ClassVar, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

# Shape suffixes: B = rows, F = fields, D = embedding width, S = scenarios, X =
# width of all inputs concatenated, M = places of a history.

# What a network may declare in `needs`.
NEEDS = {
  'history': 'reads `Inputs.histories`: what the user did before',
  'linear': 'reads `Inputs.first_order_B`: a weight for each feature',
  'moments': 'normalises by `Inputs.moments` of the training rows',
  'sorted_rows': 'has layers of each scenario, fast on rows sorted by scenario',
  'scenario': "makes weights of the scenario's own field",
  'labels': 'learns two labels or more, a task each',
  'support': "has a method `context` that reads a task's labelled support",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
  """Static shapes of a network's inputs.

  Attributes:
    num_fields: F, number of vectors: of ids, numbers, a history's mean, a text.
    dim: D, width of a field.
    dense_width: Width of `Inputs.dense_BX`; 0: no dense inputs.
    num_scenarios: S, number of scenarios.
    scenario_field: Index of the field with the scenario's vector; None if rows
      have no scenario.
    user_fields: Indices of the fields that describe the user.
    item_fields: Indices of the fields that describe the item.
    histories: Number of places of each history.
    history_width: Width of the vectors of histories: D per id of an event; 0:
      D.
    num_outputs: Number of outputs per row, of networks that support several:
      one per label or class.
  """

  num_fields: int
  dim: int
  dense_width: int = 0
  num_scenarios: int = 1
  scenario_field: int | None = None
  user_fields: tuple[int, ...] = ()
  item_fields: tuple[int, ...] = ()
  histories: tuple[int, ...] = ()
  history_width: int = 0
  num_outputs: int = 1

  def __post_init__(self) -> None:
    if not self.history_width:
      object.__setattr__(self, 'history_width', self.dim)
    for name in ('dim', 'num_scenarios', 'num_outputs'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name}={getattr(self, name)}: must be at least 1.')
    if min(self.num_fields, self.dense_width) < 0 or not self.flat_width:
      raise ValueError(
        f'num_fields={self.num_fields} and dense_width={self.dense_width}: a'
        ' network needs something to look at.'
      )
    if min(self.histories, default=1) < 1:
      raise ValueError(f'histories={self.histories}: must be at least 1 each.')
    for name in ('scenario_field', 'user_fields', 'item_fields'):
      fields = getattr(self, name)
      for field in fields if isinstance(fields, tuple) else (fields or 0,):
        if not 0 <= field < max(self.num_fields, 1):
          raise ValueError(
            f'{name}={fields}: there are fields 0 to {self.num_fields - 1}.'
          )

  @property
  def flat_width(self) -> int:
    """Width of all inputs side by side."""
    return self.num_fields * self.dim + self.dense_width

  @property
  def scenario_fields(self) -> tuple[int, ...]:
    """The scenario's field, or none."""
    return () if self.scenario_field is None else (self.scenario_field,)


class History(NamedTuple):
  """Vectors of a user's events, and of the candidate in the same space.

  Attributes:
    keys_BMD: Vectors of the history.
    is_there_BM: bool, False for padding.
    query_BD: Vectors of the candidates.
  """

  keys_BMD: jax.Array
  is_there_BM: jax.Array
  query_BD: jax.Array


class ScenarioMoments(NamedTuple):
  """Mean and variance of all inputs among the rows of each scenario.

  Attributes:
    mean_SX: Means of the inputs.
    variance_SX: Biased variances of the inputs (divided by the number of rows).
  """

  mean_SX: jax.Array
  variance_SX: jax.Array


class Inputs(NamedTuple):
  """A batch of inputs of a network.

  Attributes:
    fields_BFD: Vectors of the fields.
    first_order_B: Sum of the features' weights, for linear terms.
    scenario_B: int32, from 0 to S - 1.
    dense_BX: Inputs of another width than D, such as numbers and vectors of
      texts, which follow the fields in `flat`. None: no such inputs.
    histories: Histories of the user and the candidate, by kind of behavior.
    weight_B: Weights; 0 for padding rows, which must not count in statistics of
      the batch. None: all rows count.
    moments: Moments of the training rows, for models that normalize. None, in
      training: use those of the batch. See `antjax.networks.moments`.
    context: Result of the network's `context` on a task's support.
  """

  fields_BFD: jax.Array
  first_order_B: jax.Array
  scenario_B: jax.Array
  dense_BX: jax.Array | None = None
  histories: tuple[History, ...] = ()
  weight_B: jax.Array | None = None
  moments: ScenarioMoments | None = None
  context: Any = None

  @property
  def flat(self) -> jax.Array:
    """All inputs concatenated, [B, X]."""
    return self.beside(self.fields_BFD)

  def beside(self, fields_BFD: jax.Array) -> jax.Array:
    """Concatenates the given fields, as from a layer, and the dense inputs."""
    flat = fields_BFD.reshape(fields_BFD.shape[0], -1)
    if self.dense_BX is None:
      return flat
    return jnp.concatenate([flat, self.dense_BX.astype(flat.dtype)], axis=1)

  def joined(self, fields: Sequence[int]) -> jax.Array:
    """Some of the fields concatenated, [B, len(fields) D]."""
    none_B0 = self.fields_BFD[:, :0].reshape(self.fields_BFD.shape[0], 0)
    chosen = [self.fields_BFD[:, field] for field in fields]
    return jnp.concatenate(chosen or [none_B0], axis=1)


class InputsWithoutLinear(Inputs):
  """Inputs of a network that declares no linear terms."""

  @property
  def first_order_B(self) -> jax.Array:
    """Raises, instead of returning 0."""
    raise ValueError(
      "the network reads Inputs.first_order_B, which it gets with 'linear' in"
      " its needs: needs = frozenset({'linear'})."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sized:
  """Base of a network's Config that checks widths and counts."""

  may_be_zero: ClassVar[tuple[str, ...]] = ()

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if isinstance(value, tuple):
        if not value or min(value) < 1:
          raise ValueError(
            f'{field.name}={value}: give one or more positive widths.'
          )
      elif isinstance(value, int) and not isinstance(value, bool):
        least = 0 if field.name in self.may_be_zero else 1
        if value < least:
          raise ValueError(f'{field.name}={value}: must be at least {least}.')


class ClickNetwork(nnx.Module):
  """Base of the networks of this package, with common declarations."""

  Config: type[Sized] = Sized
  needs: frozenset[str] = frozenset()

  def __call__(self, x: Inputs) -> Any:
    """Logits [B], or [B, num_outputs] of networks that support several.

    With several labels, a network that returns [B] learns the first. An
    optional method `loss(found, labels_BT)` returns its losses [B]; otherwise
    they are sums of cross entropies.
    """
    raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeepConfig(Sized):
  """Sizes of a network whose only sized part is an MLP."""

  widths: Annotated[tuple[int, ...], 'Hidden widths of the deep part.'] = (
    256,
    128,
  )
