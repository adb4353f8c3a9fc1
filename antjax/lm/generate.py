# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Generates text with a trained transformer, token by token, with a cache."""

import dataclasses
from typing import Annotated

import jax
from jax import lax
import jax.numpy as jnp

from antjax.lm import blocks, positions
from antjax.lm.transformer import merge, Transformer

# Shape suffixes: B = sequences, P = tokens of the longest prompt, S = slots of
# the cache, L = layers, H = query heads, G = key/value heads, R = H / G, K =
# width of a head, D = embed_dim, V = vocabulary.

_MASKED = -1e30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
  """Settings for sampling the next token."""

  temperature: Annotated[
    float, 'Divisor of the logits. 0: always the most likely token.'
  ] = 0.8
  top_k: Annotated[int, 'Sample from the k likeliest tokens. 0: all.'] = 0
  top_p: Annotated[
    float, 'Sample from the fewest tokens with this total probability.'
  ] = 0.95

  def __post_init__(self) -> None:
    if self.temperature < 0:
      raise ValueError(
        f'temperature must not be negative; got {self.temperature}.'
      )
    if self.top_k < 0:
      raise ValueError(f'top_k must not be negative; got {self.top_k}.')
    if not 0 < self.top_p <= 1:
      raise ValueError(f'top_p must be above 0, at most 1; got {self.top_p}.')


GREEDY = Sampling(temperature=0.0)


def generate(
  model: Transformer,
  prompts: jax.Array,
  lengths: jax.Array,
  key: jax.Array,
  *,
  num_tokens: int,
  sampling: Sampling = GREEDY,
  end_token: int | None = None,
) -> jax.Array:
  """Continues prompts. Call in `jit` with all arguments but arrays static.

  Keys and values are cached: 2 L S G K numbers per sequence, S = P +
  num_tokens. Each new token costs a pass of one token.

  Args:
    model: The whole model, in the dtype to compute in.
    prompts: int32 [B, P], padded at the end.
    lengths: int32 [B], number of tokens of each prompt, at least 1.
    key: Random key.
    num_tokens: Number of tokens to add to each prompt.
    sampling: Sampling settings.
    end_token: Token that ends a sequence and fills the rest of it.

  Returns:
    int32 [B, num_tokens].

  Raises:
    ValueError: num_tokens is below 1, prompts and new tokens exceed the model's
      learned positions, or the model is an encoder.
  """
  if num_tokens < 1:
    raise ValueError(
      f'generate(num_tokens={num_tokens}): it must be at least 1.'
    )
  B, P = prompts.shape
  model.config.check_length(P + num_tokens)
  x_BPD, cache = _prefill(model, prompts, P + num_tokens)
  last_BD = jnp.take_along_axis(x_BPD, lengths[:, None, None] - 1, axis=1)[:, 0]

  def draw(i: jax.Array | int, x_BD: jax.Array) -> jax.Array:
    scores_BV = model.unembed(x_BD)
    return choose(scores_BV, jax.random.fold_in(key, i), sampling)

  def one_more(carry, i):
    tokens_B, is_done_B, cache = carry
    x_BD, cache = _step(model, tokens_B, lengths + i - 1, cache)
    next_B = draw(i, x_BD)
    if end_token is not None:
      is_done_B |= tokens_B == end_token
      next_B = jnp.where(is_done_B, end_token, next_B)
    return (next_B, is_done_B, cache), next_B

  first_B = draw(0, last_BD)
  carry = (first_B, jnp.zeros((B,), bool), cache)
  _, rest_NB = lax.scan(one_more, carry, jnp.arange(1, num_tokens))
  return jnp.concatenate([first_B[None], rest_NB]).T


def choose(
  scores_BV: jax.Array, key: jax.Array, sampling: Sampling
) -> jax.Array:
  """Samples one token for each row of fp32 logits; int32 [B].

  Applies the temperature, then top-k, then top-p to the rest (Holtzman et al.
  2020, https://arxiv.org/abs/1904.09751). The likeliest token always stays.
  """
  if sampling.temperature == 0:
    return jnp.argmax(scores_BV, axis=-1).astype(jnp.int32)
  scores_BV = scores_BV / sampling.temperature
  if sampling.top_k or sampling.top_p < 1:
    V = scores_BV.shape[-1]
    k = min(sampling.top_k or V, V)
    sorted_BK, tokens_BK = lax.top_k(scores_BV, k)
    probs_BK = jax.nn.softmax(sorted_BK, axis=-1)
    before_BK = jnp.cumsum(probs_BK, axis=-1) - probs_BK
    sorted_BK = jnp.where(before_BK < sampling.top_p, sorted_BK, _MASKED)
    place_B = jax.random.categorical(key, sorted_BK, axis=-1)
    return jnp.take_along_axis(tokens_BK, place_B[:, None], axis=1)[:, 0]
  return jax.random.categorical(key, scores_BV, axis=-1).astype(jnp.int32)


def _prefill(model: Transformer, prompts_BP, num_places: int):
  """Runs the prompts; returns hidden [B, P, D] and the cache."""
  place_BP = positions.document_positions(prompts_BP, None)
  angles = positions.rope_angles(model.config, place_BP)
  bias_HPP = model.row_bias(prompts_BP.shape[1])
  padding = ((0, 0), (0, num_places - prompts_BP.shape[1]), (0, 0), (0, 0))
  graphdef, layers = model.stack()

  def layer(x_BPD, leaves):
    kept = []

    def attend(block, q, k, v):
      kept.append((jnp.pad(k, padding), jnp.pad(v, padding)))
      return block.attend(q, k, v, bias_HTT=bias_HPP)

    x_BPD = merge(graphdef, leaves)(x_BPD, angles, attend)
    return x_BPD, kept[0]

  x_BPD, cache = lax.scan(layer, model.embedded(prompts_BP, place_BP), layers)
  return model.normed(x_BPD), cache


def _step(model: Transformer, tokens_B, positions_B, cache):
  """Runs one token per sequence at its position; returns hidden [B, D], cache.

  Cache entries from the padding of a shorter prompt are after the sequence's
  position, and are overwritten before they are read.
  """
  place_B1 = positions_B[:, None]
  angles = positions.rope_angles(model.config, place_B1)
  place_1S = jnp.arange(cache[0].shape[2], dtype=jnp.int32)[None]
  bias_BH1S = model.bias(place_B1, place_1S)
  put = jax.vmap(
    lambda old, new, at: lax.dynamic_update_slice_in_dim(old, new, at, axis=0)
  )
  graphdef, layers = model.stack()

  def layer(x_B1D, leaves_and_cache):
    leaves, (keys_BSGK, values_BSGK) = leaves_and_cache
    kept = []

    def attend(block, q, k, v):
      keys = put(keys_BSGK, k, positions_B)
      values = put(values_BSGK, v, positions_B)
      kept.append((keys, values))
      return _attend(block, q, keys, values, positions_B, bias_BH1S)

    x_B1D = merge(graphdef, leaves)(x_B1D, angles, attend)
    return x_B1D, kept[0]

  x_B1D = model.embedded(tokens_B[:, None], place_B1)
  x_B1D, cache = lax.scan(layer, x_B1D, (layers, cache))
  return model.normed(x_B1D)[:, 0], cache


def _attend(block, q_B1HK, keys_BSGK, values_BSGK, positions_B, bias_BH1S):
  """Attention of one token to places up to its own; [B, 1, H, K]."""
  config = block.config
  B, _, H, K = q_B1HK.shape
  S, G = keys_BSGK.shape[1:3]
  q_BGRK = q_B1HK.reshape(B, G, H // G, K)
  scores_BGRS = blocks.attention_scale(config) * jnp.einsum(
    'bgrk,bsgk->bgrs', q_BGRK, keys_BSGK, preferred_element_type=jnp.float32
  )
  if config.score_cap:
    scores_BGRS = config.score_cap * jnp.tanh(scores_BGRS / config.score_cap)
  if bias_BH1S is not None:
    scores_BGRS += bias_BH1S.reshape(B, G, H // G, S)
  distance_BS = positions_B[:, None] - jnp.arange(S)[None]
  seen_BS = distance_BS >= 0
  if config.window:
    windows = [config.window if x == 'w' else S for x in config.letters]
    window = windows[0] if len(config.pattern) == 1 else block.pick(windows)
    seen_BS &= distance_BS < window
  scores_BGRS = jnp.where(seen_BS[:, None, None], scores_BGRS, _MASKED)
  weights_BGRS = jax.nn.softmax(scores_BGRS, axis=-1).astype(q_B1HK.dtype)
  mixed = jnp.einsum('bgrs,bsgk->bgrk', weights_BGRS, values_BSGK)
  return mixed.reshape(B, 1, H, K)
