# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Texts of items and users, put together from token ids of titles.

As in LLM-Rec's official recipe (github.com/WHUIR/LLMRec, after Tang et al.
2025, https://arxiv.org/abs/2310.14304): an item's text is its title and '; ',
tokenized without special tokens and cut to 40; a user's is the texts of their
last items. A model's family says which marks surround a text and where its
vector is read. OPT is pretrained on texts that begin with </s>: here they do,
in the recipe they do not (`marks_of(published=True)`).
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
import tokenizers

from antjax.lm.config import Config

# Shape suffixes: R = texts, N = items of a text.

Pooling = Literal['first', 'last', 'mean']
_END = '; '
_ITEMS_AT_ONCE = 1 << 16
_UNNAMED = 'None'  # Stands for a missing title.
# Tokens that end a text, of Llama's and Qwen2's kin.
_ENDS = ('<|endoftext|>', '</s>', '<|end_of_text|>', '<|im_end|>', '<eos>')


class Titles:
  """Titles of items as a vocabulary for `TokenCache`; row 0 is the padding."""

  normalizer = 'llm_rec-title-1'

  def __init__(self, titles: Sequence[str]):
    """Takes titles [items]; the first one is not read."""
    self._titles = titles

  def __len__(self) -> int:
    return len(self._titles)

  def texts(self, start: int, stop: int) -> list[str]:
    """The items' texts; that of the padding is empty."""
    found = [(title or _UNNAMED) + _END for title in self._titles[start:stop]]
    return ['', *found[1:]] if start == 0 < stop else found


class Marks(NamedTuple):
  """Marks around a text.

  Attributes:
    leading: Token ids in front of it.
    trailing: Token ids behind it.
    pooling: Token whose output the recipe takes as the text's vector.
  """

  leading: tuple[int, ...]
  trailing: tuple[int, ...]
  pooling: Pooling

  @property
  def num_tokens(self) -> int:
    return len(self.leading) + len(self.trailing)


def marks_of(
  config: Config, tokenizer: tokenizers.Tokenizer, *, published: bool = False
) -> Marks:
  """The marks of a family: [CLS] in front for BERT, an end for the others.

  Args:
    config: Configuration of the model.
    tokenizer: Tokenizer that came with the model.
    published: Leave out OPT's first token, as the official code does.

  Raises:
    ValueError: The tokenizer lacks a token that is needed.
  """

  def one_of(*names: str) -> int:
    for name in names:
      token = tokenizer.token_to_id(name)
      if token is not None:
        return int(token)
    raise ValueError(
      f'the tokenizer has no token {" or ".join(names)}, which texts of this'
      ' family of models need; give the tokenizer that the model came with.'
    )

  if not config.causal and config.positions != 'relative':
    return Marks((one_of('[CLS]'),), (), 'first')
  if not config.causal:  # T5's encoder.
    return Marks((), (one_of('</s>'),), 'last')
  if config.positions == 'learned':  # OPT.
    end = one_of('</s>')
    return Marks((() if published else (end,)), (end,), 'last')
  # Llama and Qwen2, which the recipe does not know: what the tokenizer's own
  # template puts in front, if anything, and an end.
  encoded = tokenizer.encode('a')
  front = encoded.special_tokens_mask.index(0)
  return Marks(tuple(encoded.ids[:front]), (one_of(*_ENDS),), 'last')


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
    marks: Around each text.
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
      cache: Tokens of the items, without special tokens; row 0 has none.
      marks: Marks of the model's family.
      max_title_tokens: Largest number of tokens of a title; longer titles are
        cut.
      max_tokens: Largest number of tokens of a text.

    Raises:
      ValueError: No room beside the marks.
    """
    if max_title_tokens < 1 or max_tokens <= marks.num_tokens:
      raise ValueError(
        f'max_title_tokens={max_title_tokens}, max_tokens={max_tokens}: needed'
        f' are at least 1, and more than the {marks.num_tokens} marks of a'
        ' text.'
      )
    self._cache = cache
    self.marks, self.max_tokens = marks, max_tokens
    self._max_title_tokens = max_title_tokens
    self._lead = len(marks.leading)

  @property
  def num_items(self) -> int:
    """Number of items in the catalog, padding included."""
    return len(self._cache.offsets) - 1

  def rarity(self, vocab_size: int) -> np.ndarray:
    """log(1 + N / (1 + N_t)) of each token t, float32 [V]; 0 for marks.

    N_t of the N items have it in their title.
    """
    counts = np.zeros(vocab_size, np.int64)
    offsets = self._cache.offsets
    for start in range(1, self.num_items, _ITEMS_AT_ONCE):
      part = offsets[start : start + _ITEMS_AT_ONCE + 1]
      tokens = np.asarray(self._cache.tokens[part[0] : part[-1]], np.int64)
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
    starts = np.asarray(self._cache.offsets[items])
    sizes = np.asarray(self._cache.offsets[items + 1]) - starts
    room = self.max_tokens - self.marks.num_tokens
    sizes = np.minimum(sizes, min(self._max_title_tokens, room))
    needed = np.cumsum(sizes[:, ::-1], axis=1)[:, ::-1]
    sizes = np.where(needed <= room, sizes, 0)
    lengths = sizes.sum(axis=1)
    lengths += np.where((items != 0).any(axis=1), self.marks.num_tokens, 0)
    return Planned(items, sizes, lengths)

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
    is_there = (starts >= 0) & (planned.lengths > 0)
    sizes = np.where(is_there[:, None], planned.sizes, 0)
    ends = np.cumsum(sizes, axis=1)
    places = (starts[:, None] + self._lead + ends - sizes).ravel()
    flat = sizes.ravel()
    offset = np.arange(flat.sum()) - np.repeat(np.cumsum(flat) - flat, flat)
    source = np.asarray(self._cache.offsets[planned.items]).ravel()
    tokens[np.repeat(places, flat) + offset] = self._cache.tokens[
      np.repeat(source, flat) + offset
    ]
    begins = starts[is_there]
    for i, token in enumerate(self.marks.leading):
      tokens[begins + i] = token
    behind = begins + self._lead + ends[is_there, -1]
    for i, token in enumerate(self.marks.trailing):
      tokens[behind + i] = token
    if texts is not None:
      lengths = np.where(is_there, planned.lengths, 0)
      offset = np.arange(lengths.sum())
      offset -= np.repeat(np.cumsum(lengths) - lengths, lengths)
      numbers = first + np.arange(len(lengths))
      texts[np.repeat(starts, lengths) + offset] = np.repeat(numbers, lengths)

  def ragged(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Texts one behind the other, for `antjax.lm.text_encoder`.

    Args:
      items: As for `plan`.

    Returns:
      (tokens int32 [all], offsets int64 [R + 1]).
    """
    planned = self.plan(items)
    offsets = np.zeros(len(items) + 1, np.int64)
    np.cumsum(planned.lengths, out=offsets[1:])
    tokens = np.zeros(offsets[-1], np.int32)
    self.write(planned, offsets[:-1], tokens)
    return tokens, offsets
