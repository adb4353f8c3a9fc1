# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics of rows with more columns than a prediction and a label."""

from typing import Any, Self

import numpy as np

from antjax.metrics.metric import Metric


class Kept(Metric):
  """Base of metrics that keep rows, for metrics that need whole groups."""

  def __init__(self) -> None:
    self._chunks: list[dict[str, np.ndarray]] = []

  def _arrays(self):
    if not self._chunks:
      return {}
    return {
      name: np.concatenate([chunk[name] for chunk in self._chunks])
      for name in self._chunks[0]
    }

  def _add(self, arrays):
    if arrays:
      self._chunks.append(dict(arrays))


class AllRows(Kept):
  """Keeps every column of all rows.

  `compute` gives the columns instead of a number, so that
  `Trainer.evaluate` returns them, gathered from all processes.
  """

  def update(
    self,
    prediction: np.ndarray,
    label: np.ndarray,
    weight: np.ndarray | None = None,
    group: np.ndarray | None = None,
    **columns: np.ndarray,
  ) -> None:
    label = np.asarray(label)
    kept = np.ones(len(label), bool) if weight is None else weight > 0
    columns |= {'prediction': prediction, 'label': label}
    if group is not None:
      columns['group'] = group
    self._chunks.append({k: np.asarray(x)[kept] for k, x in columns.items()})

  def _update(self, prediction, label, weight, group):
    raise NotImplementedError('AllRows.update keeps all columns itself.')

  def compute(self) -> Any:
    columns = self._arrays()
    if 'group' not in columns:
      return columns
    # Sorted by group, for any number of processes.
    order = np.argsort(columns['group'], kind='stable')
    return {name: column[order] for name, column in columns.items()}


class Selected(Metric):
  """A metric of one of several predictions, or of some of the rows.

  A model that predicts a distribution has a best estimate for each error: the
  median for the absolute error, the mean for others. Slices of an evaluation,
  such as new items, are marked by a column.

  Args:
    inner: Metric of the chosen predictions and rows.
    column: Column to read as the prediction; 'prediction' if it is missing.
    where: Column that is not 0 for the rows that count; '': all rows.
  """

  OPTIONS = ('column', 'where')

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
    if self.where:
      ones = np.ones(len(label)) if weight is None else np.asarray(weight)
      weight = ones * (np.asarray(columns[self.where]) != 0)
    chosen = columns.get(self.column, prediction)
    self._inner.update(chosen, label, weight, group)

  def _update(self, prediction, label, weight, group):
    raise AssertionError('update hands its rows to the inner metric.')

  def compute(self) -> float:
    return self._inner.compute()

  def empty(self) -> Self:
    inner = self._inner.empty()
    return type(self)(inner, column=self.column, where=self.where)

  def _arrays(self):
    return self._inner.state()

  def _add(self, arrays):
    self._inner.add(arrays)
