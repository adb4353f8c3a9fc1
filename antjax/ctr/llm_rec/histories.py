# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Histories as padded rows: oldest item first, 0 behind the newest one."""

import numpy as np

# Shape suffixes: B = examples, L = places of a history.


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
