# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Multi-layer perceptrons, one or several side by side, and mixtures."""

from collections.abc import Callable, Sequence
import functools
import itertools

from flax import nnx
import jax
import jax.numpy as jnp

# Shape suffixes: B = rows, E = experts, I = input width, O = output width.


def linears(sizes: Sequence[int], *, rngs: nnx.Rngs) -> nnx.List[nnx.Linear]:
  """Layers from each of the sizes to the next."""
  return nnx.List(
    nnx.Linear(i, o, rngs=rngs) for i, o in itertools.pairwise(sizes)
  )


class MLP(nnx.Module):
  """A stack of `nnx.Linear` layers with an activation after each of them.

  It is built of plain `nnx.Linear`, so the low-rank fast weights of
  `antjax.layers.fast_weights` reach every layer of it. `activate_last=False`
  leaves the last layer's output linear.
  """

  def __init__(
    self,
    in_features: int,
    widths: Sequence[int],
    *,
    activation: Callable[[jax.Array], jax.Array] = nnx.relu,
    activate_last: bool = True,
    rngs: nnx.Rngs,
  ):
    if not widths or min(widths) < 1 or in_features < 1:
      raise ValueError(
        f'MLP(in_features={in_features}, widths={tuple(widths)}): every width'
        ' must be positive and there must be at least one layer.'
      )
    self.layers = linears((in_features, *widths), rngs=rngs)
    self.activation = activation
    self.activate_last = activate_last
    self.dropout = nnx.Dropout(0.0, deterministic=True)

  @property
  def out_features(self) -> int:
    """Width of the output, O."""
    return self.layers[-1].out_features

  def __call__(self, x_BI: jax.Array) -> jax.Array:
    """Maps float [..., I] to float [..., O]."""
    last = len(self.layers) - 1
    # As a matrix: between products XLA:CPU is slow at activations of more dims.
    x = x_BI.reshape(-1, x_BI.shape[-1])
    for i, layer in enumerate(self.layers):
      x = layer(x)
      if i < last or self.activate_last:
        x = self.dropout(self.activation(x))
    return x.reshape(*x_BI.shape[:-1], x.shape[-1])


class Experts(nnx.Module):
  """E MLPs of the same widths on one input, ReLU after each layer.

  A product that is batched over experts runs on one core of a CPU, so the first
  layer, whose input is the same for all, is one product with the experts'
  weights beside each other, and each later layer is a plain product an expert.
  """

  def __init__(
    self,
    num_experts: int,
    in_features: int,
    widths: Sequence[int],
    *,
    rngs: nnx.Rngs,
    make: Callable[[int, int], nnx.Module] | None = None,
  ):
    """Makes the layers, by `make` where they are not linear ones."""
    make = make or functools.partial(nnx.Linear, rngs=rngs)
    if num_experts < 1 or in_features < 1 or not widths or min(widths) < 1:
      raise ValueError(
        f'Experts(num_experts={num_experts}, in_features={in_features},'
        f' widths={tuple(widths)}): give at least one expert and one layer, and'
        ' positive widths.'
      )
    self.num_experts = num_experts
    self.dropout = nnx.Dropout(0.0, deterministic=True)
    self.out_features = widths[-1]
    self.first = make(in_features, num_experts * widths[0])
    self.rest = nnx.List(
      nnx.List(make(i, o) for _ in range(num_experts))
      for i, o in itertools.pairwise(widths)
    )

  def __call__(self, x_BI: jax.Array, *args: jax.Array) -> jax.Array:
    """[B, E, O] of [B, I] and what else the layers take."""
    x = self.dropout(jax.nn.relu(self.first(x_BI, *args)))
    for layers in self.rest:
      parts = jnp.split(x, self.num_experts, axis=1)
      y = [layer(part, *args) for layer, part in zip(layers, parts)]
      x = self.dropout(jax.nn.relu(jnp.concatenate(y, axis=1)))
    return x.reshape(x.shape[0], self.num_experts, self.out_features)


def mix(score_BE: jax.Array, experts_BEO: jax.Array) -> jax.Array:
  """sum_e softmax(score)_e expert_e, [B, O]."""
  weight_BE = jax.nn.softmax(score_BE, axis=-1)
  return jnp.sum(weight_BE[..., None] * experts_BEO, axis=1)


def start_dropout(module: nnx.Module, rate: float, key: jax.Array) -> None:
  """Lets a merged module drop outputs, as in training.

  Hidden layers of `MLP` and `Experts` drop a share `rate` of theirs. An
  `nnx.Dropout` that a network of one's own has keeps its rate.
  """
  rngs = nnx.Rngs(dropout=key)
  layers = [m for _, m in nnx.iter_modules(module)]
  for layer in layers:
    if isinstance(layer, MLP | Experts):
      layer.dropout.rate = rate
  for layer in layers:
    if isinstance(layer, nnx.Dropout):
      layer.rngs, layer.deterministic = rngs, False
