# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Masks, buckets and embedding rows of the meta loss."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.meta import (
  episodes,
  evaluate,
  maml,
  meta_io,
  meta_loss,
  task_steps,
)
from antjax.meta.episode_config import Bucket, EpisodeConfig
from tests.meta import small_tasks


def losses_of(*args, **options):
  """Task -> loss."""
  return small_tasks.losses_of(*args, **options)[0]


def test_buckets_and_padding_do_not_change_a_task():
  losses, weights = small_tasks.losses_of(small_tasks.make_batch())
  assert len(losses) == 4 and set(weights.values()) == {1.0}
  for buckets in (((4, 3), (8, 2)), ((16, 7),)):
    small_tasks.assert_same(losses_of(small_tasks.make_batch(buckets)), losses)


@pytest.mark.slow
def test_what_padding_holds_does_not_matter():
  batch = small_tasks.make_batch(((16, 6),))
  expected = small_tasks.gradients(batch, small_tasks.INNER)
  for name in ('support', 'query'):
    part = batch['episodes']['s16'][name]
    part['label'] = np.where(part['mask'] > 0, part['label'], 100.0)
    ids = batch['ids']['s16'][name]
    ids['item'] = np.where(part['mask'] > 0, ids['item'], 3)
  small_tasks.assert_close(
    small_tasks.gradients(batch, small_tasks.INNER),
    expected,
  )


def test_an_empty_support_adapts_nothing():
  batch = small_tasks.make_batch()
  batch['episodes']['s8']['support']['mask'][:] = 0
  still = maml.InnerLoop(num_steps=0)
  small_tasks.assert_same(losses_of(batch), losses_of(batch, still))


def test_an_empty_query_has_no_weight():
  batch = small_tasks.make_batch()
  batch['episodes']['s8']['query']['mask'][1] = 0
  losses, weights = small_tasks.losses_of(batch)
  assert weights == {0: 1.0, 1: 0.0, 2: 1.0, 3: 1.0}
  assert np.isfinite(losses[1])


@pytest.mark.slow
def test_the_plain_form_gives_the_same_gradients():
  model, _, _ = small_tasks.make_model()
  plain = {
    'apply_fn': lambda params, embeddings, part: model.merge_fn(params)(
      embeddings, part
    ),
    'merge_fn': None,
  }
  batch = small_tasks.make_batch()
  for order in (1, 2):
    inner = dataclasses.replace(small_tasks.INNER, order=order)
    small_tasks.assert_close(
      small_tasks.gradients(batch, inner),
      small_tasks.gradients(batch, inner, **plain),
    )


@pytest.mark.slow
def test_mixed_mode_adapts_rows_as_reverse_mode():
  batch = episodes.with_task_rows(small_tasks.make_batch())
  batch = jax.tree.map(jnp.asarray, batch)
  reverse = maml.InnerLoop(num_steps=1, learning_rate=0.03, adapt='all')
  mixed = dataclasses.replace(reverse, derivative='mixed')
  small_tasks.assert_close(
    small_tasks.gradients(batch, mixed),
    small_tasks.gradients(batch, reverse),
  )


def whole_part(model, tables, ids, part):
  """A part whose ids are those of whole tables."""
  vectors = model.tables.lookup(tables, ids)
  return {'index': {}, 'ids': ids, 'vectors': vectors, 'part': part}


@pytest.mark.slow
def test_adapted_rows_equal_a_copy_of_the_tables_for_each_task():
  """Ids repeat within a task and are shared by support and query."""
  model, params, rows = small_tasks.make_model()
  batch = small_tasks.make_batch()
  inner = dataclasses.replace(small_tasks.INNER, adapt='all')

  def mean_loss(tree, ids, part):
    params, tables = tree['params'], tree['rows']
    return task_steps.task_loss(
      model, (model.merge_fn(params), {}), whole_part(model, tables, ids, part)
    )

  everything = dataclasses.replace(inner, adapt=lambda name: True)

  def oracle(params, rows):
    losses = []
    for t in range(4):
      ids, parts = jax.tree.map(
        lambda x, t=t: jnp.asarray(x[t]),
        (batch['ids']['s8'], batch['episodes']['s8']),
      )
      problem = maml.Problem(
        loss_fn=lambda tree, _, part, ids=ids: mean_loss(
          tree, ids['support'], part
        ),
        params={'params': params, 'rows': rows},
        support=parts['support'],
        inner=everything,
      )
      adapted, _ = maml.adapt_task(problem)
      losses.append(mean_loss(adapted, ids['query'], parts['query']))
    return jnp.stack(losses).mean()

  expected = jax.jit(jax.grad(oracle, argnums=(0, 1)))(params, rows)
  got = small_tasks.gradients(
    episodes.with_task_rows(batch, num_ids=small_tasks.NUM_IDS), inner
  )
  small_tasks.assert_close(
    got,
    expected,
  )
  # The same without adapted rows is something else.
  other = small_tasks.gradients(batch, small_tasks.INNER)
  assert np.abs(other[1]['item'] - expected[1]['item']).max() > 1e-3


def test_adapting_rows_needs_to_know_the_rows_of_a_task():
  with pytest.raises(ValueError, match='episodes.with_task_rows'):
    small_tasks.losses_of(
      small_tasks.make_batch(),
      dataclasses.replace(small_tasks.INNER, adapt='all'),
    )


@pytest.mark.slow
def test_tasks_can_be_worked_off_a_few_at_a_time():
  batch = small_tasks.make_batch(((8, 5),))
  mapped = dataclasses.replace(small_tasks.INNER, map_size=2)
  small_tasks.assert_same(losses_of(batch, mapped), losses_of(batch))


def test_joint_loss_counts_every_row_once():
  model, params, rows = small_tasks.make_model()
  batch = small_tasks.make_batch(((4, 3), (8, 2)))
  losses, weights = jax.jit(meta_loss.joint_loss_fn(model))(
    params, rows, batch, None
  )
  assert small_tasks.by_task(batch, weights) == {0: 5.0, 1: 9.0, 2: 6.0, 3: 4.0}
  records = small_tasks.make_records()
  ids = {
    name: np.concatenate([r[name] for r in records])
    for name in ('item', 'genres')
  }
  sizes = [len(r['rating']) for r in records]
  ids['user'] = np.repeat([r['user'] for r in records], sizes)
  part = whole_part(model, rows, jax.tree.map(jnp.asarray, ids), {})
  prediction = task_steps.predict(model, (model.merge_fn(params), {}), part)
  errors = prediction - np.concatenate([r['rating'] for r in records])
  np.testing.assert_allclose(
    (losses * weights).sum() / weights.sum(), (errors**2).mean(), rtol=1e-5
  )


def test_predictions_are_those_of_the_loss():
  model, params, rows = small_tasks.make_model()
  batch = small_tasks.make_batch(((4, 3), (8, 2)))
  columns = jax.jit(meta_loss.predict_fn(model, small_tasks.INNER))(
    params, rows, batch, None
  )
  assert {x.shape for x in columns.values()} == {(15,)}
  assert columns['weight'].sum() == 12
  losses, _ = small_tasks.losses_of(batch)
  for task, loss in losses.items():
    mine = (columns['group'] == task) & (columns['weight'] > 0)
    errors = (columns['prediction'] - columns['label'])[mine] ** 2
    np.testing.assert_allclose(errors.mean(), loss, rtol=1e-5)


@pytest.mark.slow
def test_fine_tuning_columns_are_those_of_each_inner_loop():
  model, params, rows = small_tasks.make_model()
  batch = small_tasks.make_batch()
  predict = evaluate.fine_tune_predict_fn(
    model, small_tasks.INNER, num_steps=(1, 2), learning_rates=(0.01, 0.03)
  )
  columns = jax.jit(predict)(params, rows, batch, None)
  for steps in (1, 2):
    for rate in (0.01, 0.03):
      inner = dataclasses.replace(
        small_tasks.INNER, num_steps=steps, learning_rate=rate
      )
      expected = jax.jit(meta_loss.predict_fn(model, inner))(
        params, rows, batch, None
      )
      np.testing.assert_allclose(
        columns[evaluate.fine_tune_name(steps, rate)],
        expected['prediction'],
        atol=small_tasks.ATOL,
      )


def test_learned_rates_travel_with_the_parameters():
  model, params, rows = small_tasks.make_model()
  batch = small_tasks.make_batch()
  inner = dataclasses.replace(small_tasks.INNER, learn_rates=True)
  loss_fn = meta_loss.meta_loss_fn(model, inner)
  losses, _ = jax.jit(loss_fn)(
    maml.init_rates(params, inner), rows, batch, None
  )
  small_tasks.assert_same(small_tasks.by_task(batch, losses), losses_of(batch))
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
  losses, weights = meta_loss.meta_loss_fn(model, small_tasks.INNER)(
    {'w': jnp.asarray([1.0, 0.0])}, batch, None
  )
  np.testing.assert_allclose(losses, [0.0], atol=1e-6)
  np.testing.assert_array_equal(weights, [1.0])


def with_weights(batch, weight):
  """The batch with this weight on the last of each row's two genres."""
  for part in (batch['episodes']['s8'][name] for name in ('support', 'query')):
    shape = (*part['mask'].shape, small_tasks.FEATURES['genres'])
    weights = np.ones(shape, np.float32)
    weights[..., -1] = weight
    part['weights'] = {'genres': weights}
  return batch


@pytest.mark.slow
def test_values_of_a_feature_may_have_weights():
  def without_last(batch):
    for ids in (batch['ids']['s8'][name] for name in ('support', 'query')):
      ids['genres'][..., -1] = -1
    return batch

  expected = losses_of(without_last(small_tasks.make_batch()))
  unweighted = losses_of(with_weights(small_tasks.make_batch(), 0.0))
  small_tasks.assert_same(unweighted, expected)
  weighted = losses_of(with_weights(small_tasks.make_batch(), 1.0))
  small_tasks.assert_same(weighted, losses_of(small_tasks.make_batch()))
  assert any(abs(weighted[key] - expected[key]) > 1e-3 for key in expected)


def test_features_may_be_pooled_each_in_its_way():
  batch = small_tasks.make_batch()
  by_sum = losses_of(batch, pooling='sum')
  only_genres = losses_of(batch, pooling={'genres': 'sum'})
  small_tasks.assert_same(only_genres, by_sum)
  by_mean = losses_of(batch, pooling={'item': 'sum'})
  small_tasks.assert_same(by_mean, losses_of(batch))
  assert any(abs(by_sum[key] - by_mean[key]) > 1e-3 for key in by_sum)
