# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Id columns derived from the time of a click."""

from collections.abc import Mapping, Sequence

import numpy as np

# Shape suffixes: N = clicks.

# Name -> number of ids. Gaps are logarithmic: 2^35 s are a thousand years.
NUM_IDS = {'hour': 24, 'weekday': 7, 'gap': 37}


def columns(
  wanted: Sequence[str], user_N: np.ndarray, time_N: np.ndarray
) -> dict[str, np.ndarray]:
  """Column, such as time_hour -> int32 [N].

  `wanted` are any of hour, weekday (UTC, Monday is 0) and gap: 0 for a user's
  first moment, else 1 + floor(log2(1 + s)) for s seconds since the previous
  moment. The clicks are those of all splits, at times in seconds since 1970.

  Raises:
    ValueError: Times are not in seconds since 1970.
  """
  if wanted and not 1e8 < time_N.min() <= time_N.max() < 1e11:
    raise ValueError(
      f'fields.time={",".join(wanted)}: the clicks are from {time_N.min()} to'
      f' {time_N.max()}; needed are seconds since 1970 in the column that the'
      ' schema names as time.'
    )
  found = {}
  for name in wanted:
    if name == 'hour':
      found[f'time_{name}'] = time_N // 3600 % 24
    elif name == 'weekday':
      # 1970 began on a Thursday.
      found[f'time_{name}'] = (time_N // 86_400 + 3) % 7
    else:
      order = np.lexsort((time_N, user_N))
      user, time = user_N[order], time_N[order]
      gap = np.diff(time, prepend=0)
      is_first = np.diff(user, prepend=-1) != 0
      # Clicks at the same time refer to the previous time, not to each other.
      start = np.flatnonzero(is_first | (gap > 0))
      moment = np.repeat(start, np.diff(np.append(start, len(gap))))
      log = 1 + np.floor(np.log2(1 + np.maximum(gap[moment], 0)))
      log = np.minimum(log, NUM_IDS['gap'] - 1).astype(np.int64)
      ids = np.where(is_first[moment], 0, log)
      found['time_gap'] = np.empty_like(ids)
      found['time_gap'][order] = ids
  return {name: ids.astype(np.int32) for name, ids in found.items()}


def add(
  wanted: Sequence[str],
  splits: Mapping[str, Mapping[str, np.ndarray]],
  ids: Mapping[str, dict[str, np.ndarray]],
) -> None:
  """Adds these columns to the ids of each split, from 'user' and 'time'."""
  if not wanted:
    return
  user, time = (
    np.concatenate([found[name] for found in splits.values()])
    for name in ('user', 'time')
  )
  ends = np.cumsum([len(found['label']) for found in splits.values()])
  for name, values in columns(wanted, user, time).items():
    for split, part in zip(splits, np.split(values, ends[:-1]), strict=True):
      ids[split][name] = part
