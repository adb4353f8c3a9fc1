# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""GRU4Rec: a gated recurrent unit over the items of a history.

  z_t = sigmoid(W_z x_t + U_z s_{t-1} + b_z)
  r_t = sigmoid(W_r x_t + U_r s_{t-1} + b_r)
  c_t = tanh(W_c x_t + r_t * (U_c s_{t-1}) + b_c)
  s_t = (1 - z_t) c_t + z_t s_{t-1},   x_t = e(item_t)
  score(u, i) = <W_o s_T + b_o, e(i)>, T the newest item

Source: Hidasi et al. 2016, https://arxiv.org/abs/1511.06939, section 3.1, with
the unit as cuDNN has it (the reset gate after the product). The loss is that of
`next_item`, which later work of the authors found better than theirs.
"""

import dataclasses
from typing import Annotated, Any

import jax
from jax import lax
import jax.numpy as jnp

from antjax.ctr.llm_rec.sasrec import drop
from antjax.layers import dense
from antjax.layers.fast_weights import match_varying

# Shape suffixes: B = sequences, T = items of a sequence, D = width of item
# vectors, H = width of the state.

PyTree = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRU4RecConfig:
  """Shape of the encoder."""

  dim: Annotated[int, 'Width of item vectors.'] = 64
  state_dim: Annotated[int, 'Width of the state.'] = 128
  max_length: Annotated[int, 'Newest items that are read.'] = 50
  dropout: Annotated[float, 'Share of the input that is dropped.'] = 0.2

  def __post_init__(self) -> None:
    if min(self.dim, self.state_dim, self.max_length) < 1:
      raise ValueError(
        f'dim={self.dim}, state_dim={self.state_dim} and max_length='
        f'{self.max_length} must be positive.'
      )
    if not 0 <= self.dropout < 1:
      raise ValueError(f'dropout={self.dropout} must be from 0 to below 1.')

  def init(self, key: jax.Array) -> PyTree:
    """Fresh parameters."""
    k_input, k_state, k_out = jax.random.split(key, 3)
    H = self.state_dim
    return {
      'input': dense.init(k_input, self.dim, 3 * H),
      'state': dense.init(k_state, H, 3 * H, use_bias=False),
      'out': dense.init(k_out, H, self.dim),
    }

  def __call__(
    self, params: PyTree, x_BTD: jax.Array, rng: jax.Array | None = None
  ) -> jax.Array:
    """What each place says of the next item, [B, T, D]; see `SASRecConfig`."""
    x_BTD = drop(x_BTD, self.dropout, rng)
    # For all places at once: only what needs the state is in the loop.
    inputs_TBG = jnp.moveaxis(dense.apply(params['input'], x_BTD), 1, 0)

    def step(state_BH, input_BG):
      update_in, reset_in, new_in = jnp.split(input_BG, 3, axis=-1)
      product_BG = dense.apply(params['state'], state_BH)
      update, reset, new = jnp.split(product_BG, 3, axis=-1)
      keep = jax.nn.sigmoid(update_in + update)
      new = jnp.tanh(new_in + jax.nn.sigmoid(reset_in + reset) * new)
      state_BH = (1 - keep) * new + keep * state_BH
      return state_BH, state_BH

    start_BH = jnp.zeros((len(x_BTD), self.state_dim), inputs_TBG.dtype)
    start_BH = match_varying(start_BH, (inputs_TBG, params['state']))
    _, states_TBH = lax.scan(step, start_BH, inputs_TBG)
    return dense.apply(params['out'], jnp.moveaxis(states_TBH, 0, 1))
