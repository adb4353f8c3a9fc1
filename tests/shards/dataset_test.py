# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""LeasedDataset under grain's transforms, saved and restored anywhere."""

import copy
import json

from absl import flags
import grain
import numpy as np
import pytest

from antjax.shards import dataset as dataset_lib
from antjax.shards.dataset import LeasedDataset, merge_states
from antjax.shards.ledger_client import LocalLedgerClient
from antjax.shards.ledger_spec import LedgerSpec

NUM_RECORDS = 103


class Source:
  """Records that hold their own number; counts reads."""

  def __init__(self, num_records=NUM_RECORDS):
    self.num_records = num_records
    self.reads = []

  def __len__(self):
    return self.num_records

  def read(self, start, stop):
    self.reads.append((start, stop))
    return [{'x': np.int32(i)} for i in range(start, stop)]


def leased(worker=0, num_workers=1, *, num_epochs=1, shard_size=10, **options):
  spec = LedgerSpec(NUM_RECORDS, shard_size, seed=3, num_epochs=num_epochs)
  client = LocalLedgerClient(spec, worker=worker, num_workers=num_workers)
  return LeasedDataset(Source(), client, **options)


def numbers(elements):
  """Returns the record numbers in records or batches of them."""
  return [int(x) for e in elements for x in np.ravel(e['x'])]


def take(iterator, count):
  return [next(iterator) for _ in range(count)]


def through_json(state):
  return json.loads(json.dumps(state))


@pytest.mark.parametrize('num_epochs', [1, 3])
def test_each_record_once_an_epoch(num_epochs):
  seen = numbers(leased(num_epochs=num_epochs))
  for epoch in range(num_epochs):
    part = seen[epoch * NUM_RECORDS : (epoch + 1) * NUM_RECORDS]
    assert sorted(part) == list(range(NUM_RECORDS))
  assert seen != sorted(seen)


def test_reads_a_shard_as_one_block():
  dataset = leased()
  list(dataset)
  assert len(dataset._source.reads) == 11
  assert len(set(dataset._source.reads)) == 11


def test_a_new_iterator_begins_again():
  dataset = leased()
  whole = numbers(dataset)
  iterator = iter(dataset)
  take(iterator, 13)
  assert numbers(dataset) == whole
  with pytest.raises(RuntimeError, match='a newer iterator'):
    next(iterator)
  with pytest.raises(RuntimeError, match='a newer iterator'):
    iterator.get_state()


@pytest.mark.parametrize('num_before', [0, 1, 4, 10, 57, NUM_RECORDS])
def test_restores_at_any_record(num_before):
  whole = numbers(leased())
  iterator = iter(leased())
  before = take(iterator, num_before)
  state = through_json(iterator.get_state())
  restored = iter(leased())
  take(restored, 5)
  restored.set_state(state)
  assert numbers(before) + numbers(restored) == whole
  iterator.set_state(state)  # Back in the same iterator.
  assert numbers(before) + numbers(iterator) == whole


def _transformed(dataset, kind):
  dataset = dataset.map(lambda r: {'x': r['x']})
  if kind == 'filter':
    return dataset.filter(lambda r: r['x'] % 3 != 0).batch(7)
  dataset = dataset.batch(7)
  if kind == 'thread':
    return grain.experimental.ThreadPrefetchIterDataset(
      dataset, prefetch_buffer_size=4
    )
  return dataset


@pytest.mark.parametrize('kind', ['batch', 'filter', 'thread'])
@pytest.mark.parametrize('num_before', [0, 1, 6, 14])
def test_transforms_restore_exactly(kind, num_before):
  whole = numbers(_transformed(leased(num_epochs=2), kind))
  iterator = iter(_transformed(leased(num_epochs=2), kind))
  before = take(iterator, num_before)
  state = through_json(iterator.get_state())
  iterator.close()
  restored = iter(_transformed(leased(num_epochs=2), kind))
  restored.set_state(state)
  assert numbers(before) + numbers(restored) == whole


def test_random_map_states_merge():
  def pipeline(worker, num_workers):
    dataset = leased(worker, num_workers).seed(1)
    return dataset.random_map(lambda r, rng: r).batch(4)

  iterators = [iter(pipeline(p, 2)) for p in range(2)]
  seen = numbers(take(iterators[0], 3)) + numbers(take(iterators[1], 5))
  state = merge_states([i.get_state() for i in iterators])
  restored = iter(pipeline(0, 1))
  restored.set_state(through_json(state))
  assert sorted(seen + numbers(restored)) == list(range(NUM_RECORDS))


@pytest.mark.parametrize('before', [1, 2, 3, 4])
@pytest.mark.parametrize('after', [1, 2, 3, 5])
def test_restores_with_another_number_of_processes(before, after):
  """Saved mid-batch of the epoch, mid-shard, at different speeds."""
  iterators = [
    iter(leased(p, before, num_epochs=2).batch(4)) for p in range(before)
  ]
  seen = []
  for p, iterator in enumerate(iterators):
    seen += numbers(take(iterator, 3 + 2 * p))
  state = through_json(merge_states([i.get_state() for i in iterators]))
  for p in range(after):
    iterator = iter(leased(p, after, num_epochs=2).batch(4))
    iterator.set_state(copy.deepcopy(state))
    seen += numbers(iterator)
  assert sorted(seen) == sorted(2 * list(range(NUM_RECORDS)))


def test_merge_of_other_pipelines():
  plain = iter(leased()).get_state()
  mapped = iter(leased().seed(1).random_map(lambda r, rng: r)).get_state()
  with pytest.raises(ValueError, match='different keys on different processes'):
    merge_states([plain, mapped])
  with pytest.raises(ValueError, match='state.n differs between processes'):
    merge_states([{'n': 1, **plain}, {'n': 2, **plain}])
  with pytest.raises(ValueError, match='at least one process'):
    merge_states([])


def test_state_of_another_dataset():
  iterator = iter(leased())
  with pytest.raises(ValueError, match="has no 'ledger' but next_index"):
    iterator.set_state({'next_index': 3})


def test_source_and_ledger_differ():
  client = LocalLedgerClient(LedgerSpec(NUM_RECORDS, 10))
  with pytest.raises(ValueError, match='source has 7 records, the ledger 103'):
    LeasedDataset(Source(7), client)


def test_key_names_record_and_epoch():
  elements = list(leased(num_epochs=2, key_field='key'))
  keys = [e['key'] for e in elements]
  assert sorted(keys) == list(range(2 * NUM_RECORDS))
  assert all(e['key'] % NUM_RECORDS == e['x'] for e in elements)
  assert keys[0].dtype == np.int64
  with pytest.raises(ValueError, match="key_field='x' is a field"):
    next(iter(leased(key_field='x')))


@pytest.mark.parametrize('random_map', [False, True])
def test_unmarked_records_come_again(random_map):
  def pipeline():
    dataset = leased(num_epochs=2, key_field='key')
    return (
      dataset.random_map(lambda r, rng: r, seed=1) if random_map else (dataset)
    )

  iterator = iter(pipeline())
  read = take(iterator, 110)  # Over the border of the epochs.
  waiting, used = read[95:108:2], read[:95] + read[96:108:2] + read[108:]
  state = dataset_lib.unmark_state(
    iterator.get_state(), [e['key'] for e in waiting]
  )
  restored = iter(pipeline())
  restored.set_state(through_json(state))
  seen = [int(e['key']) for e in [*used, *restored]]
  assert sorted(seen) == list(range(2 * NUM_RECORDS))
  with pytest.raises(ValueError, match="has no 'ledger'"):
    dataset_lib.unmark_state({'next_index': 1}, [0])


@pytest.mark.parametrize('num_workers', [1, 2])
def test_worker_processes_are_refused(num_workers):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  dataset = (
    leased()
    .batch(4)
    .mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
  )
  with pytest.raises(TypeError, match='use grain.experimental.ThreadPrefetch'):
    next(iter(dataset))


def test_an_iterator_that_is_not_used_disturbs_nobody():
  dataset = leased()
  iterator = iter(dataset)
  before = numbers(take(iterator, 13))
  iter(dataset)
  assert before + numbers(iterator) == numbers(leased())


def test_states_within_and_between_chunks():
  """What is used is noted in bulk; a state has it all the same."""
  size = 2 * dataset_lib._CHUNK + 44
  whole = None
  for num_before in (1, dataset_lib._CHUNK, dataset_lib._CHUNK + 1, size, 700):

    def iterate():
      client = LocalLedgerClient(LedgerSpec(1000, size, seed=3))
      return iter(LeasedDataset(Source(1000), client))

    whole = whole or numbers(iterate())
    iterator = iterate()
    before = numbers(take(iterator, num_before))
    restored = iterate()
    for _ in range(2):  # Taking a state twice changes nothing.
      state = through_json(iterator.get_state())
    restored.set_state(state)
    assert before + numbers(restored) == whole
    assert before + numbers(iterator) == whole


def test_a_local_reader_raises_and_can_go_on():
  class Broken(Source):
    def read(self, start, stop):
      if start == 40:
        raise OSError('damaged')
      return super().read(start, stop)

  source = Broken()
  iterator = iter(LeasedDataset(source, leased()._client))
  seen = []
  with pytest.raises(OSError, match='damaged'):
    while True:
      seen += numbers([next(iterator)])
  source.read = super(Broken, source).read  # Repaired.
  assert sorted(seen + numbers(iterator)) == list(range(NUM_RECORDS))


def test_a_source_that_gives_too_few_records():
  class Short(Source):
    def read(self, start, stop):
      return super().read(start, stop)[:-1]

  with pytest.raises(ValueError, match='gave 9 records'):
    next(iter(LeasedDataset(Short(), leased()._client)))


def test_close_gives_the_rest_of_a_shard_back():
  dataset = leased()
  iterator = iter(dataset)
  before = numbers(take(iterator, 13))
  dataset.close()
  with pytest.raises(RuntimeError, match='a newer iterator'):
    next(iterator)
  rest = iter(leased())
  rest.set_state({'ledger': dataset._client.state()})
  assert sorted(before + numbers(rest)) == list(range(NUM_RECORDS))


def test_client_is_not_copied():
  with pytest.raises(TypeError, match='cannot be pickled or copied'):
    copy.deepcopy(leased()._client)
