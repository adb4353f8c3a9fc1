# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The expensive baseline of BAHE: all tokens through all layers.

A user's history is one text, assembled from cached token ids.
"""

from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import tokenizers

from antjax.ctr.bahe.table import Batch
from antjax.ctr.bahe.towers import Encoded, null_vectors, or_null
from antjax.ctr.texts import Marks, TextMaker
from antjax.lm import packed, text_encoder
from antjax.lm.positions import token_mask
from antjax.lm.token_cache import TokenCache
from antjax.lm.transformer import Transformer

# Shape suffixes: B = examples, N = sequences of a user, T = tokens of a text,
# S = tokens of all texts, D = width of the language model.


def marks_of(tokenizer: tokenizers.Tokenizer) -> Marks:
  """The marks of texts for a tokenizer.

  Only the first behavior keeps the special tokens at the start of cached rows
  ([CLS]). A line break separates behaviors if the tokenizer does not end a row
  with a special token ([SEP]).
  """
  encoded = tokenizer.encode('a')
  mask = encoded.special_tokens_mask
  num_special = mask.index(0)
  line: list[int] = []
  if not mask[-1]:
    line = tokenizer.encode('\n', add_special_tokens=False).ids
  return Marks(
    leading=tuple(encoded.ids[:num_special]),
    separator=tuple(line),
    num_special=num_special,
  )


def text_maker(cache: TokenCache, num_tokens: int, marks: Marks) -> TextMaker:
  """A maker of texts of histories with at most `num_tokens` tokens."""
  lead = len(marks.leading)
  if num_tokens <= lead:
    raise ValueError(
      f'a text of {num_tokens} tokens: {lead} are special ones in front; give'
      ' more.'
    )
  return TextMaker(
    cache, marks, max_title_tokens=num_tokens, max_tokens=num_tokens
  )


class FullTextTower(nnx.Module):
  """Runs each sequence as one text through the whole, trained language model.

  A text's vector is the mean of its tokens' outputs. A sequence without
  behaviors has a learned vector, as in `SequenceEncoder`.
  """

  def __init__(
    self,
    lm: Transformer,
    num_sequences: int,
    num_tokens: int,
    title_tokens: int,
    marks: Marks,
    cache: TokenCache,
  ):
    """Uses the language model and shares its parameters.

    Its learned positions must suffice for the tokens of a text: see
    `antjax.lm.positions.extend_learned`. `num_tokens` are those of a sequence's
    text, which has the newest behaviors that fit; `title_tokens` those of an
    item's title. `marks` are put around behaviors, whose tokens are in the
    cache.
    """
    lm.config.check_length(max(num_tokens, title_tokens))
    self.lm, self.num_sequences, self.cache = lm.trunk(), num_sequences, cache
    self.num_tokens, self.title_tokens = num_tokens, title_tokens
    self.null = null_vectors(num_sequences, self.title_dim)
    self._texts = text_maker(cache, num_tokens, marks)

  @property
  def user_dim(self) -> int:
    return self.num_sequences * self.title_dim

  @property
  def title_dim(self) -> int:
    return self.lm.config.embed_dim

  @property
  def has_history(self) -> bool:
    return False

  def prepare(self, batch: Batch, num_parts: int) -> dict[str, Any]:
    """See `Tower.prepare`; adds texts of all histories and titles."""
    del num_parts
    behaviors = batch['behaviors']
    B, N, M = behaviors.shape
    tokens, lengths = self._texts.padded(behaviors.reshape(B * N, M))
    title, title_lengths = self.cache.padded(batch['title'], self.title_tokens)
    kept = {k: x for k, x in batch.items() if k not in ('behaviors', 'title')}
    return kept | {
      'text': tokens.reshape(B, N, -1),
      'text_lengths': lengths.reshape(B, N),
      'title_text': title,
      'title_lengths': title_lengths,
    }

  def __call__(self, batch: Batch) -> Encoded:
    B, N, T = batch['text'].shape
    lengths_BN = batch['text_lengths']
    # A layer is gathered once for both.
    lanes = [
      packed.Lane(tokens, lengths)
      for tokens, lengths in (
        (batch['text'].reshape(B * N, T), lengths_BN.reshape(B * N)),
        (batch['title_text'], batch['title_lengths']),
      )
    ]
    x_SD = packed.hidden(self.lm, lanes)
    parts = jnp.split(x_SD, [lanes[0].tokens.size])
    masks = [token_mask(*lane) > 0 for lane in lanes]
    user_BD, title_BD = map(_means, parts, masks)
    user_BND = user_BD.reshape(B, N, -1)
    return Encoded(or_null(user_BND, self.null[...], lengths_BN == 0), title_BD)


def _means(x_SD: jax.Array, mask_BT: jax.Array) -> jax.Array:
  """Mean output of each text, [B, D]; zeros for an empty one."""
  x_BTD = x_SD.reshape(*mask_BT.shape, -1)
  return text_encoder.pool(x_BTD, mask_BT).astype(x_BTD.dtype)
