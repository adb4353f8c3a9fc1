# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Soft clusters of tasks that gate the shared layers (CBML).

Song et al. 2021 group tasks softly and let the group modulate the parameters
that all tasks share, before a task adapts them. Of the paper only the abstract
was at hand; what stands here is that idea in our own form: a task's support is
encoded and averaged, its distances to learned centres give the share of each
cluster, and the mixture of centres gives a factor for each hidden unit.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.layers import mlp

# Shape suffixes: S = support rows, B = rows, D = embedding width, C = clusters,
# E = width of a task's encoding, H = hidden width.


@dataclasses.dataclass(frozen=True, kw_only=True)
class CBMLConfig:
  """Sizes of a `CBML`.

  Attributes:
    features: names of the embedded features, in the order they are
      concatenated.
    embedding_dim: width of a feature's vector, D.
    feature_dims: width of each feature's vector; empty: all D.
    num_numeric: numeric inputs a row, joined to the vectors.
    widths: hidden widths of the decision layers.
    num_clusters: clusters of tasks, C.
    encoding_dim: width of a task's encoding, E.
    num_outputs: numbers a row.
  """

  features: tuple[str, ...]
  embedding_dim: int = 32
  feature_dims: tuple[int, ...] = ()
  num_numeric: int = 0
  widths: tuple[int, ...] = (64, 64)
  num_clusters: int = 4
  encoding_dim: int = 16
  num_outputs: int = 1


class SoftClusters(nnx.Module):
  """From the support of a task to a factor for each hidden unit."""

  def __init__(
    self, in_features: int, config: CBMLConfig, *, rngs: nnx.Rngs
  ) -> None:
    """Makes encoder, centres and gates.

    Args:
      in_features: width of an encoded row, its label included.
      config: sizes.
      rngs: source of the initial weights.

    Raises:
      ValueError: If there is no cluster.
    """
    if config.num_clusters < 1:
      raise ValueError(
        f'CBMLConfig(num_clusters={config.num_clusters}): at least 1.'
      )
    self.encoder = nnx.Linear(in_features, config.encoding_dim, rngs=rngs)
    self.centers_CE = nnx.Param(
      jax.random.normal(
        rngs.params(), (config.num_clusters, config.encoding_dim)
      )
    )
    self.gates = nnx.List(
      nnx.Linear(config.encoding_dim, width, rngs=rngs)
      for width in config.widths
    )

  def shares(self, rows_SF: jax.Array, mask_S: jax.Array) -> jax.Array:
    """Returns the share of each cluster [C]; they sum to 1."""
    encoded_SE = jnp.tanh(self.encoder(rows_SF))
    mask_S1 = (mask_S > 0)[:, None]
    count = jnp.maximum(mask_S1.sum(), 1).astype(encoded_SE.dtype)
    task_E = jnp.where(mask_S1, encoded_SE, 0).sum(axis=0) / count
    distance_C = jnp.square(task_E[None] - self.centers_CE[...]).sum(axis=-1)
    return jax.nn.softmax(-distance_C)

  def __call__(
    self, rows_SF: jax.Array, mask_S: jax.Array
  ) -> tuple[jax.Array, ...]:
    """Returns factors in (0, 2) [H] for the units of each hidden layer."""
    mixture_E = self.shares(rows_SF, mask_S) @ self.centers_CE[...]
    return tuple(2 * jax.nn.sigmoid(gate(mixture_E)) for gate in self.gates)


class CBML(nnx.Module):
  """Concatenated vectors and decision layers whose units are gated by task."""

  def __init__(self, config: CBMLConfig, *, rngs: nnx.Rngs) -> None:
    """Makes the layers."""
    dims = config.feature_dims or (config.embedding_dim,) * len(config.features)
    width = sum(dims) + config.num_numeric
    self.config = config
    self.clusters = SoftClusters(width + 1, config, rngs=rngs)
    self.decision = mlp.MLP(width, config.widths, rngs=rngs)
    self.head = nnx.Linear(
      self.decision.out_features, config.num_outputs, rngs=rngs
    )

  def context(
    self,
    embeddings: Mapping[str, jax.Array],
    part: Mapping[str, jax.Array],
  ) -> tuple[jax.Array, ...]:
    """Returns a task's gates, of its support; see `TaskModel.context_fn`."""
    rows_SF = jnp.concatenate(
      [self._inputs(embeddings, part), part['label'][..., None]], axis=-1
    )
    return self.clusters(rows_SF, part['mask'])

  def __call__(
    self,
    embeddings: Mapping[str, jax.Array],
    part: Mapping[str, Any],
  ) -> jax.Array:
    """Scores rows under the gates part['context'].

    Args:
      embeddings: feature -> float [B, D].
      part: 'context', and 'numeric' [B, N] if the model has numeric inputs.

    Returns:
      float [B], or [B, num_outputs] if that is more than one.
    """
    x = self._inputs(embeddings, part)
    gates = part['context']
    for layer, gate in zip(self.decision.layers, gates, strict=True):
      x = gate[None] * self.decision.activation(layer(x))
    output = self.head(x)
    return output[..., 0] if self.config.num_outputs == 1 else output

  def _inputs(self, embeddings, part):
    columns = [embeddings[name] for name in self.config.features]
    if self.config.num_numeric:
      columns.append(part['numeric'])
    return jnp.concatenate(columns, axis=-1)
