# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The distinct behaviours of a batch, so that each is read or encoded once."""

from collections.abc import Mapping
from typing import Any

import numpy as np

# Shape suffixes: P = parts of the batch, U = capacity.


def distinct_behaviors(
  batch: Mapping[str, Any], num_parts: int, capacity: int, fill: int = 0
) -> tuple[np.ndarray, dict[str, Any]]:
  """Finds each part's distinct behaviours and points the batch at them.

  A part is what one device works off at a time: a micro-batch, or its share of
  the batch. Its first distinct behaviour is always 0, the padding.

  Args:
    batch: See `antjax.ctr.bahe.batches`: 'behaviors' int32 [B, N, M] and
      'title' int32 [B], B a multiple of `num_parts`; part i is the i-th of
      equal runs of examples.
    num_parts: P.
    capacity: Most distinct behaviours of a part, U.
    fill: Stands at the end of a part with fewer.

  Returns:
    (ids int32 [P * U], rising in each part, then filled up; the batch with
    'behaviors' and 'title' as indices from 0 to U - 1 into their part's U).

  Raises:
    ValueError: A part has more distinct behaviours, or B does not divide.
  """
  behaviors = np.asarray(batch['behaviors'])
  title = np.asarray(batch['title'])
  size = len(title)
  if size % num_parts:
    raise ValueError(
      f'distinct_behaviors: a batch of {size} examples in {num_parts} parts;'
      ' make the batch a multiple of the parts.'
    )
  flat = np.concatenate([behaviors.reshape(size, -1), title[:, None]], axis=1)
  flat = flat.reshape(num_parts, -1)
  ids = np.full((num_parts, capacity), fill, np.int32)
  indices = np.empty(flat.shape, np.int32)
  for i, part in enumerate(flat):
    found, inverse = np.unique(np.append(part, 0), return_inverse=True)
    if len(found) > capacity:
      raise ValueError(
        f'distinct_behaviors: {len(found)} distinct behaviours in one part of'
        f' {size // num_parts} examples, where capacity={capacity}; raise it,'
        ' or make the parts smaller.'
      )
    ids[i, : len(found)] = found
    indices[i] = inverse[:-1]
  rows = indices.reshape(size, -1)
  return ids.reshape(-1), dict(batch) | {
    'behaviors': rows[:, :-1].reshape(behaviors.shape),
    'title': np.ascontiguousarray(rows[:, -1]),
  }
