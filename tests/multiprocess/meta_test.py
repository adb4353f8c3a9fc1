# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The meta step of two real processes equals the dense one of one device."""

import jax
import numpy as np
import pytest

from tests.meta import oracle
from tests.multiprocess.run_workers import run_workers

pytestmark = pytest.mark.multiprocess


@pytest.mark.parametrize(
  ('intra', 'code', 'level', 'adapt', 'order', 'num_steps'),
  [
    pytest.param(4, 'IIG', 'global', 'all', 2, 1, marks=pytest.mark.slow),
    pytest.param(4, 'NIG', 'intra', 'mlp', 2, 3, marks=pytest.mark.slow),
    pytest.param(2, 'GGG', 'global', 'head', 1, 3, marks=pytest.mark.slow),
    pytest.param(8, 'NNN', 'global', 'all', 1, 3, marks=pytest.mark.slow),
  ],
)
def test_two_processes_equal_dense_tables(
  tmp_path, intra, code, level, adapt, order, num_steps
):
  file = tmp_path / 'found.npz'
  case = (intra, code, level, adapt, order, num_steps)
  run_workers('meta_worker.py', *case, file, hosts=2, num_devices=8)
  with np.load(file) as found:
    _, want, _, _ = oracle.expected(adapt, order, num_steps)
    leaves = [found[f'param{i}'] for i in range(len(jax.tree.leaves(want)))]
    oracle.assert_as_expected(
      adapt,
      order,
      num_steps,
      jax.tree.unflatten(jax.tree.structure(want), leaves),
      {name: found[f'rows_{name}'] for name in oracle.FEATURES},
      found['losses'],
    )
