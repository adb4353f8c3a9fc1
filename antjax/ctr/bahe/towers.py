# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Towers, which encode the texts of a click model, and those of BAHE.

A tower has a part on the host, `prepare`, which adds the inputs of the part on
the devices, `__call__`, to a batch. BAHE's towers get one vector per behavior,
from a table (`StoreTower`) or from the low half, which encodes a batch's
distinct behaviors in the step (`DedupTower`), and run the high half on them.
Their baseline is in `antjax.ctr.bahe.full_text`.
"""

from typing import Any, Literal, NamedTuple, Protocol

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from antjax.ctr.bahe import encode
from antjax.ctr.bahe import table as table_lib
from antjax.ctr.bahe.table import Batch, distinct_behaviors
from antjax.embedding.lookup import pick
from antjax.lm.split import HighEncoder, LowEncoder
from antjax.lm.token_cache import TokenCache

# Shape suffixes: B = examples, N = sequences of a user, M = places of a
# sequence, D = width of the language model, F = width of a user, P = parts of a
# batch, U = capacity, T = tokens of a behavior.


class Encoded(NamedTuple):
  """Vectors of texts."""

  user_BF: jax.Array  # Vectors of a user's sequences, concatenated: F = N D.
  title_BD: jax.Array  # Vectors of the items' titles.
  # One vector per behavior, for heads that attend to them; None if the tower
  # has none.
  history_BNMD: jax.Array | None = None
  # bool, False for padding; None if `history_BNMD` is None.
  is_there_BNM: jax.Array | None = None


class Tower(Protocol):
  """Interface of a text encoder, a Flax module."""

  @property
  def user_dim(self) -> int:
    """Width of a user, F."""

  @property
  def title_dim(self) -> int:
    """D."""

  @property
  def has_history(self) -> bool:
    """Whether it returns one vector per behavior."""

  def prepare(self, batch: Batch, num_parts: int) -> dict[str, Any]:
    """Host part: adds the inputs of `__call__` to a batch.

    Args:
      batch: numpy arrays, see `antjax.ctr.bahe.batches`.
      num_parts: Number of equal runs of examples that are processed separately:
        this process's devices times its micro-batches. Added arrays need a
        constant leading dim that is a multiple of it.
    """

  def __call__(self, batch: Batch) -> Encoded:
    """Device part: encodes one part of a batch from `prepare`.

    'constants' of the batch are those of the Trainer, if any.
    """


def null_vectors(num_sequences: int, dim: int) -> nnx.Param[jax.Array]:
  """Learned vectors of empty sequences, initially 0, unlike any others."""
  return nnx.Param(jnp.zeros((num_sequences, dim), jnp.float32))


def or_null(
  user_BND: jax.Array, null_ND: jax.Array, is_empty_BN: jax.Array
) -> jax.Array:
  """Vectors of sequences, or null vectors of empty ones: [B, N D]."""
  null_BND = jnp.broadcast_to(null_ND, user_BND.shape)
  user_BND = jnp.where(is_empty_BN[..., None], null_BND, user_BND)
  return user_BND.reshape(len(user_BND), -1)


class SequenceEncoder(nnx.Module):
  """The high half over sequences of behaviors, to vectors of users and items.

  Each of a user's sequences runs separately through the high layers, so the
  cost is linear in their number; outputs are pooled and concatenated. An item
  is a sequence of one behavior, its title (Geng et al. 2024,
  https://arxiv.org/abs/2403.19347, section 3; the paper does not specify
  pooling, which is our choice).
  """

  def __init__(
    self,
    high: HighEncoder,
    num_sequences: int,
    *,
    pooling: Literal['mean', 'last'] = 'mean',
    fusion: Literal['late', 'early'] = 'late',
  ):
    """Takes the high half, and creates vectors of empty sequences.

    A high half without layers pools vectors directly. The vector of a sequence
    is the mean of its outputs, or the last one (which in a causal model has
    seen all behaviors). Fusion 'late' keeps users and items separate until the
    head, as in the paper's figure 1. 'early' appends the title to each
    sequence, so that the layers see both; users then have no separate vector.
    """
    self.high, self.num_sequences = high, num_sequences
    self.pooling, self.fusion = pooling, fusion
    self.null = null_vectors(num_sequences, self.dim)

  @property
  def dim(self) -> int:
    """D."""
    return self.high.config.embed_dim

  @property
  def user_dim(self) -> int:
    return self.num_sequences * self.dim

  @property
  def title_dim(self) -> int:
    return self.dim

  @property
  def has_history(self) -> bool:
    return True

  def encode(
    self,
    x_BNMD: jax.Array,
    is_there_BNM: jax.Array,
    title_BD: jax.Array,
  ) -> Encoded:
    """Encodes users and items, by vectors of behaviors, oldest first.

    Padding is at the end. An empty sequence gets its learned null vector.
    """
    dtype = self.null.dtype
    x_BNMD, title_BD = x_BNMD.astype(dtype), title_BD.astype(dtype)
    B, N, M, D = x_BNMD.shape
    if self.fusion == 'early':
      # The title directly follows the last behavior: positions count places.
      end_BN1 = is_there_BNM.sum(axis=-1, keepdims=True)
      place_BNM = jnp.broadcast_to(jnp.arange(M + 1), (B, N, M + 1))
      is_title_BNM = place_BNM == end_BN1
      x_BNMD = jnp.pad(x_BNMD, ((0, 0), (0, 0), (0, 1), (0, 0)))
      x_BNMD = jnp.where(
        is_title_BNM[..., None], title_BD[:, None, None], x_BNMD
      )
      is_there_BNM = place_BNM <= end_BN1
      M += 1
    lengths = is_there_BNM.sum(axis=-1, dtype=jnp.int32).reshape(B * N)
    history, item_B1D = self.high.together(
      [(x_BNMD.reshape(B * N, M, D), lengths), (title_BD[:, None],)]
    )
    history_BNMD = history.reshape(B, N, M, D)
    user_BF = or_null(
      self._pool(history_BNMD, is_there_BNM),
      self.null[...],
      ~is_there_BNM.any(axis=-1),
    )
    return Encoded(user_BF, item_B1D[:, 0], history_BNMD, is_there_BNM)

  def read(self, rows_UD: jax.Array, batch: Batch) -> Encoded:
    """Encodes rows, one per behavior, indexed by the batch's behaviors."""
    history, title = batch['behaviors'], batch['title']
    return self.encode(rows_UD[history], batch['is_there'], rows_UD[title])

  def _pool(self, x_BNMD: jax.Array, is_there_BNM: jax.Array) -> jax.Array:
    """Pooled sequences [B, N, D]; any finite value for an empty one."""
    count_BN1 = is_there_BNM.sum(axis=-1, keepdims=True)
    if self.pooling == 'last':
      return pick(x_BNMD, jnp.maximum(count_BN1[..., 0] - 1, 0))
    kept = jnp.where(is_there_BNM[..., None], x_BNMD, 0).astype(jnp.float32)
    mean_BND = kept.sum(axis=2) / jnp.maximum(count_BN1, 1)
    return mean_BND.astype(x_BNMD.dtype)


class StoreTower(SequenceEncoder):
  """Reads behaviors from rows of a frozen table.

  An unknown behavior is row 1, a text like any other; a user without behaviors
  has a learned vector. If the high half has no layers, the language model is
  frozen: its vectors are pooled and none of it is trained.
  """

  def __init__(
    self,
    high: HighEncoder,
    num_sequences: int,
    table: table_lib.Table,
    **options: Any,
  ):
    """See `SequenceEncoder`."""
    super().__init__(high, num_sequences, **options)
    self.table = table

  def prepare(self, batch: Batch, num_parts: int) -> dict[str, Any]:
    there = {'is_there': batch['behaviors'] != 0}
    return self.table.prepare(batch, num_parts) | there

  def __call__(self, batch: Batch) -> Encoded:
    return self.read(jax.lax.stop_gradient(self.table.rows(batch)), batch)


class DedupTower(SequenceEncoder):
  """Runs each distinct behavior of a part through the low half once.

  The result equals that of `StoreTower`, without a store.
  """

  def __init__(
    self,
    low: LowEncoder,
    high: HighEncoder,
    num_sequences: int,
    cache: TokenCache | None = None,
    *,
    capacity: int = 0,
    num_tokens: int = 0,
    **options: Any,
  ):
    """Takes both halves.

    Without a cache of the behaviors' tokens batches already include the results
    of `prepare`. `capacity` is the largest number of distinct behaviors of a
    part, U, with padding. Behaviors of more than `num_tokens` tokens are
    truncated. For other options see `SequenceEncoder`.
    """
    super().__init__(high, num_sequences, **options)
    self.low, self.cache = low, cache
    self.capacity, self.num_tokens = capacity, num_tokens

  def prepare(self, batch: Batch, num_parts: int) -> dict[str, Any]:
    is_there = np.asarray(batch['behaviors']) != 0
    ids, pointed = distinct_behaviors(batch, num_parts, self.capacity)
    assert self.cache is not None
    tokens, lengths = self.cache.padded(ids, self.num_tokens)
    return pointed | {
      'is_there': is_there,
      'distinct_tokens': tokens,
      'distinct_lengths': lengths,
    }

  def __call__(self, batch: Batch) -> Encoded:
    rows_UD = encode.vectors(
      self.low, batch['distinct_tokens'], batch['distinct_lengths']
    )
    return self.read(rows_UD, batch)
