# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The dear way that BAHE is compared with: all tokens through all layers.

A user's history is one text, put together from cached token ids.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from antjax.ctr.bahe import encode
from antjax.ctr.bahe.towers import Batch, Encoded, PyTree
from antjax.lm import transformer
from antjax.lm.config import Config
from antjax.lm.token_cache import TokenCache

# Shape suffixes: R = histories, M = places of a history, T = tokens of a text.


class JoinMarks(NamedTuple):
  """Marks around behaviors in a text.

  Attributes:
    num_leading: Special tokens that each cached row begins with ([CLS]); in a
      text only the first behavior keeps them.
    separator: Token ids between two behaviors, for tokenizers that end a row
      by no special token of their own ([SEP]).
  """

  num_leading: int
  separator: tuple[int, ...]


def marks_of(tokenizer: tokenizers.Tokenizer) -> JoinMarks:
  """The marks of texts of a tokenizer; a line break where it adds nothing."""
  mask = tokenizer.encode('a').special_tokens_mask
  if mask[-1]:
    return JoinMarks(mask.index(0), ())
  line = tokenizer.encode('\n', add_special_tokens=False).ids
  return JoinMarks(mask.index(0), tuple(line))


def join(
  cache: TokenCache, behaviors: np.ndarray, num_tokens: int, marks: JoinMarks
) -> tuple[np.ndarray, np.ndarray]:
  """Whole behaviors one after the other, as many of the newest as fit.

  The newest one is cut where it does not fit by itself.

  Args:
    cache: Cache of the behaviors' tokens.
    behaviors: int32 [R, M], oldest first, 0 behind the newest.
    num_tokens: T.
    marks: Marks of the tokenizer.

  Returns:
    (tokens int32 [R, T], 0 behind the end; lengths int32 [R]).

  Raises:
    ValueError: T has no room beside the special tokens.
  """
  lead, gap = marks.num_leading, len(marks.separator)
  if num_tokens <= lead:
    raise ValueError(
      f'a text of {num_tokens} tokens: {lead} are special ones in front; give'
      ' more.'
    )
  num_rows, num_places = behaviors.shape
  starts = np.asarray(cache.offsets[behaviors])
  sizes = np.asarray(cache.offsets[behaviors + 1]) - starts - lead
  is_there = (behaviors != 0) & (sizes > 0)
  sizes = np.where(is_there, np.minimum(sizes, num_tokens - lead), 0)
  # Room that a behavior takes with its separator, and all newer ones with it.
  room = np.where(is_there, sizes + gap, 0)
  needed = lead - gap + np.cumsum(room[:, ::-1], axis=1)[:, ::-1]
  is_kept = is_there & (needed <= num_tokens)
  sizes, room = np.where(is_kept, sizes, 0), np.where(is_kept, room, 0)
  ends = np.cumsum(room, axis=1)
  places = lead + ends - room + num_tokens * np.arange(num_rows)[:, None]
  # One row more: the last behaviour's separator may reach behind the text.
  text = np.zeros(num_rows * num_tokens + gap, np.int32)
  flat = sizes.ravel()
  offset = np.arange(flat.sum()) - np.repeat(np.cumsum(flat) - flat, flat)
  source = np.repeat((starts + lead).ravel(), flat) + offset
  text[np.repeat(places.ravel(), flat) + offset] = cache.tokens[source]
  is_empty = ~is_kept.any(axis=1)
  first = np.argmax(is_kept, axis=1)
  newest = num_places - 1 - np.argmax(is_kept[:, ::-1], axis=1)
  is_inner = is_kept & (np.arange(num_places) != newest[:, None])
  for i, token in enumerate(marks.separator):
    text[(places + sizes)[is_inner] + i] = token
  rows = np.flatnonzero(~is_empty)
  for i in range(lead):
    text[rows * num_tokens + i] = cache.tokens[starts[rows, first[rows]] + i]
  lengths = np.where(is_empty, 0, lead - gap + ends[:, -1])
  text = text[: num_rows * num_tokens].reshape(num_rows, num_tokens)
  return text, lengths.astype(np.int32)


# Shape suffixes: B = examples, N = sequences of a user, M = places of a
# sequence, T = tokens of a text, D = width of the language model.


@dataclasses.dataclass(frozen=True)
class FullTextTower:
  """Each sequence as one text through the whole language model, all trained.

  A text's vector is the mean of its tokens' outputs. A sequence without a
  behavior has a learned vector, as in `SequenceEncoder`.

  Attributes:
    config: Configuration of the language model. With learned positions it must
      have as many as a text has tokens: see
      `antjax.lm.positions.extend_learned`.
    num_sequences: N.
    num_tokens: Number of tokens of a sequence's text, which holds the newest
      behaviors that fit.
    title_tokens: Number of tokens of an item's title.
    marks: Marks around behaviors.
    cache: Cache of the behaviors' tokens.
  """

  config: Config
  num_sequences: int
  num_tokens: int
  title_tokens: int
  marks: JoinMarks
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
    tokens, lengths = join(
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
    x_BTD = transformer.hidden(self.config, params, tokens_BT, mask_BT)
    return encode.pool(x_BTD, mask_BT).astype(x_BTD.dtype)
