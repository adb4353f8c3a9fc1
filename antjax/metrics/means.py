# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Streaming metrics that are means over rows. For order see `ranking`."""

import numpy as np

from antjax.metrics.metric import Metric

# A wrong probability of exactly 0 or 1 would have infinite loss.
_MIN_PROBABILITY = 1e-7


class _Mean(Metric):
  """Weighted mean of a per-row term, from its sum and the sum of weights."""

  def __init__(self):
    self._sums = {'total': 0.0, 'weight': 0.0}

  def terms(self, prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Returns the per-row terms [N]."""
    raise NotImplementedError

  def _update(self, prediction, label, weight, group):
    terms = self.terms(prediction.astype(float), label.astype(float))
    self._sums['total'] += float(np.sum(terms * weight))
    self._sums['weight'] += float(np.sum(weight))

  def compute(self) -> float:
    weight = self._sums['weight']
    return self._sums['total'] / weight if weight else float('nan')

  def _arrays(self):
    return {name: np.asarray(x) for name, x in self._sums.items()}

  def _add(self, arrays):
    for name, x in arrays.items():
      self._sums[name] += float(x)


class MAE(_Mean):
  """Mean absolute error; nan without rows."""

  def terms(self, prediction, label):
    return np.abs(prediction - label)


class RMSE(_Mean):
  """Root mean squared error; nan without rows."""

  def terms(self, prediction, label):
    return np.square(prediction - label)

  def compute(self) -> float:
    return float(np.sqrt(super().compute()))


class LogLoss(_Mean):
  """Mean binary cross entropy in nats. nan without rows.

  Labels are in [0, 1]; a fraction is a soft label. Probabilities are clipped
  to [1e-7, 1 - 1e-7], logits are not clipped.
  """

  OPTIONS = ('from_logits',)

  def __init__(self, *, from_logits: bool):
    super().__init__()
    self.from_logits = from_logits

  def terms(self, prediction, label):
    if np.any((label < 0) | (label > 1)):
      raise ValueError(
        'LogLoss.update(label=): got a label outside [0, 1]; turn ratings '
        'into clicks first, for example label >= 4.'
      )
    if self.from_logits:
      # log(1 + e^z) - y z in a form that cannot overflow.
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
  """Log-loss divided by that of a constant prediction, the click rate.

  Below 1, a model is better than the constant. Source: He et al. 2014,
  https://doi.org/10.1145/2648584.2648589, section 3. nan with one class only.
  """

  def __init__(self, *, from_logits: bool):
    super().__init__(from_logits=from_logits)
    self._sums['positive'] = 0.0

  def _update(self, prediction, label, weight, group):
    super()._update(prediction, label, weight, group)
    self._sums['positive'] += float(np.sum(label.astype(float) * weight))

  def compute(self) -> float:
    weight = self._sums['weight']
    share = self._sums['positive'] / weight if weight else 0.0
    if not 0 < share < 1:
      return float('nan')
    entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    return float(super().compute() / entropy)
