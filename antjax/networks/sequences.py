# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Networks that read a history, by target attention or a transformer."""

from collections.abc import Sequence
import dataclasses
from typing import Annotated, Any

from flax import nnx
import jax
import jax.numpy as jnp

from antjax.layers.mlp import MLP
from antjax.networks.deep import Deep
from antjax.networks.network import (
  ClickNetwork,
  DeepConfig,
  History,
  Inputs,
  Sizes,
)

# Shape suffixes: B = rows, M = places of the history, D = width.


class TargetAttention(nnx.Module):
  """Weighted sum by the activation unit, an MLP over (q, k, q - k, q k).

  Source: Zhou et al. 2018, https://arxiv.org/abs/1706.06978, section 4.3. As
  there, weights are not normalized: how much of a history matches the candidate
  is information. Hidden layers have ReLU instead of PReLU or Dice.
  """

  def __init__(self, dim: int, widths: Sequence[int], *, rngs: nnx.Rngs):
    self.mlp = MLP(4 * dim, widths, rngs=rngs)
    self.out = nnx.Linear(widths[-1], 1, rngs=rngs)

  def __call__(self, history: History) -> jax.Array:
    """The weighted sum of the keys, [B, D]; 0 for an empty history.

    Divided by the number of places M, so that the scale does not grow with M.
    """
    keys_BMD, is_there_BM, query_BD = history
    q_BMD = jnp.broadcast_to(query_BD[:, None], keys_BMD.shape)
    pairs = [q_BMD, keys_BMD, q_BMD - keys_BMD, q_BMD * keys_BMD]
    score_BM = self.out(self.mlp(jnp.concatenate(pairs, axis=-1)))[..., 0]
    weight_BM = jnp.where(is_there_BM, score_BM, 0)
    keys_BMD = jnp.where(is_there_BM[..., None], keys_BMD, 0)
    return jnp.einsum('bm,bmd->bd', weight_BM, keys_BMD) / keys_BMD.shape[1]


class DIN(ClickNetwork):
  """DIN: y = MLP([v, sum_m a(k_m, q) k_m]) for history k_m, candidate q.

  Source: Zhou et al. 2018, https://arxiv.org/abs/1706.06978, section 4.3.
  """

  needs = frozenset({'history'})

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(DeepConfig):
    """Sizes of the network."""

    attention_widths: Annotated[
      tuple[int, ...], 'Hidden widths of the attention network.'
    ] = (64, 32)

  def __init__(self, sizes: Sizes, config: Config, *, rngs: nnx.Rngs):
    self.attention = nnx.List(
      TargetAttention(sizes.history_width, config.attention_widths, rngs=rngs)
      for _ in sizes.histories
    )
    width = sizes.flat_width + len(sizes.histories) * sizes.history_width
    self.deep = Deep(width, config.widths, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    read = [f(h) for f, h in zip(self.attention, x.histories, strict=True)]
    return self.deep(jnp.concatenate([x.flat, *read], axis=-1))


class TransformerLayer(nnx.Module):
  """LN(x + attention(x)), then LN(x + W_2 leaky_relu(W_1 x))."""

  def __init__(self, dim: int, num_heads: int, *, rngs: nnx.Rngs):
    if dim % num_heads:
      raise ValueError(
        f'bst: num_heads={num_heads} must divide the width {dim} of a history.'
      )
    self.num_heads = num_heads
    self.project = nnx.Linear(dim, 3 * dim, rngs=rngs)
    self.out = nnx.Linear(dim, dim, rngs=rngs)
    self.up = nnx.Linear(dim, 4 * dim, rngs=rngs)
    self.down = nnx.Linear(4 * dim, dim, rngs=rngs)
    self.norms = nnx.List(nnx.LayerNorm(dim, rngs=rngs) for _ in range(2))

  def __call__(self, x_BMD: jax.Array, is_there_BM: jax.Array) -> jax.Array:
    """[B, M, D]; attention ignores padding."""
    query, key, value = (
      y.reshape(*y.shape[:2], self.num_heads, -1)
      for y in jnp.split(self.project(x_BMD), 3, axis=-1)
    )
    scores = jnp.einsum('bmhd,bnhd->bhmn', query, key)
    scores = scores * query.shape[-1] ** -0.5
    scores = jnp.where(is_there_BM[:, None, None, :], scores, -1e30)
    mixed = jnp.einsum(
      'bhmn,bnhd->bmhd', jax.nn.softmax(scores, axis=-1), value
    )
    x_BMD = self.norms[0](x_BMD + self.out(mixed.reshape(x_BMD.shape)))
    # As a matrix, see `antjax.layers.mlp`.
    flat = x_BMD.reshape(-1, x_BMD.shape[-1])
    hidden = self.down(jax.nn.leaky_relu(self.up(flat)))
    return self.norms[1](x_BMD + hidden.reshape(x_BMD.shape))


class SequenceTransformer(nnx.Module):
  """Mean output [B, D] of layers over a candidate and a history."""

  def __init__(
    self, sizes: Sizes, num_places: int, config: 'BST.Config', *, rngs: nnx.Rngs
  ):
    places = num_places + 1  # The first one is the candidate.
    self.position = nnx.Param(
      0.02 * jax.random.normal(rngs.params(), (places, sizes.history_width))
    )
    self.layers = nnx.List(
      TransformerLayer(sizes.history_width, config.num_heads, rngs=rngs)
      for _ in range(config.num_layers)
    )

  def __call__(self, history: History) -> jax.Array:
    keys_BMD, is_there_BM, query_BD = history
    # The oldest key comes first; the newest is one click ago.
    places_1M = jnp.arange(is_there_BM.shape[1])[None]
    ago_BM = jnp.sum(is_there_BM, axis=1)[:, None] - places_1M
    place = jnp.where(is_there_BM, ago_BM, 0)
    position = self.position[...]
    query_BD += jnp.broadcast_to(position[0], query_BD.shape)
    sequence = jnp.concatenate(
      [query_BD[:, None], keys_BMD + position[place]], axis=1
    )
    is_there = jnp.pad(is_there_BM, ((0, 0), (1, 0)), constant_values=True)
    for layer in self.layers:
      sequence = layer(sequence, is_there)
    weight = is_there[..., None].astype(sequence.dtype)
    return jnp.sum(sequence * weight, axis=1) / jnp.sum(weight, axis=1)


class SequenceNetwork(ClickNetwork):
  """y = MLP([v, outputs of a reader for each history]).

  A subclass sets `Reader`, a module created from (sizes, places, config) that
  maps a `History` to [B, D].
  """

  needs = frozenset({'history'})
  Reader: type[Any]

  def __init__(self, sizes: Sizes, config: Any, *, rngs: nnx.Rngs):
    self.sequences = nnx.List(
      self.Reader(sizes, num_places, config, rngs=rngs)
      for num_places in sizes.histories
    )
    width = sizes.flat_width + len(sizes.histories) * sizes.history_width
    self.deep = Deep(width, config.widths, rngs=rngs)

  def __call__(self, x: Inputs) -> jax.Array:
    read = [f(h) for f, h in zip(self.sequences, x.histories, strict=True)]
    return self.deep(jnp.concatenate([x.flat, *read], axis=-1))


class BST(SequenceNetwork):
  """Behavior sequence transformer: attention over history and candidate.

    y = MLP([v, T(k_1 + p_1, ..., k_M + p_M, q + p_q)])

  with T of post-norm transformer layers whose outputs are averaged over
  existing places (the paper concatenates all), and learned p_m for the number
  of clicks ago (the paper: for the time).

  Source: Chen et al. 2019, https://arxiv.org/abs/1905.06874, section 2.
  """

  Reader = SequenceTransformer

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Config(DeepConfig):
    """Sizes of the network."""

    num_layers: Annotated[int, 'Number of layers.'] = 2
    num_heads: Annotated[int, 'Number of attention heads.'] = 2
