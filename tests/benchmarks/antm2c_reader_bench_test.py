# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The sides of benchmarks/antm2c_reader_bench read the same rows."""

import pytest

pytest.importorskip('pandas', reason='pandas is not installed')

from antjax.data import antm2c_synthetic_files, event_antm2c
from antjax.data.antm2c_synthetic import SyntheticConfig
from benchmarks import antm2c_reader_bench


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  config = SyntheticConfig(
    num_rows=2000, num_users=50, num_items=40, num_parts=1
  )
  (path,) = antm2c_synthetic_files.write(
    tmp_path_factory.mktemp('bench') / 'out', config, image_size=0
  )
  return path


def test_all_sides_read_all_rows(source, tmp_path):
  found = antm2c_reader_bench.compare(source, tmp_path, 1)
  assert [*found] == [*antm2c_reader_bench.SIDES]
  for line in found.values():
    low, high = line['min_max_s']
    assert low <= line['seconds'] <= high
    assert line['rows_per_s'] > 0


def test_a_repeated_file_has_its_rows_again(source, tmp_path):
  path = tmp_path / 'antm2c_part9'
  antm2c_reader_bench.write_repeated(path, source, 3)
  assert antm2c_reader_bench.antjax(path, tmp_path) == 6000
  assert event_antm2c.find_files(tmp_path) == [path]


@pytest.mark.slow
def test_batches_and_memory(source, tmp_path):
  line = antm2c_reader_bench.batches(source, tmp_path, 128, 2)
  assert line['prepared_rows'] == 2000 and line['rows_per_s'] > 0
  idle, peak = antm2c_reader_bench.peak_mb(source, tmp_path)
  assert 0 < idle <= peak
