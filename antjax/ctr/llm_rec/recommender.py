# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Vectors of users and items outside of training, and recommendations."""

from collections.abc import Sequence
import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import tokenizers

from antjax.ctr.llm_rec import histories, ranking
from antjax.ctr.llm_rec.model import LLMRec
from antjax.ctr.llm_rec.stored import StoredEncoder, StoredRec
from antjax.ctr.llm_rec.texts import title_tokens, Titles
from antjax.ctr.texts import Marks, TextMaker
from antjax.layers import functional
from antjax.lm import lora
from antjax.lm.text_encoder import TextEncoder
from antjax.lm.token_cache import RowTokenizer

# Shape suffixes: B = users, R = users or items, N = items with the padding, L =
# items of a history, D = width, K = best.


class VectorEncoder(TextEncoder):
  """Encodes histories and titles with one model, on this process's devices.

  Attributes:
    model: As it was given.
  """

  def __init__(
    self,
    model: LLMRec,
    texts: TextMaker,
    *,
    max_history: int = 10,
    compute_dtype: Any = np.float32,
  ):
    """Puts the model on the devices; compiles nothing yet.

    Args:
      model: The model, whole.
      texts: Texts of the catalog.
      max_history: Newest items of a history that make a user's text.
      compute_dtype: Dtype of the parameter copy used to compute; vectors are
        float32.
    """
    self._texts, self._dtype = texts, compute_dtype
    self._max_history = max_history
    super().__init__(
      LLMRec.encode, model, dim=model.dim, max_tokens=texts.max_tokens
    )

  def hold(self, model: LLMRec) -> None:
    """Takes the model of another step; nothing is compiled again."""
    cast = functional.cast(model, lora.computing(self._dtype))
    super().hold(cast)
    self.model = model
    self._items: np.ndarray | None = None

  def items(self, ids: np.ndarray) -> np.ndarray:
    """float32 [R, D] of items, int [R]; zeros for item 0, the padding."""
    return self(*self._texts.ragged(np.asarray(ids)[:, None]))

  def item_vectors(self) -> np.ndarray:
    """float32 [N, D] of all items, for `evaluation.ranks`."""
    if self._items is None:
      self._items = self.items(np.arange(self._texts.num_items))
    return self._items

  def hold_items(self, vectors: np.ndarray) -> None:
    """Takes the vectors of all items, which processes have made together."""
    self._items = vectors

  def user_vectors(self, history: np.ndarray) -> np.ndarray:
    """float32 [R, D] of users by what they have had; zeros for nothing.

    Args:
      history: int [R, L], oldest first, 0 behind the newest.
    """
    newest = histories.newest(np.asarray(history), self._max_history)
    return self(*self._texts.ragged(newest))


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

  Titles need not be of the catalog: text is all that the model knows. An item
  that is in the history, by its title, is not recommended.

  Attributes:
    limits: Length limits of its texts.
    item_vectors: float32 [N, D].
  """

  def __init__(
    self,
    model: LLMRec,
    tokenizer: tokenizers.Tokenizer,
    marks: Marks,
    limits: Limits,
    titles: Sequence[str],
    item_vectors: np.ndarray,
  ):
    """Puts the vectors on a device.

    Args:
      model: The model, whole.
      tokenizer: Tokenizer of the language model.
      marks: Marks around its texts.
      limits: Length limits of its texts.
      titles: Titles of the items, [N]; '' for item 0.
      item_vectors: float32 [N, D].

    Raises:
      ValueError: Vectors of another number or width.
    """
    self._hold_catalogue(titles, item_vectors, model.dim, limits)
    self._tokenize = RowTokenizer(tokenizer, limits.max_title_tokens, False)
    self._marks = marks
    self._encoder = TextEncoder(
      LLMRec.encode,
      functional.cast(model, lora.computing(np.float32)),
      dim=model.dim,
      max_tokens=limits.max_tokens,
    )

  def _hold_catalogue(
    self,
    titles: Sequence[str],
    item_vectors: np.ndarray,
    dim: int,
    limits: Limits,
  ) -> None:
    if item_vectors.shape != (len(titles), dim):
      raise ValueError(
        f'item_vectors are {list(item_vectors.shape)}; needed is'
        f' [{len(titles)}, {dim}], one a title in the width of the model.'
      )
    self.item_vectors, self.limits = jax.device_put(item_vectors), limits
    self._by_title: dict[str, list[int]] = {}
    for item, title in enumerate(titles):
      self._by_title.setdefault(title, []).append(item)

  def add(self, titles: Sequence[str]) -> None:
    """Adds items behind the others: a title is all that is needed."""
    vectors = self.title_vectors(titles)
    for item, title in enumerate(titles, len(self.item_vectors)):
      self._by_title.setdefault(title, []).append(item)
    self.item_vectors = jax.device_put(
      np.concatenate([self.item_vectors, vectors])
    )

  def __call__(
    self, users: Sequence[Sequence[str]], num: int
  ) -> list[list[Recommended]]:
    """The best items for each user, best first.

    Args:
      users: Titles of each user's history, oldest first.
      num: K, items for each.

    Raises:
      ValueError: A history without titles, or more items than there are.
    """
    if not all(users):
      raise ValueError(
        'recommend: a history without a title; give at least one, oldest first.'
      )
    had = [
      [i for title in titles for i in self._by_title.get(title, [])]
      for titles in users
    ]
    # With the padding, perhaps; rounded up: few numbers, so few compilations.
    most = 1 << (num + max(map(len, had))).bit_length()
    if not 0 < num < len(self.item_vectors):
      raise ValueError(
        f'recommend: {num} items of a catalogue of'
        f' {len(self.item_vectors) - 1}.'
      )
    vectors = self.user_vectors(
      [titles[-self.limits.max_history :] for titles in users]
    )
    found = _best(vectors, self.item_vectors, min(most, len(self.item_vectors)))
    scores, items = (np.asarray(x).tolist() for x in found)
    return [
      [
        Recommended(item, score)
        for item, score in zip(row_items, row_scores, strict=True)
        if item and item not in barred
      ][:num]
      for row_scores, row_items, barred in zip(scores, items, had, strict=True)
    ]

  def title_vectors(self, titles: Sequence[str]) -> np.ndarray:
    """float32 [len(titles), D] of items with such titles."""
    return self.user_vectors([[title] for title in titles])

  def user_vectors(self, users: Sequence[Sequence[str]]) -> np.ndarray:
    """float32 [B, D] of users by their titles, oldest first."""
    titles = Titles(['', *(title for user in users for title in user)])
    tokens, offsets = self._tokenize(titles.texts(0, len(titles)))
    texts = TextMaker(
      _TitleTokens(tokens, offsets),
      self._marks,
      max_title_tokens=self.limits.max_title_tokens,
      max_tokens=self.limits.max_tokens,
    )
    # Titles are numbered through: each is an item of this catalog.
    sizes = np.array([len(user) for user in users])
    place = np.arange(sizes.max())[None]
    number = 1 + place + (np.cumsum(sizes) - sizes)[:, None]
    rows = np.where(place < sizes[:, None], number, 0)
    return self._encoder(*texts.ragged(rows))


class StoredRecommender(Recommender):
  """The same with a `StoredRec`: titles go through the low layers first."""

  def __init__(
    self,
    model: StoredRec,
    low: TextEncoder,
    tokenizer: tokenizers.Tokenizer,
    limits: Limits,
    titles: Sequence[str],
    item_vectors: np.ndarray,
  ):
    """Puts the vectors on a device.

    Args:
      model: The model, whole.
      low: Low half of the language model, `antjax.ctr.bahe.encode`'s.
      tokenizer: Tokenizer of the language model.
      limits: Length limits; `max_tokens` is that of a title's row.
      titles: Titles of the items, [N]; '' for item 0.
      item_vectors: float32 [N, D].

    Raises:
      ValueError: Vectors of another number or width.
    """
    self._hold_catalogue(titles, item_vectors, model.dim, limits)
    self._model, self._low = (
      functional.cast(model, lora.computing(np.float32)),
      low,
    )
    other = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    self._row_tokens = RowTokenizer(other, limits.max_tokens)
    self._words = RowTokenizer(tokenizer, limits.max_title_tokens, False)

  def title_vectors(self, titles: Sequence[str]) -> np.ndarray:
    """float32 [len(titles), D] of new items with such titles."""
    encoder, ids = self._encoder_of(titles), np.arange(1, len(titles) + 1)
    if encoder.is_late:
      model, is_new = encoder.model, np.ones(len(titles) + 1, bool)
      encoder.raise_new(is_new, model.new_bias, model.new_words)
    return encoder.item_vectors()[ids]

  def _encoder_of(self, titles: Sequence[str]) -> StoredEncoder:
    """Of a catalog of these titles, whose numbers begin at 1."""
    texts = Titles(['', *titles]).texts(0, len(titles) + 1)
    words, offsets = self._words(texts)
    num_words = self.limits.max_title_tokens
    return StoredEncoder(
      self._model,
      self._low(*self._row_tokens(texts)),
      title_tokens(words, offsets, num_words, num_words),
      max_history=self.limits.max_history,
    )

  def user_vectors(self, users: Sequence[Sequence[str]]) -> np.ndarray:
    """float32 [B, D] of users by their titles; late ones [B, H, D]."""
    distinct = {title for user in users for title in user}
    place = {title: i for i, title in enumerate(sorted(distinct), 1)}
    history = np.zeros((len(users), max(map(len, users))), np.int32)
    for row, user in zip(history, users, strict=True):
      row[: len(user)] = [place[title] for title in user]
    return self._encoder_of([*place]).user_vectors(history)

  def title_rows(self, titles: Sequence[str]) -> np.ndarray:
    """Rows of titles as a store has them, float32 [len(titles), X]."""
    texts = Titles(['', *titles]).texts(1, len(titles) + 1)
    return self._low(*self._row_tokens(texts))


class _TitleTokens(NamedTuple):
  """Token ids of titles in memory; see `TokenCache`."""

  tokens: np.ndarray
  offsets: np.ndarray


@functools.partial(jax.jit, static_argnums=2)
def _best(users, item_ND, num):
  return jax.lax.top_k(ranking.scores(users, item_ND), num)
