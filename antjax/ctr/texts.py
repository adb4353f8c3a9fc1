# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Texts of users and items, assembled from cached token ids.

A text is the newest whole items that fit, oldest first, with the marks of the
language model's family around and between them.
"""

from typing import Literal, NamedTuple, Protocol

import numpy as np

# Shape suffixes: R = texts, N = items of a text.

Pooling = Literal['first', 'last', 'mean']
_ITEMS_AT_ONCE = 1 << 16


class Marks(NamedTuple):
  """Marks of a text."""

  leading: tuple[int, ...]  # Token ids before the text.
  trailing: tuple[int, ...] = ()  # Token ids after the text.
  pooling: Pooling = 'mean'  # Token whose output is the text's vector.
  separator: tuple[int, ...] = ()  # Token ids between two items.
  # Number of special tokens at the start of each cached item, which texts leave
  # out.
  num_special: int = 0

  @property
  def num_tokens(self) -> int:
    """Number of tokens around a text."""
    return len(self.leading) + len(self.trailing)


class Tokens(Protocol):
  """The interface of `antjax.lm.token_cache.TokenCache` used here."""

  @property
  def tokens(self) -> np.ndarray:
    """Tokens of all items, int32 [all]."""

  @property
  def offsets(self) -> np.ndarray:
    """int64 [items + 1]: item i has tokens[offsets[i]:offsets[i + 1]]."""


class Planned(NamedTuple):
  """Planned content of texts."""

  items: np.ndarray  # Items int [R, N], as given.
  sizes: np.ndarray  # int64 [R, N], number of tokens of each item; 0: left out.
  # int64 [R], number of tokens of each text with marks; 0: no text.
  lengths: np.ndarray


class TextMaker:
  """Plans texts and writes their tokens.

  Attributes:
    cache: Tokens of the items.
    marks: Marks of each text.
    max_tokens: Maximum number of tokens of a text, including marks.
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

    Texts have at most `max_tokens`, of which an item has `max_title_tokens`.
    Row 0 of the cache, the padding, has no tokens.

    Raises:
      ValueError: There is no room beside the marks.
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
    """Number of items in the catalog, including padding."""
    return len(self.cache.offsets) - 1

  def rarity(self, vocab_size: int) -> np.ndarray:
    """log(1 + N / (1 + N_t)) of each token t, float32 [V]; 0 for marks.

    N_t of the N items have t in their title.
    """
    counts = np.zeros(vocab_size, np.int64)
    offsets = self.cache.offsets
    for start in range(1, self.num_items, _ITEMS_AT_ONCE):
      part = offsets[start : start + _ITEMS_AT_ONCE + 1]
      tokens = np.asarray(self.cache.tokens[part[0] : part[-1]], np.int64)
      items = np.repeat(np.arange(len(part) - 1), np.diff(part))
      # With counts np.unique sorts; else it hashes, in many times as long.
      pairs, _ = np.unique(items * vocab_size + tokens, return_counts=True)
      counts += np.bincount(pairs % vocab_size, minlength=vocab_size)
    found = np.log1p((self.num_items - 1) / (1 + counts)).astype(np.float32)
    found[list(self.marks.leading + self.marks.trailing)] = 0
    return found

  def plan(self, items: np.ndarray) -> Planned:
    """Selects whole items, as many of the newest as fit.

    `items` are int [R, N], oldest first, 0 after the newest. The newest item is
    truncated if it alone does not fit. A row without items has no text.
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
    """Writes planned texts into flat arrays, at about 30 ns per token.

    The first token of text r goes to slot starts[r], int64 [R]; -1: it is left
    out. `tokens`, int32 [slots], receives the tokens, and `texts`, alike,
    `first` + r for each of them.
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
    """Texts in padded rows, for items as in `plan`.

    Returns:
      (tokens int32 [R, max_tokens], zero-padded; lengths int32 [R]).
    """
    planned = self.plan(items)
    tokens = np.zeros((len(items), self.max_tokens), np.int32)
    starts = self.max_tokens * np.arange(len(items))
    self.write(planned, starts, tokens.reshape(-1))
    return tokens, planned.lengths.astype(np.int32)

  def ragged(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenated texts, for `antjax.lm.text_encoder`.

    Returns:
      (tokens int32 [all], offsets int64 [R + 1]), for items as in `plan`.
    """
    planned = self.plan(items)
    offsets = np.zeros(len(items) + 1, np.int64)
    np.cumsum(planned.lengths, out=offsets[1:])
    tokens = np.zeros(offsets[-1], np.int32)
    self.write(planned, offsets[:-1], tokens)
    return tokens, offsets


def _ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
  """Concatenates ranges: starts[0], starts[0] + 1, ..., starts[1], ..."""
  offset = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
  return np.repeat(starts, sizes) + offset


def _copy(source, source_starts, target, target_starts, sizes) -> None:
  """Copies ranges of one array into another."""
  sizes = sizes.ravel()
  target[_ranges(target_starts, sizes)] = source[_ranges(source_starts, sizes)]
