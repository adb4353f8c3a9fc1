# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Models that are not trained: popularity, BM25, cosine of texts.

Popularity: score(u, i) = number of training events of item i.

BM25 takes the titles of the history for the query, each item's title for a
document. score(u, i) = sum over words w of u's titles, as often as they occur,

  idf(w) tf(w, i) (k1 + 1) / (tf(w, i) + k1 (1 - b + b |i| / mean |i|))
  idf(w) = log(1 + (N - n(w) + 0.5) / (n(w) + 0.5))

with n(w) titles that hold w and |i| words of i. Source: Robertson and Zaragoza
2009, "The probabilistic relevance framework", section 3.2
(https://doi.org/10.1561/1500000019); the 1 in idf keeps it positive, as Lucene
does. Words are runs of letters and digits, in lower case.

Cosine of texts: score(u, i) = cos(text vector of u, text vector of i) of a
language model, made by the caller, where u's vector is

  last          that of the title of the newest item
  mean          the mean of those of the newest items, each of length 1
  concatenated  that of one text: the titles of the newest items, oldest first
"""

from collections.abc import Callable, Sequence
import dataclasses
import re
from typing import Literal

import numpy as np
import tokenizers

from antjax.ctr.llm_rec import histories

# Shape suffixes: N = items with the padding, B = users, L = history.


@dataclasses.dataclass(frozen=True)
class Popularity:
  """A model of vectors of width 1.

  Attributes:
    counts: int [N], events of each item in training.
  """

  counts: np.ndarray

  def item_vectors(self) -> np.ndarray:
    """float32 [N, 1]."""
    return self.counts[:, None].astype(np.float32)

  def user_vectors(self, history_BL: np.ndarray) -> np.ndarray:
    """float32 [B, 1]."""
    return np.ones((len(history_BL), 1), np.float32)


# Shape suffixes: N = items with the padding, B = users, L = history, P =
# postings: (word, item) pairs.

_WORD = re.compile(r'\w+')


def words(title: str) -> list[str]:
  """The words of a title."""
  return _WORD.findall(title.lower())


class BM25:
  """A model of scores; holds an inverted index."""

  def __init__(
    self,
    titles: Sequence[str],
    *,
    max_history: int = 10,
    k1: float = 1.2,
    b: float = 0.75,
  ):
    """Indexes the titles.

    Args:
      titles: Titles of all items, [N]; item 0 is the padding.
      max_history: Newest items whose titles are the query.
      k1: Saturation of repeated words.
      b: Penalty of long titles, from 0 to 1.
    """
    self._max_history = max_history
    vocabulary: dict[str, int] = {}
    self._words = [
      np.array(
        [vocabulary.setdefault(w, len(vocabulary)) for w in words(title)],
        np.int64,
      )
      for title in titles
    ]
    sizes = np.array([len(found) for found in self._words])
    flat = np.concatenate([*self._words, np.zeros(0, np.int64)])
    item = np.repeat(np.arange(len(titles)), sizes)
    # Sorted by word, so that a word's postings are adjacent.
    pairs, tf = np.unique(flat * len(titles) + item, return_counts=True)
    word, self._items = np.divmod(pairs, len(titles))
    num_titles = np.bincount(word, minlength=len(vocabulary))
    self._starts = np.concatenate([[0], np.cumsum(num_titles)])
    num_items = max(len(titles) - 1, 1)  # Without the padding.
    idf = np.log1p((num_items - num_titles + 0.5) / (num_titles + 0.5))
    mean = max(sizes.sum() / num_items, 1e-9)
    length = 1 - b + b * sizes[self._items] / mean
    self._weights = idf[word] * tf * (k1 + 1) / (tf + k1 * length)

  def scores(self, history_BL: np.ndarray) -> np.ndarray:
    """float32 [B, N]; 0 where no word is shared."""
    num_items = len(self._words)
    found = np.zeros((len(history_BL), num_items), np.float32)
    for row, items in enumerate(
      histories.newest(history_BL, self._max_history)
    ):
      query = [self._words[i] for i in items if i]
      if not query:
        continue
      word, times = np.unique(np.concatenate(query), return_counts=True)
      sizes = self._starts[word + 1] - self._starts[word]
      ends = np.cumsum(sizes)
      places = np.arange(sizes.sum()) - np.repeat(ends - sizes, sizes)
      places += np.repeat(self._starts[word], sizes)
      found[row] = np.bincount(
        self._items[places],
        self._weights[places] * np.repeat(times, sizes),
        minlength=num_items,
      )
    return found


# Shape suffixes: N = items with the padding, B = users, L = history, M = newest
# items, D = width.

Kind = Literal['last', 'mean', 'concatenated']
_SEPARATOR = '; '  # Between titles, as in LLM-Rec.


@dataclasses.dataclass(frozen=True)
class TextCosine:
  """A model of vectors.

  Attributes:
    kind: Kind of a user's vector, see the module.
    vectors: float32 [N, D], one a title; row 0, the padding, is not used.
    max_history: Newest items that count; `last` takes one.
    encode: For `concatenated`: lists of item ids, oldest first -> vectors of
      their one text, float32 [B, D].
  """

  kind: Kind
  vectors: np.ndarray
  max_history: int = 10
  encode: Callable[[Sequence[np.ndarray]], np.ndarray] | None = None

  def __post_init__(self) -> None:
    if (self.kind == 'concatenated') != (self.encode is not None):
      raise ValueError(
        f'TextCosine(kind={self.kind!r}): concatenated needs `encode`, and'
        ' nothing else takes it.'
      )

  def item_vectors(self) -> np.ndarray:
    """float32 [N, D], of length 1."""
    return unit(self.vectors)

  def user_vectors(self, history_BL: np.ndarray) -> np.ndarray:
    """float32 [B, D]; zeros for an empty history."""
    length = 1 if self.kind == 'last' else self.max_history
    newest_BM = histories.newest(history_BL, length)
    if self.encode is not None:
      return unit(self.encode([row[row > 0] for row in newest_BM]))
    is_there_BM = newest_BM > 0
    vectors_BMD = unit(self.vectors[newest_BM]) * is_there_BM[..., None]
    count_B1 = np.maximum(is_there_BM.sum(axis=1, keepdims=True), 1)
    return (vectors_BMD.sum(axis=1) / count_B1).astype(np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
  """Vectors [..., D] of length 1; zeros stay zeros."""
  size = np.linalg.norm(vectors, axis=-1, keepdims=True)
  return (vectors / np.where(size > 0, size, 1)).astype(np.float32)


def join_titles(titles: Sequence[str]) -> str:
  """One text of titles, oldest first."""
  return _SEPARATOR.join(titles)


def keep_newest(tokenizer: tokenizers.Tokenizer, max_tokens: int) -> None:
  """Lets a tokenizer cut the old end of a text, not the new one."""
  tokenizer.enable_truncation(max_length=max_tokens, direction='left')
