# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Batches of arrays from records of clicks and events of all users."""

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
  """Makes a batch, reading histories from the events of all users.

  Args:
    columns: At least one row: 'user', 'item', 'title', 'label' [b], 'starts',
      'stops' [b, N], and optionally 'ids' [b, F], 'numeric' [b, D],
      'is_new_user', 'is_new_item' [b].
    events: N memory-mapped arrays of behaviors int32; history n of a row is
      `events[n][starts[n]:stops[n]]`, oldest first.
    lengths: Maximum number of behaviors of each sequence, the newest; M is the
      largest.
    size: Number of rows; padding repeats the first row with weight 0.

  Returns:
    'behaviors' int32 [B, N, M], zero-padded; 'title', 'user', 'item' int32 [B];
    'ids' int32 [B, F]; 'numeric', 'label', 'weight' and 'is_new_...', float32.

  Raises:
    ValueError: There are no rows or more than `size`, a history is outside its
      events, or the number of sequences differs.
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
    # Features without columns are omitted.
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
  """Standardizes and clips numeric features.

  Runs on the host, in float32: a mean rounded to a step's bfloat16 would be off
  by more than a deviation for large numbers that are close together. Missing
  values (NaN) stay missing.
  """

  mean: np.ndarray  # Means in training, float64 [D].
  # Deviations in training, float64 [D]; 0: the feature becomes 0.
  deviation: np.ndarray
  # Maximum absolute result; outliers would dominate other features.
  clip: float = 5.0

  @classmethod
  def of(cls, blocks: Iterable[np.ndarray]) -> Self:
    """Fits the statistics of blocks [n, D] with at least one row in total."""
    count, total, squares = np.int64(0), np.float64(0), np.float64(0)
    origin: Any = None  # Near the mean, for precise differences of squares.
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
  """The newest `length` events of each span, int32 [B, length], zero-padded.

  Raises:
    ValueError: A span is outside the events.
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
