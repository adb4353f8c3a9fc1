# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of splits, layout and the rows of a task."""

import numpy as np
import pytest

from antjax.meta import episodes, task_block
from antjax.meta.episode_config import Bucket, EpisodeConfig


def config(**changes):
  options = {
    'buckets': (Bucket(4, 2), Bucket(8, 1)),
    'features': {'user': 1, 'item': 1, 'genres': 3},
    'query_size': 3,
    'min_support': 2,
  }
  return EpisodeConfig(**{**options, **changes})


def record(num_rows=9, task=7, **changes):
  rows = np.arange(num_rows)
  genres = np.stack([rows, rows + 1, np.full(num_rows, -1)], axis=1)
  return {
    'task': task,
    'user': np.int32(5),
    'item': 100 + rows,
    'genres': genres,
    'rating': 1.0 + rows,
    'num_query': 0,
    **changes,
  }


def split(record, config, key=-1):
  return task_block.split(episodes.block_of([record], config, [key]), config)


def rows_of(tasks, name='item'):
  """A column of the one task's support and of its query."""
  column = tasks.rows[name]
  return [
    column[first : first + number].tolist()
    for first, number in (
      (tasks.support[0], tasks.num_support[0]),
      (tasks.query[0], tasks.num_query[0]),
    )
  ]


def test_a_short_record_has_a_short_query_or_no_episode():
  support, query = rows_of(split(record(4), config()))
  assert (len(support), len(query)) == (2, 2)
  assert not split(record(2), config()).num_tasks


def test_a_long_support_is_a_random_subset():
  supports = set()
  for key in range(3):
    support, query = rows_of(split(record(40, num_query=3), config(), key))
    assert len(set(support)) == 8 and max(support) < 137
    assert query == [137, 138, 139]
    supports.add(tuple(support))
  assert len(supports) == 3


def test_a_split_in_time_takes_the_latest_rows_in_stable_order():
  times = np.array([5, 1, 9, 5, 5, 0, 9, 2, 1])
  by_time = config(split='time', time='when')
  support, query = rows_of(split(record(when=times), by_time, key=3))
  assert support == [105, 101, 108, 107, 100, 103]
  assert query == [104, 102, 106]
  # Of a long support the rows nearest to the query.
  tasks = split(record(40, when=np.arange(40)), by_time)
  assert sum(rows_of(tasks), []) == [*range(129, 140)]
  with pytest.raises(ValueError, match='the block has no timestamp'):
    split(record(), config(split='time'))


def test_records_of_a_block_keep_their_rows_and_values():
  many = [record(6, task=1), record(9, task=2, user=np.int32(3))]
  many[0]['num_query'] = 2
  block = episodes.block_of(many, config(), [4, 5])
  tasks = block['tasks']
  assert tasks['record_key'].tolist() == [4, 5]
  assert tasks['user'].tolist() == [5, 3]
  assert (tasks['first_row'].tolist(), tasks['num_query'].tolist()) == (
    [0, 6],
    [2, 0],
  )
  assert block['rows']['genres'].shape == (15, 3)
  # What holds for all rows of one record may be by row in another.
  many[1]['user'] = np.arange(9)
  rows = episodes.block_of(many, config(), [4, 5])['rows']
  assert rows['user'].tolist() == [5] * 6 + [*range(9)]


def test_a_batch_has_its_layout_and_padding():
  tasks = [split(record(7, task=t, num_query=3), config()) for t in (7, 8)]
  batch = episodes.make_batch({'s4': tasks[:1], 's8': tasks[1:]}, config())
  ids, parts = batch['ids']['s4'], batch['episodes']['s4']
  assert ids['support']['item'].shape == (2, 4)
  assert ids['query']['genres'].shape == (2, 3, 3)
  np.testing.assert_array_equal(ids['support']['item'][0], [100, 101, 102, 103])
  np.testing.assert_array_equal(ids['query']['item'][0], [104, 105, 106])
  np.testing.assert_array_equal(ids['support']['user'][0], [5] * 4)
  np.testing.assert_array_equal(parts['support']['label'][0], [1, 2, 3, 4])
  np.testing.assert_array_equal(parts['task'], [7, -1])
  np.testing.assert_array_equal(parts['weight'], [1, 0])
  # The empty slot, and the larger slot of the second task.
  assert (ids['support']['genres'][1] == -1).all()
  assert not parts['support']['mask'][1].any()
  large = batch['episodes']['s8']['support']
  np.testing.assert_array_equal(large['mask'][0], [1] * 4 + [0] * 4)
  assert (batch['ids']['s8']['support']['item'][0, 4:] == -1).all()
  assert episodes.count_rows(batch) == 14


def test_task_rows_are_distinct_and_lead_back_to_the_ids():
  tasks = [split(record(7, num_query=3, item=[4, 9, 4, 2, 9, 5, 2]), config())]
  batch = episodes.make_batch({'s8': tasks}, config())
  grouped = episodes.with_task_rows(
    batch, num_ids={'user': 6, 'item': 200, 'genres': 12}
  )
  rows = grouped['ids']['s8']['task_rows']
  assert rows['user'].shape == (1, 6)  # Bounded by the number of ids.
  np.testing.assert_array_equal(rows['item'][0, :5], [2, 4, 5, 9, -1])
  for part in ('support', 'query'):
    index = grouped['episodes']['s8'][part]['index']
    for name, ids in batch['ids']['s8'][part].items():
      position = index[name][name][0]
      back = np.where(position < 0, -1, rows[name][0][position])
      np.testing.assert_array_equal(back, ids[0])
  assert 'index' not in batch['episodes']['s8']['support']


def test_more_ids_than_there_are_are_refused():
  episode = split(record(5, num_query=3), config())
  batch = episodes.make_batch({'s4': [episode]}, config())
  with pytest.raises(ValueError, match="ids of 'item', more than the 2 that"):
    episodes.with_task_rows(batch, num_ids={'item': 2})


@pytest.mark.parametrize(
  'item', [[2**31] * 5, [1.5] * 5, ['a'] * 5, [-(2**40)] * 5]
)
def test_ids_that_would_be_cut_are_refused(item):
  with pytest.raises(ValueError, match="feature 'item' holds .* ids are int32"):
    split(record(5, num_query=3, item=item), config())


def test_keys_stay_whole():
  keyed = config(with_keys=True)
  item = [2**40, 2**41, 3, 2**40, 2**62]
  episode = split(record(5, num_query=3, item=item), keyed)
  batch = episodes.make_batch({'s4': [episode]}, keyed)
  ids = batch['ids']['s4']
  np.testing.assert_array_equal(ids['support']['item'][0], [*item[:2], -1, -1])
  np.testing.assert_array_equal(ids['query']['item'][0], item[2:])
  assert ids['support']['genres'].dtype == np.int64
  rows = episodes.with_task_rows(batch)['ids']['s4']['task_rows']
  assert rows['item'][0, :5].tolist() == [3, 2**40, 2**41, 2**62, -1]


def test_features_of_one_table_share_their_rows():
  both = config(features={'item': 1, 'last_item': 1})
  episode = split(
    record(5, num_query=3, item=[1, 2, 3, 4, 5], last_item=[3, 3, 9, 1, 2]),
    both,
  )
  batch = episodes.make_batch({'s4': [episode]}, both)
  grouped = episodes.with_task_rows(
    batch, tables={'item': 'items', 'last_item': 'items'}
  )
  rows = grouped['ids']['s4']['task_rows']
  assert list(rows) == ['item']
  np.testing.assert_array_equal(rows['item'][0, :6], [1, 2, 3, 4, 5, 9])
  index = grouped['episodes']['s4']['query']['index']['item']
  np.testing.assert_array_equal(
    rows['item'][0][index['last_item'][0]], [9, 1, 2]
  )


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'buckets': ()}, 'at least one bucket'),
    ({'buckets': (Bucket(8, 1), Bucket(4, 1))}, 'by rising support_size'),
    ({'buckets': (Bucket(4, 0),)}, 'num_slots must be positive'),
    ({'split': 'tme'}, "'tme'.: needed: 'random' or 'time'"),
    ({'query_size': 0}, 'a query needs a row'),
    ({'min_support': 9}, 'must be 0 to 8'),
    ({'id_dropout': {'film': 0.1}}, "'film'.* are not features"),
    ({'id_dropout': {'item': 0.1}, 'with_keys': True}, 'key 0 is a key like'),
    ({'task_id_dropout': {'item': 1.5}}, 'a share is 0 to 1'),
  ],
)
def test_bad_options_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    config(**changes)


def test_a_wrong_record_is_refused_with_its_column():
  wrong = record()
  del wrong['item']
  with pytest.raises(ValueError, match='the record has no item'):
    split(wrong, config())
  with pytest.raises(ValueError, match="column 'genres' of task 7 has shape"):
    split(record(genres=np.zeros((9, 2))), config())
