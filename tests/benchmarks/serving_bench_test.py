# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The serving benchmark runs and prints what its page says."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antjax.serving import exporter
from tests.benchmarks import runs
from tests.serving import serving_case


@pytest.mark.slow
def test_prints_one_line(tmp_path):
  exporter.write(tmp_path / 'model', serving_case.Case().exported())
  rng = np.random.default_rng(0)
  users = [
    {
      'task': task,
      'num_query': 2,
      'gender': 1,
      'item': rng.integers(0, 40, n + 2).tolist(),
      'genres': rng.integers(0, 9, (n + 2, 3)).tolist(),
      'rating': rng.integers(1, 6, n + 2).astype(float).tolist(),
    }
    for task, n in enumerate([1, 4, 5, 8])
  ]
  pq.write_table(pa.Table.from_pylist(users), tmp_path / 'users.parquet')
  (result,) = runs.lines(
    'serving_bench',
    *(f'--model={tmp_path}/model', f'--input={tmp_path}/users.parquet'),
    *('--num_calls=3', '--num_turns=1', '--batch_size=4'),
  )
  assert set(result['adapt_ms']) == {'4', '8'}
  for times in (*result['adapt_ms'].values(), result['predict_ms']):
    assert 0 < times['p50'] <= times['p99']
  assert result['rows_per_s'] > 0 and result['num_users'] == 4
