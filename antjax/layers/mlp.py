# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Multi-layer perceptron, the dense part of every click model here."""

from collections.abc import Callable, Sequence

from flax import nnx
import jax

# Shape suffixes: B = rows, I = input width, O = output width.


class MLP(nnx.Module):
  """A stack of `nnx.Linear` layers with an activation after each of them.

  It is built of plain `nnx.Linear`, so the low-rank fast weights of
  `antjax.layers.fast_weights` reach every layer of it.
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
    """Makes the layers.

    Args:
      in_features: Width of the input, I.
      widths: Output width of each layer, at least one.
      activation: Applied after each layer.
      activate_last: False leaves the last layer's output linear.
      rngs: Source of the initial weights.

    Raises:
      ValueError: If `widths` is empty or a width is not positive.
    """
    if not widths or min(widths) < 1 or in_features < 1:
      raise ValueError(
        f'MLP(in_features={in_features}, widths={tuple(widths)}): every width'
        ' must be positive and there must be at least one layer.'
      )
    sizes = (in_features, *widths)
    self.layers = nnx.List(
      nnx.Linear(sizes[i], sizes[i + 1], rngs=rngs) for i in range(len(widths))
    )
    self.activation = activation
    self.activate_last = activate_last

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
        x = self.activation(x)
    return x.reshape(*x_BI.shape[:-1], x.shape[-1])
