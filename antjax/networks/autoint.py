# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""AutoInt: fields attend to fields, y = w [e_1, ..., e_F] + b.

A layer, with the outputs of heads h side by side:

  e_f = relu([sum_g softmax_g(<Q_h v_f, K_h v_g>) V_h v_g]_h + W v_f)

Source: Song et al. 2019, https://arxiv.org/abs/1810.11921, section 4.3. As
there, scores are not scaled.
"""

import dataclasses
from typing import Annotated

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.networks.network import Inputs, Sized, Sizes


class InteractingLayer(nnx.Module):
  """Self-attention over fields with a projected residual."""

  def __init__(self, dim: int, num_heads: int, *, rngs: nnx.Rngs):
    if dim % num_heads:
      raise ValueError(
        f'autoint: num_heads={num_heads} must divide the embedding width {dim}.'
      )
    self.num_heads = num_heads
    self.project = nnx.Linear(dim, 4 * dim, use_bias=False, rngs=rngs)

  def __call__(self, x_BFD: jax.Array) -> jax.Array:
    """[B, F, D] of [B, F, D]."""
    query, key, value, rest = jnp.split(self.project(x_BFD), 4, axis=-1)

    def heads(y):
      return y.reshape(*y.shape[:2], self.num_heads, -1)

    scores = jnp.einsum('bfhd,bghd->bhfg', heads(query), heads(key))
    mixed = jnp.einsum(
      'bhfg,bghd->bfhd', jax.nn.softmax(scores, axis=-1), heads(value)
    )
    return jax.nn.relu(mixed.reshape(x_BFD.shape) + rest)


class AutoInt(nnx.Module):
  """Interacting layers over the fields."""

  needs: frozenset[str] = frozenset()

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(Sized):
    """Sizes of the network."""

    num_layers: Annotated[int, 'Layers.'] = 2
    num_heads: Annotated[int, 'Heads.'] = 2

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    self.layers = nnx.List(
      InteractingLayer(sizes.dim, config.num_heads, rngs=rngs)
      for _ in range(config.num_layers)
    )
    self.out = nnx.Linear(sizes.flat_width, 1, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    """Logits [B]."""
    fields = x.fields_BFD
    for layer in self.layers:
      fields = layer(fields)
    return self.out(x.beside(fields))[:, 0]
