# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Parts of benchmarks.ctr_bench."""

import numpy as np
import pytest

from benchmarks import ctr_bench, harness, machine


def problem(size=60):
  rng = np.random.default_rng(0)
  num_ids = dict(zip(ctr_bench.FIELDS, (12, 9, 3, 8, 22, 3)))
  found = {f'ids.{name}': np.array(num) for name, num in num_ids.items()}
  for part in ('train', 'test'):
    for name, num in num_ids.items():
      ids = rng.integers(0, num, size)
      found[f'{part}.{name}'] = ids.astype(np.int32)
    labels = rng.integers(0, 2, size)
    found[f'{part}.label'] = labels.astype(np.float32)
  return found


def test_aucs_are_compared_on_the_same_clicks():
  made = problem()
  test = {name: made[f'test.{name}'] for name in ('label', 'user')}
  rng = np.random.default_rng(1)
  noise = rng.normal(size=len(test['label']))
  good = noise + 3 * test['label']
  found = ctr_bench.compared(good, noise, test)
  assert found['auc'] > 0.9 > found['peer_auc']
  value, low, high = found['auc_difference']
  assert low < value < high and low > 0
  assert value == pytest.approx(found['auc'] - found['peer_auc'], abs=2e-5)
  same = ctr_bench.compared(noise, noise, test)
  assert same['auc_difference'] == [0, 0, 0]


def test_flops_are_those_of_the_products():
  flops = {name: ctr_bench.flops_of_step(name) for name in ctr_bench.MODELS}
  width = 6 * ctr_bench.DIM
  first, second = ctr_bench.WIDTHS
  expected = 6 * ctr_bench.BATCH * (width * first + first * second + second)
  assert flops['mlp'] == flops['deepfm'] == expected
  crossed = 6 * ctr_bench.BATCH * (3 * width * width + width)
  assert flops['dcnv2'] == expected + crossed
  assert flops['ple'] > flops['mmoe']


@pytest.mark.skipif(not machine.peers_have('torch_rechub'), reason='make peers')
def test_the_peer_has_the_models(tmp_path):
  path = tmp_path / 'problem.npz'
  harness.save(problem(), path)
  with harness.workers({'peer': harness.Side(is_peer=True)}) as workers:
    peer = workers['peer']
    for name in ctr_bench.MODELS[:6]:
      options = {
        'loader': 'batched',
        'problem': str(path),
        'norm': 'batch',
        'seed': 0,
      }
      peer.make('benchmarks.ctr_peers:Peer', model=name, **options)
      assert peer.order('rows_per_s', steps=2) > 0
      out = str(tmp_path / f'{name}.npy')
      peer.order('write_logits', path=out)
      assert np.load(out).shape == (60,)
