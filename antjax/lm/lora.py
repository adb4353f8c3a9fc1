# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""LoRA: low-rank adapters beside chosen matrices of every layer.

A matrix W [in, out] becomes W + scale A B with A [in, r] and B [r, out], where
scale is `config.lora_scale` (Hu et al. 2021, https://arxiv.org/abs/2106.09685:
alpha / r). The adapters live among the leaves of 'layers', where every pass of
the model finds them.
"""

from collections.abc import Callable, Collection
import re
from typing import Any

import jax
import jax.numpy as jnp

from antjax.lm.config import Config

PyTree = Any
TARGETS = ('query', 'key', 'value', 'out', 'gate', 'up', 'down')
# For Trainer(trainable=...): only adapters are trained.
PATTERN = r'_lora_[ab]$'


def add(
  params: PyTree,
  key: jax.Array,
  *,
  rank: int,
  targets: Collection[str] = ('query', 'value'),
) -> PyTree:
  """The parameters with fresh adapters, which change no output yet.

  A is normal with deviation in ** -0.5, B is 0; both in the dtype of their
  matrix.

  Args:
    params: Parameters of a whole model, or of a half with layers.
    key: Random key.
    rank: Width r of the adapters.
    targets: Names from `TARGETS` to adapt.

  Raises:
    ValueError: A rank below 1, a target that the model does not have, or
      parameters without layers.
  """
  if 'layers' not in params:
    raise ValueError(
      f'lora.add: got parameters without layers ({", ".join(sorted(params))});'
      ' needed is a whole model, or a half with layers.'
    )
  layers = dict(params['layers'])
  known = [x for x in TARGETS if x in layers and layers[x].ndim == 3]
  wrong = sorted(set(targets) - set(known))
  if rank < 1 or wrong or not targets:
    raise ValueError(
      f'lora.add: got rank={rank}, targets={sorted(targets)}; needed is a rank'
      f' of at least 1, and one or more targets of {", ".join(known)}.'
    )
  for name, k in zip(sorted(targets), jax.random.split(key, len(targets))):
    num_layers, size_in, size_out = layers[name].shape
    dtype = layers[name].dtype
    a = jax.random.normal(k, (num_layers, size_in, rank)) * size_in**-0.5
    layers[f'{name}_lora_a'] = a.astype(dtype)
    layers[f'{name}_lora_b'] = jnp.zeros((num_layers, rank, size_out), dtype)
  return {**params, 'layers': layers}


def merge(config: Config, params: PyTree) -> PyTree:
  """The parameters without adapters, which are added to their matrices."""
  layers = {
    name: x
    for name, x in params['layers'].items()
    if not re.search(PATTERN, name)
  }
  for name, matrix in layers.items():
    if f'{name}_lora_a' in params['layers']:
      a = params['layers'][f'{name}_lora_a'].astype(jnp.float32)
      b = params['layers'][f'{name}_lora_b'].astype(jnp.float32)
      merged = matrix.astype(jnp.float32) + config.lora_scale * (a @ b)
      layers[name] = merged.astype(matrix.dtype)
  return {**params, 'layers': layers}


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
