# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""SASRec: self-attention over the items of a history.

  x_t = sqrt(D) e(item_t) + p_t
  h_t = Transformer(x_1, ..., x_t)            causal, pre-norm, ReLU
  score(u, i) = <h_T, e(i)>, T the newest item

Source: Kang and McAuley 2018, https://arxiv.org/abs/1808.09781, section 3; the
root as in the authors' code. Dropout is on x only; the paper has it in the
layers too. The loss is that of `next_item`.
"""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from antjax.lm import blocks, transformer

# Shape suffixes: B = sequences, T = items of a sequence, D = width.

PyTree = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class SASRecConfig:
  """Shape of the encoder."""

  dim: Annotated[int, 'Width of item vectors and layers.'] = 64
  num_layers: Annotated[int, 'Layers.'] = 2
  num_heads: Annotated[int, 'Heads; divides dim.'] = 2
  max_length: Annotated[int, 'Newest items that are read.'] = 50
  dropout: Annotated[float, 'Share of the input that is dropped.'] = 0.2

  def __post_init__(self) -> None:
    if not 0 <= self.dropout < 1:
      raise ValueError(f'dropout={self.dropout} must be from 0 to below 1.')
    self._layers()  # Checks the sizes.

  def _layers(self) -> transformer.Config:
    return transformer.Config(
      vocab_size=1,  # Items have their table elsewhere.
      num_layers=self.num_layers,
      embed_dim=self.dim,
      num_heads=self.num_heads,
      num_kv_heads=self.num_heads,
      mlp_dim=self.dim,
      positions='learned',
      max_positions=self.max_length,
      norm='layer',
      qkv_bias=True,
      out_bias=True,
      mlp_bias=True,
      gated_mlp=False,
      activation='relu',
      remat='none',
    )

  def init(self, key: jax.Array) -> PyTree:
    """Fresh parameters."""
    params = transformer.init(self._layers(), key)
    del params['embed']
    return params

  def __call__(
    self, params: PyTree, x_BTD: jax.Array, rng: jax.Array | None = None
  ) -> jax.Array:
    """What each place says of the next item, [B, T, D].

    A place sees itself and those before it only, so padding behind the newest
    item changes nothing.

    Args:
      params: Parameters from `init`.
      x_BTD: Item vectors, T at most `max_length`.
      rng: For dropout; None: none.
    """
    layers = self._layers()
    transformer.check_length(layers, x_BTD.shape[1])
    places_BT = jnp.broadcast_to(
      jnp.arange(x_BTD.shape[1], dtype=jnp.int32), x_BTD.shape[:2]
    )
    x_BTD = x_BTD * self.dim**0.5
    x_BTD += blocks.lookup(params['positions'], places_BT)
    x_BTD = drop(x_BTD, self.dropout, rng)
    x_BTD = transformer.run_layers(layers, params, x_BTD, None, places_BT)
    return blocks.final_norm(layers, params, x_BTD)


def drop(x: jax.Array, share: float, rng: jax.Array | None) -> jax.Array:
  """Dropout: a share of the numbers becomes 0, the others grow to match."""
  if rng is None or not share:
    return x
  is_kept = jax.random.bernoulli(rng, 1 - share, x.shape)
  return jnp.where(is_kept, x / (1 - share), 0)
