# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics against those of all rows, and the coverage of their intervals."""

import logging

import numpy as np
import pytest

from antjax.metrics import by_task, ranking
from antjax.metrics import means as metrics_lib
from antjax.metrics.columns import AllRows, Selected


def ratings(num_tasks=40, rows=10, seed=0):
  rng = np.random.default_rng(seed)
  n = num_tasks * rows
  label = rng.integers(1, 6, n).astype(float)
  guess = np.round(label + rng.normal(0, 2, n), 1)  # With ties.
  return {
    'group': np.repeat(np.arange(num_tasks) * 3, rows),
    'label': label,
    'prediction': guess,
    'median': np.round(guess),
    'positive': 1 / (1 + np.exp(4 - guess)),
  }


def streamed(metric, columns, prediction='prediction', label=None):
  metric.update(
    columns[prediction],
    columns['label'] if label is None else label,
    None,
    columns['group'],
  )
  return metric.compute()


def test_values_are_those_of_the_metrics_of_all_rows():
  columns = ratings()
  found = by_task.estimate(columns, 'rating')
  positive = (columns['label'] >= 4).astype(float)
  log_loss = streamed(
    metrics_lib.LogLoss(from_logits=False), columns, 'positive', positive
  )
  rate = positive.mean()
  entropy = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)
  expected = {
    'MAE': streamed(metrics_lib.MAE(), columns, 'median'),
    'RMSE': streamed(metrics_lib.RMSE(), columns),
    'nDCG@3': streamed(ranking.NDCG(3), columns),
    'AUC': streamed(ranking.AUC(4.0), columns),
    'GAUC': streamed(ranking.GAUC(4.0), columns),
    'log-loss': log_loss,
    'NE': log_loss / entropy,
  }
  assert list(found) == list(expected)
  for name, value in expected.items():
    assert found[name].value == pytest.approx(value, rel=1e-9)
    assert found[name].low < found[name].value < found[name].high


def test_a_sum_of_shares_may_round_to_more_than_one():
  columns = ratings()
  whole = columns | {'positive': np.ones_like(columns['positive'])}
  more = columns | {'positive': np.nextafter(whole['positive'], 2)}
  np.testing.assert_equal(
    by_task.estimate(more, 'rating'), by_task.estimate(whole, 'rating')
  )


def test_clicks_have_their_own_metrics():
  columns = ratings()
  clicks = {
    'group': columns['group'],
    'label': (columns['label'] >= 4).astype(float),
    'prediction': columns['positive'],
  }
  found = by_task.estimate(clicks, 'click')
  same = by_task.estimate(columns, 'rating')
  assert list(found) == ['AUC', 'GAUC', 'NE', 'log-loss']
  for name, estimate in found.items():
    np.testing.assert_allclose(estimate, same[name])
  base = clicks | {'prediction': np.full(len(clicks['label']), 0.0)}
  base['prediction'] += clicks['label'].mean()
  assert by_task.estimate(base, 'click')['NE'].value == pytest.approx(1)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
  """Tasks with errors of their own: drawing rows would give far less cover."""
  rng = np.random.default_rng(0)
  covered = 0
  for _ in range(200):
    error = np.repeat(rng.exponential(size=30), 10)
    columns = {
      'group': np.repeat(np.arange(30), 10),
      'label': np.ones(300),
      'prediction': 1 + error,
    }
    interval = by_task.estimate(columns, 'rating', num_resamples=100)['MAE']
    covered += interval.low <= 1.0 <= interval.high
  assert 170 <= covered <= 199


def test_draws_repeat_by_seed():
  columns = ratings()
  first = by_task.estimate(columns, 'rating', seed=1)
  assert first == by_task.estimate(columns, 'rating', seed=1)
  assert first != by_task.estimate(columns, 'rating', seed=2)


def test_what_has_no_value_is_nan():
  columns = ratings()
  del columns['positive']
  found = by_task.estimate(columns, 'rating', num_resamples=0)
  assert np.isnan(found['NE']).all() and np.isnan(found['MAE'].low)
  assert np.isnan(by_task.estimate({}, 'click')['AUC'].value)
  one_class = columns | {'label': np.full(400, 5.0)}
  assert np.isnan(by_task.estimate(one_class, 'rating')['AUC'].value)


@pytest.mark.parametrize('kind', ['rating', 'click'])
def test_predictions_that_diverged_have_no_value(kind, caplog):
  columns = ratings()
  columns['prediction'][7] = np.nan
  with caplog.at_level(logging.WARNING):
    found = by_task.estimate(columns, kind)
  assert list(found) == list(by_task.METRICS[kind])
  assert np.isnan(list(found.values())).all()
  assert '1 of 400 predictions are nan' in caplog.text


def test_rows_are_gathered_in_one_order_without_padding():
  columns = ratings()
  weight = np.arange(400) % 4 > 0
  whole = AllRows()
  whole.update(**columns, weight=weight)
  parts = [AllRows(), AllRows()]
  for part, rows in zip(parts, (slice(200, None), slice(200))):
    part.update(**{k: x[rows] for k, x in columns.items()}, weight=weight[rows])
  merged = parts[0].merge(parts[1])
  assert len(whole.compute()['label']) == 300
  for name, column in merged.compute().items():
    np.testing.assert_array_equal(column, whole.compute()[name])


def test_a_metric_reads_the_column_that_it_is_given():
  rows = {
    'prediction': np.asarray([4.0, 2.0]),
    'median': np.asarray([5.0, 1.0]),
    'label': np.asarray([5.0, 1.0]),
    'new': np.asarray([0, 1]),
  }
  found = {
    (column, where): Selected(metrics_lib.MAE(), column=column, where=where)
    for column in ('prediction', 'median', 'missing')
    for where in ('', 'new')
  }
  for (column, _), metric in found.items():
    metric.update(**rows)
    assert metric.compute() == (0 if column == 'median' else 1)
  some = found['prediction', 'new']
  assert some.merge(some).compute() == 1
  with pytest.raises(ValueError, match='column is prediction here and median'):
    found['prediction', ''].merge(found['median', ''])
