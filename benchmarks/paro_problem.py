# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What `benchmarks.paro_bench` trains: model, batches, optimizer.

Tokens are random: a benchmark of speed needs no text, and equal losses under
all codes show that they compute the same.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import optax

from antjax.lm import transformer


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of the problem."""

  embed_dim: int = 320  # A multiple of 64; the MLP is 8/3 as wide.
  num_layers: int = 3
  vocab_size: int = 1024
  num_tokens: int = 128  # Tokens of a sequence.
  num_micro_batches: int = 8

  @property
  def tokens_per_device(self) -> int:
    """Tokens that a device works off in a step."""
    return self.num_tokens * self.num_micro_batches

  def config(self) -> transformer.Config:
    return transformer.Config(
      vocab_size=self.vocab_size,
      num_layers=self.num_layers,
      embed_dim=self.embed_dim,
      num_heads=self.embed_dim // 64,
      num_kv_heads=self.embed_dim // 64,
      mlp_dim=self.embed_dim * 8 // 3 // 64 * 64,
    )

  def tokens(self, device: int) -> np.ndarray:
    """int32 [num_micro_batches, num_tokens] of one device, by its place."""
    rng = np.random.default_rng(device)
    shape = (self.num_micro_batches, self.num_tokens)
    return rng.integers(0, self.vocab_size, shape, dtype=np.int32)


def param_shapes(sizes: Sizes) -> Any:
  """The tree of parameters as ShapeDtypeStructs."""
  init = functools.partial(transformer.init, sizes.config())
  return jax.eval_shape(init, jax.random.key(0))


def loss_fn(
  sizes: Sizes, params: Any, batch: Mapping[str, jax.Array], rng: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """(losses, weights), as `Trainer` wants it."""
  del rng
  return transformer.loss(sizes.config(), params, batch)


def optimizer() -> optax.GradientTransformation:
  """AdamW behind a clip of the global norm, as LMs are trained."""
  return optax.chain(
    optax.clip_by_global_norm(1.0), optax.adamw(1e-3, weight_decay=0.1)
  )


def is_stack(name: str) -> bool:
  """Whether a parameter is a stack of layers."""
  return name.startswith('layers')
