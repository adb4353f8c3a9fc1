# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reuses rows of another store for texts in both vocabularies.

Stores of several data sets or separate vocabularies can thus share encoded
texts: a new store copies the rows of equal texts and encodes the rest.
"""

from collections.abc import Callable, Sequence

import numpy as np

from antjax.ctr.bahe.manifest import Manifest
from antjax.ctr.bahe.store import BehaviorStore
from antjax.lm import fingerprint

_BLOCK = 65_536  # Texts read at once.


class KnownRows:
  """Rows by text."""

  def __init__(
    self, folder: str, vocabulary: fingerprint.TextRows, like: Manifest
  ):
    """Opens a store and reads the texts of its rows, of a vocabulary.

    Raises:
      ValueError: It was made by another model, cut or dtype than the store that
        takes the rows, or of another vocabulary.
    """
    self._store = BehaviorStore.open(folder)
    manifest = self._store.manifest
    names = ('model', 'tokenizer', 'num_low', 'max_tokens', 'compute_dtype')
    manifest.check(**{name: getattr(like, name) for name in names})
    if manifest.dtype != like.dtype:
      raise ValueError(
        f'known_store={folder} has {manifest.dtype} rows, needed are'
        f' {like.dtype}.'
      )
    manifest.check_vocabulary(vocabulary)
    self._table = self._store.table(np.float32)
    self._rows: dict[str, int] = {}
    for start in range(0, self._store.rows, _BLOCK):
      stop = min(start + _BLOCK, self._store.rows)
      found = enumerate(vocabulary.texts(start, stop), start)
      self._rows.update((text, row) for row, text in found)
    self.num_taken = 0

  def fill(
    self,
    texts: Sequence[str],
    encode: Callable[[list[str]], np.ndarray],
  ) -> np.ndarray:
    """float32 [texts, D]: known rows, and what `encode` makes of the others."""
    rows = np.array([self._rows.get(text, -1) for text in texts])
    is_known = rows >= 0
    found = np.zeros((len(texts), self._store.dim), np.float32)
    found[is_known] = self._table[rows[is_known]]
    if not is_known.all():
      found[~is_known] = encode(
        [text for text, known in zip(texts, is_known, strict=True) if not known]
      )
    self.num_taken += int(is_known.sum())
    return found
