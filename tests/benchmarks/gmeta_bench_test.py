# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The G-Meta benchmark: its ablations compute what they say."""

import dataclasses

import jax
import numpy as np
import pytest

from antjax.mesh.mesh import make_mesh
from benchmarks import gmeta_problem
from tests.benchmarks import runs

# Sums in another order, through Adagrad and Adam.
SUM_ORDER_ATOL = 2e-5
CASE = gmeta_problem.Case(
  num_rows=400,
  num_tasks=4,
  num_support=3,
  num_query=2,
  num_features=4,
  embedding_dim=4,
  widths=(8, 1),
)


def train(variant, num_steps=2):
  """Losses and first table after some steps on 8 devices."""
  case = dataclasses.replace(CASE, variant=variant)
  trainer, state = gmeta_problem.make_trainer(case, make_mesh(intra=4))
  batch = jax.tree.map(
    lambda *x: np.concatenate(x), *(case.batch(i) for i in range(8))
  )
  losses = []
  for _ in range(num_steps):
    state, metrics = trainer.step(state, batch)
    losses.append(float(metrics['loss']))
  rows = trainer.tables.to_canonical(state.tables)['f0']['table']
  return losses, np.array(rows)[:100]


@pytest.mark.slow
@pytest.mark.parametrize('variant', ['no_dedup', 'central_gather'])
def test_what_an_ablation_leaves_out_changes_no_result(variant):
  losses, rows = train('full')
  found_losses, found_rows = train(variant)
  np.testing.assert_allclose(found_losses, losses, rtol=1e-5)
  np.testing.assert_allclose(found_rows, rows, atol=SUM_ORDER_ATOL)


@pytest.mark.slow
def test_two_exchanges_give_the_same_first_loss():
  losses, _ = train('full', 1)
  found, _ = train('two_exchanges', 1)
  np.testing.assert_allclose(found, losses, rtol=1e-5)


@pytest.mark.slow
def test_rows_mode_prints_a_line_a_size():
  lines = runs.lines(
    'gmeta_bench',
    *('--mode=rows', '--rows=800,8000', '--rounds=1', '--num_tasks=2'),
    XLA_FLAGS='',
  )
  assert [line['case']['num_rows'] for line in lines] == [800, 8000]
  assert lines[0]['over_smallest'] == 1
  assert all(np.isfinite(line['last_loss']) for line in lines)
