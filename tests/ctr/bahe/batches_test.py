# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Batches of clicks, and the tables that they read."""

import numpy as np
import pytest

import antjax
from antjax.ctr.bahe import batches, table
from tests.ctr.bahe import small_clicks

EVENTS = [np.arange(2, 12, dtype=np.int32), np.arange(20, 30, dtype=np.int32)]


def columns(starts, stops):
  size = len(starts)
  return {
    'starts': np.array(starts),
    'stops': np.array(stops),
    'user': np.arange(size),
    'item': np.arange(size),
    'title': np.full(size, 5),
    'label': np.ones(size),
    'ids': np.zeros((size, 0)),
  }


def test_histories_are_the_newest_and_padded_at_the_end():
  given = columns([[0, 3], [4, 2], [9, 0]], [[6, 4], [4, 9], [10, 10]])
  found = batches.make_batch(given, EVENTS, (4, 3))
  np.testing.assert_array_equal(
    found['behaviors'],
    [
      [[4, 5, 6, 7], [23, 0, 0, 0]],
      [[0, 0, 0, 0], [26, 27, 28, 0]],
      [[11, 0, 0, 0], [27, 28, 29, 0]],
    ],
  )
  assert found['behaviors'].dtype == np.int32
  assert 'ids' not in found and 'numeric' not in found
  np.testing.assert_array_equal(found['weight'], 1)


def test_a_batch_is_filled_up_with_weight_0():
  given = columns([[0, 3], [4, 2]], [[6, 4], [4, 9]])
  found = batches.make_batch(given, EVENTS, (4, 3), size=4)
  np.testing.assert_array_equal(found['weight'], [1, 1, 0, 0])
  np.testing.assert_array_equal(
    found['behaviors'][2:], found['behaviors'][[0, 0]]
  )


def test_numbers_are_standardized_and_clipped():
  rng = np.random.default_rng(0)
  numbers = rng.normal(1e6, 0.5, (40, 2))
  numbers[:, 1] = 7
  found = batches.Standardizer.of([numbers[:10], numbers[10:]])
  scaled = found(numbers)
  assert scaled.dtype == np.float32
  np.testing.assert_allclose(scaled[:, 0].mean(), 0, atol=1e-3)
  np.testing.assert_allclose(scaled[:, 0].std(), 1, atol=1e-3)
  np.testing.assert_array_equal(scaled[:, 1], 0)  # It says nothing.
  # A number that comes late counts from then on, and none is nothing.
  late = batches.Standardizer.of([numbers[:5] * np.nan, numbers])
  np.testing.assert_allclose(late(numbers), scaled, atol=1e-4)
  never = batches.Standardizer.of([np.full((3, 1), np.nan)])
  np.testing.assert_array_equal(never(np.ones((1, 1))), [[0]])
  outlier = found(np.array([[1e9, 0], [-1e9, 0]]))
  np.testing.assert_array_equal(outlier[:, 0], [5, -5])


def test_what_a_batch_refuses():
  given = columns([[0, 3]], [[6, 4]])
  with pytest.raises(ValueError, match='1 rows for a batch of 0'):
    batches.make_batch(given, EVENTS, (4, 3), size=0)
  with pytest.raises(ValueError, match='1 lengths'):
    batches.make_batch(given, EVENTS, (4,))
  with pytest.raises(ValueError, match='from 0 to 11 of 10 events'):
    batches.make_batch(columns([[0, 3]], [[11, 4]]), EVENTS, (4, 3))


def test_distinct_behaviors_of_each_part():
  batch = small_clicks.batch(8)
  ids, found = table.distinct_behaviors(batch, 4, 30, fill=99)
  by_part = ids.reshape(4, 30)
  assert (by_part[:, 0] == 0).all()
  for i, part in enumerate(by_part):
    rows = slice(2 * i, 2 * i + 2)
    used = part[part < 99]
    assert (np.diff(used) > 0).all()
    for name in ('behaviors', 'title'):
      np.testing.assert_array_equal(part[found[name][rows]], batch[name][rows])
  assert found['behaviors'].shape == batch['behaviors'].shape


def test_what_distinct_behaviors_refuse():
  batch = small_clicks.batch(8)
  with pytest.raises(ValueError, match='capacity=3; raise it'):
    table.distinct_behaviors(batch, 4, 3)
  with pytest.raises(ValueError, match='8 examples in 3 parts'):
    table.distinct_behaviors(batch, 3, 30)


ROWS = np.arange(10 * 4, dtype=np.float32).reshape(10, 4)


@pytest.mark.parametrize(
  'device_bytes, kind, said',
  [
    (4 * ROWS.nbytes, table.DeviceTable, 'on every device, where a table may'),
    (2 * ROWS.nbytes, table.SplitTable, 'split over 8 devices'),
    (ROWS.nbytes // 8, table.HostTable, 'on the host, where a table may'),
    (None, table.DeviceTable, 'does not say how much memory it has'),
  ],
)
def test_a_table_goes_to_the_first_home_with_room(device_bytes, kind, said):
  mesh = antjax.make_mesh(intra=4)
  found, sentence = table.place(
    ROWS, mesh, device_bytes=device_bytes, max_distinct=6
  )
  assert isinstance(found, kind)
  assert said in sentence and '10 rows x 4 float32' in sentence


def test_a_home_may_be_asked_for():
  mesh = antjax.make_mesh(intra=4)
  found, said = table.place(
    ROWS, mesh, home='split', max_distinct=6, inside_groups=True
  )
  assert isinstance(found, table.SplitTable) and 'as asked for' in said
  assert found.exchange.num_owners == 4
  # Row i is the (i // 4)-th of owner i % 4.
  stored = np.asarray(found.constants['behavior_rows']).reshape(4, 3, 4)
  for i, row in enumerate(ROWS):
    np.testing.assert_array_equal(stored[i % 4, i // 4], row)


def test_most_distinct_counts_titles_and_padding():
  assert table.most_distinct(3, (5, 2)) == 3 * 8 + 1


def test_a_host_table_brings_the_rows_of_a_batch():
  mesh = antjax.make_mesh(intra=4)
  found, _ = table.place(ROWS, mesh, home='host', max_distinct=6)
  batch = {
    'behaviors': np.array([[[7, 3]], [[3, 0]]], np.int32),
    'title': np.array([9, 3], np.int32),
  }
  prepared = found.prepare(batch, 1)
  np.testing.assert_array_equal(
    prepared['behavior_rows'][prepared['behaviors']], ROWS[batch['behaviors']]
  )
  np.testing.assert_array_equal(
    prepared['behavior_rows'][prepared['title']], ROWS[batch['title']]
  )
  assert prepared['behavior_rows'].shape == (6, 4)
