# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A user's history as one text, put together from cached token ids."""

from typing import NamedTuple

import numpy as np
import tokenizers

from antjax.lm.token_cache import TokenCache

# Shape suffixes: R = histories, M = places of a history, T = tokens of a text.


class Marks(NamedTuple):
  """What stands around behaviours in a text.

  Attributes:
    num_leading: Special tokens that each cached row begins with ([CLS]); in a
      text only the first behaviour keeps them.
    separator: Token ids between two behaviours, for tokenizers that end a row
      by no special token of their own ([SEP]).
  """

  num_leading: int
  separator: tuple[int, ...]


def marks_of(tokenizer: tokenizers.Tokenizer) -> Marks:
  """The marks of texts of a tokenizer; a line break where it adds nothing."""
  mask = tokenizer.encode('a').special_tokens_mask
  if mask[-1]:
    return Marks(mask.index(0), ())
  line = tokenizer.encode('\n', add_special_tokens=False).ids
  return Marks(mask.index(0), tuple(line))


def join(
  cache: TokenCache, behaviors: np.ndarray, num_tokens: int, marks: Marks
) -> tuple[np.ndarray, np.ndarray]:
  """Whole behaviours one after the other, as many of the newest as fit.

  The newest one is cut where it does not fit by itself.

  Args:
    cache: Tokens of the behaviours.
    behaviors: int32 [R, M], oldest first, 0 behind the newest.
    num_tokens: T.
    marks: Of the tokenizer.

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
  # Room that a behaviour takes with its separator, and all newer ones with it.
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
