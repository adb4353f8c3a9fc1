# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics of the query rows of tasks, with intervals over the tasks."""

from collections.abc import Callable, Mapping
from typing import Literal

from absl import logging
import numpy as np

from antjax.metrics import bootstrap
from antjax.metrics.bootstrap import Estimate
from antjax.metrics.ranking import GAUC, NDCG

Columns = Mapping[str, np.ndarray]
Kind = Literal['rating', 'click']

METRICS: Mapping[Kind, tuple[str, ...]] = {
  'rating': ('MAE', 'RMSE', 'nDCG@3', 'AUC', 'GAUC', 'log-loss', 'NE'),
  'click': ('AUC', 'GAUC', 'NE', 'log-loss'),
}
LOWER_IS_BETTER = frozenset({'MAE', 'RMSE', 'log-loss', 'NE'})
POSITIVE_RATING = 4.0
_MIN_PROBABILITY = 1e-7
_RANKS = 3

# Shape suffixes: N = rows, T = tasks, R = resamples, the first of them as is.


def estimate(
  columns: Columns, kind: Kind, *, num_resamples: int = 200, seed: int = 0
) -> dict[str, Estimate]:
  """Returns each metric with its interval.

  Args:
    columns: 'prediction' (a rating's mean, or the probability of a click),
      'label' and 'group' [N]; of ratings perhaps 'median', which MAE reads, and
      'positive', the probability of a rating from 4 on, which log-loss and NE
      read. Where a prediction is nan, no metric has a value.
    kind: which metrics; ratings from 4 on are the positives of AUC and GAUC.
    num_resamples: draws of the tasks; 0 gives no intervals.
    seed: of the draws.
  """
  nan = float('nan')
  if not columns or not len(columns['label']):
    return dict.fromkeys(METRICS[kind], Estimate(nan, nan, nan))
  if num_nan := int(np.isnan(columns['prediction']).sum()):
    logging.warning(
      '%d of %d predictions are nan: adaptation has diverged, these scores have'
      ' no value.',
      num_nan,
      len(columns['label']),
    )
    return dict.fromkeys(METRICS[kind], Estimate(nan, nan, nan))
  tasks, task_N = np.unique(columns['group'], return_inverse=True)
  counts_RT = bootstrap.draws(len(tasks), num_resamples, seed).astype(float)
  found = {}
  for name in METRICS[kind]:
    with np.errstate(invalid='ignore', divide='ignore'):
      values = _METRICS[name](columns, kind, tasks, task_N, counts_RT)
    found[name] = bootstrap.estimate(values)
  return found


def _mean(terms_N, task_N, counts_RT):
  """Mean over rows [R], each row as often as its task was drawn."""
  num_tasks = counts_RT.shape[1]
  sums_T = np.bincount(task_N, terms_N, minlength=num_tasks)
  rows_T = np.bincount(task_N, minlength=num_tasks)
  return (counts_RT @ sums_T) / (counts_RT @ rows_T)


def _is_positive(columns, kind):
  threshold = POSITIVE_RATING if kind == 'rating' else 0.5
  return columns['label'] >= threshold


def _mae(columns, kind, tasks, task_N, counts_RT):
  guess = columns.get('median', columns['prediction'])
  return _mean(np.abs(guess - columns['label']), task_N, counts_RT)


def _rmse(columns, kind, tasks, task_N, counts_RT):
  error = np.square(columns['prediction'] - columns['label'])
  return np.sqrt(_mean(error, task_N, counts_RT))


def _log_loss(columns, kind, tasks, task_N, counts_RT):
  name = 'positive' if kind == 'rating' else 'prediction'
  if name not in columns:
    return np.full(len(counts_RT), np.nan)
  p = np.clip(columns[name], _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
  loss = np.where(_is_positive(columns, kind), -np.log(p), -np.log1p(-p))
  return _mean(loss, task_N, counts_RT)


def _normalized_entropy(columns, kind, tasks, task_N, counts_RT):
  """Log-loss over that of the mean label (He et al. 2014, section 2)."""
  rate = _mean(_is_positive(columns, kind).astype(float), task_N, counts_RT)
  entropy = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate)
  return _log_loss(columns, kind, tasks, task_N, counts_RT) / entropy


def _auc(columns, kind, tasks, task_N, counts_RT):
  order = np.argsort(columns['prediction'], kind='stable')
  pairs = bootstrap.OrderedPairs(
    columns['prediction'][order],
    _is_positive(columns, kind)[order],
    task_N[order],
  )
  return np.asarray([pairs.auc(counts_T) for counts_T in counts_RT])


def _over_groups(tasks, counts_RT, group, value, weight):
  counts = counts_RT[:, np.searchsorted(tasks, group)] * weight
  return (counts @ value) / counts.sum(axis=1)


def _gauc(columns, kind, tasks, task_N, counts_RT):
  metric = GAUC(POSITIVE_RATING if kind == 'rating' else 0.5)
  metric.update(columns['prediction'], columns['label'], None, columns['group'])
  return _over_groups(tasks, counts_RT, *metric.by_group())


def _ndcg(columns, kind, tasks, task_N, counts_RT):
  metric = NDCG(_RANKS)
  metric.update(columns['prediction'], columns['label'], None, columns['group'])
  group, value = metric.by_group()
  return _over_groups(tasks, counts_RT, group, value, 1)


_METRICS: Mapping[str, Callable[..., np.ndarray]] = {
  'MAE': _mae,
  'RMSE': _rmse,
  'nDCG@3': _ndcg,
  'AUC': _auc,
  'GAUC': _gauc,
  'log-loss': _log_loss,
  'NE': _normalized_entropy,
}
