# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sequences whose values are ids: words of a text, values of a list."""

import dataclasses
from typing import get_args, Literal, Self

import numpy as np

# Shape suffixes: N = clicks, V = behaviors, P = values of a click.

Way = Literal['mean', 'sum', 'attention']
WAYS = get_args(Way)


@dataclasses.dataclass(frozen=True, eq=False)
class Bag:
  """A sequence as a bag of ids.

  Attributes:
    sequence: Number of the sequence.
    ids_V: int32, the behavior -> its id; -1: not there, as too rare.
    num_ids: Ids.
    max_pieces: Newest values that are taken.
  """

  sequence: int
  ids_V: np.ndarray
  num_ids: int
  max_pieces: int

  @classmethod
  def fit(
    cls,
    sequence: int,
    events: np.ndarray,
    starts_N: np.ndarray,
    stops_N: np.ndarray,
    *,
    num_behaviors: int,
    min_count: int,
    max_pieces: int,
  ) -> Self:
    """Keeps the values that enough training clicks have.

    Args:
      sequence: Number of the sequence.
      events: Its events.
      starts_N: Where the values of a training click start in the events.
      stops_N: Where they stop.
      num_behaviors: V.
      min_count: Training clicks that a value needs.
      max_pieces: Newest values to take.
    """
    change = np.bincount(starts_N, minlength=len(events) + 1)
    change -= np.bincount(stops_N, minlength=len(events) + 1)
    clicks = np.cumsum(change[:-1])  # Those that have an event.
    counts = np.bincount(events, clicks, minlength=num_behaviors)
    is_kept = counts >= min_count
    is_kept[0] = False  # Padding.
    ids_V = np.where(is_kept, np.cumsum(is_kept) - 1, -1).astype(np.int32)
    # A table needs a row.
    return cls(sequence, ids_V, max(int(is_kept.sum()), 1), max_pieces)
