# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of full ranking runs and prints what it says."""

import json
import subprocess
import sys

import pytest

from tests import source_tree


@pytest.mark.slow
def test_prints_one_line():
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'benchmarks.ranking_bench', '--num_items=5000'),
      *('--num_users=64', '--dim=16', '--block_items=512', '--num_turns=1'),
    ],
    cwd=source_tree.ROOT,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  result = json.loads(done.stdout)
  assert result['items_per_s'] > 0 < result['bound_items_per_s']
  assert result['score_bytes'] == 4 * 64 * 512
  assert result['vector_bytes'] == 4 * 16 * 5064
