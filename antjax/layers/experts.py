# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Small MLPs side by side, and mixtures of what they say.

A product that is batched over experts runs on one core of a CPU, so the first
layer, whose input is the same for all, is one product with the experts' weights
beside each other, and each later layer is a plain product an expert.
"""

from collections.abc import Sequence
import itertools

from flax import nnx
import jax
import jax.numpy as jnp

# Shape suffixes: B = rows, E = experts, I = input width, O = output width.


class Experts(nnx.Module):
  """E MLPs of the same widths on one input, ReLU after each layer."""

  def __init__(
    self,
    num_experts: int,
    in_features: int,
    widths: Sequence[int],
    *,
    rngs: nnx.Rngs,
  ):
    """Makes the experts.

    Args:
      num_experts: E.
      in_features: I.
      widths: Output width of each layer, at least one; the last is O.
      rngs: Source of the initial weights.

    Raises:
      ValueError: There is no expert or no layer, or a width is not positive.
    """
    if num_experts < 1 or in_features < 1 or not widths or min(widths) < 1:
      raise ValueError(
        f'Experts(num_experts={num_experts}, in_features={in_features},'
        f' widths={tuple(widths)}): give at least one expert and one layer, and'
        ' positive widths.'
      )
    self.num_experts = num_experts
    self.out_features = widths[-1]
    self.first = nnx.Linear(in_features, num_experts * widths[0], rngs=rngs)
    self.rest = nnx.List(
      nnx.List(nnx.Linear(i, o, rngs=rngs) for _ in range(num_experts))
      for i, o in itertools.pairwise(widths)
    )

  def __call__(self, x_BI: jax.Array) -> jax.Array:
    """[B, E, O] of [B, I]."""
    x = jax.nn.relu(self.first(x_BI))
    for layer in self.rest:
      parts = jnp.split(x, self.num_experts, axis=1)
      y = [linear(part) for linear, part in zip(layer, parts, strict=True)]
      x = jax.nn.relu(jnp.concatenate(y, axis=1))
    return x.reshape(x.shape[0], self.num_experts, self.out_features)


def mix(score_BE: jax.Array, experts_BEO: jax.Array) -> jax.Array:
  """sum_e softmax(score)_e expert_e, [B, O]."""
  weight_BE = jax.nn.softmax(score_BE, axis=-1)
  return jnp.sum(weight_BE[..., None] * experts_BEO, axis=1)
