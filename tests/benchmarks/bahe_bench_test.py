# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of BAHE, tiny: its problem, its figures, and a run."""

import numpy as np
import pytest

from benchmarks import bahe_bench
from tests.benchmarks import runs

_CASE = bahe_bench.Case('minilm', 2048, 'float32')


def _measured(seconds, size, **options):
  return {
    'gradient': [9.0, seconds, seconds],
    'update': [3.2],
    'cpu_gradient': [2 * seconds**2],
    'cpu_update': [0.0],
    'num_examples': 2,
    'bytes': size,
    'peak_bytes': 10 * size,
    'loss': 0.7,
    **options,
  }


def test_problem_is_consistent():
  config = bahe_bench.fields('smollm2', is_quick=True)
  problem = bahe_bench.make(_CASE, config, 3)
  again = bahe_bench.make(_CASE, config, 3)
  for name, array in problem.items():
    np.testing.assert_array_equal(array, again[name])
  assert problem['behaviors'].shape == (3, 128)
  assert problem['tokens'][problem['behaviors']].reshape(3, -1).shape[1] == 2048
  assert problem['behaviors'].max() < len(problem['tokens'])
  assert len({case.name for case in bahe_bench.CASES}) == 16


def test_ratios_are_over_the_faster_and_the_smaller_full_text():
  line = bahe_bench.line_of(
    _CASE,
    {
      'full_text': _measured(4.0, 800, flops=5e8, peak_flops=1e9),
      'peer': _measured(3.8, 900),
      'bahe': _measured(
        0.1, 40, flops=1e7, peak_flops=9e8, behaviors_per_s=0.01
      ),
    },
  )
  # A step's optimizer is shared by its 32 examples.
  assert line['peer']['s_per_example'] == 1.9 + 0.1
  assert line['time_ratio'] == pytest.approx(2.0 / 0.15, rel=5e-3)
  assert line['memory_ratio'] == line['peak_ratio'] == 20
  build_s = 3706 / 0.01 / 800_167
  assert line['end_to_end_ratio'] == pytest.approx(
    2.0 / (0.15 + build_s), rel=5e-3
  )
  assert line['full_text_speed_ratio'] == pytest.approx(2 / 2.1, rel=5e-3)
  assert line['full_text_cpu_ratio'] == pytest.approx(3.8**2 / 4.0**2)
  assert line['flops_bound_s'] == {'full_text': 0.5, 'bahe': 0.01}
  assert 'error' not in line


def test_different_losses_are_an_error_in_float32_only():
  found = {
    'full_text': _measured(4.0, 800, flops=1.0, peak_flops=1.0),
    'peer': _measured(4.0, 800, loss=0.701),
  }
  assert 'losses 0.7, 0.701' in bahe_bench.line_of(_CASE, found)['error']
  case = bahe_bench.Case('minilm', 2048, 'bfloat16')
  assert 'error' not in bahe_bench.line_of(case, found)


@pytest.mark.slow
def test_quick_run_without_the_peer_prints_a_line():
  (line,) = runs.lines(
    'bahe_bench', '--quick', '--skip=peer', '--cases=minilm-256-float32'
  )
  assert line['num_behaviors'] == 16
  assert line['time_ratio'] > 0 and line['memory_ratio'] > 1
  assert line['bahe']['mb_per_example'] > 0


@pytest.mark.slow
@runs.needs_peers
def test_quick_run_agrees_with_the_peer():
  lines = runs.lines(
    'bahe_bench', '--quick', '--cases=minilm-256-float32,smollm2-256-float32'
  )
  assert [line['model'] for line in lines] == ['minilm', 'smollm2']
  for line in lines:
    assert line['full_text_speed_ratio'] > 0
