# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Streaming metrics that merge exactly across batches and processes.

A metric is a small numpy accumulator on the host: `update` folds in rows,
`merge` joins two accumulators, `compute` gives the number. `state` and
`from_state` turn it into arrays and back, which is how
`antjax.metrics.merge` moves it. Sums are kept in float64, so a long
evaluation does not drift.

Empty input has no value: every `compute` then returns nan, and so does a
ranking metric that saw one class only. nan rather than an error, because an
empty scenario is a fact to report, not a fault of the run.
"""

from collections.abc import Callable, Mapping
import time
from typing import Any, Self

import numpy as np

from antjax.metrics.metric import check_mergeable, Metric
from antjax.metrics.ranking import AUC, GAUC, NDCG

__all__ = [
  'AUC',
  'GAUC',
  'MAE',
  'NDCG',
  'RMSE',
  'LogLoss',
  'Metric',
  'NormalizedEntropy',
  'Throughput',
]

# A probability of exactly 0 or 1 that turns out wrong would cost infinity.
_MIN_PROBABILITY = 1e-7


class _Mean(Metric):
  """Weighted mean of a per-row term: two numbers of state."""

  def __init__(self):
    self._total = 0.0
    self._weight = 0.0

  def _terms(self, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Returns the per-row terms [N]."""
    raise NotImplementedError

  def _update(self, prediction, label, weight, group):
    terms = self._terms(prediction.astype(float), label.astype(float))
    self._total += float(np.sum(terms * weight))
    self._weight += float(np.sum(weight))

  def _options(self) -> dict[str, bool]:
    return {}

  def merge(self, other: Self) -> Self:
    check_mergeable(self, other, *self._options())
    merged = type(self)(**self._options())
    merged._total = self._total + other._total
    merged._weight = self._weight + other._weight
    return merged

  def compute(self) -> float:
    return self._total / self._weight if self._weight else float('nan')

  def state(self) -> dict[str, np.ndarray]:
    sums = {'total': self._total, 'weight': self._weight}
    return {k: np.asarray(v) for k, v in (sums | self._options()).items()}

  def from_state(self, state: Mapping[str, np.ndarray]) -> Self:
    options = {k: v.item() for k, v in state.items()}
    total, weight = options.pop('total'), options.pop('weight')
    metric = type(self)(**options)
    metric._total, metric._weight = total, weight
    return metric


class MAE(_Mean):
  """Mean absolute error. nan without rows: a mean of nothing."""

  def _terms(self, prediction, label):
    return np.abs(prediction - label)


class RMSE(_Mean):
  """Root of the mean squared error. nan without rows: a mean of nothing."""

  def _terms(self, prediction, label):
    return np.square(prediction - label)

  def compute(self) -> float:
    return float(np.sqrt(super().compute()))


class LogLoss(_Mean):
  """Mean binary cross entropy in nats. nan without rows.

  Labels lie in [0, 1]; a fraction is a soft label. Probabilities are clipped
  to [1e-7, 1 - 1e-7], logits are not clipped.
  """

  def __init__(self, *, from_logits: bool):
    super().__init__()
    self.from_logits = from_logits

  def _options(self) -> dict[str, bool]:
    return {'from_logits': self.from_logits}

  def _terms(self, prediction, label):
    if np.any((label < 0) | (label > 1)):
      raise ValueError(
        'LogLoss.update(label=): got a label outside [0, 1]; turn ratings '
        'into clicks first, for example label >= 4.'
      )
    if self.from_logits:
      # log(1 + e^z) - y z in the form that cannot overflow.
      return (
        np.maximum(prediction, 0)
        - prediction * label
        + np.log1p(np.exp(-np.abs(prediction)))
      )
    if np.any((prediction < 0) | (prediction > 1)):
      raise ValueError(
        'LogLoss.update(prediction=): got a probability outside [0, 1]; '
        'use LogLoss(from_logits=True) for logits.'
      )
    p = np.clip(prediction, _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
    return -(label * np.log(p) + (1 - label) * np.log1p(-p))


class NormalizedEntropy(LogLoss):
  """Log-loss over that of the share of clicks, which knows nothing else.

  Below 1 a model is better than that constant. Source: He et al. 2014,
  https://doi.org/10.1145/2648584.2648589, section 3. nan with one class only.
  """

  def __init__(self, **options: Any):
    super().__init__(**options)
    self._positive = 0.0

  def _update(self, prediction, label, weight, group):
    super()._update(prediction, label, weight, group)
    self._positive += float(np.sum(label.astype(float) * weight))

  def merge(self, other: Self) -> Self:
    merged = super().merge(other)
    merged._positive = self._positive + other._positive
    return merged

  def compute(self) -> float:
    share = self._positive / self._weight if self._weight else 0.0
    if not 0 < share < 1:
      return float('nan')
    entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    return float(super().compute() / entropy)

  def state(self) -> dict[str, np.ndarray]:
    return super().state() | {'positive': np.asarray(self._positive)}

  def from_state(self, state: Mapping[str, np.ndarray]) -> Self:
    rest = dict(state)
    positive = float(rest.pop('positive'))
    metric = super().from_state(rest)
    metric._positive = positive
    return metric


class Throughput(Metric):
  """Rows of positive weight a second, from construction to the last update.

  `merge` joins what was measured at the same time, on different processes:
  rows add up, the longest time counts. nan before the first update: no time
  has been measured.

  Args:
    clock: Seconds from any origin.
  """

  def __init__(self, clock: Callable[[], float] = time.monotonic):
    self._clock = clock
    self._start_s = clock()
    self._num_rows = 0
    self._elapsed_s = 0.0

  def _update(self, prediction, label, weight, group):
    self._num_rows += len(label)
    self._elapsed_s = self._clock() - self._start_s

  def merge(self, other: Self) -> Self:
    check_mergeable(self, other)
    merged = type(self)(self._clock)
    merged._num_rows = self._num_rows + other._num_rows
    merged._elapsed_s = max(self._elapsed_s, other._elapsed_s)
    merged._start_s = min(self._start_s, other._start_s)
    return merged

  def compute(self) -> float:
    if not self._elapsed_s:
      return float('nan')
    return self._num_rows / self._elapsed_s

  def state(self) -> dict[str, np.ndarray]:
    return {
      'num_rows': np.asarray(self._num_rows, np.int64),
      'elapsed_s': np.asarray(self._elapsed_s),
    }

  def from_state(self, state: Mapping[str, np.ndarray]) -> Self:
    metric = type(self)()
    metric._num_rows = int(state['num_rows'])
    metric._elapsed_s = float(state['elapsed_s'])
    metric._start_s -= metric._elapsed_s  # Go on from where it stood.
    return metric
