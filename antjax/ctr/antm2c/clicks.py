# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Clicks in columns, and batches of them."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from antjax.ctr.bahe import batches

# Shape suffixes: N = clicks, B = rows of a batch, C = id columns, K = numeric
# columns, Q = sequences, M = places of the history, X = width of vectors.


@dataclasses.dataclass(frozen=True, eq=False)
class TextVectors:
  """A vector a behaviour, of a language model, say.

  Attributes:
    vectors: [num_behaviors, X], float16 or float32; a memory map will do.
    sequences: Numbers of the sequences that are texts of their own.
    max_pieces: Newest behaviours of each of them that are averaged.
  """

  vectors: np.ndarray
  sequences: tuple[int, ...]
  max_pieces: int = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Clicks:
  """Examples of one split.

  Attributes:
    columns: 'user', 'item', 'title', 'label', 'scenario' [N]; 'ids' [N, C],
      'numeric' [N, K], 'starts', 'stops' [N, Q]; 'is_new_user',
      'is_new_item'; 'conversion' [N] where there is a second label.
    events: Q arrays: a click's history n is events[n][starts[n]:stops[n]].
    history: Number of the sequence that is the history; None: none.
    max_history: M, the newest that are taken.
    text: Vectors of texts, or None.
    images: [num_items, X] by item, zeros without an image; or None.
    unknown: Whether users and items that training has not seen become 0.
  """

  columns: Mapping[str, np.ndarray]
  events: tuple[np.ndarray, ...]
  history: int | None
  max_history: int
  text: TextVectors | None = None
  images: np.ndarray | None = None
  unknown: bool = True

  def __len__(self) -> int:
    return len(self.columns['label'])

  def batch(self, index: np.ndarray, size: int) -> dict[str, Any]:
    """What a step reads.

    Args:
      index: Numbers of the clicks [b], 0 < b <= size.
      size: B; rows that are lacking repeat the first one with weight 0.
    """
    count = len(index)
    if count < size:
      index = np.concatenate([index, np.repeat(index[:1], size - count)])
    columns = self.columns
    found = {n: columns[n][index] for n in ('label', 'scenario')}
    found['weight'] = (np.arange(size) < count).astype(np.float32)
    found['index'] = index.astype(np.int32)
    ids = {n: columns[n][index] for n in ('user', 'item', 'title')}
    if self.unknown:
      for name in ('user', 'item'):
        ids[name] = np.where(columns[f'is_new_{name}'][index], 0, ids[name])
    ids['scenario'] = found['scenario']
    if columns['ids'].shape[1]:
      ids['columns'] = columns['ids'][index]
    for name in ('numeric', 'conversion'):
      if name in columns and columns[name].size:
        found[name] = columns[name][index]
    starts, stops = columns['starts'][index], columns['stops'][index]
    if self.history is not None:
      n = self.history
      history = batches.newest(
        self.events[n], starts[:, n], stops[:, n], self.max_history
      )
      ids['history'] = np.where(history == 0, -1, history)
    if self.text is not None:
      found['text_title'] = self._vectors(ids['title'])
      for n in self.text.sequences:
        pieces = batches.newest(
          self.events[n], starts[:, n], stops[:, n], self.text.max_pieces
        )
        found[f'text_{n}'] = self._mean(pieces)
    if self.images is not None:
      found['image'] = self.images[columns['item'][index]].astype(np.float32)
    return found | {'ids': ids}

  def _vectors(self, behaviors: np.ndarray) -> np.ndarray:
    assert self.text is not None
    return self.text.vectors[behaviors].astype(np.float32)

  def _mean(self, pieces_BP: np.ndarray) -> np.ndarray:
    """Mean vector of the pieces that are there [B, X]; 0 for none."""
    there_BP = (pieces_BP > 0).astype(np.float32)
    # Distinct ones first: texts repeat, and vectors are wide.
    distinct, place = np.unique(pieces_BP, return_inverse=True)
    rows = self._vectors(distinct)[place.reshape(pieces_BP.shape)]
    total_BX = np.einsum('bp,bpx->bx', there_BP, rows)
    return total_BX / np.maximum(there_BP.sum(axis=1, keepdims=True), 1)
