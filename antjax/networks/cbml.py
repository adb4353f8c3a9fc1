# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""CBML: soft clusters of tasks gate the shared layers.

Song et al. 2021 group tasks softly and let the group modulate the parameters
that all tasks share, before a task adapts them. Only the paper's abstract
was available; this is that idea in our own form: a task's support is
encoded and averaged, its distances to learned centers give the share of each
cluster, and the mixture of centers gives a factor for each hidden unit.
"""

import dataclasses
from typing import Annotated

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.layers import mlp
from antjax.networks.melu import DecisionConfig
from antjax.networks.network import Inputs, Sizes

# Shape suffixes: S = support rows, B = rows, F = width of a row, C = clusters,
# E = width of a task's encoding, H = hidden width.


@dataclasses.dataclass(frozen=True, kw_only=True)
class CBMLConfig(DecisionConfig):
  """Sizes of the network."""

  num_clusters: Annotated[int, 'Clusters of tasks.'] = 4
  encoding_dim: Annotated[int, "Width of a task's encoding."] = 16


class SoftClusters(nnx.Module):
  """From the support of a task to a factor for each hidden unit."""

  def __init__(self, in_features: int, config: CBMLConfig, *, rngs: nnx.Rngs):
    """Makes encoder, centers and gates for rows of `in_features` numbers."""
    self.encoder = nnx.Linear(in_features, config.encoding_dim, rngs=rngs)
    shape = config.num_clusters, config.encoding_dim
    self.centers_CE = nnx.Param(jax.random.normal(rngs.params(), shape))
    self.gates = nnx.List(
      nnx.Linear(config.encoding_dim, width, rngs=rngs)
      for width in config.widths
    )

  def shares(self, rows_SF: jax.Array, mask_S: jax.Array) -> jax.Array:
    """The share of each cluster [C]; they sum to 1."""
    encoded_SE = jnp.tanh(self.encoder(rows_SF))
    mask_S1 = (mask_S > 0)[:, None]
    count = jnp.maximum(mask_S1.sum(), 1).astype(encoded_SE.dtype)
    task_E = jnp.where(mask_S1, encoded_SE, 0).sum(axis=0) / count
    distance_C = jnp.square(task_E[None] - self.centers_CE[...]).sum(axis=-1)
    return jax.nn.softmax(-distance_C)

  def __call__(
    self, rows_SF: jax.Array, mask_S: jax.Array
  ) -> tuple[jax.Array, ...]:
    """Factors in (0, 2) [H] for the units of each hidden layer."""
    mixture_E = self.shares(rows_SF, mask_S) @ self.centers_CE[...]
    return tuple(2 * jax.nn.sigmoid(gate(mixture_E)) for gate in self.gates)


class CBML(nnx.Module):
  """Decision layers on all inputs whose units are gated by task."""

  Config = CBMLConfig
  needs = frozenset({'support'})

  def __init__(self, sizes: Sizes, config: CBMLConfig, *, rngs: nnx.Rngs):
    self.num_outputs = sizes.num_outputs
    self.clusters = SoftClusters(sizes.flat_width + 1, config, rngs=rngs)
    self.decision = mlp.MLP(sizes.flat_width, config.widths, rngs=rngs)
    self.head = nnx.Linear(
      self.decision.out_features, sizes.num_outputs, rngs=rngs
    )

  def context(
    self, x: Inputs, label_S: jax.Array, mask_S: jax.Array
  ) -> tuple[jax.Array, ...]:
    """A task's gates, from its support rows, their labels and which count."""
    rows_SF = jnp.concatenate([x.flat, label_S[..., None]], axis=-1)
    return self.clusters(rows_SF, mask_S)

  def __call__(self, x: Inputs) -> jax.Array:
    """Logits [B], or [B, num_outputs] of several, under `x.context`."""
    h = x.flat
    for layer, gate in zip(self.decision.layers, x.context, strict=True):
      h = gate[None] * self.decision.activation(layer(h))
    y = self.head(h)
    return y[:, 0] if self.num_outputs == 1 else y
