# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The meta-learning benchmark, tiny: its lines, and its check of equality."""

import numpy as np
import pytest

from benchmarks import meta_bench, meta_problem
from tests import warm_python
from tests.benchmarks import runs


def test_problem_is_consistent():
  sizes = meta_problem.SMOKE
  problem = meta_problem.make(sizes)
  again = meta_problem.make(sizes)
  for name, array in problem.items():
    np.testing.assert_array_equal(array, again[name])
  assert problem['index'].shape == (3, 6, 4)
  assert sizes.num_examples == 18
  # A task's own rows, read by its own index, are the batch's rows.
  for t in range(sizes.num_tasks):
    np.testing.assert_array_equal(
      problem['task_rows'][t][problem['task_index'][t]], problem['index'][t]
    )
  # Every row of the buffer is used, and only those.
  assert set(problem['index'].ravel()) == set(range(len(problem['rows'])))


def test_disagreement_names_what_differs():
  answer = {'loss': np.float32(0.7), 'w0': np.array([1.0, -2.0])}
  assert meta_bench.disagreement(answer, answer) is None
  rounded = answer | {'w0': answer['w0'] + 1e-5}
  assert meta_bench.disagreement(answer, rounded) is None
  off = answer | {'w0': answer['w0'] + 0.1}
  assert 'gradient of w0 differs' in meta_bench.disagreement(answer, off)
  nan = answer | {'w0': np.full(2, np.nan)}
  assert 'gradient of w0 differs' in meta_bench.disagreement(nan, answer)
  assert 'gradients of' in meta_bench.disagreement(answer, answer | {'b': 1.0})
  assert 'loss' in meta_bench.disagreement(answer, answer | {'loss': 0.8})


def test_unknown_case_is_a_one_line_error():
  result = warm_python.run('-m', 'benchmarks.meta_bench', '--cases=mlp-9-9')
  assert result.returncode == 1
  assert result.stderr.strip() == (
    '--cases=mlp-9-9: use some of mlp-2-1, mlp-1-1, mlp-2-3, mlp-1-3, '
    'all-2-1, all-1-1, all-2-3, all-1-3, '
    'mlp-2-1-1e7, dlrm-1e6, dlrm-1e7.'
  )


@runs.needs_peers
def test_smoke_run_prints_a_line_a_case_and_peer():
  lines = runs.lines(
    'meta_bench',
    *('--quick', '--cases=mlp-2-1,all-1-1', '--peer=loop,functional'),
  )
  assert [(line['case']['adapted'], line['peer']) for line in lines] == [
    ('mlp', 'loop'),
    ('mlp', 'functional'),
    ('all', 'loop'),
    ('all', 'functional'),
  ]
  for line in lines:
    ratio = line['examples_per_s'] / line['peer_examples_per_s']
    np.testing.assert_allclose(line['ratio'], ratio, rtol=1e-2)
    assert line['dtype'] == 'float32'
    assert {'jax', 'torch'} <= line['versions'].keys()


@runs.needs_peers
@pytest.mark.slow
def test_processes_of_a_peer_that_share_the_tasks_agree():
  lines = runs.lines(
    'meta_bench',
    *('--quick', '--cases=mlp-2-1,all-1-3', '--peer=functional'),
    '--peer_processes=3',
  )
  assert len(lines) == 2
  assert all(line['torch_processes'] == 3 for line in lines)
  assert all(line['peer_examples_per_s'] > 0 for line in lines)
