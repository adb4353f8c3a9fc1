# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Click rates of users, items and categories, the cheapest baseline.

The logit of a row is that of the mean rate p, plus a scaled difference for each
id column: the logit of the value's rate, shrunk towards p by k rows, (clicks +
k p) / (rows + k), minus that of p. The scale of each column and k are fitted on
validation rows.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses

import numpy as np

_STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_STRENGTH = 10.0  # Value without validation rows.
_NEWTON_STEPS = 20
_RIDGE = 1e-4

Columns = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class ClickRates:
  """Numbers of clicks and rows of each value of some columns."""

  mean: float  # Share of clicks among the training rows.
  # Column -> number of clicks of each value, float64 [values].
  clicks: Mapping[str, np.ndarray]
  # Column -> number of rows of each value, float64 [values].
  rows: Mapping[str, np.ndarray]
  # Number of rows of the mean by which a rate is shrunk, k.
  strength: float = _STRENGTH
  weights: Sequence[float] = ()  # Intercept, and scale of each column.

  def logits(self, columns: Columns) -> np.ndarray:
    """Logits of rows, float32 [N]; values unseen in training add nothing."""
    x = self._features(columns, self.strength)
    weights = self.weights or (
      float(_logit(self.mean)),
      *np.ones(x.shape[1] - 1),
    )
    return (x @ np.asarray(weights)).astype(np.float32)

  def of(self, names: Sequence[str]) -> 'ClickRates':
    """The rates of some columns alone."""
    return dataclasses.replace(self, rows={n: self.rows[n] for n in names})

  def fitted(self, columns: Columns) -> 'ClickRates':
    """A copy with the strength and weights of least log-loss on the rows."""
    label = columns['label'].astype(np.float64)
    found = []
    for strength in _STRENGTHS:
      x = self._features(columns, strength)
      weights = _logistic(x, label, float(_logit(self.mean)))
      found.append((_loss(x @ weights, label), strength, weights.tolist()))
    _, strength, weights = min(found)
    return dataclasses.replace(self, strength=strength, weights=weights)

  def _features(self, columns: Columns, k: float) -> np.ndarray:
    """Ones, then differences of logits for each column: [N, 1 + columns]."""
    x = [np.ones(len(columns[next(iter(self.rows))]))]
    for name, rows in self.rows.items():
      rate = (self.clicks[name] + k * self.mean) / (rows + k)
      value = columns[name]
      is_known = value < len(rows)
      difference = _logit(rate) - _logit(self.mean)
      x.append(np.where(is_known, difference[np.where(is_known, value, 0)], 0))
    return np.stack(x, axis=1)


def count(chunks: Iterable[Columns], names: Sequence[str]) -> ClickRates:
  """Counts the training rows by the values of the columns `names`.

  Chunks of rows are 'label' (0 or 1) and integer columns from 0 on, [n].
  """
  clicks = {name: np.zeros(0) for name in names}
  rows = {name: np.zeros(0) for name in names}
  num_clicks = num_rows = 0.0
  for columns in chunks:
    label = columns['label'].astype(np.float64)
    num_clicks, num_rows = num_clicks + label.sum(), num_rows + len(label)
    for name in names:
      clicks[name] = _add(clicks[name], np.bincount(columns[name], label))
      rows[name] = _add(rows[name], np.bincount(columns[name]))
  mean = (num_clicks + 0.5) / (num_rows + 1)  # Never 0 or 1.
  return ClickRates(float(mean), clicks, rows)


def _add(total: np.ndarray, part: np.ndarray) -> np.ndarray:
  """The sum, with the shorter array zero-padded."""
  if len(part) > len(total):
    total = np.concatenate([total, np.zeros(len(part) - len(total))])
  total[: len(part)] += part
  return total


def _logit(p: np.ndarray | float) -> np.ndarray:
  return np.log(p) - np.log1p(-np.asarray(p, np.float64))


def _loss(logits: np.ndarray, label: np.ndarray) -> float:
  return float(np.mean(np.logaddexp(0, logits) - label * logits))


def _logistic(x: np.ndarray, label: np.ndarray, start: float) -> np.ndarray:
  """Weights of a logistic regression, by Newton's method."""
  weights = np.zeros(x.shape[1])
  weights[0] = start
  for _ in range(_NEWTON_STEPS):
    p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
    gradient = x.T @ (p - label) / len(label) + _RIDGE * weights
    hessian = (x.T * (p * (1 - p))) @ x / len(label)
    hessian += _RIDGE * np.eye(len(weights))
    weights = weights - np.linalg.solve(hessian, gradient)
  return weights
