# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rating and click models for meta-learning: a DLRM and a MeLU-style model.

Both take one vector a feature (looked up and pooled before) and return one
number a row. The parts of a model are named after what adapts in the inner
loop: 'decision' or 'top', and 'head' (see `antjax.meta.maml.InnerLoop`).
"""

from collections.abc import Mapping
import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.embedding.lookup import pick
from antjax.layers import interaction, mlp

# Shape suffixes: B = rows, F = features, D = embedding width, N = numeric
# inputs, H = hidden width, P = pairs of feature vectors.


@dataclasses.dataclass(frozen=True, kw_only=True)
class DLRMConfig:
  """Sizes of a `DLRM`.

  Attributes:
    features: names of the embedded features, in the order of the interaction.
    embedding_dim: width of the vectors that interact, D.
    feature_dims: width of each feature's vector; empty: all D. A learned
      linear map without bias takes another width to D (Ginart et al. 2019).
    num_numeric: numeric inputs a row, N; 0 leaves the bottom MLP out.
    bottom_widths: hidden widths of the bottom MLP, before its last layer of
      width D.
    top_widths: hidden widths of the top MLP.
    interact: True adds the pairwise dot products to the top MLP's input.
    num_outputs: numbers a row; 1 for a rating or a logit, one a level for
      `RatingLevels`.
    output_offset: constant added to the output, e.g. the mean rating, so that
      the head starts from a fair guess.
  """

  features: tuple[str, ...]
  embedding_dim: int = 32
  feature_dims: tuple[int, ...] = ()
  num_numeric: int = 0
  bottom_widths: tuple[int, ...] = (64,)
  top_widths: tuple[int, ...] = (64, 64)
  interact: bool = True
  num_outputs: int = 1
  output_offset: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeLUConfig:
  """Sizes of a `MeLU`.

  Attributes:
    features: names of the embedded features, in the order they are
      concatenated.
    embedding_dim: width of a feature's vector, D.
    feature_dims: width of each feature's vector; empty: all D.
    num_numeric: numeric inputs a row, N, joined to the vectors.
    widths: hidden widths of the decision layers (the paper: 64-64).
    num_outputs: see `DLRMConfig`.
    output_offset: see `DLRMConfig`.
  """

  features: tuple[str, ...]
  embedding_dim: int = 32
  feature_dims: tuple[int, ...] = ()
  num_numeric: int = 0
  widths: tuple[int, ...] = (64, 64)
  num_outputs: int = 1
  output_offset: float = 0.0


class DLRM(nnx.Module):
  """Deep learning recommendation model over given feature vectors.

  Source: Naumov et al. 2019; the embedding tables live outside of the module
  (`antjax.embedding`), since they are sharded by rows over the devices.
  """

  def __init__(self, config: DLRMConfig, *, rngs: nnx.Rngs):
    """Makes the layers; raises ValueError if there is nothing to interact."""
    _check_features(config)
    num_vectors = len(config.features) + (config.num_numeric > 0)
    width = num_vectors * config.embedding_dim
    if config.interact:
      if num_vectors < 2:
        raise ValueError(
          f'DLRMConfig(features={config.features}): the interaction needs'
          ' two feature vectors; add a feature or set interact=False.'
        )
      width += num_vectors * (num_vectors - 1) // 2
    self.config = config
    self.project = nnx.Dict(
      {
        name: nnx.Linear(dim, config.embedding_dim, use_bias=False, rngs=rngs)
        for name, dim in zip(config.features, _dims(config), strict=True)
        if dim != config.embedding_dim
      }
    )
    if config.num_numeric:
      self.bottom = mlp.MLP(
        config.num_numeric,
        (*config.bottom_widths, config.embedding_dim),
        rngs=rngs,
      )
    self.top = mlp.MLP(width, config.top_widths, rngs=rngs)
    self.head = nnx.Linear(self.top.out_features, config.num_outputs, rngs=rngs)

  def __call__(
    self,
    embeddings: Mapping[str, jax.Array],
    numeric_BN: jax.Array | None = None,
  ) -> jax.Array:
    """Scores rows.

    Args:
      embeddings: feature -> float [B, D], or of the width in `feature_dims`.
      numeric_BN: float [B, N], needed if `num_numeric` is not 0.

    Returns:
      float [B], or [B, num_outputs] if that is more than one.
    """
    vectors = [
      self.project[name](embeddings[name])
      if name in self.project
      else embeddings[name]
      for name in self.config.features
    ]
    if self.config.num_numeric:
      if numeric_BN is None:
        raise ValueError(
          f'DLRM(num_numeric={self.config.num_numeric}): called without its'
          ' numeric inputs; pass numeric_BN.'
        )
      vectors.append(self.bottom(numeric_BN))
    vectors_BFD = jnp.stack(vectors, axis=-2)
    parts = [vectors_BFD.reshape(*vectors_BFD.shape[:-2], -1)]
    if self.config.interact:
      parts.append(interaction.dot_interaction(vectors_BFD))
    hidden_BH = self.top(jnp.concatenate(parts, axis=-1))
    return _output(self.head(hidden_BH), self.config)


class MeLU(nnx.Module):
  """Concatenated feature vectors and decision layers (Lee et al. 2019)."""

  def __init__(self, config: MeLUConfig, *, rngs: nnx.Rngs):
    """Makes the layers."""
    _check_features(config)
    self.config = config
    width = sum(_dims(config)) + config.num_numeric
    self.decision = mlp.MLP(width, config.widths, rngs=rngs)
    self.head = nnx.Linear(
      self.decision.out_features, config.num_outputs, rngs=rngs
    )

  def __call__(
    self,
    embeddings: Mapping[str, jax.Array],
    numeric_BN: jax.Array | None = None,
  ) -> jax.Array:
    """Scores rows, feature -> float [B, its width]; otherwise as `DLRM`."""
    columns = [embeddings[name] for name in self.config.features]
    if self.config.num_numeric:
      if numeric_BN is None:
        raise ValueError(
          f'MeLU(num_numeric={self.config.num_numeric}): called without its'
          ' numeric inputs; pass numeric_BN.'
        )
      columns.append(numeric_BN)
    x = jnp.concatenate(columns, axis=-1)
    return _output(self.head(self.decision(x)), self.config)


def _output(output, config):
  output = output + config.output_offset
  return output[..., 0] if config.num_outputs == 1 else output


def _check_features(config):
  if not config.features or len(set(config.features)) < len(config.features):
    raise ValueError(
      f'{type(config).__name__}(features={config.features}): the names must'
      ' differ and there must be at least one.'
    )
  if len(_dims(config)) != len(config.features):
    raise ValueError(
      f'{type(config).__name__}(feature_dims={config.feature_dims}): one width'
      f' is needed for each of the features {config.features}, or none.'
    )


def _dims(config):
  return config.feature_dims or (config.embedding_dim,) * len(config.features)


@dataclasses.dataclass(frozen=True)
class RatingLevels:
  """A distribution over rating levels, and the best guess for each error.

  The mean of the distribution has the least expected squared error and orders
  items; its median has the least expected absolute error.

  Attributes:
    levels: the ratings that can be given, rising; one model output each.
    positive_rating: ratings from this one on are positive.
  """

  levels: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 5.0)
  positive_rating: float = 4.0

  def loss(self, logits_BL: jax.Array, rating_B: jax.Array) -> jax.Array:
    """Cross-entropy [B] of ratings [B], each taken as its nearest level.

    It cannot refuse a rating off the levels, in a compiled step: whoever
    prepares the data does, as `antjax.data.table_raw` does.
    """
    levels = jnp.asarray(self.levels, logits_BL.dtype)
    distance = jnp.abs(
      rating_B[..., None] - levels.reshape((1,) * rating_B.ndim + (-1,))
    )
    target = jnp.argmin(distance, axis=-1)
    return jax.nn.logsumexp(logits_BL, axis=-1) - pick(logits_BL, target)

  def mean(self, logits_BL: jax.Array) -> jax.Array:
    """Expected rating [B]."""
    levels = jnp.asarray(self.levels, logits_BL.dtype)
    return jax.nn.softmax(logits_BL) @ levels

  def median(self, logits_BL: jax.Array) -> jax.Array:
    """Median rating [B]: the first level that half of the mass reaches."""
    levels = jnp.asarray(self.levels, logits_BL.dtype)
    mass = jnp.cumsum(jax.nn.softmax(logits_BL), axis=-1)
    index = (mass < 0.5).sum(axis=-1)  # The last mass is 1: in range.
    return levels[index]

  def predictions(self, logits_BL: jax.Array) -> dict[str, jax.Array]:
    """Columns for `TaskModel`: each [B].

    'prediction' is the mean, 'median' the median, 'positive' the probability of
    a rating from `positive_rating` on.
    """
    positive_L = [level >= self.positive_rating for level in self.levels]
    return {
      'prediction': self.mean(logits_BL),
      'median': self.median(logits_BL),
      'positive': jax.nn.softmax(logits_BL)
      @ jnp.asarray(positive_L, logits_BL.dtype),
    }
