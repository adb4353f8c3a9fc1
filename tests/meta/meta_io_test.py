# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the packing of episodes and of the batches' iterator."""

import collections
import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from antjax.data import record_writer
from antjax.data import records as records_lib
from antjax.data.record_schema import Field
from antjax.meta import episodes, meta_io, task_block
from antjax.meta.episode_config import Bucket, EpisodeConfig
from antjax.shards import dataset
from antjax.shards.ledger_client import LocalLedgerClient
from antjax.shards.ledger_spec import LedgerSpec

CONFIG = EpisodeConfig(
  buckets=(Bucket(4, 2), Bucket(8, 2)),
  features={'item': 1},
  query_size=2,
  min_support=1,
)
LARGER = dataclasses.replace(CONFIG, buckets=(Bucket(9, 2),))
SMALL, LARGE = 5, 9  # Rows of records for the two buckets.


def make_record(task, num_rows):
  return {
    'task': task,
    'item': np.arange(num_rows) + 1,
    'rating': np.ones(num_rows, np.float32),
    'num_query': 2,
  }


class Source:
  """Task records in memory."""

  def __init__(self, sizes, num_query=2):
    self._sizes, self._num_query = sizes, num_query

  def __len__(self):
    return len(self._sizes)

  def read(self, start, stop):
    return [
      make_record(i, self._sizes[i]) | {'num_query': self._num_query}
      for i in range(start, stop)
    ]


SCHEMA = {
  'task': Field('int32'),
  'item': Field('int32', 1),
  'rating': Field('float32', 1),
  'num_query': Field('int32'),
}


def block_source(sizes, folder, num_query=2):
  """The same records in an Arrow file, read by blocks."""
  path = folder / 'tasks.arrow'
  table = pa.Table.from_pylist(Source(sizes, num_query).read(0, len(sizes)))
  record_writer.write(path, table.to_batches(), SCHEMA, block_size=3)
  return records_lib.open_source(path, SCHEMA, as_blocks=True)


def leased(sizes, num_epochs=1, source=None, **kwargs):
  spec = LedgerSpec(len(sizes), 3, seed=0, num_epochs=num_epochs)
  records = dataset.LeasedDataset(
    source or Source(sizes), LocalLedgerClient(spec), key_field='record_key'
  )
  kwargs.setdefault('unmark_fn', dataset.unmark_state)
  return meta_io.EpisodeBatches(records, CONFIG, **kwargs)


def tasks_of(batch):
  return [
    int(task)
    for bucket in batch['episodes'].values()
    for task, weight in zip(bucket['task'], bucket['weight'], strict=True)
    if weight
  ]


def count(batches):
  return collections.Counter(t for batch in batches for t in tasks_of(batch))


def tasks_block(sizes, config=CONFIG):
  records = [make_record(task, size) for task, size in sizes]
  block = episodes.block_of(records, config, range(len(records)))
  return task_block.split(block, config)


def packed(sizes):
  packer = meta_io.Packer(CONFIG)
  for task, size in enumerate(sizes):
    packer.add(tasks_block([(task, size)]))
  return packer


def test_a_batch_is_ready_when_its_slots_can_be_filled():
  assert not packed([SMALL, SMALL, LARGE]).ready()
  assert packed([SMALL, SMALL, LARGE, LARGE]).ready()
  assert packed([SMALL] * 4).ready()  # A small task may take a large slot.
  assert not packed([LARGE] * 4).ready()
  assert packed([LARGE] * 12).ready()  # Too many wait: continue part empty.


def test_tasks_take_the_smallest_slots_and_then_larger_ones():
  packer = packed([SMALL, LARGE, SMALL, SMALL, SMALL])
  slots = {
    name: [int(task) for piece in pieces for task in piece.task]
    for name, pieces in packer.take().items()
  }
  assert slots == {'s4': [0, 2], 's8': [1, 3]}
  assert [piece.task.tolist() for piece in packer.pending] == [[4]]


def test_a_task_larger_than_any_slot_is_refused():
  packer = meta_io.Packer(CONFIG)
  with pytest.raises(ValueError, match='do not fit the largest bucket'):
    packer.add(tasks_block([(0, 11)], LARGER))


def test_every_task_is_in_one_batch_an_epoch():
  sizes = np.random.default_rng(0).integers(3, 14, 29).tolist()
  batches = list(leased(sizes))
  assert count(batches) == dict.fromkeys(range(29), 1)
  shapes = {b['ids']['s8']['support']['item'].shape for b in batches}
  assert shapes == {(2, 8)}


@pytest.mark.parametrize('as_blocks', [False, True])
@pytest.mark.parametrize('num_batches', [1, 3, 5])
def test_a_restored_iterator_goes_on_exactly(num_batches, as_blocks, tmp_path):
  sizes = np.random.default_rng(1).integers(3, 14, 29).tolist()
  source = block_source(sizes, tmp_path) if as_blocks else None
  iterator = iter(leased(sizes, source=source))
  before = [next(iterator) for _ in range(num_batches)]
  state = iterator.get_state()
  restored = iter(leased(sizes, source=source))
  restored.set_state(state)
  assert count([*before, *restored]) == dict.fromkeys(range(29), 1)


def test_blocks_give_the_batches_of_their_records(tmp_path):
  sizes = np.random.default_rng(2).integers(3, 11, 29).tolist()
  blocks = leased(sizes, 2, block_source(sizes, tmp_path))
  found, expected = list(blocks), list(leased(sizes, 2))
  assert count(found) == count(expected) == dict.fromkeys(range(29), 2)
  # A block is packed at once: its tasks may meet others in a batch.
  supports = [
    {
      (int(task), tuple(ids[ids >= 0]))
      for batch in batches
      for name, bucket in batch['episodes'].items()
      for task, ids in zip(
        bucket['task'], batch['ids'][name]['support']['item']
      )
    }
    for batches in (found, expected)
  ]
  assert supports[0] == supports[1]
  assert len(supports[0] - {(-1, ())}) == 29


def test_keys_of_blocks_name_record_and_epoch(tmp_path):
  sizes = [3, 4, 5, 6, 7]
  spec = LedgerSpec(5, 3, seed=0, num_epochs=2)
  elements = dataset.LeasedDataset(
    block_source(sizes, tmp_path),
    LocalLedgerClient(spec),
    key_field='record_key',
  )
  tasks = [element['tasks'] for element in elements]
  assert [len(t['task']) for t in tasks[:2]] in ([3, 2], [2, 3])
  for t in tasks:
    np.testing.assert_array_equal(t['record_key'] % 5, t['task'])
  keys = np.concatenate([t['record_key'] for t in tasks])
  assert sorted(keys.tolist()) == list(range(10))


def test_splits_change_with_the_epoch():
  config = EpisodeConfig(
    buckets=(Bucket(8, 1),), features={'item': 1}, query_size=2
  )
  spec = LedgerSpec(1, 1, seed=0, num_epochs=3)
  source = Source([8])
  source.read = lambda start, stop: [make_record(0, 8) | {'num_query': 0}]
  records = dataset.LeasedDataset(
    source, LocalLedgerClient(spec), key_field='record_key'
  )
  queries = {
    tuple(batch['ids']['s8']['query']['item'][0])
    for batch in meta_io.EpisodeBatches(records, config)
  }
  assert len(queries) == 3


def test_a_state_that_would_lose_tasks_is_refused():
  iterator = iter(leased([SMALL, LARGE, LARGE, SMALL, SMALL], unmark_fn=None))
  next(iterator)
  assert iterator.get_state()  # Nothing waits.
  iterator = iter(leased([LARGE] * 20, unmark_fn=None))
  next(iterator)
  with pytest.raises(ValueError, match='wait for a batch and would be lost'):
    iterator.get_state()


def test_records_in_memory_give_each_task_once():
  records = [make_record(t, n) for t, n in enumerate([SMALL, LARGE] * 7)]
  batches = meta_io.iter_episode_batches(records, CONFIG)
  assert count(batches) == dict.fromkeys(range(14), 1)


def short_source(sizes, as_blocks, folder):
  """Records without a split of their own: one of a single row is too short."""
  return block_source(sizes, folder, 0) if as_blocks else Source(sizes, 0)


@pytest.fixture(name='said')
def _said(monkeypatch):
  """What was logged at INFO."""
  lines = []
  monkeypatch.setattr(
    meta_io.logging, 'info', lambda text, *args: lines.append(text % args)
  )
  return lines


@pytest.mark.parametrize('as_blocks', [False, True])
def test_short_records_are_told_of_once_an_epoch(as_blocks, tmp_path, said):
  sizes = [1, LARGE, 1, LARGE, LARGE, LARGE, LARGE]
  source = short_source(sizes, as_blocks, tmp_path)
  batches = leased(sizes, None, source, num_records=len(sizes))
  for _, _ in zip(range(12), batches):
    pass
  assert len(said) >= 2
  assert all('2 records left out: fewer than min_support=1' in x for x in said)


@pytest.mark.parametrize('num_epochs', [1, None])
@pytest.mark.parametrize('as_blocks', [False, True])
def test_an_epoch_of_short_records_is_refused(as_blocks, num_epochs, tmp_path):
  sizes = [1] * 7
  source = short_source(sizes, as_blocks, tmp_path)
  batches = leased(sizes, num_epochs, source, num_records=len(sizes))
  message = 'last 7 records.* fewer than 2 rows.*min_support.*--support_sizes'
  with pytest.raises(ValueError, match=message):
    next(iter(batches))


def test_one_usable_record_an_epoch_is_enough():
  sizes = [1] * 6 + [LARGE]
  source = Source(sizes, num_query=0)
  batches = leased(sizes, 20, source, num_records=len(sizes))
  assert count(batches) == {6: 20}


def test_short_records_in_memory_are_told_of(said):
  records = [make_record(i, n) | {'num_query': 0} for i, n in enumerate([1, 5])]
  assert count(meta_io.iter_episode_batches(records, CONFIG)) == {1: 1}
  assert said == [
    'iter_episode_batches: 1 records left out: fewer than min_support=1 rows'
    ' and a query row.'
  ]
