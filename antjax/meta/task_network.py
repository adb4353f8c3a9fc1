# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Adapts any click network to the meta-learner, for ratings or clicks."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import optax

from antjax.embedding.lookup import pick
from antjax.meta.inner_loop import DECISION
from antjax.networks import load
from antjax.networks.load import Standalone
from antjax.networks.network import Inputs, Sizes

# Shape suffixes: B = rows, L = levels of a rating.

# Needs of networks that tasks do not meet.
LACKING = {
  'history': 'rows of a task come without one',
  'moments': "a task's rows must not depend on its other rows",
  'scenario': 'rows do not say their scenario',
  'labels': 'rows have one label',
}


class TaskNetwork(nnx.Module):
  """A click network over the vectors of features.

  A feature of another width than the fields has a linear map to it, without
  bias (Ginart et al. 2019). In an inner loop, a network without a part of
  `inner_loop.DECISION` counts as one as a whole.
  """

  def __init__(
    self,
    name: str,
    config: load.NetworkConfig,
    feature_dims: Mapping[str, int],
    *,
    embedding_dim: int,
    num_numeric: int = 0,
    num_outputs: int = 1,
    rngs: nnx.Rngs,
  ):
    """Creates the layers of the network of a name, see `load.load`.

    `feature_dims` are feature -> width of its vector, in the order of the
    fields; `num_numeric` are inputs per row.

    Raises:
      ValueError: Tasks do not meet a need of the network.
    """
    load.refuse(load.load(name), LACKING, f'model.kind={name}')
    self.features = tuple(feature_dims)
    self.project = nnx.Dict(
      {
        feature: nnx.Linear(width, embedding_dim, use_bias=False, rngs=rngs)
        for feature, width in feature_dims.items()
        if width != embedding_dim
      }
    )
    fields = range(len(self.features))
    items = tuple(i for i in fields if self.features[i] == 'item')
    sizes = Sizes(
      num_fields=len(self.features),
      dim=embedding_dim,
      dense_width=num_numeric,
      user_fields=tuple(i for i in fields if i not in items),
      item_fields=items,
      num_outputs=num_outputs,
    )
    network = Standalone(name, sizes, config, rngs=rngs)
    parts = {part for path, _ in nnx.iter_graph(network) for part in path}
    self.is_decision = DECISION.isdisjoint(parts)
    if self.is_decision:
      self.decision = network
    else:
      self.model = network

  def __call__(
    self, embeddings: Mapping[str, jax.Array], part: Mapping[str, Any]
  ) -> jax.Array:
    """Outputs [B], or [B, num_outputs]; see `TaskModel.apply_fn`."""
    x = self._inputs(embeddings, part)
    return self._network(x._replace(context=part.get('context')))

  def context(
    self, embeddings: Mapping[str, jax.Array], part: Mapping[str, Any]
  ) -> Any:
    """Context of a task from its support; see `TaskModel.context_fn`."""
    x = self._inputs(embeddings, part)
    return self._network.network.context(x, part['label'], part['mask'])

  @property
  def _network(self) -> Standalone:
    return self.decision if self.is_decision else self.model

  def _inputs(
    self, embeddings: Mapping[str, jax.Array], part: Mapping[str, Any]
  ) -> Inputs:
    vectors = [embeddings[name] for name in self.features]
    for i, name in enumerate(self.features):
      if name in self.project:
        vectors[i] = self.project[name](vectors[i])
    return self._network.inputs(jnp.stack(vectors, axis=1), part.get('numeric'))


@dataclasses.dataclass(frozen=True)
class LabelKind:
  """Outputs and loss for a kind of label."""

  num_outputs: int  # Number of outputs, of networks that support several.
  # Function (outputs, labels [B]) -> losses [B].
  loss_fn: Callable[[jax.Array, jax.Array], jax.Array]
  # Function from outputs to columns, including 'prediction'.
  output_fn: Callable[[jax.Array], dict[str, jax.Array]]

  @classmethod
  def of(cls, kind: str) -> 'LabelKind':
    """Loss of 'rating' (cross-entropy of the levels) or 'click' (binary)."""
    if kind == 'click':
      return cls(1, optax.sigmoid_binary_cross_entropy, click_columns)
    if kind == 'rating':
      levels = RatingLevels()
      return cls(len(levels.levels), levels.loss, levels.predictions)
    raise ValueError(
      f"build: labels of kind {kind!r}; use 'rating' or 'click' in"
      ' dataset.json.'
    )


def click_columns(logits_B: jax.Array) -> dict[str, jax.Array]:
  """{'prediction': probability of a click [B], 'logit': [B]}."""
  return {'prediction': jax.nn.sigmoid(logits_B), 'logit': logits_B}


@dataclasses.dataclass(frozen=True)
class RatingLevels:
  """A distribution over rating levels, and its best estimates.

  The mean has the least expected squared error and is used to rank items; the
  median has the least expected absolute error.
  """

  # Possible ratings, ascending; one model output each.
  levels: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 5.0)
  positive_rating: float = 4.0  # Least rating that counts as positive.

  def loss(self, outputs: jax.Array, rating_B: jax.Array) -> jax.Array:
    """Cross-entropy [B] of ratings [B], each rounded to the nearest level.

    A compiled step cannot reject a rating outside the levels; data preparation
    does, as in `antjax.data.view_tasks`.
    """
    logits_BL = self.logits(outputs)
    levels = jnp.asarray(self.levels, logits_BL.dtype)
    target = jnp.argmin(jnp.abs(jnp.subtract.outer(rating_B, levels)), axis=-1)
    return jax.nn.logsumexp(logits_BL, axis=-1) - pick(logits_BL, target)

  def logits(self, outputs: jax.Array) -> jax.Array:
    """Logits [B, L] from outputs [B, L], or from one number per row [B].

    A single number is the rating minus the middle level: the center of a normal
    distribution of variance 1, discretized to the levels.
    """
    if outputs.ndim == 2:
      return outputs
    levels = jnp.asarray(self.levels, outputs.dtype)
    center_B1 = outputs[:, None] + levels.mean()
    return -0.5 * jnp.square(center_B1 - levels[None])

  def predictions(self, outputs: jax.Array) -> dict[str, jax.Array]:
    """Columns for `TaskModel`, each [B].

    'prediction' is the mean; 'median' the first level with half of the mass up
    to it; 'positive' the probability of at least `positive_rating`.
    """
    logits_BL = self.logits(outputs)
    share_BL = jax.nn.softmax(logits_BL)
    levels = jnp.asarray(self.levels, logits_BL.dtype)
    middle = (jnp.cumsum(share_BL, axis=-1) < 0.5).sum(axis=-1)
    is_positive = levels >= self.positive_rating
    return {
      'prediction': share_BL @ levels,
      'median': levels[middle],  # In range, as the last mass is 1.
      'positive': share_BL @ is_positive.astype(levels.dtype),
    }
