# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""BM25: the titles of the history are the query, each item's title a document.

score(u, i) = sum over words w of u's titles, counted as often as they occur,

  idf(w) tf(w, i) (k1 + 1) / (tf(w, i) + k1 (1 - b + b |i| / mean |i|))
  idf(w) = log(1 + (N - n(w) + 0.5) / (n(w) + 0.5))

with n(w) titles that hold w and |i| words of i. Source: Robertson and Zaragoza
2009, "The probabilistic relevance framework", section 3.2
(https://doi.org/10.1561/1500000019); the 1 in idf keeps it positive, as Lucene
does. Words are runs of letters and digits, in lower case. Nothing is learned.
"""

from collections.abc import Sequence
import re

import numpy as np

from antjax.ctr.llm_rec import histories

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
      titles: Of all items, [N]; item 0 is the padding.
      max_history: Newest items whose titles are the query.
      k1: How soon repeated words count no more.
      b: How much long titles are held against items, from 0 to 1.
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
    # Sorted by word, so that a word's postings stand together.
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
