# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Batches of clicks."""

import numpy as np

from antjax.ctr.antm2c.bags import Bag
from antjax.ctr.antm2c.clicks import ScenarioClicks, TextVectors

NAMES = ('user', 'item', 'title', 'scenario', 'column_city')
IDS = np.array([[1, 2, 3, 0, 5], [4, 0, 2, 1, 6], [0, 1, 3, 1, 0]], np.int32)
# Two sequences: clicks, and the pieces of a text.
EVENTS = (np.array([3, 2, 4, 5], np.int32), np.array([2, 4, 4], np.int32))
STARTS = np.array([[0, 0], [1, 1], [4, 3]])
STOPS = np.array([[3, 1], [2, 3], [4, 3]])
VECTORS = np.arange(12, dtype=np.float16).reshape(6, 2)


def clicks(**changes):
  fields = {
    'names': NAMES,
    'ids': IDS,
    'label': np.array([1, 0, 1], np.float32),
    'numeric': np.array([[0.5], [1.5], [2.5]], np.float32),
    'starts': STARTS,
    'stops': STOPS,
    'events': EVENTS,
    'histories': (0,),
    'max_history': 2,
  }
  return ScenarioClicks(**fields | changes)


def test_a_batch_has_its_rows_and_fills_up_with_weight_zero():
  batch = clicks().batch(np.array([2, 0]), 4)
  np.testing.assert_array_equal(batch['ids'], IDS[[2, 0, 0, 0]])
  assert batch['label'].tolist() == [1, 1, 1, 1]
  assert batch['weight'].tolist() == [1, 1, 0, 0]
  assert batch['numeric'].tolist() == [[2.5], [0.5], [0.5], [0.5]]


def test_each_part_is_sorted_by_scenario_and_keeps_its_clicks():
  scenario = np.array([2, 0, 1, 0, 1, 2, 0], np.int32)
  ids = np.zeros((7, len(NAMES)), np.int32)
  ids[:, NAMES.index('scenario')] = scenario
  index = np.array([6, 5, 4, 3, 2, 1, 0])
  found = index[clicks(ids=ids).by_scenario(index, 3)]
  # Scenarios of the parts were 0 2 1, 0 1 0 and 2; equal ones stay in order.
  assert found.tolist() == [6, 4, 5, 3, 1, 2, 0]


def test_a_history_is_the_newest_clicks_and_may_be_empty():
  batch = clicks().batch(np.arange(3), 3)
  # Of 3, 2, 4 the newest two; of 2; of none.
  assert batch['history'].tolist() == [[[2, 4]], [[2, -1]], [[-1, -1]]]
  assert 'history' not in clicks(histories=()).batch(np.arange(3), 3)


def test_texts_are_the_mean_of_their_pieces():
  text = TextVectors(VECTORS, sequences=(1,), max_pieces=2)
  batch = clicks(text=text).batch(np.arange(3), 3)
  np.testing.assert_array_equal(batch['text_title'], VECTORS[[3, 2, 3]])
  # One piece; twice the same; no piece at all.
  np.testing.assert_array_equal(
    batch['text_1'], [VECTORS[2], VECTORS[4], [0, 0]]
  )


def test_images_are_found_by_the_item_even_where_it_is_unknown():
  images = np.arange(8, dtype=np.float16).reshape(4, 2)
  items = np.array([2, 3, 1], np.int32)  # The second is new: its id is 0.
  batch = clicks(images=images, image_items=items).batch(np.arange(3), 3)
  np.testing.assert_array_equal(batch['image'], images[[2, 3, 1]])


def test_a_second_label_and_columns_by_name():
  labels = np.array([[0], [0], [1]], np.float32)
  data = clicks(labels=labels)
  assert data.batch(np.array([2]), 1)['labels'].tolist() == [[1]]
  assert list(data.every_label(['click', 'sale'])) == ['click', 'sale']
  assert data.column('column_city').tolist() == [5, 6, 0]
  assert len(data) == 3


def test_columns_of_titles_bags_and_rare_titles():
  bag = Bag(1, np.array([-1, -1, 0, -1, 1, -1], np.int32), 2, max_pieces=2)
  data = clicks(
    histories=(0, 1),
    history_columns={'kind': np.arange(0, 60, 10, dtype=np.int32)},
    titles=np.array([0, 1, 2, 1, 3, 1], np.int32),
    bags={'words': bag},
  )
  batch = data.batch(np.arange(3), 3)
  # Titles 3 and 5 are rare; the columns are those of the titles themselves.
  assert batch['history'][0].tolist() == [[2, 3], [2, -1]]
  assert batch['history_kind'][0].tolist() == [[20, 40], [20, -1]]
  assert batch['ids'][:, 2].tolist() == [1, 2, 1]
  assert batch['bag_words'].tolist() == [[0, -1], [1, 1], [-1, -1]]
  assert data.ids[:, 2].tolist() == [3, 2, 3]
