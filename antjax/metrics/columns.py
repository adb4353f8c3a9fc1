# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics of rows with more columns than a prediction and a label."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from antjax.metrics.metric import check_mergeable, Metric


class Rows(Metric):
  """Keeps every column of all rows, for metrics that need whole groups.

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
    raise NotImplementedError('Rows.update keeps all columns itself.')

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
    # By group, whatever the number of processes.
    order = np.argsort(columns['group'], kind='stable')
    return {name: column[order] for name, column in columns.items()}

  def state(self) -> dict[str, np.ndarray]:
    return dict(self.compute())

  def from_state(self, state: Mapping[str, np.ndarray]) -> Self:
    metric = type(self)()
    if state:
      metric._chunks = [dict(state)]
    return metric


class Selected(Metric):
  """A metric of one of several predictions, or of some of the rows.

  A model that predicts a distribution has a best guess for each error: its
  median for the absolute error, its mean for the others. Slices of an
  evaluation, such as new items, are marked by a column.

  Args:
    inner: Metric of the chosen predictions and rows.
    column: Column to read as the prediction; 'prediction' where it is missing.
    where: Column whose rows count where it is not 0; '': all rows.
  """

  def __init__(
    self, inner: Metric, *, column: str = 'prediction', where: str = ''
  ):
    self._inner, self.column, self.where = inner, column, where

  def update(
    self,
    prediction: np.ndarray,
    label: np.ndarray,
    weight: np.ndarray | None = None,
    group: np.ndarray | None = None,
    **columns: np.ndarray,
  ) -> None:
    """Folds in rows; see `antjax.metrics.metric.Metric.update`."""
    if self.where:
      ones = np.ones(len(label)) if weight is None else np.asarray(weight)
      weight = ones * (np.asarray(columns[self.where]) != 0)
    chosen = columns.get(self.column, prediction)
    self._inner.update(chosen, label, weight, group)

  def _update(self, prediction, label, weight, group):
    raise AssertionError('update hands its rows to the inner metric.')

  def _of(self, inner: Metric) -> Self:
    return type(self)(inner, column=self.column, where=self.where)

  def merge(self, other: Self) -> Self:
    check_mergeable(self, other, 'column', 'where')
    return self._of(self._inner.merge(other._inner))

  def compute(self) -> float:
    return self._inner.compute()

  def state(self) -> dict[str, np.ndarray]:
    return self._inner.state()

  def from_state(self, state: Mapping[str, np.ndarray]) -> Self:
    return self._of(self._inner.from_state(state))
