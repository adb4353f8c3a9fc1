# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""LoRA: low-rank adapters of chosen matrices of every layer.

A matrix W [in, out] becomes W + scale A B with A [in, r] and B [r, out], where
scale is `config.lora_scale` (Hu et al. 2021, https://arxiv.org/abs/2106.09685:
alpha / r). DoRA (Liu et al. 2024, https://arxiv.org/abs/2402.09353) gives each
column of the sum a trained length m. The adapters are parameters of the model's
layers, so every pass uses them.
"""

from collections.abc import Callable, Collection
import dataclasses
import math
import re
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.lm import quantized
from antjax.lm.transformer import Transformer

TARGETS = quantized.MATRICES
# For Trainer(trainable=...): trains adapters only.
PATTERN = r'_lora_[abm](\.value)?$'


def add(
  model: Transformer,
  *,
  rank: int,
  targets: Collection[str] = ('query', 'value'),
  scale: float | None = None,
  dora: bool = False,
  rngs: nnx.Rngs,
) -> None:
  """Adds new adapters to a model, which do not change its outputs yet.

  A is normal with standard deviation in ** -0.5, and B is 0; both have the
  dtype of their matrix. DoRA's lengths are float32.

  Args:
    model: A whole model, or a part with layers.
    rank: Width r of the adapters.
    targets: Matrices to adapt, from `TARGETS`.
    scale: Factor of the adapters, see `scale_of`; None: that of the config.
    dora: Whether to train the length of each column of a matrix separately from
      its direction, which the adapter changes.
    rngs: Source of the random numbers.

  Raises:
    ValueError: The rank is below 1, the model lacks a target, or it has no
      layers.
  """
  if not hasattr(model, 'layers'):
    raise ValueError(
      f'lora.add: got a {type(model).__name__} without layers; needed is a'
      ' whole model, or a half with layers.'
    )
  layers = model.layers
  known = [  # Experts' matrices have one more dim.
    x for x in TARGETS if hasattr(layers, x) and getattr(layers, x).ndim == 3
  ]
  wrong = sorted(set(targets) - set(known))
  if rank < 1 or wrong or not targets:
    raise ValueError(
      f'lora.add: got rank={rank}, targets={sorted(targets)}; needed is a rank'
      f' of at least 1, and one or more targets of {", ".join(known)}.'
    )
  if scale is not None:
    set_scale(model, scale)
  for name in sorted(targets):
    matrix = layers.matrix(name)
    num_layers, size_in, size_out = matrix.shape
    a = jax.random.normal(rngs.params(), (num_layers, size_in, rank))
    leaves = {
      'a': (a * size_in**-0.5).astype(matrix.dtype),
      'b': jnp.zeros((num_layers, rank, size_out), matrix.dtype),
    }
    if dora:
      leaves['m'] = jnp.linalg.norm(matrix.astype(jnp.float32), axis=-2)
    for part, x in leaves.items():
      setattr(layers, f'{name}_lora_{part}', nnx.Param(x))


def scale_of(alpha: float, rank: int, rank_stabilized: bool) -> float:
  """Alpha / r, or alpha / sqrt(r) (Kalajdzievski 2023, arXiv 2312.03732)."""
  return alpha / (math.sqrt(rank) if rank_stabilized else rank)


def set_scale(model: Transformer, scale: float) -> None:
  """Sets the factor of a model's adapters."""
  config = dataclasses.replace(model.config, lora_scale=scale)
  model.config = model.layers.config = config


def merge(model: Transformer) -> None:
  """Merges a model's adapters into their float matrices and removes them."""
  layers = model.layers
  for name in TARGETS:
    if not hasattr(layers, name):
      continue
    matrix = layers.matrix(name)
    if hasattr(layers, f'{name}_lora_a'):
      merged = layers.adapted(name)
      if hasattr(layers, f'{name}_lora_m'):
        norm = jnp.linalg.norm(merged, axis=-2)
        size = getattr(layers, f'{name}_lora_m')[...].astype(jnp.float32)
        merged *= jnp.broadcast_to((size / norm)[:, None], merged.shape)
      matrix = merged.astype(matrix.dtype)
    setattr(layers, name, nnx.Param(matrix))
    for part in ('lora_a', 'lora_b', 'lora_m', 'scale'):
      if hasattr(layers, f'{name}_{part}'):
        delattr(layers, f'{name}_{part}')


def computing(dtype: jax.typing.DTypeLike) -> Callable[[str], Any]:
  """For Trainer(compute_dtype=...): DoRA's lengths in fp32, others in `dtype`.

  Rounded lengths would change the outputs of new adapters.
  """
  is_length = matching(r'_lora_m(\.value)?$')
  return lambda name: jnp.float32 if is_length(name) else dtype


def matching(pattern: str) -> Callable[[str], bool]:
  """For Trainer(trainable=...): whether a leaf's name matches the pattern.

  Names are dotted paths, such as 'layers.query_lora_a'.

  Raises:
    ValueError: The pattern is not a regular expression.
  """
  try:
    found = re.compile(pattern)
  except re.error as error:
    raise ValueError(
      f'{pattern!r} is no regular expression: {error}.'
    ) from error
  return lambda name: found.search(name) is not None
