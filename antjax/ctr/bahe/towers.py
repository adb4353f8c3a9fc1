# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The text side of a click model: a tower, and BAHE's towers.

A tower has a part on the host, `prepare`, which adds to a batch what the part
on the devices reads, and that part, `__call__`. BAHE's read a vector a
behavior, from a table (`StoreTower`) or from the low half, which encodes a
batch's distinct behaviors in the step (`DedupTower`), and put them through the
high half. `antjax.ctr.bahe.full_text` has what they are compared with.
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
  """Vectors of texts.

  Attributes:
    user_BF: A user's sequences, concatenated: F = N D.
    title_BD: The items' titles.
    history_BNMD: A vector a behavior, for heads that attend to them; None
      where a tower has none.
    is_there_BNM: bool, False for padding; None with `history_BNMD`.
  """

  user_BF: jax.Array
  title_BD: jax.Array
  history_BNMD: jax.Array | None = None
  is_there_BNM: jax.Array | None = None


class Tower(Protocol):
  """A text side, a Flax module."""

  @property
  def user_dim(self) -> int:
    """F."""

  @property
  def title_dim(self) -> int:
    """D."""

  @property
  def has_history(self) -> bool:
    """Whether it gives a vector a behavior."""

  def prepare(self, batch: Batch, num_parts: int) -> dict[str, Any]:
    """Host: the batch with what `__call__` reads.

    Args:
      batch: numpy arrays, see `antjax.ctr.bahe.batches`.
      num_parts: Equal runs of examples that are worked off apart: this
        process's devices times its micro-batches. What is added must have a
        leading dim that is a multiple of it, of a size that never changes.
    """

  def __call__(self, batch: Batch) -> Encoded:
    """Device: encodes one part.

    Args:
      batch: From `prepare`; where the Trainer holds constants, 'constants' is
        their tree.
    """


def null_vectors(num_sequences: int, dim: int) -> nnx.Param[jax.Array]:
  """Learned vectors of empty sequences, which start at 0 as no other does."""
  return nnx.Param(jnp.zeros((num_sequences, dim), jnp.float32))


def or_null(
  user_BND: jax.Array, null_ND: jax.Array, is_empty_BN: jax.Array
) -> jax.Array:
  """[B, N D]: a sequence's vector, or its null vector where it is empty."""
  null_BND = jnp.broadcast_to(null_ND, user_BND.shape)
  user_BND = jnp.where(is_empty_BN[..., None], null_BND, user_BND)
  return user_BND.reshape(len(user_BND), -1)


class SequenceEncoder(nnx.Module):
  """The high half over sequences of behaviors, to vectors of users and items.

  Each of a user's sequences goes through the high layers by itself, so that
  cost is linear in their number; what comes out is pooled and concatenated. An
  item is a sequence of one: its title (Geng et al. 2024,
  https://arxiv.org/abs/2403.19347, section 3; how the outputs are pooled is not
  in the paper and is our choice).

  Attributes:
    high: The layers.
    null: [N, D], vectors of empty sequences.
    num_sequences: N.
    pooling: How a sequence is pooled.
    fusion: Where users and items meet.
  """

  def __init__(
    self,
    high: HighEncoder,
    num_sequences: int,
    *,
    pooling: Literal['mean', 'last'] = 'mean',
    fusion: Literal['late', 'early'] = 'late',
  ):
    """Takes the high half, and makes vectors of empty sequences.

    Args:
      high: The layers; it may have none, then vectors are pooled as they are.
      num_sequences: N.
      pooling: A sequence's vector: the mean of its outputs, or the last one
        (which in a causal model has seen them all).
      fusion: 'late' keeps users and items apart until the head, as in the
        paper's figure 1. 'early' puts the title behind each sequence, so that
        the layers see both; a user then has no vector of its own.
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
    """Encodes users and items.

    Args:
      x_BNMD: Vectors of behaviors, oldest first.
      is_there_BNM: bool; padding is at the end. A sequence without any gets its
        null vector, which is learned.
      title_BD: Vectors of the titles.
    """
    dtype = self.null.dtype
    x_BNMD, title_BD = x_BNMD.astype(dtype), title_BD.astype(dtype)
    B, N, M, D = x_BNMD.shape
    if self.fusion == 'early':
      # The title right behind the last behaviour: positions count places.
      end_BN1 = is_there_BNM.sum(axis=-1, keepdims=True)
      place_BNM = jnp.broadcast_to(jnp.arange(M + 1), (B, N, M + 1))
      is_title_BNM = place_BNM == end_BN1
      x_BNMD = jnp.pad(x_BNMD, ((0, 0), (0, 0), (0, 1), (0, 0)))
      x_BNMD = jnp.where(
        is_title_BNM[..., None], title_BD[:, None, None], x_BNMD
      )
      is_there_BNM = place_BNM <= end_BN1
      M += 1
    segments = is_there_BNM.reshape(B * N, M).astype(jnp.int32)
    history = self.high(x_BNMD.reshape(B * N, M, D), segments)
    history_BNMD = history.reshape(B, N, M, D)
    item_B1D = self.high(title_BD[:, None])
    user_BF = or_null(
      self._pool(history_BNMD, is_there_BNM),
      self.null[...],
      ~is_there_BNM.any(axis=-1),
    )
    return Encoded(user_BF, item_B1D[:, 0], history_BNMD, is_there_BNM)

  def read(self, rows_UD: jax.Array, batch: Batch) -> Encoded:
    """Encodes rows, a behavior each, that the batch's behaviors point at."""
    history, title = batch['behaviors'], batch['title']
    return self.encode(rows_UD[history], batch['is_there'], rows_UD[title])

  def _pool(self, x_BNMD: jax.Array, is_there_BNM: jax.Array) -> jax.Array:
    """[B, N, D] of each sequence; of an empty one, something finite."""
    count_BN1 = is_there_BNM.sum(axis=-1, keepdims=True)
    if self.pooling == 'last':
      return pick(x_BNMD, jnp.maximum(count_BN1[..., 0] - 1, 0))
    kept = jnp.where(is_there_BNM[..., None], x_BNMD, 0).astype(jnp.float32)
    mean_BND = kept.sum(axis=2) / jnp.maximum(count_BN1, 1)
    return mean_BND.astype(x_BNMD.dtype)


class StoreTower(SequenceEncoder):
  """Behaviors by their rows in a table, which is frozen.

  An unknown behavior is row 1, a text like any other; a user without
  behaviors has a learned vector. With a high half of no layers this is the
  frozen language model: its vectors are pooled and nothing of it is trained.

  Attributes:
    table: Table that holds the rows.
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
  """Each distinct behavior of a part goes through the low half once.

  It gives what `StoreTower` gives, without a store.

  Attributes:
    low: The low half, frozen.
    capacity: Largest number of distinct behaviors of a part, U, with padding.
    num_tokens: Number of tokens of a behavior.
    cache: Cache of the behaviors' tokens.
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

    Args:
      low: The low half.
      high: The high half.
      num_sequences: N.
      cache: Cache of the behaviors' tokens for `prepare`; None: batches come
        with what that would add.
      capacity: Largest number of distinct behaviors of a part, U, with padding.
      num_tokens: Number of tokens of a behavior; longer ones are cut.
      **options: See `SequenceEncoder`.
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
