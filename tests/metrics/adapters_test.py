# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics of scikit-learn, metrax and clu through antjax's own contract."""

import math

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.metrics.adapters import ClassMetric, FunctionMetric
from antjax.metrics.means import RMSE
from antjax.metrics.ranking import AUC

_F32_RTOL = 1e-5
_THRESHOLDS_ATOL = 0.02  # Of an AUC by 200 thresholds.


@struct.dataclass
class MeanSquare:
  """A metric as those of metrax are."""

  total: jnp.ndarray
  count: jnp.ndarray

  @classmethod
  def empty(cls):
    return cls(jnp.zeros(()), jnp.zeros(()))

  @classmethod
  def from_model_output(cls, predictions, labels, sample_weights=None):
    error = sample_weights * (predictions - labels) ** 2
    return cls(error.sum(), sample_weights.sum())

  def merge(self, other):
    return type(self)(self.total + other.total, self.count + other.count)

  def compute(self):
    return self.total / self.count


def weighted_mean(y_true, y_score, sample_weight):
  return np.average(y_score - y_true, weights=sample_weight)


def rows(number, seed=0):
  rng = np.random.default_rng(seed)
  label = rng.integers(0, 2, number)
  score = np.clip(0.3 * label + 0.7 * rng.random(number), 0, 1)
  return score, label, rng.integers(0, 3, number).astype(float)


def split(metric, seed=0):
  """The metric of two processes' rows, a third one having none."""
  score, label, weight = rows(100, seed)
  parts = [metric.empty() for _ in range(3)]
  for part, at in zip(parts, (slice(0, 31), slice(31, 100))):
    part.update(score[at], label[at], weight[at])
  return parts[2].merge(parts[0]).merge(parts[1])


@pytest.mark.parametrize(
  'make',
  [lambda: FunctionMetric(weighted_mean), lambda: ClassMetric(MeanSquare)],
)
def test_merging_is_one_metric_of_all_rows(make):
  assert math.isnan(make().compute())
  whole = make()
  whole.update(*rows(100))
  assert split(make()).compute() == pytest.approx(
    whole.compute(), rel=_F32_RTOL
  )


def test_the_class_agrees_with_our_own():
  own = RMSE()
  own.update(*rows(100))
  found = split(ClassMetric(MeanSquare)).compute()
  assert found == pytest.approx(own.compute() ** 2, rel=_F32_RTOL)


class Shape:
  """Takes no weights, and has names of its own."""

  @classmethod
  def from_model_output(cls, logits, labels, k):
    made = cls()
    made.found = len(logits) * k
    return made

  def compute(self):
    return self.found


def test_names_and_weights_that_do_not_fit_are_said():
  with pytest.raises(
    ValueError, match='takes logits, labels, k; say as inputs'
  ):
    ClassMetric(Shape)
  inputs = {'logits': 'prediction', 'labels': 'label'}
  metric = ClassMetric(Shape, inputs, k=7)
  metric.update(np.ones(3), np.ones(3), np.asarray([1.0, 0.0, 1.0]))
  assert metric.compute() == 14  # Padding is no row.
  with pytest.raises(ValueError, match='weights other than 0 and 1'):
    metric.update(np.ones(3), np.ones(3), np.full(3, 0.5))


@pytest.mark.slow
def test_scikit_learn():
  metrics = pytest.importorskip('sklearn.metrics')
  own = split(AUC())
  found = split(FunctionMetric(metrics.roc_auc_score)).compute()
  assert found == pytest.approx(own.compute(), rel=1e-3)  # Bins of our AUC.
  precision = split(FunctionMetric(metrics.average_precision_score)).compute()
  score, label, weight = rows(100)
  assert precision == pytest.approx(
    metrics.average_precision_score(label, score, sample_weight=weight)
  )


@pytest.mark.slow
@jax.numpy_rank_promotion('allow')  # As metrax is written.
def test_metrax():
  metrax = pytest.importorskip('metrax')
  found = split(ClassMetric(metrax.AUCROC)).compute()
  assert found == pytest.approx(split(AUC()).compute(), abs=_THRESHOLDS_ATOL)
  found = split(ClassMetric(metrax.RMSE)).compute()
  assert found == pytest.approx(split(RMSE()).compute(), rel=_F32_RTOL)
  with pytest.raises(ValueError, match='weights other than 0 and 1'):
    split(ClassMetric(metrax.Precision))


@pytest.mark.slow
def test_clu():
  clu = pytest.importorskip('clu.metrics')
  inputs = {'values': 'prediction'}
  score, label, _ = rows(100)
  metric = ClassMetric(clu.Average, inputs)
  metric.update(score, label)
  assert metric.compute() == pytest.approx(score.mean(), rel=_F32_RTOL)
