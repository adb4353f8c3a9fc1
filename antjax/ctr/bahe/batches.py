# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From records of clicks and the events of all users to batches of arrays."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
from typing import Any, Self

import numpy as np

# Shape suffixes: b = rows given, B = rows of the batch, N = sequences,
# M = places of a sequence, F = id features, D = numeric features.

Batch = dict[str, np.ndarray]
_DTYPES = {
  **dict.fromkeys(('title', 'user', 'item', 'ids'), np.int32),
  **dict.fromkeys(('label', 'numeric'), np.float32),
  **dict.fromkeys(('is_new_user', 'is_new_item'), np.float32),
}


def make_batch(
  columns: Mapping[str, np.ndarray],
  events: Sequence[np.ndarray],
  lengths: Sequence[int],
  *,
  size: int | None = None,
) -> Batch:
  """One batch; its histories are read from the events of all users.

  Args:
    columns: At least one row: 'user', 'item', 'title', 'label' [b], 'starts',
      'stops' [b, N], and where there are any 'ids' [b, F], 'numeric' [b, D],
      'is_new_user', 'is_new_item' [b].
    events: N arrays of behaviors int32, a memory map each; a row's history n
      is `events[n][starts[n]:stops[n]]`, oldest first.
    lengths: Behaviors to take of each sequence, the newest; M is the largest.
    size: Rows to fill up to, by the first one again with weight 0.

  Returns:
    'behaviors' int32 [B, N, M], 0 behind the last one; 'title', 'user', 'item'
    int32 [B]; 'ids' int32 [B, F]; 'numeric', 'label', 'weight' and the marks
    of what is new, float32.

  Raises:
    ValueError: No row or more than `size`, a history that is not in its events,
      or another number of sequences.
  """
  num_rows = len(columns['label'])
  size = num_rows if size is None else size
  if not 0 < num_rows <= size:
    raise ValueError(
      f'make_batch: {num_rows} rows for a batch of {size}; give from 1 to'
      f' {size}.'
    )
  shape = (num_rows, len(events))
  starts, stops = (np.asarray(columns[name]) for name in ('starts', 'stops'))
  if not starts.shape == stops.shape == shape or len(lengths) != len(events):
    raise ValueError(
      f'make_batch: starts are {list(starts.shape)} for {num_rows} rows, there'
      f' are events of {len(events)} sequences and {len(lengths)} lengths; the'
      ' three numbers of sequences must be equal.'
    )
  found = {
    'behaviors': np.zeros((*shape, max(lengths)), np.int32),
    'weight': np.ones(num_rows, np.float32),
  }
  for n, (flat, length) in enumerate(zip(events, lengths, strict=True)):
    found['behaviors'][:, n, :length] = newest(
      flat, starts[:, n], stops[:, n], length
    )
  for name, dtype in _DTYPES.items():
    # A feature of no columns is none.
    if name in columns and np.size(columns[name]):
      found[name] = np.asarray(columns[name], dtype)
  if num_rows == size:
    return found
  filled = {
    name: np.concatenate([x, np.repeat(x[:1], size - num_rows, axis=0)])
    for name, x in found.items()
  }
  filled['weight'][num_rows:] = 0
  return filled


@dataclasses.dataclass(frozen=True, eq=False)
class Standardizer:
  """Numeric features less their mean, in standard deviations, clipped.

  On the host, in float32: a mean rounded to the bfloat16 of a step would be
  off by more than a deviation where numbers are large and close together. What
  is missing, NaN, stays so.

  Attributes:
    mean: float64 [D], in training.
    deviation: float64 [D]; where it is 0 the feature becomes 0.
    clip: Largest size of a result; an outlier would drown all other features.
  """

  mean: np.ndarray
  deviation: np.ndarray
  clip: float = 5.0

  @classmethod
  def of(cls, blocks: Iterable[np.ndarray]) -> Self:
    """The statistics of blocks [n, D]; at least one row in all."""
    count, total, squares = np.int64(0), np.float64(0), np.float64(0)
    origin: Any = None  # Near the mean, or the squares' difference is lost.
    for block in blocks:
      values = np.asarray(block, np.float64)
      there = ~np.isnan(values)
      if origin is None:
        origin = np.full(values.shape[1:], np.nan)
      is_first = np.isnan(origin) & there.any(axis=0)
      origin[is_first] = np.nanmean(values[:, is_first], axis=0)
      count = count + there.sum(axis=0)
      total = total + (values - origin).sum(axis=0, where=there)
      squares = squares + np.square(values - origin).sum(axis=0, where=there)
    offset = total / np.maximum(count, 1)
    variance = np.maximum(squares / np.maximum(count, 1) - np.square(offset), 0)
    return cls(np.nan_to_num(origin) + offset, np.sqrt(variance))

  def __call__(self, numeric: np.ndarray) -> np.ndarray:
    """float32 [n, D]."""
    scale = np.where(self.deviation > 0, self.deviation, np.inf)
    scaled = (numeric - self.mean) / scale
    return np.clip(scaled, -self.clip, self.clip).astype(np.float32)


def newest(
  events: np.ndarray, starts: np.ndarray, stops: np.ndarray, length: int
) -> np.ndarray:
  """The newest `length` events of each span, int32 [B, length], 0 at the end.

  Raises:
    ValueError: A span that is not in the events.
  """
  wrong = (starts < 0) | (stops < starts) | (stops > len(events))
  if wrong.any():
    i = int(np.argmax(wrong))
    raise ValueError(
      f'newest: a history from {starts[i]} to {stops[i]} of {len(events)}'
      ' events; the records belong to other events, or are damaged.'
    )
  first = np.maximum(starts, stops - length)
  places = first[:, None] + np.arange(length)
  is_there = places < stops[:, None]
  if not is_there.any():
    return np.zeros(places.shape, np.int32)
  found = events[np.where(is_there, places, 0)]
  return np.where(is_there, found, 0).astype(np.int32)
