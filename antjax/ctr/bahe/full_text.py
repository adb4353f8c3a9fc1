# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The dear way that BAHE is compared with: all tokens through all layers."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from antjax.ctr.bahe import encode, text_join
from antjax.ctr.bahe.towers import Batch, Encoded, PyTree
from antjax.lm import transformer
from antjax.lm.config import Config
from antjax.lm.token_cache import TokenCache

# Shape suffixes: B = examples, N = sequences of a user, M = places of a
# sequence, T = tokens of a text, D = width of the language model.


@dataclasses.dataclass(frozen=True)
class FullTextTower:
  """Each sequence as one text through the whole language model, all trained.

  A text's vector is the mean of its tokens' outputs. A sequence without a
  behaviour has a learned vector, as in `SequenceEncoder`.

  Attributes:
    config: The language model. With learned positions it must have as many as a
      text has tokens: see `antjax.lm.positions.extend_learned`.
    num_sequences: N.
    num_tokens: Of a sequence's text; the newest behaviours that fit are in it.
    title_tokens: Of an item's title.
    marks: What stands around behaviours.
    cache: Tokens of the behaviours.
  """

  config: Config
  num_sequences: int
  num_tokens: int
  title_tokens: int
  marks: text_join.Marks
  cache: TokenCache = dataclasses.field(compare=False)

  def __post_init__(self) -> None:
    transformer.check_length(
      self.config, max(self.num_tokens, self.title_tokens)
    )

  @property
  def user_dim(self) -> int:
    return self.num_sequences * self.config.embed_dim

  @property
  def title_dim(self) -> int:
    return self.config.embed_dim

  @property
  def has_history(self) -> bool:
    return False

  def init_params(self, pretrained: PyTree) -> PyTree:
    """The language model without its output layer, and the null vectors."""
    shape = (self.num_sequences, self.config.embed_dim)
    return {
      'lm': {k: x for k, x in pretrained.items() if k != 'lm_head'},
      'null': jnp.zeros(shape, jnp.float32),
    }

  def prepare(self, batch: Batch, num_parts: int) -> dict[str, Any]:
    """See `Tower.prepare`; texts of all histories and titles."""
    del num_parts
    behaviors = batch['behaviors']
    size, num_sequences, _ = behaviors.shape
    tokens, lengths = text_join.join(
      self.cache,
      behaviors.reshape(size * num_sequences, -1),
      self.num_tokens,
      self.marks,
    )
    title, title_lengths = self.cache.padded(batch['title'], self.title_tokens)
    kept = {k: x for k, x in batch.items() if k not in ('behaviors', 'title')}
    return kept | {
      'text': tokens.reshape(size, num_sequences, -1),
      'text_lengths': lengths.reshape(size, num_sequences),
      'title_text': title,
      'title_lengths': title_lengths,
    }

  def __call__(self, params: PyTree, batch: Batch) -> Encoded:
    """See `Tower.__call__`."""
    B, N, T = batch['text'].shape
    user_BD = self._vectors(
      params['lm'],
      batch['text'].reshape(B * N, T),
      batch['text_lengths'].reshape(B * N),
    )
    title_BD = self._vectors(
      params['lm'], batch['title_text'], batch['title_lengths']
    )
    user_BND = user_BD.reshape(B, N, -1)
    null_BND = jnp.broadcast_to(params['null'], user_BND.shape)
    is_empty_BN1 = (batch['text_lengths'] == 0)[..., None]
    user_BND = jnp.where(is_empty_BN1, null_BND, user_BND)
    return Encoded(user_BND.reshape(B, -1), title_BD)

  def _vectors(
    self, params: PyTree, tokens_BT: jax.Array, lengths_B: jax.Array
  ) -> jax.Array:
    """Mean output of each text, [B, D]; of an empty one, zeros."""
    place_1T = jnp.arange(tokens_BT.shape[1])[None]
    mask_BT = place_1T < lengths_B[:, None]
    x_BTD = transformer.encode(self.config, params, tokens_BT, mask=mask_BT)
    return encode.pool(x_BTD, mask_BT).astype(x_BTD.dtype)
