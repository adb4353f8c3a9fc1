# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From records of clicks and the events of all users to batches of arrays."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Shape suffixes: B = examples, N = sequences of a user, M = places of a
# sequence, F = id features, D = numeric features.

Batch = dict[str, np.ndarray]


def make_batch(
  records: Sequence[Mapping[str, Any]],
  events: Sequence[np.ndarray],
  lengths: Sequence[int],
  *,
  size: int | None = None,
) -> Batch:
  """One batch; its histories are read from the events of all users.

  Args:
    records: At least one; 'user', 'item', 'title', 'label', 'starts', 'stops'
      int64 [N], and where there are any 'ids' [F] and 'numeric' [D].
    events: N arrays of behaviours int32, a memory map each; a record's history
      n is events[n][starts[n]:stops[n]], oldest first.
    lengths: Behaviours to take of each sequence, the newest; M is the largest.
    size: Examples to fill up to, by the first record again with weight 0.

  Returns:
    'behaviors' int32 [B, N, M], 0 behind the last one; 'title', 'user', 'item'
    int32 [B]; 'ids' int32 [B, F]; 'numeric', 'label', 'weight' float32.

  Raises:
    ValueError: More records than `size`, a history that is not in its events,
      or another number of sequences.
  """
  size = len(records) if size is None else size
  if not 0 < len(records) <= size:
    raise ValueError(
      f'make_batch: {len(records)} records for a batch of {size}; give from 1'
      f' to {size}.'
    )
  weight = np.zeros(size, np.float32)
  weight[: len(records)] = 1
  records = [*records, *[records[0]] * (size - len(records))]

  def column(name: str, dtype: Any) -> np.ndarray:
    return np.array([record[name] for record in records], dtype)

  starts, stops = column('starts', np.int64), column('stops', np.int64)
  if not starts.shape == stops.shape == (size, len(events)) or len(
    lengths
  ) != len(events):
    raise ValueError(
      f'make_batch: records have {starts.shape[-1]} sequences, there are events'
      f' of {len(events)} and lengths of {len(lengths)}; all must be equal.'
    )
  batch = {
    'behaviors': np.zeros((size, len(events), max(lengths)), np.int32),
    'weight': weight,
  }
  for n, (flat, length) in enumerate(zip(events, lengths, strict=True)):
    batch['behaviors'][:, n, :length] = newest(
      flat, starts[:, n], stops[:, n], length
    )
  for name in ('title', 'user', 'item'):
    batch[name] = column(name, np.int32)
  batch['label'] = column('label', np.float32)
  for name, dtype in (('ids', np.int32), ('numeric', np.float32)):
    if name in records[0] and len(records[0][name]):
      batch[name] = column(name, dtype)
  return batch


def newest(
  events: np.ndarray, starts: np.ndarray, stops: np.ndarray, length: int
) -> np.ndarray:
  """The newest `length` events of each span, int32 [B, length], 0 at the end.

  Args:
    events: int32 [all], or a memory map.
    starts: int64 [B].
    stops: int64 [B].
    length: Events to take.

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
