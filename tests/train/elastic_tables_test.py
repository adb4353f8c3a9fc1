# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables in the host-loop form of the step."""

import jax
import numpy as np
import pytest

from antjax.train.elastic_step import ElasticStep
from tests.train.elastic_cases import SUM_ORDER_ATOL
from tests.train.tables_step_test import make_trainer


@pytest.mark.slow
@pytest.mark.parametrize('level', ['global', 'intra', 'none'])
def test_tables_equal_the_in_graph_form(level):
  trainer = make_trainer(level)
  params = {'w': np.ones(4, np.float32)}
  rng = np.random.default_rng(0)
  data = [
    {
      'ids': {'item': rng.integers(0, 97, 32)},
      'y': rng.normal(size=32).astype(np.float32),
    }
    for _ in range(3)
  ]
  all_counts = ([2, 2], [0, 1], [2, 0])
  expected = trainer.init(params)
  for batch, counts in zip(data, all_counts, strict=True):
    expected, _ = trainer.step(expected, batch, counts)
  state = trainer.init(params)
  step = ElasticStep(trainer.step_spec(), [[0], [1]])
  like = {'item': np.zeros(8, int)}
  for batch, counts in zip(data, all_counts, strict=True):
    micros = [
      [
        jax.tree.map(
          lambda x: x.reshape(2, 4, 2, 2)[group, :, i].reshape(8), batch
        )
        for i in range(count)
      ]
      for group, count in enumerate(counts)
    ]
    placed = step.route(state, micros, like, 2)
    for part, mine in zip(step.parts, placed, strict=True):
      for micro in mine:
        part.add(micro)
    state, _ = step.finish(state, {'num_valid': 1.0}, {'num_valid': 1.0})
  jax.tree.map(
    lambda a, e: np.testing.assert_allclose(a, e, atol=SUM_ORDER_ATOL),
    (state.params, state.tables),
    (expected.params, expected.tables),
  )


@pytest.mark.slow
@pytest.mark.parametrize('level', ['global', 'none'])
def test_lr_scale_multiplies_the_changes_of_rows(level):
  trainer = make_trainer(level)
  batch = {
    'ids': {'item': np.arange(16) % 5},
    'y': np.arange(16, dtype=np.float32),
  }

  def change(scale):
    state = trainer.init({'w': np.ones(4, np.float32)})
    before = jax.tree.map(np.asarray, state.tables)
    step = trainer.elastic_step()
    ((micro,),) = step.route(state, [[batch]], batch['ids'], 2)
    step.local.add(micro)
    state, _ = step.finish(state, {'num_valid': 1.0}, lr_scale=scale)
    (before,), (after,) = before.values(), state.tables.values()
    return np.asarray(after['table']) - before['table']

  np.testing.assert_allclose(change(0.5), 0.5 * change(1.0), atol=1e-6)
  assert np.abs(change(0.5)).max() > 0.01
