# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The meta step on 8 devices equals one written with dense tables on one."""

import functools
import re

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import Adagrad
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import make_mesh
from antjax.meta import episodes as episodes_lib
from antjax.meta import maml, meta_io, meta_loss, models
from antjax.train.trainer import Trainer

# Sums over tasks and devices in another order, through Adagrad and AdamW.
SUM_ORDER_ATOL = 3e-5
FEATURES = {'item': (60, 1), 'genres': (18, 3), 'city': (12, 1)}
DIM = 8


def make_batch(num_batches=2):
  """Real episode batches of made-up tasks, some slots empty."""
  rng = np.random.default_rng(0)
  records = [
    {
      'task': task,
      'num_query': 4,
      'item': rng.integers(0, 60, n),
      'genres': rng.integers(-1, 18, (n, 3)),
      'city': rng.integers(0, 12),
      'rating': rng.integers(1, 6, n).astype(np.float32),
    }
    for task, n in enumerate(rng.integers(6, 16, 20 * num_batches))
  ]
  config = episodes_lib.EpisodeConfig(
    buckets=(episodes_lib.Bucket(6, 16), episodes_lib.Bucket(12, 8)),
    features={name: k for name, (_, k) in FEATURES.items()},
    query_size=4,
  )
  return list(meta_io.iter_episode_batches(records, config))


def make_model(tables):
  make = functools.partial(
    models.DLRM,
    models.DLRMConfig(
      features=tuple(FEATURES), embedding_dim=DIM, top_widths=(16, 16)
    ),
  )
  graphdef = nnx.graphdef(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))))
  return (
    meta_loss.TaskModel(
      apply_fn=lambda model, embeddings, part: model(embeddings),
      loss_fn=lambda y, label: jnp.square(y - label),
      merge_fn=functools.partial(nnx.merge, graphdef),
      tables=tables,
    ),
    nnx.to_pure_dict(nnx.state(make(rngs=nnx.Rngs(1)))),
  )


class DenseTables:
  """The oracle: whole tables on one device; ids are the rows' indices."""

  def lookup(self, rows, ids):
    def one(path, index):
      table = rows[path[-1].key]
      index = jnp.where(index < 0, table.shape[0], index)
      return table.at[index].get(mode='fill', fill_value=0)

    return jax.tree.map_with_path(one, ids)


def optimizer():
  return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))


def dense_steps(inner, batches, whole, params):
  """Plain jax.grad and optax; Adagrad on rows that the batch names."""
  model, _ = make_model(DenseTables())
  loss_fn = meta_loss.meta_loss_fn(model, inner)
  tx, rows_tx = optimizer(), Adagrad(0.1)

  def mean_loss(params, rows, batch):
    losses, weights = loss_fn(params, rows, batch, None)
    return jnp.sum(losses * weights) / jnp.sum(weights)

  @jax.jit
  def step(params, opt_state, rows, slots, batch):
    loss, (grads, row_grads) = jax.value_and_grad(mean_loss, (0, 1))(
      params, rows, batch
    )
    updates, opt_state = tx.update(grads, opt_state, params)
    new_rows, new_slots = {}, {}
    for name in rows:  # Adagrad leaves rows without gradient as they are.
      change, new_slots[name] = rows_tx.update(
        row_grads[name], slots[name], rows[name], jnp.int32(0)
      )
      new_rows[name] = rows[name] + change
    return (
      optax.apply_updates(params, updates),
      opt_state,
      new_rows,
      new_slots,
      loss,
    )

  slots = {n: rows_tx.init(*t.shape) for n, t in whole.items()}
  opt_state, losses = tx.init(params), []
  for batch in batches:
    params, opt_state, whole, slots, loss = step(
      params, opt_state, whole, slots, batch
    )
    losses.append(float(loss))
  return params, whole, losses


CASES = [
  ('all', 2, 1),
  ('decision', 2, 3),
  ('decision', 1, 1),
  pytest.param('all', 2, 3, marks=pytest.mark.slow),
  pytest.param('all', 1, 3, marks=pytest.mark.slow),
  pytest.param('head', 2, 1, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(('adapt', 'order', 'num_steps'), CASES)
@pytest.mark.parametrize(
  ('code', 'intra', 'level'),
  [
    ('IIG', 4, 'global'),
    pytest.param('GGG', 2, 'intra', marks=pytest.mark.slow),
    pytest.param('NNN', 8, 'none', marks=pytest.mark.slow),
  ],
)
def test_sharded_step_equals_dense(adapt, order, num_steps, code, intra, level):
  mesh = make_mesh(intra=intra)
  tables = EmbeddingTables(
    [
      TableSpec(name, v, DIM, level, Adagrad(0.1), init_scale=0.5)
      for name, (v, _) in FEATURES.items()
    ],
    {name: name for name in FEATURES},
    mesh=mesh,
  )
  inner = maml.InnerLoop(
    adapt=adapt, order=order, num_steps=num_steps, learning_rate=0.05
  )
  batches = make_batch()
  if adapt == 'all':
    batches = [episodes_lib.with_task_rows(b) for b in batches]
  model, params = make_model(tables)
  trainer = Trainer(
    meta_loss.meta_loss_fn(model, inner),
    optimizer(),
    mesh=mesh,
    paro=code,
    tables=tables,
    min_shard_size=8,
  )
  state = trainer.init(params)
  canonical = jax.jit(tables.to_canonical)

  def rows_of(state):
    return {
      n: np.array(t['table'])[: FEATURES[n][0]]
      for n, t in canonical(state.tables).items()
    }

  want_params, want_rows, want_losses = dense_steps(
    inner, batches, rows_of(state), params
  )
  start = rows_of(state)
  losses = []
  for batch in batches:
    state, metrics = trainer.step(state, batch)
    losses.append(float(metrics['loss']))
  np.testing.assert_allclose(losses, want_losses, rtol=1e-5)
  rows = rows_of(state)
  for name, want in want_rows.items():
    np.testing.assert_allclose(rows[name], want, atol=SUM_ORDER_ATOL)
    assert np.abs(rows[name] - start[name]).max() > 100 * SUM_ORDER_ATOL
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=SUM_ORDER_ATOL),
    trainer.params(state),
    want_params,
  )


def test_compiled_meta_step_exchanges_rows_once_and_in_place():
  """Three all-to-alls for support and query; no table is ever gathered."""
  mesh = make_mesh(intra=4)
  num_rows = 30_000
  tables = EmbeddingTables(
    [TableSpec('item', num_rows, DIM, 'global', Adagrad(0.1))],
    dict.fromkeys(FEATURES, 'item'),
    mesh=mesh,
  )
  model, params = make_model(tables)
  trainer = Trainer(
    meta_loss.meta_loss_fn(
      model, maml.InnerLoop(adapt='decision', num_steps=2)
    ),
    optimizer(),
    mesh=mesh,
    paro='IIG',
    tables=tables,
    min_shard_size=8,
  )
  state = trainer.init(params)
  inputs = trainer.step_inputs(make_batch()[0])
  text = trainer.compiled_step().lower(state, inputs).compile().as_text()
  assert len(re.findall(r' all-to-all(?:-start)?\(', text)) == 3
  local = num_rows // 8
  for line in text.splitlines():
    if re.search(r' all-gather(?:-start)?\(', line):
      assert f'[{num_rows},{DIM}]' not in line
      assert f'[{local},{DIM}]' not in line
  # Whole, on any device: never.
  assert f'f32[{num_rows},{DIM}]' not in text
  # The table and its accumulator, each given back in its own buffer.
  flat = jax.tree.leaves_with_path(state)
  places = [i for i, (path, _) in enumerate(flat) if 'tables' in str(path[0])]
  assert len(places) == 2
  header = text.split('\n', 1)[0]
  for i in places:
    assert re.search(rf'\{{{i}\}}: \({i}, \{{\}}', header), header[:500]
