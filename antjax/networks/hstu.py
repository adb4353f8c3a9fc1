# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""HSTU: gated attention without softmax over long histories."""

import dataclasses
import functools
from typing import Annotated

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.networks.network import DeepConfig, History, Sizes
from antjax.networks.sequences import SequenceNetwork

# Shape suffixes: B = rows, Q = queries, K = keys, P = places, D = width, H =
# heads, d = D / H.

_BLOCK = 256  # Number of keys processed together.


def pointwise_attention(
  query_BQHd: jax.Array,
  key_BKHd: jax.Array,
  value_BKHd: jax.Array,
  *,
  query_place_BQ: jax.Array,
  key_place_BK: jax.Array,
  bias_P: jax.Array,
  block: int = _BLOCK,
) -> jax.Array:
  """Sums of values, weighted by silu(q k + bias of their distance) / K.

  Nothing is normalized over the keys, so blocks of them are summed one by one:
  memory is proportional to Q times the block, in the backward pass too. A block
  in which no row has a key is skipped.

  Args:
    query_BQHd: Queries.
    key_BKHd: Keys.
    value_BKHd: Values.
    query_place_BQ: int32, place of each query, which sees keys up to it.
    key_place_BK: int32, place of each key; -1: no key.
    bias_P: Bias for each difference of places; larger ones use the last.
    block: Number of keys processed together.

  Returns:
    [B, Q, H, d].

  Source: Zhai et al. 2024, https://arxiv.org/abs/2402.17152, equation 3.
  """
  num_keys = key_BKHd.shape[1]

  def add(sum_BQHd: jax.Array, start: jax.Array | int, size: int) -> jax.Array:
    part = functools.partial(
      jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=size, axis=1
    )
    place_BK = part(key_place_BK)
    ago_BQK = query_place_BQ[:, :, None] - place_BK[:, None]
    is_seen_BQK = (ago_BQK >= 0) & (place_BK >= 0)[:, None]
    bias_BQK = bias_P[jnp.clip(ago_BQK, 0, len(bias_P) - 1)]
    score = jnp.einsum('bqhd,bkhd->bhqk', query_BQHd, part(key_BKHd))
    weight = jax.nn.silu(score + bias_BQK[:, None]) / num_keys
    weight = jnp.where(is_seen_BQK[:, None], weight, 0)
    return sum_BQHd + jnp.einsum('bhqk,bkhd->bqhd', weight, part(value_BKHd))

  num_whole = num_keys // block
  found = jnp.zeros_like(query_BQHd)
  if num_whole:
    add_block = jax.checkpoint(functools.partial(add, size=block))

    def step(found: jax.Array, start: jax.Array) -> tuple[jax.Array, None]:
      places = jax.lax.dynamic_slice_in_dim(key_place_BK, start, block, axis=1)
      is_any = jnp.any(places >= 0)
      return jax.lax.cond(
        is_any, add_block, lambda found, _: found, found, start
      ), None

    found, _ = jax.lax.scan(step, found, block * jnp.arange(num_whole))
  rest = num_keys - num_whole * block
  return add(found, num_whole * block, rest) if rest else found


class HSTULayer(nnx.Module):
  """x + W_2 (norm(attention(q, k, v)) u); u, v, q, k = silu(W_1 norm(x))."""

  def __init__(
    self, dim: int, num_heads: int, num_places: int, *, rngs: nnx.Rngs
  ):
    if dim % num_heads:
      raise ValueError(
        f'hstu: num_heads={num_heads} must divide the width {dim} of a history.'
      )
    self.num_heads = num_heads
    self.project = nnx.Linear(dim, 4 * dim, rngs=rngs)
    self.out = nnx.Linear(dim, dim, rngs=rngs)
    self.bias = nnx.Param(
      0.02 * jax.random.normal(rngs.params(), (num_places,))
    )
    self.norms = nnx.List(
      nnx.LayerNorm(dim, use_bias=False, use_scale=False, rngs=rngs)
      for _ in range(2)
    )

  def __call__(
    self, x_BKD: jax.Array, place_BK: jax.Array, num_last: int | None = None
  ) -> jax.Array:
    """[B, K, D] at all places, or at the `num_last` last places only."""
    made = jax.nn.silu(self.project(self.norms[0](x_BKD)))
    gate, *parts = jnp.split(made, 4, axis=-1)
    value, query, key = (
      y.reshape(*y.shape[:2], self.num_heads, -1) for y in parts
    )
    first = 0 if num_last is None else x_BKD.shape[1] - num_last
    found = pointwise_attention(
      query[:, first:],
      key,
      value,
      query_place_BQ=place_BK[:, first:],
      key_place_BK=place_BK,
      bias_P=self.bias[...],
    )
    x_BQD = x_BKD[:, first:]
    gated = self.norms[1](found.reshape(x_BQD.shape)) * gate[:, first:]
    return x_BQD + self.out(gated)


class HSTUSequence(nnx.Module):
  """Layers over history and candidate, to the candidate's output [B, D]."""

  def __init__(
    self,
    sizes: Sizes,
    num_places: int,
    config: 'HSTU.Config',
    *,
    rngs: nnx.Rngs,
  ):
    self.layers = nnx.List(
      HSTULayer(
        sizes.history_width, config.num_heads, num_places + 1, rngs=rngs
      )
      for _ in range(config.num_layers)
    )

  def __call__(self, history: History) -> jax.Array:
    keys_BMD, is_there_BM, query_BD = history
    places = jnp.arange(is_there_BM.shape[1])
    place = jnp.where(is_there_BM, places[None], -1)
    own_B1 = jnp.sum(is_there_BM, axis=1, keepdims=True)
    place = jnp.concatenate([place, own_B1], axis=1).astype(jnp.int32)
    keys_BMD = jnp.where(is_there_BM[..., None], keys_BMD, 0)
    x = jnp.concatenate([keys_BMD, query_BD[:, None]], axis=1)
    *layers, last = self.layers
    for layer in layers:
      x = layer(x, place)
    return last(x, place, num_last=1)[:, 0]


class HSTU(SequenceNetwork):
  """Hierarchical sequential transduction units over history and candidate.

    y = MLP([v, HSTU(k_1, ..., k_M, q)])

  The candidate comes last, and its output is read. A place sees those before
  it, with a bias for the clicks between; the paper adds one for the time
  between.

  Source: Zhai et al. 2024, https://arxiv.org/abs/2402.17152, section 3.
  """

  Reader = HSTUSequence

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(DeepConfig):
    """Sizes of the network."""

    num_layers: Annotated[int, 'Number of layers.'] = 2
    num_heads: Annotated[int, 'Number of attention heads.'] = 2
