# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sequences as bags of ids: words of a text, values of a list."""

from collections.abc import Iterator
import dataclasses
from typing import get_args, Literal, Self

import numpy as np

# Shape suffixes: N = clicks, V = behaviors, P = values of a click.

_PART = 1 << 22  # Number of events processed at once.

Way = Literal['mean', 'sum', 'attention']
WAYS = get_args(Way)


class Uses:
  """Number of clicks that have each event of a sequence, 4 bytes per event."""

  def __init__(self, num_events: int):
    self._change = np.zeros(num_events + 1, np.int32)

  def add(self, starts_N: np.ndarray, stops_N: np.ndarray) -> None:
    """Adds clicks, whose values are the events from start to stop."""
    np.add.at(self._change, starts_N, 1)
    np.add.at(self._change, stops_N, -1)

  def parts(self) -> Iterator[tuple[slice, np.ndarray]]:
    """(events, their numbers of clicks), part by part."""
    before = np.int32(0)
    for start in range(0, len(self._change) - 1, _PART):
      part = slice(start, min(start + _PART, len(self._change) - 1))
      clicks = before + np.cumsum(self._change[part], dtype=np.int32)
      before = clicks[-1]
      yield part, clicks


@dataclasses.dataclass(frozen=True, eq=False)
class Bag:
  """A sequence as a bag of ids."""

  sequence: int  # Number of the sequence.
  ids_V: np.ndarray  # int32, behavior -> its id; -1: too rare.
  num_ids: int  # Number of ids.
  max_pieces: int  # Maximum number of values used, the newest.

  @classmethod
  def fit(
    cls,
    sequence: int,
    events: np.ndarray,
    uses: Uses,
    *,
    num_behaviors: int,
    min_count: int,
    max_pieces: int,
  ) -> Self:
    """Keeps the values with enough training clicks.

    `uses` are the numbers of training clicks of the events of a sequence, by
    its number; a value needs `min_count`. Of a bag the newest `max_pieces`
    values are used.
    """
    counts = np.zeros(num_behaviors)
    for part, clicks in uses.parts():
      counts += np.bincount(events[part], clicks, minlength=num_behaviors)
    is_kept = counts >= min_count
    is_kept[0] = False  # Padding.
    ids_V = np.where(is_kept, np.cumsum(is_kept) - 1, -1).astype(np.int32)
    # A table needs at least one row.
    return cls(sequence, ids_V, max(int(is_kept.sum()), 1), max_pieces)
