# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Blocks give what a loop over their tasks gives; their draws are uniform."""

import collections

import numpy as np
import pytest

from antjax.meta import episodes, meta_io, task_block, task_draws
from antjax.meta.episode_config import Bucket, EpisodeConfig


def config(**changes):
  options = {
    'buckets': (Bucket(4, 3), Bucket(8, 2)),
    'features': {'user': 1, 'item': 1, 'genres': 3},
    'numeric': ('price', 'age'),
    'query_size': 3,
    'min_support': 2,
    'split': 'time',
  }
  return EpisodeConfig(**{**options, **changes})


def make_block(sizes, *, num_query=0, seed=0, is_in_time=False):
  """A block whose rows all differ, with times that repeat."""
  rng = np.random.default_rng(seed)
  sizes = np.array(sizes)
  num_rows = int(sizes.sum())
  first = np.cumsum(sizes) - sizes
  time = rng.integers(0, 12, num_rows)
  if is_in_time:
    for a, n in zip(first, sizes):
      time[a : a + n].sort()
  rows = np.arange(num_rows)
  genres = np.stack([rows, rows + 1, np.full(num_rows, -1)], axis=1)
  num = len(sizes)
  return {
    'rows': {
      'item': (rows + 1).astype(np.int32),
      'genres': genres.astype(np.int32),
      'rating': rng.random(num_rows).astype(np.float32),
      'price': rng.random(num_rows).astype(np.float32),
      'timestamp': time,
    },
    'tasks': {
      'task': np.arange(num, dtype=np.int32) + 40,
      'user': np.arange(num, dtype=np.int32),
      'age': rng.random(num).astype(np.float32),
      'first_row': first,
      'num_rows': sizes,
      'num_query': np.broadcast_to(np.int32(num_query), num),
      'record_key': np.arange(num) + 100,
    },
  }


def records_of(block):
  tasks = block['tasks']
  for i in range(len(tasks['task'])):
    part = slice(tasks['first_row'][i], None)
    part = slice(part.start, part.start + tasks['num_rows'][i])
    values = {name: column[i] for name, column in tasks.items()}
    yield values | {name: c[part] for name, c in block['rows'].items()}


def assert_laid_out(batch, block, setting):
  """Compares a batch with splits made task by task, in plain Python."""
  count = 0
  for record in records_of(block):
    held = min(record['num_query'], len(record['rating']))
    num_query = held or min(
      setting.query_size, len(record['rating']) - setting.min_support
    )
    if num_query < 1:
      continue
    order = np.arange(len(record['rating']))
    if not held and setting.split == 'time':
      order = np.argsort(record['timestamp'], kind='stable')
    parts = {
      'support': order[:-num_query][-setting.buckets[-1].support_size :],
      'query': order[-num_query:][-setting.query_size :],
    }
    name = next(
      bucket.name
      for bucket in setting.buckets
      if len(parts['support']) <= bucket.support_size
    )
    episodes_of = batch['episodes'][name]
    (slot,) = np.flatnonzero(episodes_of['task'] == record['task'])
    assert episodes_of['weight'][slot] == 1
    for part, rows in parts.items():
      laid, ids = episodes_of[part], batch['ids'][name][part]
      size = len(rows)
      assert laid['mask'][slot].tolist() == [1] * size + [0] * (
        len(laid['mask'][slot]) - size
      )
      np.testing.assert_array_equal(
        laid['label'][slot, :size], record['rating'][rows]
      )
      assert not laid['label'][slot, size:].any()
      for i, column in enumerate(setting.numeric):
        expected = np.broadcast_to(record[column], len(order))[rows]
        np.testing.assert_array_equal(laid['numeric'][slot, :size, i], expected)
      for column in setting.features:
        whole = np.asarray(record[column])
        expected = whole[rows] if whole.ndim else np.full(size, whole)
        np.testing.assert_array_equal(ids[column][slot, :size], expected)
        assert (ids[column][slot, size:] == -1).all()
    count += 1
  assert count == sum(x['weight'].sum() for x in batch['episodes'].values())


def batches_of_blocks(blocks, setting):
  packer = meta_io.Packer(setting)
  for block in blocks:
    packer.add(task_block.split(block, setting))
    while packer.ready():
      yield episodes.make_batch(packer.take(), setting)
  while packer.pending:
    yield episodes.make_batch(packer.take(), setting)


def assert_equal(a, b):
  assert a.keys() == b.keys()
  for name, value in a.items():
    if isinstance(value, dict):
      assert_equal(value, b[name])
    else:
      assert value.dtype == b[name].dtype, name
      np.testing.assert_array_equal(value, b[name], name)


SIZES = [9, 3, 5, 1, 30, 11, 5, 2, 4, 7, 8, 6, 5]


@pytest.mark.parametrize('num_query', [0, 1, 5])
@pytest.mark.parametrize('is_in_time', [False, True])
def test_a_block_gives_what_its_tasks_give(num_query, is_in_time):
  sizes = [n + num_query for n in SIZES]
  block = make_block(sizes, num_query=num_query, is_in_time=is_in_time)
  setting = config(buckets=(Bucket(4, 13), Bucket(8, 13)))
  (found,) = batches_of_blocks([block], setting)
  assert_laid_out(found, block, setting)
  (again,) = meta_io.iter_episode_batches(records_of(block), setting)
  assert_equal(found, again)


def test_a_query_of_all_rows_leaves_no_support():
  block = make_block([5, 2, 4], num_query=4)
  setting = config(buckets=(Bucket(8, 3),), query_size=4)
  (found,) = batches_of_blocks([block], setting)
  assert_laid_out(found, block, setting)
  assert found['episodes']['s8']['support']['mask'].sum(1).tolist() == [1, 0, 0]


def test_support_is_before_query_in_time():
  block = make_block(SIZES)
  time = block['rows']['timestamp']
  setting = config(features={'item': 1}, numeric=())
  count = 0
  for batch in batches_of_blocks([block], setting):
    for name, parts in batch['ids'].items():
      for slot in np.flatnonzero(batch['episodes'][name]['weight']):
        ids = {part: parts[part]['item'][slot] for part in parts}
        times = {part: time[i[i > 0] - 1] for part, i in ids.items()}
        assert times['support'].max(initial=-1) <= times['query'].min()
        count += 1
  assert count == sum(size >= 3 for size in SIZES)


def test_batches_of_several_blocks_have_every_task_once():
  blocks = [make_block(SIZES, seed=i) for i in range(5)]
  for i, block in enumerate(blocks):
    block['tasks']['task'] = block['tasks']['task'] + 100 * i
  setting = config()
  batches = list(batches_of_blocks(blocks, setting))
  tasks = np.concatenate(
    [
      b['task'][b['weight'] > 0]
      for x in batches
      for b in x['episodes'].values()
    ]
  )
  expected = [
    task + 40 + 100 * i
    for i in range(5)
    for task, size in enumerate(SIZES)
    if size >= 3
  ]
  assert sorted(tasks.tolist()) == expected
  # Full but for the last ones: a block is cut where a batch is full.
  assert all(x['episodes']['s8']['weight'].all() for x in batches[:-2])


def test_rows_of_other_tasks_are_left_alone():
  block = make_block(SIZES)
  some = {
    'rows': block['rows'],
    'tasks': {n: c[[10, 4, 0]] for n, c in block['tasks'].items()},
  }
  setting = config(buckets=(Bucket(8, 3),))
  (found,) = batches_of_blocks([some], setting)
  assert_laid_out(found, some, setting)


def test_random_splits_do_not_depend_on_the_block():
  block = make_block(SIZES)
  setting = config(
    split='random', buckets=(Bucket(4, 13),), id_dropout={'item': 0.4}
  )

  def laid_out(tasks):
    chosen = {n: c[tasks] for n, c in block['tasks'].items()}
    part = {'rows': block['rows'], 'tasks': chosen}
    (batch,) = batches_of_blocks([part], setting)
    return {
      int(task): (
        batch['ids']['s4']['support']['item'][i].tolist(),
        batch['ids']['s4']['query']['item'][i].tolist(),
      )
      for i, task in enumerate(batch['episodes']['s4']['task'])
      if task >= 0
    }

  whole = laid_out(np.arange(13))
  assert len(whole) == 11
  for task, rows in laid_out(np.array([9, 4, 2])).items():
    assert rows == whole[task]


def test_random_splits_are_uniform_and_disjoint():
  size, num_tasks = 7, 6000
  block = make_block([size] * num_tasks)
  setting = config(
    split='random',
    buckets=(Bucket(2, num_tasks),),
    features={'item': 1},
    numeric=(),
    query_size=2,
  )
  (batch,) = batches_of_blocks([block], setting)
  parts = batch['ids']['s2']
  rows = np.concatenate(
    [parts['support']['item'], parts['query']['item']], axis=1
  )
  place = rows - 1 - size * (batch['episodes']['s2']['task'] - 40)[:, None]
  assert ((place >= 0) & (place < size)).all()
  assert (np.diff(np.sort(place, axis=1), axis=1) > 0).all()
  for column in place.T:
    counts = np.bincount(column, minlength=size)
    # Five standard deviations of a count.
    assert abs(counts - num_tasks / size).max() < 5 * (num_tasks / size) ** 0.5
  pairs = collections.Counter(map(tuple, np.sort(place[:, 2:], axis=1)))
  assert len(pairs) == 21
  assert max(pairs.values()) < 1.5 * min(pairs.values())


def test_epochs_draw_other_splits():
  block = make_block([30])
  setting = config(split='random', features={'item': 1}, numeric=())

  def query(key):
    block['tasks']['record_key'] = np.array([key])
    (batch,) = batches_of_blocks([block], setting)
    return tuple(batch['ids']['s8']['query']['item'][0])

  assert len({query(key) for key in range(5)}) == 5
  assert query(3) == query(3)


def test_dropout_has_its_shares_in_training_only():
  setting = config(
    split='random',
    buckets=(Bucket(8, 400),),
    id_dropout={'item': 0.3, 'genres': 1.0},
    task_id_dropout={'user': 0.5},
  )
  (batch,) = batches_of_blocks([make_block([11] * 400)], setting)
  parts = batch['ids']['s8']
  for part in parts.values():
    assert (part['genres'] == [0, -1, -1]).all()
    assert 0.25 < np.mean(part['item'] == 0) < 0.35
  lost = parts['support']['user'] == 0
  assert (lost == lost[:, :1]).all()
  assert 0.4 < lost.mean() < 0.6
  np.testing.assert_array_equal(lost[:, 0], parts['query']['user'][:, 0] == 0)
  (given,) = batches_of_blocks([make_block([11] * 400, num_query=3)], setting)
  assert (given['ids']['s8']['query']['item'] > 0).all()


def test_uniform_numbers_are_uniform():
  seeds = task_draws.seeds(3, np.arange(2000), np.arange(2000) % 7)
  values = task_draws.uniform(seeds[:, None], np.arange(50))
  assert 0 <= values.min() and values.max() < 1
  counts, _ = np.histogram(values, 20, (0, 1))
  assert abs(counts - 5000).max() < 5 * 5000**0.5
  assert abs(np.corrcoef(values[:, :8].T) - np.eye(8)).max() < 0.1
  other = task_draws.seeds(4, np.arange(2000), np.arange(2000) % 7)
  assert not set(seeds) & set(other)


def test_keys_of_blocks_stay_whole_and_ids_are_not_cut():
  block = make_block(SIZES)
  block['rows']['item'] = block['rows']['item'] + np.int64(2**40)
  with pytest.raises(ValueError, match="feature 'item' holds 10995116.* int32"):
    task_block.split(block, config())
  keyed = config(with_keys=True)
  found = list(batches_of_blocks([block], keyed))
  assert max(b['ids']['s4']['query']['item'].max() for b in found) > 2**40


def test_a_wrong_block_is_refused_with_its_column():
  block = make_block([9])
  with pytest.raises(ValueError, match='the block has no film; it has age, f'):
    task_block.split(block, config(features={'film': 1}))
  with pytest.raises(
    ValueError, match=r"'genres' holds .*\(3,\); needed: \(2,"
  ):
    task_block.split(block, config(features={'genres': 2}))
  del block['rows']['timestamp']
  with pytest.raises(ValueError, match='has no timestamp'):
    task_block.split(block, config())
