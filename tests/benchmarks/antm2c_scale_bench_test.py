# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""benchmarks/antm2c_scale_bench from files to a trained model."""

import pytest

from benchmarks import antm2c_scale_bench


def test_a_stage_that_fails_is_named():
  with pytest.raises(RuntimeError, match='prepare_data'):
    antm2c_scale_bench.stage('launch.prepare_data', '--source=/nowhere')


@pytest.mark.slow
def test_all_stages_have_a_cost(tmp_path):
  found = antm2c_scale_bench.measure(
    antm2c_scale_bench.Config(batch_rows=256), 20_000, tmp_path
  )
  assert found['rows'] == 20_000
  assert 10_000 < found['training_rows'] < 20_000
  for name in ('make', 'prepare', 'train'):
    assert found[name]['cpu_us_per_row'] > 0 and found[name]['peak_mb'] > 50
  # Of the whole stage steps are a part.
  assert found['steps']['us_per_row'] < found['train']['us_per_row']
  same = antm2c_scale_bench.ratios(found, found)
  assert same == dict.fromkeys(('make', 'prepare', 'train', 'steps'), 1.0)
