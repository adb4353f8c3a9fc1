# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Numbers of records in a shuffled order."""

import grain
import numpy as np
import pyarrow as pa
import pytest

from antjax.data import record_schema, record_writer, records
from antjax.data.shuffled_index import Order, ShuffledBlocks, ShuffledRecords
from antjax.shards import dataset, ledger_client, ledger_spec


def numbers(source, start, stop):
  return source.read(start, stop).tasks['index'].tolist()


def test_each_record_has_one_place_and_neighbours_part():
  source = ShuffledBlocks(1000, seed=1, block_size=1)
  order = numbers(source, 0, 1000)
  assert sorted(order) == list(range(1000))
  assert np.mean(np.abs(np.diff(order)) < 10) < 0.1
  assert order == numbers(ShuffledBlocks(1000, seed=1, block_size=1), 0, 1000)
  assert order != numbers(ShuffledBlocks(1000, seed=2, block_size=1), 0, 1000)


@pytest.mark.parametrize('size', [1, 2, 3, 16, 17, 1000])
def test_windows_are_permuted_among_themselves(size):
  order = Order(2 * size + 1, seed=5, window=size)
  numbers = order(np.arange(2 * size + 1))
  for start in range(0, 2 * size + 1, size):
    window = numbers[start : start + size].tolist()
    assert sorted(window) == list(range(start, min(start + size, 2 * size + 1)))
  if size == 1000:  # Windows are not alike.
    assert (numbers[:size] != numbers[size : 2 * size] - size).mean() > 0.9
  # Any places, in any order.
  places = np.array([2 * size, 0, size])
  assert order(places).tolist() == numbers[places].tolist()


def test_a_single_window_is_ordered_as_the_first_of_several():
  single = Order(1000, seed=3, window=1000)(np.arange(1000))
  several = Order(2500, seed=3, window=1000)(np.arange(1000))
  assert single.tolist() == several.tolist()
  assert Order(0, seed=0)(np.arange(0)).tolist() == []


@pytest.mark.parametrize('places', [[-1], [10], [0, 11]])
def test_there_are_no_places_beyond_the_records(places):
  with pytest.raises(ValueError, match='of 10 records'):
    Order(10, seed=0)(np.array(places))


def test_neighbours_are_everywhere():
  # Of a uniform permutation the mean distance of neighbours is a third.
  numbers = Order(10**6, seed=0)(np.arange(10**4))
  distance = np.abs(np.diff(numbers)).mean() / 10**6
  assert distance == pytest.approx(1 / 3, abs=0.01)
  places = np.histogram(numbers, bins=10, range=(0, 10**6))[0]
  assert places.min() > 850 and places.max() < 1150


@pytest.mark.parametrize('form', ['arrow', 'array_record'])
def test_records_of_another_source(tmp_path, form):
  schema = {'number': record_schema.Field('int32')}
  table = pa.table({'number': pa.array(range(40), pa.int32())})
  path = tmp_path / f'r.{form}'
  record_writer.write(path, table.to_batches(8), schema)
  shuffled = ShuffledRecords(records.open_source(path, schema), seed=3)
  found = [int(record['number']) for record in shuffled.read(0, 40)]
  assert sorted(found) == list(range(40)) != found
  assert found[7:9] == [r['number'] for r in shuffled.read(7, 9)]
  assert shuffled.order(np.arange(40)).tolist() == found
  with pytest.raises(ValueError, match='ShuffledRecords'):
    shuffled.read(30, 41)


def test_places_beyond_the_end_are_refused():
  with pytest.raises(ValueError, match='ShuffledBlocks'):
    ShuffledBlocks(10, seed=0, block_size=1).read(5, 11)


def test_a_data_set_reads_every_record_once_an_epoch():
  source = ShuffledBlocks(50, seed=3, block_size=1)
  spec = ledger_spec.LedgerSpec(50, 8, seed=0, num_epochs=2)
  client = ledger_client.LocalLedgerClient(spec)
  data = dataset.LeasedDataset(source, client)
  assert isinstance(data, grain.IterDataset)
  batches = [block['tasks']['index'] for block in data]
  assert sorted(map(len, batches)) == [2, 2] + [8] * 12
  found = np.concatenate(batches)
  assert sorted(found[:50].tolist()) == list(range(50))
  assert sorted(found[50:].tolist()) == list(range(50))
