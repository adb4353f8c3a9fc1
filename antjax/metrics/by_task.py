# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics of the query rows of tasks, with intervals over the tasks."""

from collections.abc import Mapping
from typing import Literal

from absl import logging
import numpy as np

from antjax.metrics import bootstrap
from antjax.metrics.bootstrap import Estimate
from antjax.metrics.means import LogLoss, MAE, RMSE
from antjax.metrics.ranking import GAUC, NDCG

Columns = Mapping[str, np.ndarray]
Kind = Literal['rating', 'click']

METRICS: Mapping[Kind, tuple[str, ...]] = {
  'rating': ('MAE', 'RMSE', 'nDCG@3', 'AUC', 'GAUC', 'log-loss', 'NE'),
  'click': ('AUC', 'GAUC', 'NE', 'log-loss'),
}
LOWER_IS_BETTER = frozenset({'MAE', 'RMSE', 'log-loss', 'NE'})
POSITIVE_RATING = 4.0
_RANKS = 3

# Shape suffixes: N = rows, T = tasks, R = draws (the first: the data itself).


def estimate(
  columns: Columns, kind: Kind, *, num_resamples: int = 200, seed: int = 0
) -> dict[str, Estimate]:
  """Returns each metric with its interval.

  Args:
    columns: 'prediction' (mean of a rating, or probability of a click), 'label'
      and 'group' [N]; for ratings optionally 'median', read by MAE, and
      'positive', the probability of a rating of at least 4, read by log-loss
      and NE. If a prediction is nan, all metrics are.
    kind: Kind of metrics; ratings of at least 4 are positives of AUC and GAUC.
    num_resamples: Number of draws of the tasks; 0: no intervals.
    seed: Seed of the draws.
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
  with np.errstate(invalid='ignore', divide='ignore'):
    values = _values(columns, kind, tasks, task_N, counts_RT)
  return {name: bootstrap.estimate(values[name]) for name in METRICS[kind]}


def _values(columns, kind, tasks, task_N, counts_RT) -> dict[str, np.ndarray]:
  """Metric -> its value for each draw [R]."""
  guess, label = columns['prediction'], columns['label']
  threshold = POSITIVE_RATING if kind == 'rating' else 0.5
  is_positive = label >= threshold

  def mean(terms_N):
    """Mean with each row counted as often as its task was drawn."""
    sums_T = np.bincount(task_N, terms_N, minlength=len(tasks))
    rows_T = np.bincount(task_N, minlength=len(tasks))
    return (counts_RT @ sums_T) / (counts_RT @ rows_T)

  def by_task(metric):
    metric.update(guess, label, None, columns['group'])
    group, value, *weight = metric.by_group()
    counts = counts_RT[:, np.searchsorted(tasks, group)] * (*weight, 1)[0]
    return (counts @ value) / counts.sum(axis=1)

  order = np.argsort(guess, kind='stable')
  pairs = bootstrap.OrderedPairs(
    guess[order], is_positive[order], task_N[order]
  )
  found = {
    'AUC': np.asarray([pairs.auc(counts_T) for counts_T in counts_RT]),
    'GAUC': by_task(GAUC(threshold)),
    'log-loss': np.full(len(counts_RT), np.nan),
    'NE': np.full(len(counts_RT), np.nan),
  }
  if kind == 'rating':
    median = columns.get('median', guess)
    found |= {
      'MAE': mean(MAE().terms(median, label)),
      'RMSE': np.sqrt(mean(RMSE().terms(guess, label))),
      'nDCG@3': by_task(NDCG(_RANKS)),
    }
  probability = 'positive' if kind == 'rating' else 'prediction'
  if probability in columns:
    # Rounding may bring a sum of shares above 1.
    share = np.clip(columns[probability], 0, 1)
    loss = LogLoss(from_logits=False)
    found['log-loss'] = mean(loss.terms(share, is_positive))
    # Relative to the mean label's log-loss (He et al. 2014, section 2).
    rate = mean(is_positive.astype(float))
    entropy = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate)
    found['NE'] = found['log-loss'] / entropy
  return found
