# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Recommends items to who has had others, all by their titles."""

from collections.abc import Sequence
import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import tokenizers

from antjax.ctr.llm_rec.model import LLMRec
from antjax.ctr.llm_rec.texts import Titles
from antjax.ctr.llm_rec.vectors import VectorEncoder
from antjax.ctr.texts import Marks, TextMaker
from antjax.lm.token_cache import Tokenizer

PyTree = Any
# Shape suffixes: B = users, N = items with the padding, D = width, K = best.


class Limits(NamedTuple):
  """How texts were cut in training.

  Attributes:
    max_history: Newest titles of a user that are read.
    max_title_tokens: Largest number of tokens of a title.
    max_tokens: Largest number of tokens of a user's text.
  """

  max_history: int
  max_title_tokens: int
  max_tokens: int


class Recommended(NamedTuple):
  """An item and its score."""

  item: int
  score: float


class Recommender:
  """A trained model and the vectors of a catalog.

  Titles need not be of the catalogue: text is all that the model knows. An item
  that is in the history, by its title, is not recommended.
  """

  def __init__(
    self,
    model: LLMRec,
    params: PyTree,
    tokenizer: tokenizers.Tokenizer,
    marks: Marks,
    limits: Limits,
    titles: Sequence[str],
    item_vectors: np.ndarray,
  ):
    """Puts the vectors on a device.

    Args:
      model: The model.
      params: Its parameters, whole.
      tokenizer: Tokenizer of the language model.
      marks: Marks around its texts.
      limits: Length limits of its texts.
      titles: Titles of the items, [N]; '' for item 0.
      item_vectors: float32 [N, D].

    Raises:
      ValueError: Vectors of another number or width.
    """
    if item_vectors.shape != (len(titles), model.dim):
      raise ValueError(
        f'item_vectors are {list(item_vectors.shape)}; needed is'
        f' [{len(titles)}, {model.dim}], one a title in the width of the'
        ' model.'
      )
    self._tokenize = Tokenizer(tokenizer, limits.max_title_tokens, False)
    self._marks, self._limits = marks, limits
    self._vectors = jax.device_put(item_vectors)
    self._encoder = VectorEncoder(
      model, params, self._texts([]), max_history=limits.max_history
    )
    self._by_title: dict[str, list[int]] = {}
    for item, title in enumerate(titles):
      self._by_title.setdefault(title, []).append(item)

  def __call__(
    self, histories: Sequence[Sequence[str]], num: int
  ) -> list[list[Recommended]]:
    """The best items for each history, best first.

    Args:
      histories: Titles of each user, oldest first.
      num: K, items for each.

    Raises:
      ValueError: A history without titles, or more items than there are.
    """
    if not all(histories):
      raise ValueError(
        'recommend: a history without a title; give at least one, oldest first.'
      )
    newest = [list(h)[-self._limits.max_history :] for h in histories]
    had = [
      [i for title in h for i in self._by_title.get(title, [])]
      for h in histories
    ]
    most = num + max(map(len, had)) + 1  # Perhaps the padding.
    if not 0 < num < len(self._vectors):
      raise ValueError(
        f'recommend: {num} items of a catalogue of {len(self._vectors) - 1}.'
      )
    vectors = self.user_vectors(newest)
    found = _best(vectors, self._vectors, min(most, len(self._vectors)))
    scores, items = (np.asarray(x) for x in found)
    result = []
    for row_scores, row_items, barred in zip(scores, items, had, strict=True):
      best = [
        Recommended(int(item), float(score))
        for item, score in zip(row_items, row_scores, strict=True)
        if item and item not in barred
      ]
      result.append(best[:num])
    return result

  def user_vectors(self, histories: Sequence[Sequence[str]]) -> np.ndarray:
    """float32 [B, D] of users by their titles, oldest first."""
    flat = [title for history in histories for title in history]
    rows = np.zeros((len(histories), max(map(len, histories))), np.int64)
    item = 1
    for row, history in zip(rows, histories, strict=True):
      row[: len(history)] = np.arange(item, item + len(history))
      item += len(history)
    return self._encoder.of_texts(self._texts(flat), rows)

  def _texts(self, titles: Sequence[str]) -> TextMaker:
    vocabulary = Titles(['', *titles])
    tokens, offsets = self._tokenize(vocabulary.texts(0, len(vocabulary)))
    return TextMaker(
      TitleTokens(tokens, offsets),
      self._marks,
      max_title_tokens=self._limits.max_title_tokens,
      max_tokens=self._limits.max_tokens,
    )


class TitleTokens(NamedTuple):
  """Token ids of titles in memory; see `TokenCache`."""

  tokens: np.ndarray
  offsets: np.ndarray


@functools.partial(jax.jit, static_argnums=2)
def _best(user_BD, item_ND, num):
  return jax.lax.top_k(user_BD @ item_ND.T, num)
