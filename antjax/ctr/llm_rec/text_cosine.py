# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Cosine of texts by a language model that is not trained on any event.

score(u, i) = cos(text vector of u, text vector of i), where u's vector is

  last          that of the title of the newest item
  mean          the mean of those of the newest items, each of length 1
  concatenated  that of one text: the titles of the newest items, oldest first

Text vectors are a language model's, made by the caller: this module knows how
they are put together and how the one text is cut.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Literal

import numpy as np
import tokenizers

from antjax.ctr.llm_rec import histories

# Shape suffixes: N = items with the padding, B = users, L = history, M = newest
# items, D = width.

Kind = Literal['last', 'mean', 'concatenated']
_SEPARATOR = '; '  # Between titles, as in LLM-Rec.


@dataclasses.dataclass(frozen=True)
class TextCosine:
  """A model of vectors.

  Attributes:
    kind: What a user's vector is, see the module.
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
