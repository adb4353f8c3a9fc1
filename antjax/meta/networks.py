# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The network of a recommender by name, for ratings or clicks."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any, Literal

from flax import nnx
import jax
import optax

from antjax.meta import clusters, models

# Shape suffixes: B = rows.


@dataclasses.dataclass(frozen=True)
class Network:
  """What `antjax.meta.task_steps.TaskModel` needs of a network.

  Attributes:
    make: rngs -> module.
    apply_fn: (module, embeddings, part) -> outputs.
    context_fn: see `TaskModel`; None: the network reads no context.
    loss_fn: (outputs, labels [B]) -> losses [B].
    output_fn: outputs -> columns.
  """

  make: Callable[..., nnx.Module]
  apply_fn: Callable[..., jax.Array]
  context_fn: Callable[..., Any] | None
  loss_fn: Callable[[jax.Array, jax.Array], jax.Array]
  output_fn: Callable[[jax.Array], dict[str, jax.Array]]


def click_columns(logits_B: jax.Array) -> dict[str, jax.Array]:
  """{'prediction': probability of a click [B], 'logit': [B]}."""
  return {'prediction': jax.nn.sigmoid(logits_B), 'logit': logits_B}


def build(
  kind: Literal['dlrm', 'melu', 'cbml'],
  label_kind: str,
  feature_dims: Mapping[str, int],
  *,
  embedding_dim: int,
  widths: tuple[int, ...],
  num_numeric: int,
) -> Network:
  """Returns a network and its loss.

  Args:
    kind: which one.
    label_kind: 'rating' (cross-entropy of the levels) or 'click' (binary
      cross-entropy).
    feature_dims: feature -> width of its vector.
    embedding_dim: width of the vectors that interact in a DLRM.
    widths: hidden widths of the top MLP or the decision layers.
    num_numeric: numeric inputs a row.

  Raises:
    ValueError: The kind of label is unknown.
  """
  if label_kind not in ('rating', 'click'):
    raise ValueError(
      f"networks.build: labels of kind {label_kind!r}; use 'rating' or"
      " 'click' in dataset.json."
    )
  levels = models.RatingLevels()
  is_click = label_kind == 'click'
  sizes: dict[str, Any] = {
    'features': tuple(feature_dims),
    'embedding_dim': embedding_dim,
    'feature_dims': tuple(feature_dims.values()),
    'num_numeric': num_numeric,
    'num_outputs': 1 if is_click else len(levels.levels),
  }
  make: Callable[..., nnx.Module]
  context_fn = None
  if kind == 'dlrm':
    make = functools.partial(
      models.DLRM, models.DLRMConfig(top_widths=widths, **sizes)
    )
  elif kind == 'melu':
    make = functools.partial(
      models.MeLU, models.MeLUConfig(widths=widths, **sizes)
    )
  else:
    make = functools.partial(
      clusters.CBML, clusters.CBMLConfig(widths=widths, **sizes)
    )

    def context_fn(model, embeddings, part):
      return model.context(embeddings, part)

  def apply_fn(model, embeddings, part):
    if kind == 'cbml':
      return model(embeddings, part)
    return model(embeddings, part.get('numeric'))

  return Network(
    make,
    apply_fn,
    context_fn,
    optax.sigmoid_binary_cross_entropy if is_click else levels.loss,
    click_columns if is_click else levels.predictions,
  )
