# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From vectors of behaviors to those of users and items: BAHE's high half.

Each of a user's sequences goes through the high layers by itself, so that cost
is linear in their number; what comes out is pooled and concatenated. An item is
a sequence of one: its title (Geng et al. 2024,
https://arxiv.org/abs/2403.19347, section 3; how the outputs are pooled is not
in the paper and is our choice).
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from antjax.ctr.bahe.towers import Encoded
from antjax.embedding.lookup import pick
from antjax.lm.split import HighEncoder

# Shape suffixes: B = examples, N = sequences of a user, M = places of a
# sequence, D = width of the language model.

PyTree = Any


@dataclasses.dataclass(frozen=True)
class SequenceEncoder:
  """The high half over sequences of behaviors.

  Attributes:
    high: The layers; it may have none, then vectors are pooled as they are.
    num_sequences: N.
    pooling: A sequence's vector: the mean of its outputs, or the last one
      (which in a causal model has seen them all).
    fusion: 'late' keeps users and items apart until the head, as in the
      paper's figure 1. 'early' puts the title behind each sequence, so that
      the layers see both; a user then has no vector of its own.
  """

  high: HighEncoder
  num_sequences: int
  pooling: Literal['mean', 'last'] = 'mean'
  fusion: Literal['late', 'early'] = 'late'

  @property
  def dim(self) -> int:
    return self.high.config.embed_dim

  def init_params(self, pretrained: PyTree) -> PyTree:
    """The high half of a language model's parameters, and the null vectors.

    Args:
      pretrained: Parameters of the whole model, from
        `lm.pretrained.load_pretrained` or `lm.transformer.init`.
    """
    shape = (self.num_sequences, self.dim)
    return {
      'high': self.high.params_of(pretrained),
      # For a user without a sequence; small, as no other vector is 0.
      'null': jnp.zeros(shape, jnp.float32),
    }

  def __call__(
    self,
    params: PyTree,
    x_BNMD: jax.Array,
    is_there_BNM: jax.Array,
    title_BD: jax.Array,
  ) -> Encoded:
    """Encodes users and items.

    Args:
      params: Parameters from `init_params`, in the compute dtype.
      x_BNMD: Vectors of behaviors, oldest first.
      is_there_BNM: bool; padding is at the end. A sequence without any gets its
        null vector, which is learned.
      title_BD: Vectors of the titles.
    """
    dtype = params['null'].dtype
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
    history = self.high(params['high'], x_BNMD.reshape(B * N, M, D), segments)
    history_BNMD = history.reshape(B, N, M, D)
    item_B1D = self.high(params['high'], title_BD[:, None])
    user_BND = self._pool(history_BNMD, is_there_BNM)
    is_empty_BN1 = ~is_there_BNM.any(axis=-1, keepdims=True)
    null_BND = jnp.broadcast_to(params['null'], user_BND.shape)
    user_BND = jnp.where(is_empty_BN1, null_BND, user_BND)
    return Encoded(
      user_BND.reshape(B, N * D), item_B1D[:, 0], history_BNMD, is_there_BNM
    )

  def _pool(self, x_BNMD: jax.Array, is_there_BNM: jax.Array) -> jax.Array:
    """[B, N, D] of each sequence; of an empty one, something finite."""
    count_BN1 = is_there_BNM.sum(axis=-1, keepdims=True)
    if self.pooling == 'last':
      return pick(x_BNMD, jnp.maximum(count_BN1[..., 0] - 1, 0))
    kept = jnp.where(is_there_BNM[..., None], x_BNMD, 0).astype(jnp.float32)
    mean_BND = kept.sum(axis=2) / jnp.maximum(count_BN1, 1)
    return mean_BND.astype(x_BNMD.dtype)
