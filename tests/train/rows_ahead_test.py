# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows fetched a step ahead: what they lack, and what they do not cost."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import SGD
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import make_mesh
from antjax.train import checkpoint
from antjax.train.rows_ahead import RowsAhead
from antjax.train.trainer import Trainer
from tests.train.positioned import Positioned

NUM_ROWS, DIM, RATE = 60, 3, 0.3
SUM_ORDER_ATOL = 1e-6


def make_trainer(level='global', staleness=1, num_rows=NUM_ROWS, **options):
  mesh = make_mesh(intra=4)
  tables = EmbeddingTables(
    [
      TableSpec('item', num_rows, DIM, level, SGD(RATE), init_scale=1.0),
      TableSpec('day', 7, DIM, 'none', SGD(RATE), init_scale=1.0),
    ],
    {'item': 'item', 'day': 'day'},
    mesh=mesh,
  )

  def loss_fn(params, rows, batch, rng):
    vectors = tables.lookup(rows, batch['ids'])
    x = vectors['item'] + vectors['day']
    return (jnp.sin(x) @ params - batch['y']) ** 2

  return Trainer(
    loss_fn,
    optax.sgd(RATE),
    mesh=mesh,
    tables=tables,
    row_staleness=staleness,
    **options,
  )


def make_batches(count=5, size=16, seed=0):
  rng = np.random.default_rng(seed)
  return [
    {
      'ids': {
        'item': rng.integers(0, NUM_ROWS, size),
        'day': rng.integers(0, 7, size),
      },
      'y': rng.normal(size=size).astype(np.float32),
    }
    for _ in range(count)
  ]


def tables_of(trainer, state):
  canonical = trainer.tables.to_canonical(state.tables)
  return {
    name: np.array(canonical[name]['table'])[: spec.num_embeddings]
    for name, spec in trainer.tables.specs.items()
  }


def expected(trainer, batches, fresh):
  """Dense steps with items a step old, but in the steps of `fresh`."""
  state = trainer.init(jnp.ones(DIM))
  now, params = tables_of(trainer, state), jnp.ones(DIM)
  before = now

  @jax.jit
  @functools.partial(jax.grad, argnums=(0, 1, 2))
  def grad(params, item, day, batch):
    x = item[batch['ids']['item']] + day[batch['ids']['day']]
    return jnp.mean((jnp.sin(x) @ params - batch['y']) ** 2)

  for i, batch in enumerate(batches):
    item = (now if i in fresh else before)['item']
    g = grad(params, item, now['day'], batch)
    before = now
    params = params - RATE * g[0]
    now = {'item': now['item'] - RATE * g[1], 'day': now['day'] - RATE * g[2]}
  return params, now


@pytest.mark.slow
@pytest.mark.parametrize('level', ['global', 'intra'])
def test_rows_lack_the_updates_of_one_step(level):
  trainer, batches = make_trainer(level), make_batches()
  state = trainer.fit(trainer.init(jnp.ones(DIM)), batches, 5)
  params, want = expected(trainer, batches, fresh={0})
  found = tables_of(trainer, state)
  for name in want:
    np.testing.assert_allclose(found[name], want[name], atol=SUM_ORDER_ATOL)
  np.testing.assert_allclose(trainer.params(state), params, atol=SUM_ORDER_ATOL)
  _, exact = expected(trainer, batches, fresh=set(range(5)))
  assert np.abs(exact['item'] - found['item']).max() > 100 * SUM_ORDER_ATOL


@pytest.mark.slow
def test_a_resumed_run_is_the_same_run(tmp_path):
  """Rows are fresh after a checkpoint; no batch is lost to reading ahead."""
  trainer = make_trainer()
  whole = trainer.fit(
    trainer.init(jnp.ones(DIM)),
    Positioned(make_batches(8).__getitem__, 8),
    8,
    checkpoint_dir=str(tmp_path / 'whole'),
    checkpoint_every=3,
  )
  _, want = expected(trainer, make_batches(8), fresh={0, 3, 6})
  np.testing.assert_allclose(
    tables_of(trainer, whole)['item'], want['item'], atol=SUM_ORDER_ATOL
  )
  folder = str(tmp_path / 'stopped')
  steps = []
  with pytest.raises(KeyboardInterrupt):
    trainer.fit(
      trainer.init(jnp.ones(DIM)),
      Positioned(make_batches(8).__getitem__, 8),
      8,
      checkpoint_dir=folder,
      checkpoint_every=3,
      on_step=lambda step, _: steps.append(step),
      should_stop=lambda: len(steps) >= 3,
    )
  stopped = checkpoint.latest_step(folder)
  assert stopped not in (3, 6, 8)
  resumed = trainer.fit(
    trainer.init(jnp.ones(DIM)),
    Positioned(make_batches(8).__getitem__, 8),
    8,
    checkpoint_dir=folder,
    checkpoint_every=3,
  )
  assert int(resumed.step) == 8
  _, want = expected(trainer, make_batches(8), fresh={0, 3, 6, stopped})
  np.testing.assert_allclose(
    tables_of(trainer, resumed)['item'], want['item'], atol=SUM_ORDER_ATOL
  )


@pytest.mark.slow
def test_one_exchange_and_no_copy_of_a_table():
  num_rows = 30_000
  trainer = make_trainer(num_rows=num_rows)
  state = trainer.init(jnp.ones(DIM))
  first, second = (trainer.step_inputs(b) for b in make_batches(2))
  ahead = RowsAhead(trainer.step_spec())
  rows = ahead.fetch(state, first)
  assert not any('none' in name for name in rows)
  text = ahead.lower(state, first, rows, second.routing).compile().as_text()
  assert len(re.findall(r' all-to-all(?:-start)?\(', text)) == 3
  shape = rf'f32\[{num_rows // 8},{DIM}\]\S*'
  assert re.search(rf'{shape} (?:fusion|scatter|while|get-tuple)', text)
  assert not re.search(rf'= {shape} copy\(', text)


def test_what_cannot_be_ahead_is_refused():
  with pytest.raises(ValueError, match='row_staleness=1'):
    Trainer(
      lambda p, b, r: b, optax.sgd(1), mesh=make_mesh(intra=4), row_staleness=1
    )
  trainer = make_trainer()
  state = trainer.init(jnp.ones(DIM))
  with pytest.raises(ValueError, match='use row_staleness=0'):
    trainer.fit(state, [], 1, elastic=object())
