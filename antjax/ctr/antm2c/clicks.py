# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Clicks in columns, and their batches."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, Self

import numpy as np

from antjax.ctr.antm2c.bags import Bag
from antjax.ctr.bahe import batches

# Shape suffixes: N = clicks, B = rows of a batch, C = id columns of the data,
# K = numeric columns, T = labels, Q = sequences, H = histories, M = places of a
# history, P = pieces of a text, V = behaviors, X = width of vectors.


@dataclasses.dataclass(frozen=True, eq=False)
class TextVectors:
  """One vector per behavior, e.g. from a language model."""

  # [num_behaviors, X], float16 or float32; may be memory-mapped.
  vectors: np.ndarray
  # Numbers of the sequences that form separate texts.
  sequences: tuple[int, ...]
  # Maximum number of behaviors of each to average, the newest.
  max_pieces: int = 16


@dataclasses.dataclass(frozen=True, eq=False)
class ScenarioClicks:
  """Examples of one split."""

  # Names of the id columns: 'user', 'item', 'title', 'scenario' and C others.
  names: tuple[str, ...]
  ids: np.ndarray  # Ids int32 [N, 4 + C]; a click reads one contiguous row.
  label: np.ndarray  # Labels float32 [N].
  numeric: np.ndarray  # Numeric columns float32 [N, K].
  # int64 [N, Q]: sequence n of a click is `events[n][starts:stops]`.
  starts: np.ndarray
  stops: np.ndarray  # int64 [N, Q], see `starts`.
  events: tuple[np.ndarray, ...]  # Events of the sequences, Q arrays.
  histories: tuple[int, ...]  # Numbers of the sequences that are histories.
  max_history: int  # M, maximum number of events used of each, the newest.
  # Name -> int32 [V], an id of each title's item.
  history_columns: Mapping[str, np.ndarray] = dataclasses.field(
    default_factory=dict
  )
  # int32 [V], the id of each title in a batch; None: unchanged.
  titles: np.ndarray | None = None
  # Name -> sequence that is a bag of ids.
  bags: Mapping[str, Bag] = dataclasses.field(default_factory=dict)
  text: TextVectors | None = None  # Vectors of texts, or None.
  # [num_items, X] by item, zeros for no image; or None.
  images: np.ndarray | None = None
  # int32 [N], items of clicks as in the data, for images.
  image_items: np.ndarray | None = None
  # float32 [N, T - 1], labels after the first one; None: only one.
  labels: np.ndarray | None = None
  # Further columns [N] for scores.
  scored: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

  def __len__(self) -> int:
    return len(self.label)

  def part(self, start: int, stop: int) -> tuple[Self, np.ndarray]:
    """Clicks, and the indices in them of the clicks start <= index < stop."""
    return self, np.arange(start, stop)

  def column(self, name: str) -> np.ndarray:
    """An id column, int32 [N]."""
    return self.ids[:, self.names.index(name)]

  def every_label(self, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Name -> label [N], starting with the first label."""
    rest = () if self.labels is None else self.labels.T
    return dict(zip(names, (self.label, *rest), strict=True))

  def by_scenario(self, index: np.ndarray, rows_of_part: int) -> np.ndarray:
    """Order of clicks [b]: by scenario within each part of a device."""
    part = np.arange(len(index)) // rows_of_part
    scenario = self.ids[index, self.names.index('scenario')]
    return np.lexsort((scenario, part))

  def batch(self, index: np.ndarray, size: int) -> dict[str, Any]:
    """Inputs of a step from clicks [b]; padding repeats the last one.

    Returns:
      'ids' int32 [B, 4 + C]; 'label', 'weight' float32 [B], with weight 0 for
      padding; 'history' and 'history_...' int32 [B, H, M], -1 after the newest;
      'bag_...' int32 [B, P]; 'numeric', 'labels', 'text_...' and 'image' if
      present.
    """
    count = len(index)
    if count < size:
      index = np.concatenate([index, np.repeat(index[-1:], size - count)])
    found: dict[str, Any] = {
      'ids': self.ids.take(index, axis=0),  # Indexing is four times slower.
      'label': self.label.take(index),
    }
    found['weight'] = np.ones(size, np.float32)
    found['weight'][count:] = 0
    if self.numeric.shape[1]:
      found['numeric'] = self.numeric[index]
    if self.labels is not None:
      found['labels'] = self.labels[index]
    if self.histories:
      history = np.stack(
        [self._newest(n, index, self.max_history) for n in self.histories], 1
      )
      titles = history if self.titles is None else self.titles[history]
      found['history'] = np.where(history == 0, -1, titles)
      for name, ids_V in self.history_columns.items():
        ids = np.where(history == 0, -1, ids_V[history])
        found[f'history_{name}'] = ids
    for name, bag in self.bags.items():
      pieces = self._newest(bag.sequence, index, bag.max_pieces)
      found[f'bag_{name}'] = bag.ids_V[pieces]
    if self.text is not None:
      titles = found['ids'][:, self.names.index('title')]
      found['text_title'] = self._vectors(titles)
      for n in self.text.sequences:
        pieces = self._newest(n, index, self.text.max_pieces)
        found[f'text_{n}'] = self._mean(pieces)
    if self.titles is not None:  # After the vectors of texts.
      title_B = found['ids'][:, self.names.index('title')]
      title_B[:] = self.titles[title_B]
    if self.images is not None:
      assert self.image_items is not None
      items = self.image_items[index]
      found['image'] = self.images[items].astype(np.float32)
    return found

  def _newest(self, n: int, index: np.ndarray, length: int) -> np.ndarray:
    starts, stops = self.starts[index, n], self.stops[index, n]
    return batches.newest(self.events[n], starts, stops, length)

  def _vectors(self, behaviors: np.ndarray) -> np.ndarray:
    assert self.text is not None
    return self.text.vectors[behaviors].astype(np.float32)

  def _mean(self, pieces_BP: np.ndarray) -> np.ndarray:
    """Mean vector of the existing pieces [B, X]; 0 without pieces."""
    there_BP = (pieces_BP > 0).astype(np.float32)
    # Reads distinct vectors: texts repeat, and vectors are wide.
    distinct, place = np.unique(pieces_BP, return_inverse=True)
    rows = self._vectors(distinct)[place.reshape(pieces_BP.shape)]
    total_BX = np.einsum('bp,bpx->bx', there_BP, rows)
    return total_BX / np.maximum(there_BP.sum(axis=1, keepdims=True), 1)
