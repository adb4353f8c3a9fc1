# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""benchmarks/antm2c_scale_bench from files to a trained model."""

import duckdb
import numpy as np
import pytest

from benchmarks import antm2c_scale_bench, click_rows


def test_a_stage_that_fails_is_named():
  with pytest.raises(RuntimeError, match='prepare_data'):
    antm2c_scale_bench.stage('launch.prepare_data', '--source=/nowhere')


def test_rows_of_ids_depend_on_their_numbers_alone():
  whole = duckdb.sql(click_rows.rows(0, 3000, 50)).fetchnumpy()
  part = duckdb.sql(click_rows.rows(1000, 1200, 50)).fetchnumpy()
  for name, values in part.items():
    np.testing.assert_array_equal(values, whole[name][1000:1200], name)
  assert 0.2 < whole['label'].mean() < 0.45
  assert len(np.unique(whole['user'])) == 50
  # By Zipf's law log(2) / log(11) of the values are the first of ten.
  assert np.mean(whole['c0'] == 0) == pytest.approx(0.29, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize('form', ['antm2c', 'ids'])
def test_all_stages_have_a_cost(tmp_path, form):
  found = antm2c_scale_bench.measure(
    antm2c_scale_bench.Config(batch_rows=256, form=form), 20_000, tmp_path
  )
  assert found['rows'] == 20_000
  assert 10_000 < found['training_rows'] < 20_000
  for name in ('make', 'prepare', 'train'):
    assert found[name]['cpu_us_per_row'] > 0 and found[name]['peak_mb'] > 50
  # Of the whole stage steps are a part.
  assert found['steps']['us_per_row'] < found['train']['us_per_row']
  same = antm2c_scale_bench.ratios(found, found)
  assert same == dict.fromkeys(('make', 'prepare', 'train', 'steps'), 1.0)
