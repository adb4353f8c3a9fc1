# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Histories as padded rows: oldest item first, 0 behind the newest one."""

import numpy as np
from scipy import sparse

# Shape suffixes: B = examples, L = places of a history, M =
# newest items, N = items with the padding.


def newest(history_BL: np.ndarray, length: int) -> np.ndarray:
  """The newest items of each history, int32 [B, length].

  Args:
    history_BL: int, 0 behind the newest item.
    length: Items to take.
  """
  sizes = (history_BL > 0).sum(axis=1)
  first = np.maximum(sizes - length, 0)
  places = first[:, None] + np.arange(length)
  is_there = places < sizes[:, None]
  if not history_BL.shape[1]:
    return np.zeros(places.shape, np.int32)
  places = np.minimum(places, history_BL.shape[1] - 1)
  found = np.take_along_axis(history_BL, places, axis=1)
  return np.where(is_there, found, 0).astype(np.int32)


def of_items(history_BL: np.ndarray, is_kept: np.ndarray) -> np.ndarray:
  """The histories with some items only, in their order, [B, L].

  Args:
    history_BL: See `newest`.
    is_kept: bool [items].
  """
  stays = is_kept[history_BL] & (history_BL > 0)
  order = np.argsort(~stays, axis=1, kind='stable')
  found = np.take_along_axis(np.where(stays, history_BL, 0), order, axis=1)
  return found.astype(np.int32)


def distinct(history_BL: np.ndarray) -> np.ndarray:
  """Each item once, in no order, [B, L]; 0 fills up."""
  ordered = np.sort(history_BL, axis=1)
  repeats = np.zeros(ordered.shape, bool)
  repeats[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
  return np.where(repeats, 0, ordered).astype(np.int32)


def matrix(
  history_BL: np.ndarray,
  num_items: int,
  max_history: int,
  half_life: float = 0.0,
) -> sparse.csr_matrix:
  """float32 [B, N]: .5^(age / half_life) at each newest item; 0: all 1."""
  newest_BM = newest(history_BL, max_history)
  weights_BM = decay(newest_BM, half_life)
  user, place = np.nonzero(newest_BM)
  return sparse.csr_matrix(
    (weights_BM[user, place], (user, newest_BM[user, place])),
    (len(newest_BM), num_items),
  )


def decay(newest_BM: np.ndarray, half_life: float) -> np.ndarray:
  """float32 [B, M]: .5^(age / half_life), 0 where there is no item.

  Args:
    newest_BM: From `histories.newest`.
    half_life: Items after which a weight is halved; 0: all weigh 1.
  """
  is_there = newest_BM > 0
  age = is_there.sum(axis=1, keepdims=True) - 1 - np.arange(is_there.shape[1])
  weights = 0.5 ** (age / half_life) if half_life else np.ones(age.shape)
  return np.where(is_there, weights, 0).astype(np.float32)
