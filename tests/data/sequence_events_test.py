# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Events of users and the examples in them."""

import numpy as np
import pytest

from antjax.data.sequence_events import (
  ExampleSource,
  newest,
  SequenceEvents,
  SpanSource,
)

USERS = [[5, 6, 7, 5], [], [8], [9, 1], [2, 3, 4, 5, 6, 7, 8]]


@pytest.fixture(name='events')
def _events():
  ends = np.cumsum([len(u) for u in USERS])
  flat = np.concatenate([np.array(u, np.int32) for u in USERS])
  return SequenceEvents(flat, ends - [len(u) for u in USERS], ends)


def test_examples_by_number(events):
  expected = [(u, p) for u, e in enumerate(USERS) for p in range(1, len(e))]
  assert events.num_examples == len(expected)
  user, position = events.examples()
  assert [*zip(user, position)] == expected
  chosen = np.array([7, 0, 4, 3])
  user, position = events.examples(chosen)
  assert [*zip(user, position)] == [expected[i] for i in chosen]
  found = ExampleSource(events).read(2, 6)
  assert [(r['user'], r['position']) for r in found] == expected[2:6]
  with pytest.raises(ValueError, match='read.2, 99. of ExampleSource'):
    ExampleSource(events).read(2, 99)


def test_histories_keep_the_newest_events(events):
  user, position = events.examples()
  for length in (1, 3, 8):
    found = events.histories(user, position, length)
    for row, u, p in zip(found, user, position):
      kept = USERS[u][max(p - length, 0) : p]
      assert row.tolist() == kept + [0] * (length - len(kept))
  assert events.targets(user, position).tolist() == [
    USERS[u][p] for u, p in zip(user, position)
  ]


def test_a_position_beyond_the_events_is_refused(events):
  with pytest.raises(ValueError, match='position 4 of user 0, who has 4'):
    events.targets(np.array([4, 0]), np.array([1, 4]))
  with pytest.raises(ValueError, match='user 0 has the events 0 to 9 of 3'):
    SequenceEvents(np.zeros(3, np.int32), np.array([0]), np.array([9]))


def test_events_of_some_items_and_their_counts(events):
  is_kept = np.arange(10) % 2 == 1
  found = events.of_items(is_kept)
  for u, items in enumerate(USERS):
    mine = found.events[found.starts[u] : found.stops[u]]
    assert mine.tolist() == [i for i in items if i % 2]
  flat = np.concatenate([np.array(u, int) for u in USERS])
  expected = np.bincount(flat, minlength=10)
  np.testing.assert_array_equal(events.count_items(10), expected)


@pytest.mark.parametrize('length', [1, 2, 3, 4, 50])
def test_windows_predict_each_event_once(events, length):
  starts, stops = events.windows(length)
  predicted = []
  for row in newest(events.events, starts, stops, length + 1):
    row = row[row > 0].tolist()
    assert 2 <= len(row) <= length + 1
    predicted += [(a, b) for a, b in zip(row, row[1:])]
  expected = [(a, b) for u in USERS for a, b in zip(u, u[1:])]
  assert sorted(predicted) == sorted(expected)
  source = SpanSource(starts, stops)
  assert len(source) == len(starts)
  assert source.read(0, 1) == [{'start': starts[0], 'stop': stops[0]}]


def test_no_users():
  nothing = np.zeros(0, np.int64)
  events = SequenceEvents(np.zeros(0, np.int32), nothing, nothing)
  assert events.num_examples == 0
  user, position = events.examples()
  assert len(user) == len(position) == 0
