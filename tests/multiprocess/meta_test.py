# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The meta step of two real processes equals the dense one of one device."""

import jax
import numpy as np
import pytest

from antjax.mesh.mesh import make_mesh
from tests.meta import oracle
from tests.multiprocess.run_workers import run_workers

pytestmark = pytest.mark.multiprocess


def work(intra, code, level, adapt, order, num_steps, file):
  """Process 0 writes parameters, rows and losses to the file."""
  inner = oracle.inner_loop(adapt, order, num_steps)
  sharded = oracle.Sharded(inner, make_mesh(intra=intra), code, level)
  losses = []
  for batch in oracle.batches_for(inner):
    count, index = jax.process_count(), jax.process_index()
    mine = jax.tree.map(lambda x: np.split(x, count)[index], batch)
    losses.append(sharded.step(mine))
  params = jax.tree.leaves(sharded.trainer.params(sharded.state))
  rows = sharded.rows()
  if jax.process_index() == 0:
    np.savez(
      file,
      losses=losses,
      **{f'param{i}': p for i, p in enumerate(params)},
      **{f'rows_{name}': r for name, r in rows.items()},
    )
  return {'losses': losses}


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
  run_workers(work, *case, file, hosts=2, num_devices=8)
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
