# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables under unequal micro-batches: left-out rows are not even touched."""

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
from antjax.train.trainer import Trainer
from tests.cases import first_fast

# Sums over 8 devices in another order, through Adam.
SUM_ORDER_ATOL = 2e-5


def make_trainer(level, code='IIG'):
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
    paro=code,
    tables=tables,
    num_micro_batches=2,
  )


def batches(num):
  rng = np.random.default_rng(0)
  for _ in range(num):
    yield {
      'ids': {'item': rng.integers(0, 97, 32)},
      'y': rng.normal(size=32).astype(np.float32),
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
  params = {'w': np.ones(4, np.float32)}
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
