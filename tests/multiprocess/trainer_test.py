# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Two real processes of four devices train like one process of eight."""

import numpy as np
import pytest

from tests.multiprocess.run_workers import run_workers

# The same sums over devices, in gloo's order instead of XLA's own.
SUM_ORDER_RTOL = 1e-4

pytestmark = pytest.mark.multiprocess


def run(code, intra, folder, *, hosts, counts):
  """Results of every process."""
  return run_workers(
    'train_worker.py', code, intra, folder, counts, hosts=hosts, num_devices=8
  )


def assert_same(actual, expected):
  assert actual['losses'].keys() == expected['losses'].keys()
  for step, loss in expected['losses'].items():
    np.testing.assert_allclose(
      actual['losses'][step], loss, rtol=SUM_ORDER_RTOL
    )
  for name, value in expected['scores'].items():
    np.testing.assert_allclose(
      actual['scores'][name], value, atol=2e-3, err_msg=name
    )


@pytest.mark.parametrize(
  ('code', 'intra'),
  [
    ('IIG', 4),
    pytest.param('GGG', 2, marks=pytest.mark.slow),
    pytest.param('NNN', 8, marks=pytest.mark.slow),
    pytest.param('NIG', 2, marks=pytest.mark.slow),
  ],
)
def test_two_processes_equal_one(tmp_path, code, intra):
  (one,) = run(code, intra, tmp_path / 'one', hosts=1, counts='5')
  assert one['step'] == 5
  both = run(code, intra, tmp_path / 'two', hosts=2, counts='5,5')
  for actual in both:
    assert_same(actual, one)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('code', 'intra'), [('IIG', 4), ('GGG', 2), ('NNN', 8), ('NIG', 2)]
)
def test_another_number_of_processes_takes_over(tmp_path, code, intra):
  (one,) = run(code, intra, tmp_path / 'one', hosts=1, counts='5')
  # One process began; two resume, and the reverse.
  run(code, intra, tmp_path / 'mixed', hosts=1, counts='2')
  for actual in run(code, intra, tmp_path / 'mixed', hosts=2, counts='4,4'):
    assert sorted(actual['losses']) == ['3', '4']
    for step in actual['losses']:
      np.testing.assert_allclose(
        actual['losses'][step], one['losses'][step], rtol=SUM_ORDER_RTOL
      )
  (last,) = run(code, intra, tmp_path / 'mixed', hosts=1, counts='5')
  np.testing.assert_allclose(
    last['losses']['5'], one['losses']['5'], rtol=SUM_ORDER_RTOL
  )
  assert_same({**last, 'losses': {}}, {**one, 'losses': {}})


@pytest.mark.slow
def test_a_process_that_runs_out_of_data_keeps_in_step(tmp_path):
  """Nobody waits for ever, and what the others have still counts."""
  first, second = run('GGG', 4, tmp_path, hosts=2, counts='5,3')
  assert first['step'] == second['step'] == 5
  assert first['losses'] == second['losses']
  assert sorted(first['losses']) == ['1', '2', '3', '4', '5']
  assert first['scores'] == second['scores']


@pytest.mark.slow
def test_processes_without_any_data_take_part_or_all_end(tmp_path):
  first, second = run('IIG', 4, tmp_path / 'a', hosts=2, counts='2,0')
  assert first['step'] == second['step'] == 2
  assert first['losses'] == second['losses']
  assert first['scores'] == second['scores']
  for result in run('IIG', 4, tmp_path / 'b', hosts=2, counts='0,0'):
    assert result['step'] == 0
    assert result['losses'] == {}
