# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Events of users, one after the other, and the examples in them.

An example is (user, position): the event at that position of the user's events
is the target, those before it are its history. So examples take no memory of
their own, however long histories are.
"""

from collections.abc import Sequence
import functools
from typing import Any

import numpy as np

from antjax.shards import record_source

# Shape suffixes: E = events, U = users, X = examples, L = longest history.


class SequenceEvents:
  """Each user's events in time, oldest first.

  Attributes:
    events: int32 [E], item ids; may be a memory map.
    starts: int64 [U].
    stops: int64 [U]: user u has events[starts[u]:stops[u]].
  """

  def __init__(self, events: np.ndarray, starts: np.ndarray, stops: np.ndarray):
    """Takes the arrays as they are.

    Raises:
      ValueError: A user's events are not in `events`.
    """
    if starts.shape != stops.shape or starts.ndim != 1:
      raise ValueError(
        f'SequenceEvents: starts are {starts.shape} and stops {stops.shape};'
        ' needed: one of each a user.'
      )
    wrong = (starts < 0) | (stops < starts) | (stops > len(events))
    if wrong.any():
      u = int(np.argmax(wrong))
      raise ValueError(
        f'SequenceEvents: user {u} has the events {starts[u]} to {stops[u]} of'
        f' {len(events)}; the files belong to other data, or are damaged.'
      )
    self.events, self.starts, self.stops = events, starts, stops

  @property
  def num_users(self) -> int:
    return len(self.starts)

  @property
  def lengths(self) -> np.ndarray:
    """int64 [U], events of each user."""
    return self.stops - self.starts

  @functools.cached_property
  def _ends(self) -> np.ndarray:
    """int64 [U]: examples of this user and those before, see `examples`."""
    return np.cumsum(np.maximum(self.lengths - 1, 0))

  @property
  def num_examples(self) -> int:
    """Events that have a history: all but each user's first."""
    return int(self._ends[-1]) if self.num_users else 0

  def examples(
    self, index: np.ndarray | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Examples (user, position) int32 [X] by their number, user by user.

    `index`, int [X], is from 0 to num_examples - 1; None means all of them.
    """
    if index is None:
      index = np.arange(self.num_examples)
    user = np.searchsorted(self._ends, index, side='right')
    counts = np.maximum(self.lengths, 1)
    position = index - self._ends[user] + counts[user]
    return user.astype(np.int32), position.astype(np.int32)

  def targets(self, user: np.ndarray, position: np.ndarray) -> np.ndarray:
    """int32 [X], the item at each example's position; see `spans`."""
    _, stops = self.spans(user, position)
    return np.asarray(self.events[stops], np.int32)

  def spans(
    self, user: np.ndarray, position: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """(starts, stops), int64 [X]: each example's history in `events`.

    Raises:
      ValueError: A position beyond its user's events.
    """
    starts = np.asarray(self.starts[user])
    wrong = (position < 0) | (position >= self.lengths[user])
    if np.any(wrong):
      i = int(np.argmax(wrong))
      raise ValueError(
        f'SequenceEvents: position {position[i]} of user {user[i]}, who has'
        f' {self.lengths[user[i]]} events; the examples belong to other data.'
      )
    return starts, starts + position

  def histories(
    self, user: np.ndarray, position: np.ndarray, length: int
  ) -> np.ndarray:
    """The newest events before each position, int32 [X, length]."""
    return newest(self.events, *self.spans(user, position), length)

  def whole_histories(
    self, user: np.ndarray, position: np.ndarray
  ) -> np.ndarray:
    """`histories` of the longest one's length, int32 [X, L]."""
    return self.histories(user, position, int(np.max(position, initial=0)))

  def of_items(self, is_kept: np.ndarray) -> 'SequenceEvents':
    """The events of the items in a mask, bool [items], copied."""
    places = np.repeat(self.starts, self.lengths)
    firsts = np.cumsum(self.lengths) - self.lengths
    places += np.arange(len(places)) - np.repeat(firsts, self.lengths)
    events = np.asarray(self.events[places])
    chosen = is_kept[events]
    ends = np.concatenate([[0], np.cumsum(chosen)])
    bounds = np.append(firsts, len(places))
    return SequenceEvents(events[chosen], ends[bounds[:-1]], ends[bounds[1:]])

  def count_items(self, num_items: int) -> np.ndarray:
    """int64 [num_items], how often each item occurs."""
    counts = np.zeros(num_items, np.int64)
    step = 1 << 16  # Users at once, so that a memory map stays one.
    for first in range(0, self.num_users, step):
      part = slice(first, first + step)
      block = SequenceEvents(self.events, self.starts[part], self.stops[part])
      everything = np.ones(num_items, bool)
      found = block.of_items(everything).events
      counts += np.bincount(found, minlength=num_items)
    return counts

  def windows(self, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts all events into runs for models that predict at every place.

    Each event but a user's first is in one run behind the place where it is
    predicted; at most `length` are predicted in a run. Runs of a user share one
    event, and the oldest one may be short.

    Returns:
      (starts, stops) int64 [runs], users one after the other, each oldest
      first: from 2 to length + 1 events each.
    """
    predicted = np.maximum(self.lengths - 1, 0)
    counts = -(-predicted // length)
    stops = np.repeat(self.stops, counts)
    ends = np.cumsum(counts)
    # Runs that follow in the user's events.
    later = np.repeat(ends, counts) - 1 - np.arange(len(stops))
    stops = stops - later * length
    starts = np.maximum(stops - length - 1, np.repeat(self.starts, counts))
    return starts, stops


def newest(
  events: np.ndarray, starts: np.ndarray, stops: np.ndarray, length: int
) -> np.ndarray:
  """The newest events of spans, int32 [X, length], 0 behind the newest one."""
  places = np.maximum(starts, stops - length)[:, None] + np.arange(length)
  is_there = places < stops[:, None]
  found = np.zeros(places.shape, np.int32)
  found[is_there] = events[places[is_there]]
  return found


class ExampleSource:
  """Examples as records {'user', 'position'}, int32 scalars."""

  def __init__(self, events: SequenceEvents):
    self._events = events

  def __len__(self) -> int:
    return self._events.num_examples

  def read(self, start: int, stop: int) -> Sequence[dict[str, Any]]:
    record_source.check_block('ExampleSource', start, stop, len(self))
    found = zip(*self._events.examples(np.arange(start, stop)), strict=True)
    return [{'user': u, 'position': p} for u, p in found]


class SpanSource:
  """Spans of events as records {'start', 'stop'}, int64; see `windows`."""

  def __init__(self, starts: np.ndarray, stops: np.ndarray):
    self._starts, self._stops = starts, stops

  def __len__(self) -> int:
    return len(self._starts)

  def read(self, start: int, stop: int) -> Sequence[dict[str, Any]]:
    record_source.check_block('SpanSource', start, stop, len(self))
    found = zip(self._starts[start:stop], self._stops[start:stop], strict=True)
    return [{'start': a, 'stop': b} for a, b in found]
