# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Numbers of records in a shuffled order."""

import grain
import numpy as np
import pytest

from antjax.input import data_shard, dataset, ledger_client
from antjax.input.shuffled_index import ShuffledIndex


def numbers(source, start, stop):
  return source.read(start, stop).tasks['index'].tolist()


def test_each_record_has_one_place_and_neighbours_part():
  source = ShuffledIndex(1000, seed=1)
  order = numbers(source, 0, 1000)
  assert sorted(order) == list(range(1000))
  assert np.mean(np.abs(np.diff(order)) < 10) < 0.1
  assert order == numbers(ShuffledIndex(1000, seed=1), 0, 1000)
  assert order != numbers(ShuffledIndex(1000, seed=2), 0, 1000)


def test_windows_keep_records_near():
  source = ShuffledIndex(100, seed=0, window=10)
  for start in range(0, 100, 10):
    window = numbers(source, start, start + 10)
    assert sorted(window) == list(range(start, start + 10))


def test_places_beyond_the_end_are_refused():
  with pytest.raises(ValueError, match='ShuffledIndex'):
    ShuffledIndex(10, seed=0).read(5, 11)


def test_a_data_set_reads_every_record_once_an_epoch():
  source = ShuffledIndex(50, seed=3)
  ledger = data_shard.ShardLedger(50, 8, seed=0, num_epochs=2)
  client = ledger_client.LocalLedgerClient(ledger)
  data = dataset.LeasedDataset(source, client)
  assert isinstance(data, grain.IterDataset)
  batches = [block['tasks']['index'] for block in data]
  assert sorted(map(len, batches)) == [2, 2] + [8] * 12
  found = np.concatenate(batches)
  assert sorted(found[:50].tolist()) == list(range(50))
  assert sorted(found[50:].tolist()) == list(range(50))
