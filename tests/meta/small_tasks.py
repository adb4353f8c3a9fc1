# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A few made-up tasks and a small model over dense tables, for tests."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from antjax.layers.functional import Functional
from antjax.meta import maml, meta_io, meta_loss
from antjax.meta.episode_config import Bucket, EpisodeConfig
from antjax.meta.task_network import TaskNetwork
from antjax.networks.load import NetworkConfig

NUM_IDS = {'item': 9, 'genres': 5, 'user': 4}
FEATURES = {'item': 1, 'genres': 2, 'user': 1}
DIM = 4
INNER = maml.InnerLoop(num_steps=2, learning_rate=0.03)
# Padding and other orders of sums; float32.
ATOL = 1e-5


class DenseTables:
  """Whole tables as rows; raw ids are indices."""

  def lookup(self, rows, ids):
    def one(path, index):
      table = rows[path[-1].key]
      index = jnp.where(index < 0, table.shape[0], index)
      return table.at[index].get(mode='fill', fill_value=0)

    return jax.tree.map_with_path(one, ids)


def functional(kind='dlrm', features=FEATURES, dim=DIM, **widths):
  """A network of tasks as functions of its parameters."""
  config = NetworkConfig(**({'widths': (6,)} | widths))
  return Functional(
    lambda rngs: TaskNetwork(
      kind, config, dict.fromkeys(features, dim), embedding_dim=dim, rngs=rngs
    )
  )


def make_model(kind='dlrm', widths=(6,), **changes):
  network = functional(kind, widths=widths)
  model = meta_loss.TaskModel(
    apply_fn=TaskNetwork.__call__,
    loss_fn=lambda prediction, label: jnp.square(prediction - label),
    merge_fn=network.merge,
    tables=DenseTables(),
  )
  rng = np.random.default_rng(0)
  rows = {
    name: jnp.asarray(rng.normal(size=(n, DIM)), jnp.float32)
    for name, n in NUM_IDS.items()
  }
  return (
    dataclasses.replace(model, **changes),
    network.init(jax.random.key(0)),
    rows,
  )


def make_records(sizes=(5, 9, 6, 4)):
  """Few ids, so that support and query share some and repeat others."""
  rng = np.random.default_rng(1)
  return [
    {
      'task': task,
      'num_query': 3,
      'item': rng.integers(0, NUM_IDS['item'], n),
      'genres': rng.integers(-1, NUM_IDS['genres'], (n, 2)),
      'user': rng.integers(0, NUM_IDS['user']),
      'rating': rng.normal(size=n).astype(np.float32),
    }
    for task, n in enumerate(sizes)
  ]


def make_batch(buckets=((8, 4),), records=None):
  config = EpisodeConfig(
    buckets=tuple(Bucket(*bucket) for bucket in buckets),
    features=FEATURES,
    query_size=3,
  )
  (batch,) = meta_io.iter_episode_batches(records or make_records(), config)
  return batch


def by_task(batch, values):
  """Task -> value, for one value a slot in the order of the buckets."""
  slots = batch['episodes'].values()
  tasks = np.concatenate([part['task'] for part in slots])
  weights = np.concatenate([part['weight'] for part in slots])
  return {
    int(t): float(v)
    for t, v, w in zip(tasks, values, weights, strict=True)
    if w
  }


def losses_of(batch, inner=INNER, **changes):
  model, params, rows = make_model(**changes)
  losses, weights = jax.jit(meta_loss.meta_loss_fn(model, inner))(
    params, rows, batch, None
  )
  return by_task(batch, losses), by_task(batch, weights)


def gradients(batch, inner, **changes):
  model, params, rows = make_model(**changes)
  loss_fn = meta_loss.meta_loss_fn(model, inner)

  def total(params, rows):
    losses, weights = loss_fn(params, rows, batch, None)
    return (losses * weights).sum() / weights.sum()

  return jax.jit(jax.grad(total, argnums=(0, 1)))(params, rows)


def assert_same(left, right):
  assert left.keys() == right.keys()
  assert_close(left, right, rtol=1e-5)


def assert_close(left, right, rtol=1e-4, atol=ATOL):
  """Holds every array of a tree to its like."""
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=atol, rtol=rtol),
    left,
    right,
  )
