# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""LoRA: low-rank adapters beside chosen matrices of every layer.

A matrix W [in, out] becomes W + scale A B with A [in, r] and B [r, out], where
scale is `config.lora_scale` (Hu et al. 2021, https://arxiv.org/abs/2106.09685:
alpha / r). The adapters are parameters of the model's layers, where every pass
finds them.
"""

from collections.abc import Callable, Collection
import dataclasses
import re

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.lm.transformer import Transformer

TARGETS = ('query', 'key', 'value', 'out', 'gate', 'up', 'down')
# For Trainer(trainable=...): only adapters are trained.
PATTERN = r'_lora_[ab]$'


def add(
  model: Transformer,
  *,
  rank: int,
  targets: Collection[str] = ('query', 'value'),
  scale: float | None = None,
  rngs: nnx.Rngs,
) -> None:
  """Gives a model fresh adapters, which change no output yet.

  A is normal with deviation in ** -0.5, B is 0; both in the dtype of their
  matrix.

  Args:
    model: A whole model, or a part with layers.
    rank: Width r of the adapters.
    targets: Names from `TARGETS` to adapt.
    scale: Factor of the adapters, alpha / rank; None: the config's.
    rngs: Source of the random numbers.

  Raises:
    ValueError: A rank below 1, a target that the model does not have, or a
      model without layers.
  """
  if not hasattr(model, 'layers'):
    raise ValueError(
      f'lora.add: got a {type(model).__name__} without layers; needed is a'
      ' whole model, or a half with layers.'
    )
  layers = model.layers
  known = [  # Experts' matrices have a dim more.
    x for x in TARGETS if hasattr(layers, x) and getattr(layers, x).ndim == 3
  ]
  wrong = sorted(set(targets) - set(known))
  if rank < 1 or wrong or not targets:
    raise ValueError(
      f'lora.add: got rank={rank}, targets={sorted(targets)}; needed is a rank'
      f' of at least 1, and one or more targets of {", ".join(known)}.'
    )
  if scale is not None:
    config = dataclasses.replace(model.config, lora_scale=scale)
    model.config = layers.config = config
  for name in sorted(targets):
    matrix = getattr(layers, name)[...]
    num_layers, size_in, size_out = matrix.shape
    a = jax.random.normal(rngs.params(), (num_layers, size_in, rank))
    a = (a * size_in**-0.5).astype(matrix.dtype)
    b = jnp.zeros((num_layers, rank, size_out), matrix.dtype)
    setattr(layers, f'{name}_lora_a', nnx.Param(a))
    setattr(layers, f'{name}_lora_b', nnx.Param(b))


def merge(model: Transformer) -> None:
  """Adds a model's adapters to their matrices and drops them."""
  layers = model.layers
  for name in TARGETS:
    if hasattr(layers, f'{name}_lora_a'):
      matrix, a, b = (
        getattr(layers, name + part)[...] for part in ('', '_lora_a', '_lora_b')
      )
      change = a.astype(jnp.float32) @ b.astype(jnp.float32)
      merged = matrix.astype(jnp.float32) + layers.config.lora_scale * change
      setattr(layers, name, nnx.Param(merged.astype(matrix.dtype)))
      delattr(layers, f'{name}_lora_a')
      delattr(layers, f'{name}_lora_b')


def matching(pattern: str) -> Callable[[str], bool]:
  """For Trainer(trainable=...): whether a leaf's name has the pattern.

  Names are paths with dots, 'layers.query_lora_a' say.

  Raises:
    ValueError: The pattern is no regular expression.
  """
  try:
    found = re.compile(pattern)
  except re.error as error:
    raise ValueError(
      f'{pattern!r} is no regular expression: {error}.'
    ) from error
  return lambda name: found.search(name) is not None
