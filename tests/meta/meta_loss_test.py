# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Masks, buckets and embedding rows of the meta loss."""

import dataclasses
import functools

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.meta import episodes, maml, meta_io, meta_loss, models
from antjax.meta.episodes import Bucket, EpisodeConfig

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


def make_model(**changes):
  make = functools.partial(
    models.DLRM,
    models.DLRMConfig(
      features=tuple(FEATURES), embedding_dim=DIM, top_widths=(6,)
    ),
  )
  graphdef, state = nnx.split(make(rngs=nnx.Rngs(0)))
  model = meta_loss.TaskModel(
    apply_fn=lambda model, embeddings, part: model(embeddings),
    loss_fn=lambda prediction, label: jnp.square(prediction - label),
    merge_fn=functools.partial(nnx.merge, graphdef),
    tables=DenseTables(),
  )
  rng = np.random.default_rng(0)
  rows = {
    name: jnp.asarray(rng.normal(size=(n, DIM)), jnp.float32)
    for name, n in NUM_IDS.items()
  }
  return (
    dataclasses.replace(model, **changes),
    nnx.to_pure_dict(state),
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


def assert_same(left, right):
  assert left.keys() == right.keys()
  for key in left:
    np.testing.assert_allclose(left[key], right[key], atol=ATOL, rtol=1e-5)


def test_buckets_and_padding_do_not_change_a_task():
  losses, weights = losses_of(make_batch())
  assert len(losses) == 4 and set(weights.values()) == {1.0}
  assert_same(losses_of(make_batch(((4, 3), (8, 2))))[0], losses)
  assert_same(losses_of(make_batch(((16, 7),)))[0], losses)


def test_what_padding_holds_does_not_matter():
  batch = make_batch(((16, 6),))
  expected = gradients(batch, INNER)
  for name in ('support', 'query'):
    part = batch['episodes']['s16'][name]
    part['label'] = np.where(part['mask'] > 0, part['label'], 100.0)
    ids = batch['ids']['s16'][name]
    ids['item'] = np.where(part['mask'] > 0, ids['item'], 3)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=ATOL, rtol=1e-4),
    gradients(batch, INNER),
    expected,
  )


def gradients(batch, inner, **changes):
  model, params, rows = make_model(**changes)
  loss_fn = meta_loss.meta_loss_fn(model, inner)

  def total(params, rows):
    losses, weights = loss_fn(params, rows, batch, None)
    return (losses * weights).sum() / weights.sum()

  return jax.jit(jax.grad(total, argnums=(0, 1)))(params, rows)


def test_an_empty_support_adapts_nothing():
  batch = make_batch()
  batch['episodes']['s8']['support']['mask'][:] = 0
  still = maml.InnerLoop(num_steps=0)
  assert_same(losses_of(batch)[0], losses_of(batch, still)[0])


def test_an_empty_query_has_no_weight():
  batch = make_batch()
  batch['episodes']['s8']['query']['mask'][1] = 0
  losses, weights = losses_of(batch)
  assert weights == {0: 1.0, 1: 0.0, 2: 1.0, 3: 1.0}
  assert np.isfinite(losses[1])


def test_the_plain_form_gives_the_same_gradients():
  model, _, _ = make_model()
  plain = {
    'apply_fn': lambda params, embeddings, part: model.merge_fn(params)(
      embeddings
    ),
    'merge_fn': None,
  }
  batch = make_batch()
  for order in (1, 2):
    inner = dataclasses.replace(INNER, order=order)
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, atol=ATOL, rtol=1e-4),
      gradients(batch, inner),
      gradients(batch, inner, **plain),
    )


def test_adapted_rows_equal_a_copy_of_the_tables_for_each_task():
  """Ids repeat within a task and are shared by support and query."""
  model, params, rows = make_model()
  batch = make_batch()
  inner = dataclasses.replace(INNER, adapt='all')

  def mean_loss(tree, ids, part):
    params, tables = tree['params'], tree['rows']
    return meta_loss._masked_mean(
      model.loss_fn,
      meta_loss._predict(
        model,
        model.merge_fn(params),
        {},
        {
          'index': {},
          'ids': ids,
          'vectors': model.tables.lookup(tables, ids),
          'part': part,
        },
      ),
      {'part': part},
    )

  everything = dataclasses.replace(inner, adapt=lambda name: True)

  def oracle(params, rows):
    losses = []
    for t in range(4):
      ids, parts = jax.tree.map(
        lambda x, t=t: jnp.asarray(x[t]),
        (batch['ids']['s8'], batch['episodes']['s8']),
      )
      adapted = maml.adapt(
        lambda tree, _, ids=ids, parts=parts: mean_loss(
          tree, ids['support'], parts['support']
        ),
        {'params': params, 'rows': rows},
        parts['support'],
        everything,
      )
      losses.append(mean_loss(adapted, ids['query'], parts['query']))
    return jnp.stack(losses).mean()

  expected = jax.jit(jax.grad(oracle, argnums=(0, 1)))(params, rows)
  got = gradients(episodes.with_task_rows(batch, num_ids=NUM_IDS), inner)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=ATOL, rtol=1e-4),
    got,
    expected,
  )
  # The same without adapted rows is something else.
  other = gradients(batch, INNER)
  assert np.abs(other[1]['item'] - expected[1]['item']).max() > 1e-3


def test_adapting_rows_needs_to_know_the_rows_of_a_task():
  with pytest.raises(ValueError, match='episodes.with_task_rows'):
    losses_of(make_batch(), dataclasses.replace(INNER, adapt='all'))


def test_tasks_can_be_worked_off_a_few_at_a_time():
  batch = make_batch(((8, 5),))
  mapped = dataclasses.replace(INNER, map_size=2)
  assert_same(losses_of(batch, mapped)[0], losses_of(batch)[0])


def test_joint_loss_counts_every_row_once():
  model, params, rows = make_model()
  batch = make_batch(((4, 3), (8, 2)))
  losses, weights = jax.jit(meta_loss.joint_loss_fn(model))(
    params, rows, batch, None
  )
  assert by_task(batch, weights) == {0: 5.0, 1: 9.0, 2: 6.0, 3: 4.0}
  errors = []
  for record in make_records():
    n = len(record['rating'])
    ids = {
      'item': record['item'],
      'genres': record['genres'],
      'user': np.full(n, record['user']),
    }
    ids = jax.tree.map(jnp.asarray, ids)
    prediction = meta_loss._predict(
      model,
      model.merge_fn(params),
      {},
      {
        'index': {},
        'ids': ids,
        'vectors': model.tables.lookup(rows, ids),
        'part': {},
      },
    )
    errors.append((prediction - record['rating']) ** 2)
  mean = np.concatenate(errors).mean()
  np.testing.assert_allclose(
    (losses * weights).sum() / weights.sum(), mean, rtol=1e-5
  )


def test_predictions_are_those_of_the_loss():
  model, params, rows = make_model()
  batch = make_batch(((4, 3), (8, 2)))
  columns = jax.jit(meta_loss.predict_fn(model, INNER))(
    params, rows, batch, None
  )
  assert {x.shape for x in columns.values()} == {(15,)}
  assert columns['weight'].sum() == 12
  losses, _ = losses_of(batch)
  for task, loss in losses.items():
    mine = (columns['group'] == task) & (columns['weight'] > 0)
    errors = (columns['prediction'] - columns['label'])[mine] ** 2
    np.testing.assert_allclose(errors.mean(), loss, rtol=1e-5)


def test_fine_tuning_columns_are_those_of_each_inner_loop():
  model, params, rows = make_model()
  batch = make_batch()
  predict = meta_loss.fine_tune_predict_fn(
    model, INNER, num_steps=(1, 2), learning_rates=(0.01, 0.03)
  )
  columns = jax.jit(predict)(params, rows, batch, None)
  for steps in (1, 2):
    for rate in (0.01, 0.03):
      inner = dataclasses.replace(INNER, num_steps=steps, learning_rate=rate)
      expected = jax.jit(meta_loss.predict_fn(model, inner))(
        params, rows, batch, None
      )
      np.testing.assert_allclose(
        columns[meta_loss.fine_tune_name(steps, rate)],
        expected['prediction'],
        atol=ATOL,
      )


def test_learned_rates_travel_with_the_parameters():
  model, params, rows = make_model()
  batch = make_batch()
  inner = dataclasses.replace(INNER, learn_rates=True)
  loss_fn = meta_loss.meta_loss_fn(model, inner)
  losses, _ = jax.jit(loss_fn)(
    maml.init_rates(params, inner), rows, batch, None
  )
  assert_same(by_task(batch, losses), losses_of(batch)[0])
  with pytest.raises(ValueError, match='maml.init_rates'):
    loss_fn(params, rows, batch, None)


def test_a_model_without_tables_has_no_rows():
  model = meta_loss.TaskModel(
    apply_fn=lambda params, embeddings, part: part['numeric'] @ params['w'],
    loss_fn=lambda prediction, label: jnp.square(prediction - label),
  )
  config = EpisodeConfig(
    buckets=(Bucket(4, 1),), features={}, numeric=('x', 'y'), query_size=1
  )
  record = {
    'task': 0,
    'num_query': 1,
    'x': np.arange(4.0),
    'y': np.ones(4),
    'rating': np.arange(4.0),
  }
  (batch,) = meta_io.iter_episode_batches([record], config)
  losses, weights = meta_loss.meta_loss_fn(model, INNER)(
    {'w': jnp.asarray([1.0, 0.0])}, batch, None
  )
  np.testing.assert_allclose(losses, [0.0], atol=1e-6)
  np.testing.assert_array_equal(weights, [1.0])


def with_weights(batch, weight):
  """The batch with this weight on the last of each row's two genres."""
  for part in (batch['episodes']['s8'][name] for name in ('support', 'query')):
    shape = (*part['mask'].shape, FEATURES['genres'])
    weights = np.ones(shape, np.float32)
    weights[..., -1] = weight
    part['weights'] = {'genres': weights}
  return batch


def test_values_of_a_feature_may_have_weights():
  def without_last(batch):
    for ids in (batch['ids']['s8'][name] for name in ('support', 'query')):
      ids['genres'][..., -1] = -1
    return batch

  expected = losses_of(without_last(make_batch()))[0]
  assert_same(losses_of(with_weights(make_batch(), 0.0))[0], expected)
  weighted = losses_of(with_weights(make_batch(), 1.0))[0]
  assert_same(weighted, losses_of(make_batch())[0])
  assert any(abs(weighted[key] - expected[key]) > 1e-3 for key in expected)


def test_features_may_be_pooled_each_in_its_way():
  by_sum = losses_of(make_batch(), pooling='sum')[0]
  assert_same(losses_of(make_batch(), pooling={'genres': 'sum'})[0], by_sum)
  by_mean = losses_of(make_batch(), pooling={'item': 'sum'})[0]
  assert_same(by_mean, losses_of(make_batch())[0])
  assert any(abs(by_sum[key] - by_mean[key]) > 1e-3 for key in by_sum)
