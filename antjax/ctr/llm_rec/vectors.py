# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Vectors of users and items outside of training: evaluation and serving."""

from typing import Any

import jax
import numpy as np

from antjax.ctr.llm_rec import histories
from antjax.ctr.llm_rec.model import LLMRec
from antjax.ctr.texts import TextMaker
from antjax.lm.text_encoder import TextEncoder

PyTree = Any
# Shape suffixes: R = users or items, N = items of a history, D = width.


class VectorEncoder:
  """Encodes histories and titles with one model, on this process's devices.

  Attributes:
    dim: D.
    params: The model's, as they were given.
  """

  def __init__(
    self,
    model: LLMRec,
    params: PyTree,
    texts: TextMaker,
    *,
    max_history: int = 10,
    compute_dtype: Any = np.float32,
    tokens_per_batch: int | None = None,
  ):
    """Puts the parameters on the devices; compiles nothing yet.

    Args:
      model: The model.
      params: Its parameters, whole.
      texts: Texts of the catalog.
      max_history: Newest items of a history that make a user's text.
      compute_dtype: Dtype of the parameter copy used to compute; vectors are
        float32.
      tokens_per_batch: See `TextEncoder`.
    """
    self._texts, self._dtype = texts, compute_dtype
    self._max_history = max_history
    self.dim = model.dim
    self._items: np.ndarray | None = None
    self.params = params
    self._encoder = TextEncoder(
      model.encode,
      self._cast(params),
      dim=model.dim,
      max_tokens=texts.max_tokens,
      tokens_per_batch=tokens_per_batch,
    )

  def _cast(self, params: PyTree) -> PyTree:
    return jax.tree.map(lambda x: np.asarray(x).astype(self._dtype), params)

  def hold(self, params: PyTree) -> None:
    """Takes the parameters of another step; nothing is compiled again."""
    self._encoder.hold(self._cast(params))
    self.params, self._items = params, None

  def items(self, ids: np.ndarray) -> np.ndarray:
    """float32 [R, D] of items, int [R]; zeros for item 0, the padding."""
    return self._encoder(*self._texts.ragged(np.asarray(ids)[:, None]))

  def item_vectors(self) -> np.ndarray:
    """float32 [N, D] of all items, for `evaluation.ranks`."""
    if self._items is None:
      self._items = self.items(np.arange(self._texts.num_items))
    return self._items

  def hold_items(self, vectors: np.ndarray) -> None:
    """Takes the vectors of all items, which processes have made together."""
    self._items = vectors

  def user_vectors(self, history: np.ndarray) -> np.ndarray:
    """Vectors of users by what they have had.

    Args:
      history: int [R, N], oldest first, 0 behind the newest.

    Returns:
      float32 [R, D]; zeros for an empty history.
    """
    newest = histories.newest(np.asarray(history), self._max_history)
    return self._encoder(*self._texts.ragged(newest))

  def of_texts(self, texts: TextMaker, items: np.ndarray) -> np.ndarray:
    """float32 [R, D] of texts of another catalog, cut as this one's.

    Args:
      texts: Texts of that catalog.
      items: int [R, N], its items of each text.
    """
    return self._encoder(*texts.ragged(items))
