# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The input benchmark: its sides read the same, and a small run of it."""

import numpy as np
import pytest

from benchmarks import input_bench
from tests.benchmarks import runs


@pytest.mark.parametrize('group_size', [1, 16])
def test_sides_give_the_same_records_in_other_orders(tmp_path, group_size):
  path = tmp_path / 'a.array_record'
  input_bench.write_file(path, 600, group_size)
  orders = {}
  for name, make in (
    ('local', input_bench.local(path, 100, 64)),
    ('grain', input_bench.plain_grain(path, 100, 2)),
    ('batch_first', input_bench.plain_grain(path, 100, 2, batch_first=True)),
    ('in_order', input_bench.plain_grain(path, 100, 0, is_shuffled=False)),
  ):
    batches = make()
    epoch = [next(batches) for _ in range(6)]
    assert epoch[0]['dense'].shape == (100, 8)
    assert epoch[0]['label'].dtype == np.float32
    orders[name] = np.concatenate([batch['ids'][:, 0] for batch in epoch])
    assert sorted(orders[name]) == list(range(600)), name
    assert next(batches)['ids'].shape == (100, 16)  # The next epoch.
  assert list(orders['in_order']) == list(range(600))
  assert list(orders['local']) != list(orders['grain'])
  assert list(orders['batch_first']) == list(orders['grain'])


def test_lines_compare_medians():
  rates = {
    'local': [50.0, 200.0, 100.0],
    'service': [90.0] * 3,
    'grain': [100.0, 10.0, 100.0],
    'grain_in_order': [200.0] * 3,
  }
  local, service = input_bench.lines_of(rates)
  assert local['ratio'] == 1.0 and local['ratio_in_order'] == 0.5
  assert service['ratio'] == 0.9
  assert local['min_max'] == [50, 200]


@pytest.mark.slow
def test_rates_are_of_new_iterators(tmp_path):
  path = tmp_path / 'a.array_record'
  input_bench.write_file(path, 64, 1)
  make = input_bench.local(path, 8, 16)
  rates = input_bench.compare({'a': make, 'b': make}, 8, 0.01, 2)
  assert all(len(of) == 2 and min(of) > 0 for of in rates.values())


@pytest.mark.slow
def test_a_small_run():
  lines = runs.lines(
    'input_bench',
    *('--num_records=4096', '--batch_size=64', '--records_in_shard=256'),
    *('--turn_s=0.1', '--num_turns=1', '--group_sizes=1'),
    '--grain_threads=0,2',
  )
  ledgers = [line.get('ledger') for line in lines]
  assert ledgers == ['local', 'service', 'held_back', None]
  assert {'samples_per_s', 'grain_samples_per_s', 'ratio'} <= lines[0].keys()
  assert {'local_ratio', 'service_ratio', 'held_back_ratio'} <= lines[-1].keys()
