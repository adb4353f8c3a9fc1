# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the metrics, the baselines and the choice of fine-tuning."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from antjax.meta import evaluate, maml, meta_io, meta_loss
from antjax.meta.episode_config import Bucket, EpisodeConfig
from antjax.metrics import means as metrics_lib
from antjax.metrics import ranking


def make_batches():
  config = EpisodeConfig(
    buckets=(Bucket(4, 2), Bucket(8, 1)),
    features={'item': 1},
    query_size=2,
  )
  ratings = ([1, 1, 4, 5, 3], [2, 3, 3, 4, 4, 5, 2], [5, 1])
  records = [
    {
      'task': task,
      'item': np.arange(len(rating)),
      'rating': np.asarray(rating, np.float32),
      'num_query': 2,
    }
    for task, rating in enumerate(ratings)
  ]
  return records, list(meta_io.iter_episode_batches(records, config))


def test_baselines_are_those_computed_by_hand():
  records, batches = make_batches()
  mean = evaluate.mean_label(records)
  assert mean == pytest.approx(43 / 14)
  metrics = {name: metrics_lib.MAE() for name in evaluate.BASELINES}
  auc = ranking.AUC(4.0)
  for by_name in evaluate.baseline_columns(batches, mean):
    for name, columns in by_name.items():
      del columns['support_size']
      metrics[name].update(**columns)
    auc.update(**by_name['global mean'])
  # Query, and support mean and median; the last task has no support.
  tasks = (([5, 3], 2, 1), ([5, 2], 3.2, 3), ([5, 1], mean, mean))

  def mae(index):
    return np.mean([abs(q - task[index]) for task in tasks for q in task[0]])

  assert metrics['support mean'].compute() == pytest.approx(mae(1))
  assert metrics['support median'].compute() == pytest.approx(mae(2))
  constant = [abs(q - mean) for task in tasks for q in task[0]]
  found = metrics['global mean'].compute()
  assert found == pytest.approx(np.mean(constant))
  assert auc.compute() == pytest.approx(0.5)


def test_no_row_has_no_mean():
  with pytest.raises(ValueError, match='no row to average'):
    evaluate.mean_label([])


def model_and_batches():
  """Ratings of a task are all alike, so large steps are right."""
  model = meta_loss.TaskModel(
    apply_fn=lambda params, embeddings, part: jnp.broadcast_to(
      params['head'], part['label'].shape
    ),
    loss_fn=lambda prediction, label: jnp.square(prediction - label),
  )
  config = EpisodeConfig(
    buckets=(Bucket(4, 3),), features={'item': 1}, query_size=2
  )
  records = [
    {
      'task': task,
      'item': np.arange(6),
      'rating': np.full(6, 1.0 + task),
      'num_query': 2,
    }
    for task in range(3)
  ]
  return model, list(meta_io.iter_episode_batches(records, config))


def evaluate_fn(batches, params):
  def run(predict, metrics):
    for batch in batches:
      columns = predict(params, batch, None)
      for metric in metrics.values():
        metric.update(**{k: np.asarray(x) for k, x in columns.items()})
    return {name: metric.compute() for name, metric in metrics.items()}

  return run


def test_fine_tuning_is_chosen_by_the_error_on_the_given_tasks():
  model, batches = model_and_batches()
  run = evaluate_fn(batches, {'head': jnp.zeros(())})
  inner = evaluate.choose_fine_tuning(
    run,
    model,
    adapt=('head',),
    num_steps=(1, 2),
    learning_rates=(0.01, 0.5, 1e30),  # The last one diverges.
  )
  # A step of rate 1/2 on a squared error reaches the mean exactly.
  assert dataclasses.replace(inner, order=2) == maml.InnerLoop(
    num_steps=1, learning_rate=0.5, adapt='head'
  )


def test_a_choice_without_tasks_is_refused():
  model, _ = model_and_batches()
  with pytest.raises(RuntimeError, match='are there validation tasks'):
    evaluate.choose_fine_tuning(
      evaluate_fn([], {'head': jnp.zeros(())}), model, adapt=('head',)
    )
