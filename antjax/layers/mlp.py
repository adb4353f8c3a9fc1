# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Multi-layer perceptrons, one or several in parallel, and mixtures."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import itertools
from typing import Any, get_args, Literal

from flax import nnx
import jax
import jax.numpy as jnp

# Shape suffixes: B = rows, E = experts, I = input width, O = output width.


Norm = Literal['none', 'batch', 'layer']
Activation = Literal['relu', 'leaky_relu', 'gelu', 'silu', 'tanh']


def linears(sizes: Sequence[int], *, rngs: nnx.Rngs) -> nnx.List[nnx.Linear]:
  """Linear layers from each size to the next."""
  return nnx.List(
    nnx.Linear(i, o, rngs=rngs) for i, o in itertools.pairwise(sizes)
  )


class MLP(nnx.Module):
  """A stack of `nnx.Linear` layers, each followed by an activation.

  The layers are plain `nnx.Linear`, so the low-rank fast weights of
  `antjax.layers.fast_weights` apply to each. `activate_last=False` leaves the
  last layer's output linear. `restyle` inserts norms before the activations.
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
    self.norms = nnx.List[nnx.Module]([])
    self.rows: _Rows | None = None

  @property
  def out_features(self) -> int:
    """Width of the output, O."""
    return self.layers[-1].out_features

  def _normed(self, i: int, x: jax.Array) -> jax.Array:
    if not self.norms:
      return x
    norm: Any = self.norms[i]
    if self.rows is None or not isinstance(norm, nnx.BatchNorm):
      return norm(x).astype(x.dtype)
    weight_B = self.rows.weight_B
    counts_B = (weight_B > 0) | ~(weight_B > 0).any()
    mask = jnp.repeat(counts_B, x.shape[0] // len(counts_B))[:, None]
    return norm(x, mask=mask).astype(x.dtype)

  def __call__(self, x_BI: jax.Array) -> jax.Array:
    """Maps float [..., I] to float [..., O]."""
    last = len(self.layers) - 1
    # As a matrix: XLA:CPU is slow at activations of more dims between products.
    x = x_BI.reshape(-1, x_BI.shape[-1])
    for i, layer in enumerate(self.layers):
      x = layer(x)
      if i < last or self.activate_last:
        x = self.dropout(self.activation(self._normed(i, x)))
    return x.reshape(*x_BI.shape[:-1], x.shape[-1])


class Experts(nnx.Module):
  """E MLPs of the same widths on one input, ReLU after each layer.

  A product batched over experts runs on one core of a CPU. So the first layer,
  whose input is shared, is one product with the experts' concatenated weights,
  and each later layer is a separate product per expert.
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
    """Creates the layers, by `make` if they are not plain linear ones."""
    make = make or functools.partial(nnx.Linear, rngs=rngs)
    if num_experts < 1 or in_features < 1 or not widths or min(widths) < 1:
      raise ValueError(
        f'Experts(num_experts={num_experts}, in_features={in_features},'
        f' widths={tuple(widths)}): give at least one expert and one layer, and'
        ' positive widths.'
      )
    self.num_experts = num_experts
    self.activation: Callable[[jax.Array], jax.Array] = nnx.relu
    self.dropout = nnx.Dropout(0.0, deterministic=True)
    self.out_features = widths[-1]
    self.first = make(in_features, num_experts * widths[0])
    self.rest = nnx.List(
      nnx.List(make(i, o) for _ in range(num_experts))
      for i, o in itertools.pairwise(widths)
    )

  def __call__(self, x_BI: jax.Array, *args: jax.Array) -> jax.Array:
    """Maps [B, I], and further arguments of the layers, to [B, E, O]."""
    x = self.dropout(self.activation(self.first(x_BI, *args)))
    for layers in self.rest:
      parts = jnp.split(x, self.num_experts, axis=1)
      y = [layer(part, *args) for layer, part in zip(layers, parts)]
      x = self.dropout(self.activation(jnp.concatenate(y, axis=1)))
    return x.reshape(x.shape[0], self.num_experts, self.out_features)


def mix(score_BE: jax.Array, experts_BEO: jax.Array) -> jax.Array:
  """sum_e softmax(score)_e expert_e, [B, O]."""
  weight_BE = jax.nn.softmax(score_BE, axis=-1)
  return jnp.sum(weight_BE[..., None] * experts_BEO, axis=1)


@dataclasses.dataclass(frozen=True, eq=False)
class _Rows:
  """Mask of rows that count; wrapped, since modules must not hold tracers."""

  weight_B: jax.Array


def restyle(
  module: nnx.Module, norm: Norm, activation: Activation, *, rngs: nnx.Rngs
) -> None:
  """Sets norm and activation of each `MLP` and `Experts` inside a module.

  Norms apply to hidden layers of `MLP`, except in attention and masks: batch
  norm (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167) with running
  averages for scoring, or layer norm (Ba et al. 2016,
  https://arxiv.org/abs/1607.06450).

  Raises:
    ValueError: The norm or activation is unknown.
  """
  for name, found, kinds in (
    ('norm', norm, get_args(Norm)),
    ('activation', activation, get_args(Activation)),
  ):
    if found not in kinds:
      raise ValueError(f'{name}={found!r}: use one of {", ".join(kinds)}.')
  make: dict[str, Callable[..., nnx.Module]] = {
    'batch': functools.partial(
      nnx.BatchNorm, use_running_average=True, momentum=0.9
    ),
    'layer': nnx.LayerNorm,
  }
  for path, layer in [*nnx.iter_modules(module)]:
    if isinstance(layer, MLP | Experts) and activation != 'relu':
      layer.activation = getattr(jax.nn, activation)
    is_hidden = not {'attention', 'mask'} & {*path}
    if isinstance(layer, MLP) and norm in make and is_hidden:
      num = len(layer.layers) - (not layer.activate_last)
      layer.norms = nnx.List(
        make[norm](x.out_features, rngs=rngs) for x in layer.layers[:num]
      )


def start_training(
  module: nnx.Module, rate: float, key: jax.Array, weight_B: jax.Array
) -> None:
  """Switches a merged module to training: dropout and batch statistics.

  Hidden layers of `MLP` and `Experts` drop a share `rate` of their outputs. An
  `nnx.Dropout` of a custom network keeps its rate. Rows of weight 0 do not
  count in statistics.
  """
  rngs = nnx.Rngs(dropout=key)
  layers = [m for _, m in nnx.iter_modules(module)]
  for layer in layers:
    if isinstance(layer, MLP | Experts):
      layer.dropout.rate = rate
    if isinstance(layer, MLP):
      layer.rows = _Rows(weight_B)
  for layer in layers:
    if isinstance(layer, nnx.BatchNorm):
      layer.use_running_average = False
    if isinstance(layer, nnx.Dropout):
      layer.rngs, layer.deterministic = rngs, False
