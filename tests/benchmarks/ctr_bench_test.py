# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Parts of benchmarks.ctr_bench."""

import numpy as np
import pytest

from benchmarks import ctr_figures, harness
from benchmarks import ctr_problem as problem_lib


def problem(size=60):
  rng = np.random.default_rng(0)
  num_ids = {'user': 12, 'item': 9, 'gender': 3, 'age': 8}
  num_ids |= {'occupation': 22, 'scenario': 3}

  def clicks():
    found = {
      name: rng.integers(0, n, size).astype(np.int32)
      for name, n in num_ids.items()
    }
    return found | {'label': rng.integers(0, 2, size).astype(np.float32)}

  return problem_lib.Problem(clicks(), clicks(), num_ids)


def test_a_problem_is_read_as_it_was_written(tmp_path):
  made = problem()
  problem_lib.save(made, tmp_path / 'problem.npz')
  read = problem_lib.load(str(tmp_path / 'problem.npz'))
  assert read.num_ids == made.num_ids
  for name, values in made.test.items():
    np.testing.assert_array_equal(read.test[name], values)
    assert read.test[name].dtype == values.dtype


def test_aucs_are_compared_on_the_same_clicks():
  test = problem().test
  rng = np.random.default_rng(1)
  noise = rng.normal(size=len(test['label']))
  good = noise + 3 * test['label']
  found = ctr_figures.compared(good, noise, test)
  assert found['auc'] > 0.9 > found['peer_auc']
  value, low, high = found['auc_difference']
  assert low < value < high and low > 0
  assert value == pytest.approx(found['auc'] - found['peer_auc'], abs=2e-5)
  same = ctr_figures.compared(noise, noise, test)
  assert same['auc_difference'] == [0, 0, 0]


def test_flops_are_those_of_the_products():
  flops = {
    name: ctr_figures.flops_of_step(name, problem())
    for name in problem_lib.MODELS
  }
  width = 6 * problem_lib.DIM
  first, second = problem_lib.WIDTHS
  expected = 6 * problem_lib.BATCH * (width * first + first * second + second)
  assert flops['mlp'] == flops['deepfm'] == expected
  crossed = 6 * problem_lib.BATCH * (3 * width * width + width)
  assert flops['dcnv2'] == expected + crossed
  assert flops['ple'] > flops['mmoe']


@pytest.mark.skipif(not harness.peers_have('torch_rechub'), reason='make peers')
def test_the_peer_has_the_models(tmp_path):
  path = tmp_path / 'problem.npz'
  made = problem()
  problem_lib.save(made, path)
  side = harness.Side('benchmarks.ctr_bench', ('--worker=peer',), {}, True)
  with harness.workers({'peer': side}) as workers:
    for name in problem_lib.MODELS:
      workers['peer'].order(
        'peer', model=name, loader='batched', problem=str(path)
      )
      assert workers['peer'].order('time', steps=2)['rows_per_s'][0] > 0
      out = str(tmp_path / f'{name}.npy')
      workers['peer'].order('logits', path=out)
      assert np.load(out).shape == made.test['label'].shape
