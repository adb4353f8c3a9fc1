# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics of query rows with bootstrap intervals over tasks.

The rows of a task are not independent of each other, the tasks are: an interval
comes from drawing as many tasks again, with replacement, and taking the 2.5th
and 97.5th percentile of the metric (Efron and Tibshirani 1993, chapter 13).
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Self

from absl import logging
import numpy as np

from antjax.metrics import streaming as metrics_lib

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
_MAX_WEIGHTS = 1 << 24  # Of resamples times rows at once.

# Shape suffixes: N = rows, T = tasks, R = resamples, the first of them as is.


class Estimate(NamedTuple):
  """A metric and its 95% interval; nan where it has no value."""

  value: float
  low: float
  high: float


class QueryRows(metrics_lib.Metric):
  """Keeps every column of the query rows, for metrics that need whole tasks.

  `compute` gives the columns instead of a number, so that
  `Trainer.evaluate` returns them, gathered from all processes.
  """

  def __init__(self) -> None:
    self._chunks: list[dict[str, np.ndarray]] = []

  def update(
    self,
    prediction: np.ndarray,
    label: np.ndarray,
    weight: np.ndarray | None = None,
    group: np.ndarray | None = None,
    **columns: np.ndarray,
  ) -> None:
    """Folds in rows; see `antjax.metrics.metric.Metric.update`."""
    label = np.asarray(label)
    kept = np.ones(len(label), bool) if weight is None else weight > 0
    columns |= {'prediction': prediction, 'label': label}
    if group is not None:
      columns['group'] = group
    self._chunks.append({k: np.asarray(x)[kept] for k, x in columns.items()})

  def _update(self, prediction, label, weight, group):
    raise NotImplementedError('QueryRows.update keeps all columns itself.')

  def merge(self, other: Self) -> Self:
    merged = type(self)()
    merged._chunks = self._chunks + other._chunks
    return merged

  def compute(self) -> Any:
    if not self._chunks:
      return {}
    columns = {
      name: np.concatenate([chunk[name] for chunk in self._chunks])
      for name in self._chunks[0]
    }
    if 'group' not in columns:
      return columns
    # By task, whatever the number of processes.
    order = np.argsort(columns['group'], kind='stable')
    return {name: column[order] for name, column in columns.items()}

  def state(self) -> dict[str, np.ndarray]:
    return dict(self.compute())

  @classmethod
  def from_state(cls, state: Mapping[str, np.ndarray]) -> Self:
    metric = cls()
    if state:
      metric._chunks = [dict(state)]
    return metric


def after_step(columns: Columns, step: int) -> dict[str, np.ndarray]:
  """Returns the columns of `predictions.predict_by_step_fn` after a step."""
  suffix = f'_{step}'
  chosen = {
    name.removesuffix(suffix): column
    for name, column in columns.items()
    if name.endswith(suffix)
  }
  return {'label': columns['label'], 'group': columns['group']} | chosen


def select(columns: Columns, rows: np.ndarray) -> dict[str, np.ndarray]:
  """Returns some of the rows."""
  return {name: column[rows] for name, column in columns.items()}


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
  counts_RT = np.ones((1 + num_resamples, len(tasks)))
  if num_resamples:
    counts_RT[1:] = np.random.default_rng(seed).multinomial(
      len(tasks), np.full(len(tasks), 1 / len(tasks)), size=num_resamples
    )
  found = {}
  for name in METRICS[kind]:
    with np.errstate(invalid='ignore', divide='ignore'):
      values = _METRICS[name](columns, kind, tasks, task_N, counts_RT)
    drawn = values[1:][np.isfinite(values[1:])]
    low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (nan, nan)
    found[name] = Estimate(float(values[0]), float(low), float(high))
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
  """Share of the pairs in order, ties half [R]."""
  order = np.argsort(columns['prediction'], kind='stable')
  score = columns['prediction'][order]
  positive_N = _is_positive(columns, kind)[order]
  starts = np.flatnonzero(np.r_[True, score[1:] != score[:-1]])

  def resampled(counts_RT):
    weights_RN = counts_RT[:, task_N[order]]
    positive = np.add.reduceat(weights_RN * positive_N, starts, axis=1)
    negative = np.add.reduceat(weights_RN * ~positive_N, starts, axis=1)
    below = np.cumsum(negative, axis=1) - 0.5 * negative
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return (positive * below).sum(axis=1) / pairs

  step = max(_MAX_WEIGHTS // len(score), 1)
  return np.concatenate(
    [
      resampled(counts_RT[start : start + step])
      for start in range(0, len(counts_RT), step)
    ]
  )


def _over_groups(tasks, counts_RT, group, value, weight):
  counts = counts_RT[:, np.searchsorted(tasks, group)] * weight
  return (counts @ value) / counts.sum(axis=1)


def _gauc(columns, kind, tasks, task_N, counts_RT):
  metric = metrics_lib.GAUC(POSITIVE_RATING if kind == 'rating' else 0.5)
  metric.update(columns['prediction'], columns['label'], None, columns['group'])
  return _over_groups(tasks, counts_RT, *metric.by_group())


def _ndcg(columns, kind, tasks, task_N, counts_RT):
  metric = metrics_lib.NDCG(_RANKS)
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
