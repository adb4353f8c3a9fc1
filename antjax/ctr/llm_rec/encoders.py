# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Encoders of histories of items for `next_item`: SASRec and GRU4Rec.

Their loss is that of `next_item`; the authors of GRU4Rec found it better than
their first one.
"""

import dataclasses
import functools
from typing import Annotated, Any

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp

from antjax.layers.fast_weights import match_varying
from antjax.layers.functional import Functional
from antjax.lm import blocks, transformer
from antjax.lm.transformer import Transformer

# Shape suffixes: B = sequences, T = items of a sequence, D = width of item
# vectors, H = width of the state.

PyTree = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
  """Shape of an encoder."""

  dim: Annotated[int, 'Width of item vectors.'] = 64
  max_length: Annotated[int, 'Maximum number of items, the newest.'] = 50
  dropout: Annotated[float, 'Dropout rate of the input.'] = 0.2

  def __post_init__(self) -> None:
    if not 0 <= self.dropout < 1:
      raise ValueError(f'dropout={self.dropout} must be from 0 to below 1.')

  def init(self, key: jax.Array) -> PyTree:
    """Fresh parameters."""
    raise NotImplementedError

  def __call__(
    self, params: PyTree, x_BTD: jax.Array, rng: jax.Array | None = None
  ) -> jax.Array:
    """What each place says of the next item, [B, T, D].

    A place sees itself and those before it only, so padding behind the newest
    item changes nothing.

    Args:
      params: Parameters from `init`.
      x_BTD: Item vectors, T at most `max_length`.
      rng: Key of the dropout; None: none.
    """
    raise NotImplementedError

  def _drop(self, x: jax.Array, rng: jax.Array | None) -> jax.Array:
    """A share of the numbers becomes 0, the others grow to match."""
    if rng is None or not self.dropout:
      return x
    is_kept = jax.random.bernoulli(rng, 1 - self.dropout, x.shape)
    return jnp.where(is_kept, x / (1 - self.dropout), 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SASRecConfig(EncoderConfig):
  """SASRec: self-attention over the items of a history.

    x_t = sqrt(D) e(item_t) + p_t
    h_t = Transformer(x_1, ..., x_t)            causal, pre-norm, ReLU
    score(u, i) = <h_T, e(i)>, T the newest item

  Source: Kang and McAuley 2018, https://arxiv.org/abs/1808.09781, section 3;
  the root as in the authors' code. Dropout is on x only; the paper has it in
  the layers too.
  """

  num_layers: Annotated[int, 'Number of layers.'] = 2
  num_heads: Annotated[int, 'Number of attention heads; must divide dim.'] = 2

  def __post_init__(self) -> None:
    super().__post_init__()
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
    params = Functional(Transformer, self._layers()).init(key)
    del params['embed']
    return params

  def __call__(
    self, params: PyTree, x_BTD: jax.Array, rng: jax.Array | None = None
  ) -> jax.Array:
    model = Transformer.of(self._layers(), params)
    model.config.check_length(x_BTD.shape[1])
    places_BT = jnp.broadcast_to(
      jnp.arange(x_BTD.shape[1], dtype=jnp.int32), x_BTD.shape[:2]
    )
    x_BTD = x_BTD * self.dim**0.5
    x_BTD += blocks.lookup(model.positions[...], places_BT)
    x_BTD = self._drop(x_BTD, rng)
    return model.normed(model.run_layers(x_BTD, None, places_BT))


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRU4RecConfig(EncoderConfig):
  """GRU4Rec: a gated recurrent unit over the items of a history.

    z_t = sigmoid(W_z x_t + U_z s_{t-1} + b_z)
    r_t = sigmoid(W_r x_t + U_r s_{t-1} + b_r)
    c_t = tanh(W_c x_t + r_t * (U_c s_{t-1}) + b_c)
    s_t = (1 - z_t) c_t + z_t s_{t-1},   x_t = e(item_t)
    score(u, i) = <W_o s_T + b_o, e(i)>, T the newest item

  Source: Hidasi et al. 2016, https://arxiv.org/abs/1511.06939, section 3.1,
  with the unit as cuDNN has it (the reset gate after the product).
  """

  state_dim: Annotated[int, 'Width of the recurrent state.'] = 128

  def __post_init__(self) -> None:
    if min(self.dim, self.state_dim, self.max_length) < 1:
      raise ValueError(
        f'dim={self.dim}, state_dim={self.state_dim} and max_length='
        f'{self.max_length} must be positive.'
      )
    super().__post_init__()

  def init(self, key: jax.Array) -> PyTree:
    return self._unit.init(key)

  def __call__(
    self, params: PyTree, x_BTD: jax.Array, rng: jax.Array | None = None
  ) -> jax.Array:
    return self._unit.merge(params)(self._drop(x_BTD, rng))

  @functools.cached_property
  def _unit(self) -> 'Functional[GatedUnit]':
    return Functional(GatedUnit, self)


class GatedUnit(nnx.Module):
  """The recurrent unit, and the map of its states to item vectors."""

  def __init__(self, config: GRU4RecConfig, *, rngs: nnx.Rngs):
    H = config.state_dim
    self.input = nnx.Linear(config.dim, 3 * H, rngs=rngs)
    self.state = nnx.Linear(H, 3 * H, use_bias=False, rngs=rngs)
    self.out = nnx.Linear(H, config.dim, rngs=rngs)

  def __call__(self, x_BTD: jax.Array) -> jax.Array:
    """[B, T, D] of [B, T, D]."""
    # For all places at once: only what needs the state is in the loop.
    inputs_TBG = jnp.moveaxis(self.input(x_BTD), 1, 0)
    kernel_HG = self.state.kernel[...]

    def step(state_BH, input_BG):
      update_in, reset_in, new_in = jnp.split(input_BG, 3, axis=-1)
      update, reset, new = jnp.split(state_BH @ kernel_HG, 3, axis=-1)
      keep = jax.nn.sigmoid(update_in + update)
      new = jnp.tanh(new_in + jax.nn.sigmoid(reset_in + reset) * new)
      state_BH = (1 - keep) * new + keep * state_BH
      return state_BH, state_BH

    start_BH = jnp.zeros((len(x_BTD), len(kernel_HG)), inputs_TBG.dtype)
    start_BH = match_varying(start_BH, (inputs_TBG, kernel_HG))
    _, states_TBH = lax.scan(step, start_BH, inputs_TBG)
    return self.out(jnp.moveaxis(states_TBH, 0, 1))
