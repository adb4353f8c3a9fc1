# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`Trainer.fit(elastic=...)` with embedding tables."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import Adam
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import make_mesh
from antjax.train.elastic import Plan
from antjax.train.trainer import Trainer
from tests.train.elastic_control import (
  Control,
)


def make_table_trainer():
  mesh = make_mesh(intra=4)
  tables = EmbeddingTables(
    [TableSpec('item', 97, 4, 'global', Adam(0.1), init_scale=1.0)],
    {'item': 'item'},
    mesh=mesh,
  )

  def loss_fn(params, rows, batch, rng):
    del rng
    x = tables.lookup(rows, batch['ids'])['item']
    return jnp.square(x @ params['w'] - batch['y'])

  return Trainer(
    loss_fn,
    optax.adam(0.1),
    mesh=mesh,
    paro='IIG',
    tables=tables,
    num_micro_batches=2,
  )


def table_batches(num, last=16):
  rng = np.random.default_rng(0)
  for i in range(num):
    size = 16 if i < num - 1 else last
    yield {
      'ids': {'item': rng.integers(0, 97, size)},
      'y': rng.normal(size=size).astype(np.float32),
    }


@pytest.mark.slow
def test_tables_follow_a_plan_beyond_the_trainers_number():
  control = Control({2: Plan(1, {'me': 3}), 5: Plan(2, {'me': 1})})
  trainer, seen = make_table_trainer(), {}
  state = trainer.fit(
    trainer.init({'w': np.ones(4, np.float32)}),
    table_batches(22, last=5),  # The last one is smaller.
    100,
    elastic=control,
    on_step=lambda step, values: seen.setdefault(step, values),
  )
  counts = [v['num_micro_batches'] for v in seen.values()]
  assert counts == [2, 2, 2, 2, 3, 3, 3, 1, 1, 1, 1, 1]
  assert int(state.step) == len(counts)
  assert seen[12]['weight'] == 5
  assert seen[12]['loss'] < seen[1]['loss']


def test_no_data_at_all_for_tables_is_the_end():
  trainer = make_table_trainer()
  state = trainer.fit(
    trainer.init({'w': np.ones(4, np.float32)}),
    table_batches(0),
    100,
    elastic=Control(),
  )
  assert int(state.step) == 0


def test_a_deadline_with_tables_is_none(caplog):
  """The default policy sets deadlines, and must not end a job."""
  control = Control()
  control.current = Plan(3, deadline_s=1e-6)
  trainer = make_table_trainer()
  with caplog.at_level('WARNING', logger='absl'):
    state = trainer.fit(
      trainer.init({'w': np.ones(4, np.float32)}),
      table_batches(4),
      100,
      elastic=control,
    )
  assert int(state.step) == 2
  assert 'Plan 3 has deadline_s=1e-06. This job has' in caplog.text


def test_a_batch_without_ids_is_refused():
  trainer = make_table_trainer()
  with pytest.raises(ValueError, match="ids under 'ids'"):
    trainer.fit(
      trainer.init({'w': np.ones(4, np.float32)}),
      [{'y': np.zeros(16, np.float32)}],
      100,
      elastic=Control(),
    )
