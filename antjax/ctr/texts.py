# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Texts of users and items, put together from cached token ids.

A text is its newest items, whole and oldest first, with the marks of the
language model's family around and between them.
"""

from typing import Literal, NamedTuple, Protocol

import numpy as np

# Shape suffixes: R = texts, N = items of a text.

Pooling = Literal['first', 'last', 'mean']
_ITEMS_AT_ONCE = 1 << 16


class Marks(NamedTuple):
  """Marks of a text.

  Attributes:
    leading: Token ids in front of it.
    trailing: Token ids behind it.
    pooling: Token whose output is taken as the text's vector.
    separator: Token ids between two items.
    num_special: Special tokens that each cached item begins with, which a text
      leaves out.
  """

  leading: tuple[int, ...]
  trailing: tuple[int, ...] = ()
  pooling: Pooling = 'mean'
  separator: tuple[int, ...] = ()
  num_special: int = 0

  @property
  def num_tokens(self) -> int:
    """Tokens around a text."""
    return len(self.leading) + len(self.trailing)


class Tokens(Protocol):
  """What is read of an `antjax.lm.token_cache.TokenCache`."""

  @property
  def tokens(self) -> np.ndarray:
    """int32 [all]."""

  @property
  def offsets(self) -> np.ndarray:
    """int64 [items + 1]: item i has tokens[offsets[i]:offsets[i + 1]]."""


class Planned(NamedTuple):
  """What texts will hold.

  Attributes:
    items: int [R, N], as given.
    sizes: int64 [R, N], tokens taken of each item; 0 where it is left out.
    lengths: int64 [R], tokens of each text with its marks; 0 for none.
  """

  items: np.ndarray
  sizes: np.ndarray
  lengths: np.ndarray


class TextMaker:
  """Plans texts and writes their tokens.

  Attributes:
    cache: Tokens of the items.
    marks: Marks of each text.
    max_tokens: Largest number of tokens of a text, marks included.
  """

  def __init__(
    self,
    cache: Tokens,
    marks: Marks,
    *,
    max_title_tokens: int = 40,
    max_tokens: int = 402,
  ):
    """Reads nothing yet.

    Args:
      cache: Tokens of the items; row 0, the padding, has none.
      marks: Marks of the model's family.
      max_title_tokens: Tokens of an item; longer ones are cut.
      max_tokens: Tokens of a text.

    Raises:
      ValueError: No room beside the marks.
    """
    if max_title_tokens < 1 or max_tokens <= marks.num_tokens:
      raise ValueError(
        f'max_title_tokens={max_title_tokens}, max_tokens={max_tokens}: needed'
        f' are at least 1, and more than the {marks.num_tokens} marks of a'
        ' text.'
      )
    self.cache = cache
    self.marks, self.max_tokens = marks, max_tokens
    self._max_title_tokens = max_title_tokens

  @property
  def num_items(self) -> int:
    """Number of items in the catalog, padding included."""
    return len(self.cache.offsets) - 1

  def rarity(self, vocab_size: int) -> np.ndarray:
    """log(1 + N / (1 + N_t)) of each token t, float32 [V]; 0 for marks.

    N_t of the N items have it in their title.
    """
    counts = np.zeros(vocab_size, np.int64)
    offsets = self.cache.offsets
    for start in range(1, self.num_items, _ITEMS_AT_ONCE):
      part = offsets[start : start + _ITEMS_AT_ONCE + 1]
      tokens = np.asarray(self.cache.tokens[part[0] : part[-1]], np.int64)
      items = np.repeat(np.arange(len(part) - 1), np.diff(part))
      of_title = np.unique(items * vocab_size + tokens) % vocab_size
      counts += np.bincount(of_title, minlength=vocab_size)
    found = np.log1p((self.num_items - 1) / (1 + counts)).astype(np.float32)
    found[list(self.marks.leading + self.marks.trailing)] = 0
    return found

  def plan(self, items: np.ndarray) -> Planned:
    """Whole items, as many of the newest as fit.

    The newest one is cut where it does not fit by itself. A row without items
    is no text.

    Args:
      items: int [R, N], oldest first, 0 behind the newest.
    """
    sizes = np.asarray(self.cache.offsets[items + 1])
    sizes = sizes - self.cache.offsets[items] - self.marks.num_special
    room = self.max_tokens - self.marks.num_tokens
    sizes = np.clip(sizes, 0, min(self._max_title_tokens, room))
    taken = self._with_separators(sizes)
    needed = np.cumsum(taken[:, ::-1], axis=1)[:, ::-1]
    needed -= len(self.marks.separator)
    sizes = np.where(needed <= room, sizes, 0)
    lengths = self._with_separators(sizes).sum(axis=1)
    lengths += self.marks.num_tokens - len(self.marks.separator)
    return Planned(items, sizes, np.where(sizes.any(axis=1), lengths, 0))

  def write(
    self,
    planned: Planned,
    starts: np.ndarray,
    tokens: np.ndarray,
    texts: np.ndarray | None = None,
    first: int = 1,
  ) -> None:
    """Writes texts into flat arrays; about 30 ns a token.

    Args:
      planned: Result of `plan`.
      starts: int64 [R], slot of each text's first token; -1 leaves it out.
      tokens: int32 [slots], gets the tokens.
      texts: int32 [slots], gets `first` + r for the tokens of text r.
      first: See there.
    """
    marks = self.marks
    is_there = (starts >= 0) & (planned.lengths > 0)
    sizes = np.where(is_there[:, None], planned.sizes, 0)
    taken = self._with_separators(sizes)
    ends = np.cumsum(taken, axis=1)
    places = starts[:, None] + len(marks.leading) + ends - taken
    source = np.asarray(self.cache.offsets[planned.items]) + marks.num_special
    _copy(self.cache.tokens, source.ravel(), tokens, places.ravel(), sizes)
    begins = starts[is_there]
    for i, token in enumerate(marks.leading):
      tokens[begins + i] = token
    behind = begins + len(marks.leading) + ends[is_there, -1]
    behind -= len(marks.separator)
    is_inner = (sizes > 0) & (ends < ends[:, -1:])
    for i, token in enumerate(marks.separator):
      tokens[(places + sizes)[is_inner] + i] = token
    for i, token in enumerate(marks.trailing):
      tokens[behind + i] = token
    if texts is not None:
      lengths = np.where(is_there, planned.lengths, 0)
      numbers = first + np.arange(len(lengths))
      texts[_ranges(starts, lengths)] = np.repeat(numbers, lengths)

  def _with_separators(self, sizes: np.ndarray) -> np.ndarray:
    return sizes + len(self.marks.separator) * (sizes > 0)

  def padded(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Texts in rows, for items as of `plan`.

    Returns:
      (tokens int32 [R, max_tokens], 0 behind the end; lengths int32 [R]).
    """
    planned = self.plan(items)
    tokens = np.zeros((len(items), self.max_tokens), np.int32)
    starts = self.max_tokens * np.arange(len(items))
    self.write(planned, starts, tokens.reshape(-1))
    return tokens, planned.lengths.astype(np.int32)

  def ragged(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Texts one behind the other, for `antjax.lm.text_encoder`.

    Returns:
      (tokens int32 [all], offsets int64 [R + 1]), for items as of `plan`.
    """
    planned = self.plan(items)
    offsets = np.zeros(len(items) + 1, np.int64)
    np.cumsum(planned.lengths, out=offsets[1:])
    tokens = np.zeros(offsets[-1], np.int32)
    self.write(planned, offsets[:-1], tokens)
    return tokens, offsets


def _ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
  """All places of ranges: starts[0], starts[0] + 1, ..., starts[1], ..."""
  offset = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
  return np.repeat(starts, sizes) + offset


def _copy(source, source_starts, target, target_starts, sizes) -> None:
  """Copies ranges of one array into another."""
  sizes = sizes.ravel()
  target[_ranges(target_starts, sizes)] = source[_ranges(source_starts, sizes)]
