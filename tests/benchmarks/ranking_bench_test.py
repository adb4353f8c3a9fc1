# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of full ranking runs and prints what it says."""

import pytest

from tests.benchmarks import runs


@pytest.mark.slow
def test_prints_one_line():
  (result,) = runs.lines(
    'ranking_bench',
    *('--num_items=5000', '--num_users=64', '--dim=16'),
    *('--block_items=512', '--num_turns=1'),
  )
  assert result['items_per_s'] > 0 < result['bound_items_per_s']
  assert result['score_bytes'] == 4 * 64 * 512
  assert result['vector_bytes'] == 4 * 16 * 5064
