# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A meta step with dense tables on one device, and the real one to hold to it.

Shared by tests of one process and of several.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import Adagrad
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import make_mesh
from antjax.meta import episode_config, maml, meta_io, meta_loss
from antjax.meta import episodes as episodes_lib
from antjax.meta.task_network import TaskNetwork
from antjax.train.trainer import Trainer
from tests.meta import small_tasks

# Sums over tasks and devices in another order, through Adagrad and AdamW.
SUM_ORDER_ATOL = 3e-5
FEATURES = {'item': (60, 1), 'genres': (18, 3), 'city': (12, 1)}
DIM = 8


def make_batches(num_batches=2):
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
  config = episode_config.EpisodeConfig(
    buckets=(episode_config.Bucket(6, 16), episode_config.Bucket(12, 8)),
    features={name: k for name, (_, k) in FEATURES.items()},
    query_size=4,
  )
  return list(meta_io.iter_episode_batches(records, config))


def make_model(tables):
  network = small_tasks.functional('dlrm', FEATURES, DIM, widths=(16, 16))
  return (
    meta_loss.TaskModel(
      apply_fn=TaskNetwork.__call__,
      loss_fn=lambda y, label: jnp.square(y - label),
      merge_fn=network.merge,
      tables=tables,
    ),
    network.init(jax.random.key(1)),
  )


def optimizer():
  return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))


def dense_steps(inner, batches, whole, params):
  """Plain jax.grad and optax; Adagrad on rows that the batch names."""
  model, _ = make_model(small_tasks.DenseTables())
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


def inner_loop(adapt, order, num_steps):
  return maml.InnerLoop(
    adapt=adapt, order=order, num_steps=num_steps, learning_rate=0.05
  )


def batches_for(inner):
  batches = make_batches()
  if inner.adapt == 'all':
    batches = [episodes_lib.with_task_rows(b) for b in batches]
  return batches


class Sharded:
  """The same steps by a Trainer with tables over a mesh."""

  def __init__(
    self, inner, mesh, code, level, make_loss_fn=meta_loss.meta_loss_fn
  ):
    self.tables = EmbeddingTables(
      [
        TableSpec(name, v, DIM, level, Adagrad(0.1), init_scale=0.5)
        for name, (v, _) in FEATURES.items()
      ],
      {name: name for name in FEATURES},
      mesh=mesh,
    )
    model, self.params = make_model(self.tables)
    if inner.learn_rates:
      self.params = maml.init_rates(self.params, inner, tuple(FEATURES))
    self.trainer = Trainer(
      make_loss_fn(model, inner),
      optimizer(),
      mesh=mesh,
      paro=code,
      tables=self.tables,
      min_shard_size=8,
    )

  @functools.cached_property
  def state(self):
    return self.trainer.init(self.params)

  def rows(self):
    """Feature -> the table's rows by id; a collective call."""
    whole = jax.jit(
      lambda state: {
        name: part['table']
        for name, part in self.tables.to_canonical(state).items()
      },
      out_shardings=jax.NamedSharding(self.tables.mesh, jax.P()),
    )(self.state.tables)
    return {n: np.array(t)[: FEATURES[n][0]] for n, t in whole.items()}

  def step(self, batch):
    """One step; returns its loss."""
    self.state, metrics = self.trainer.step(self.state, batch)
    return float(metrics['loss'])


@functools.cache
def expected(adapt, order, num_steps):
  """(first rows, parameters, last rows, losses) of the dense steps."""
  inner = inner_loop(adapt, order, num_steps)
  # New rows depend on the seed, the table and the id only.
  first = Sharded(
    inner, make_mesh(intra=1, devices=jax.devices()[:1]), 'NNN', 'none'
  )
  start = first.rows()
  return start, *dense_steps(inner, batches_for(inner), start, first.params)


def assert_as_expected(adapt, order, num_steps, params, rows, losses):
  start, want_params, want_rows, want_losses = expected(adapt, order, num_steps)
  np.testing.assert_allclose(losses, want_losses, rtol=1e-5)
  for name, want in want_rows.items():
    np.testing.assert_allclose(rows[name], want, atol=SUM_ORDER_ATOL)
    assert np.abs(rows[name] - start[name]).max() > 100 * SUM_ORDER_ATOL
  small_tasks.assert_close(params, want_params, 1e-7, SUM_ORDER_ATOL)
