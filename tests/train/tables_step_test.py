# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables under unequal micro-batches: both forms of the step, and `fit`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import Adam
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import make_mesh
from antjax.train.elastic import Plan
from antjax.train.elastic_step import ElasticStep
from antjax.train.trainer import Trainer
from tests.cases import first_fast
from tests.train.elastic_control import Control

# Sums over 8 devices in another order, through Adam.
SUM_ORDER_ATOL = 2e-5


PARAMS = {'w': np.ones(4, np.float32)}


@functools.cache
def make_trainer(level='global'):
  mesh = make_mesh(intra=4)
  tables = EmbeddingTables(
    [TableSpec('item', 97, 4, level, Adam(0.1), init_scale=1.0)],
    {'item': 'item'},
    mesh=mesh,
  )

  def loss_fn(params, rows, batch, rng):
    del rng
    x = tables.lookup(rows, batch['ids'])['item']
    return jnp.square(jnp.tanh(x) @ params['w'] - batch['y'])

  return Trainer(
    loss_fn,
    optax.adam(0.1),
    mesh=mesh,
    paro='IIG',
    tables=tables,
    num_micro_batches=2,
  )


def batches(num, size=32, last=None):
  rng = np.random.default_rng(0)
  for i in range(num):
    size = last if last and i == num - 1 else size
    yield {
      'ids': {'item': rng.integers(0, 97, size)},
      'y': rng.normal(size=size).astype(np.float32),
    }


def used(counts):
  """Which of the 32 rows a step with these counts uses."""
  mask = np.zeros((8, 2, 2), bool)
  for device in range(8):
    mask[device, : counts[device // 4]] = True
  return mask.reshape(-1)


@pytest.mark.parametrize('level', first_fast('global', 'intra', 'none'))
def test_unequal_counts_equal_a_dense_step_on_the_used_rows(level):
  trainer = make_trainer(level)
  params = PARAMS
  state = trainer.init(params)

  def rows_of(state):
    tables = trainer.tables.to_canonical(state.tables)
    return np.array(tables['item']['table'])[:97]

  table, tx, rows_tx = rows_of(state), optax.adam(0.1), Adam(0.1)
  slots, opt_state = rows_tx.init(97, 4), tx.init(params)

  @jax.jit
  @functools.partial(jax.grad, argnums=(0, 1))
  def grad(params, table, ids, y):
    x = jnp.tanh(table[ids])
    return jnp.mean(jnp.square(x @ params['w'] - y))

  for i, (batch, counts) in enumerate(
    zip(batches(3), ([2, 2], [0, 1], [2, 0]), strict=True)
  ):
    keep = used(counts)
    ids, y = batch['ids']['item'][keep], batch['y'][keep]
    grads, row_grads = grad(params, table, ids, y)
    updates, opt_state = tx.update(grads, opt_state)
    params = optax.apply_updates(params, updates)
    change, new_slots = rows_tx.update(row_grads, slots, table, jnp.int32(i))
    new = table + change
    touched = np.isin(np.arange(97), ids)[:, None]
    table = np.where(touched, new, table)
    slots = {k: np.where(touched, new_slots[k], v) for k, v in slots.items()}
    state, _ = trainer.step(state, batch, counts)
    np.testing.assert_allclose(rows_of(state), table, atol=SUM_ORDER_ATOL)
    np.testing.assert_allclose(
      trainer.params(state)['w'], params['w'], atol=SUM_ORDER_ATOL
    )


@pytest.mark.slow
@pytest.mark.parametrize('level', ['global', 'intra', 'none'])
def test_the_host_loop_form_equals_the_in_graph_form(level):
  trainer = make_trainer(level)
  all_counts = ([2, 2], [0, 1], [2, 0])
  expected = trainer.init(PARAMS)
  for batch, counts in zip(batches(3), all_counts, strict=True):
    expected, _ = trainer.step(expected, batch, counts)
  state = trainer.init(PARAMS)
  step = ElasticStep(trainer.step_spec(), [[0], [1]])
  like = {'item': np.zeros(8, int)}
  for batch, counts in zip(batches(3), all_counts, strict=True):
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
    state = trainer.init(PARAMS)
    before = jax.tree.map(np.asarray, state.tables)
    step = trainer.elastic_step()
    ((micro,),) = step.route(state, [[batch]], batch['ids'], 2)
    step.local.add(micro)
    state, _ = step.finish(state, {'num_valid': 1.0}, lr_scale=scale)
    (before,), (after,) = before.values(), state.tables.values()
    return np.asarray(after['table']) - before['table']

  np.testing.assert_allclose(change(0.5), 0.5 * change(1.0), atol=1e-6)
  assert np.abs(change(0.5)).max() > 0.01


def fit(all_batches, control, **kwargs):
  trainer = make_trainer()
  return trainer.fit(
    trainer.init(PARAMS), all_batches, 100, elastic=control, **kwargs
  )


@pytest.mark.slow
def test_tables_follow_a_plan_beyond_the_trainers_number():
  control = Control({2: Plan(1, {'me': 3}), 5: Plan(2, {'me': 1})})
  seen = {}
  state = fit(
    batches(22, 16, last=5), control, on_step=lambda i, m: seen.update({i: m})
  )
  counts = [v['num_micro_batches'] for v in seen.values()]
  assert counts == [2, 2, 2, 2, 3, 3, 3, 1, 1, 1, 1, 1]
  assert int(state.step) == len(counts)
  assert seen[12]['weight'] == 5
  assert seen[12]['loss'] < seen[1]['loss']


def test_no_data_at_all_for_tables_is_the_end():
  assert int(fit(batches(0), Control()).step) == 0


def test_a_deadline_with_tables_is_none(caplog):
  """The default policy sets deadlines, and must not end a job."""
  control = Control()
  control.current = Plan(3, deadline_s=1e-6)
  with caplog.at_level('WARNING', logger='absl'):
    state = fit(batches(4, 16), control)
  assert int(state.step) == 2
  assert 'Plan 3 has deadline_s=1e-06. This job has' in caplog.text


def test_a_batch_without_ids_is_refused():
  with pytest.raises(ValueError, match="ids under 'ids'"):
    fit([{'y': np.zeros(16, np.float32)}], Control())
