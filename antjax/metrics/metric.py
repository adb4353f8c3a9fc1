# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Base class and checks of streaming metrics.

A metric is a small numpy accumulator on the host: `update` adds rows, `compute`
returns the value. `state` returns it as arrays, which `add` adds to another
metric. So metrics merge exactly across batches and processes
(`antjax.metrics.merge`). Sums are float64, so a long evaluation does not drift.

Without rows every `compute` returns nan, as does a ranking metric that saw one
class only. This is no error, because an empty scenario is a fact to report, not
a fault of the run.
"""

import abc
from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np


class Metric(abc.ABC):
  """Base of all metrics, which checks the rows once.

  Attributes:
    OPTIONS: Arguments of the constructor, which are attributes of the same
      name.
  """

  OPTIONS: ClassVar[tuple[str, ...]] = ()

  def update(
    self,
    prediction: np.ndarray,
    label: np.ndarray,
    weight: np.ndarray | None = None,
    group: np.ndarray | None = None,
  ) -> None:
    """Adds N rows.

    Args:
      prediction: [N], a score or a predicted value.
      label: [N], the true value.
      weight: [N], not negative; 1 for every row if left out. Rows of weight 0
        (padding) are removed first.
      group: [N] integers, for metrics within a group (a user).

    Raises:
      ValueError: An array is not 1-D, lengths differ, a weight is negative or
        not finite, or a prediction or label of positive weight is nan.
    """
    name = type(self).__name__
    prediction, label = np.asarray(prediction), np.asarray(label)
    weight = (
      np.ones(label.shape) if weight is None else np.asarray(weight, float)
    )
    arrays = {'prediction': prediction, 'label': label, 'weight': weight}
    if group is not None:
      arrays['group'] = group = np.asarray(group)
    for field, array in arrays.items():
      if array.ndim != 1 or array.shape != label.shape:
        raise ValueError(
          f'{name}.update({field}=): got shape {array.shape}, label has '
          f'{label.shape}; all must be 1-D of one length. Flatten them.'
        )
    if not np.all(np.isfinite(weight)) or np.any(weight < 0):
      raise ValueError(
        f'{name}.update(weight=): got a negative or non-finite weight; '
        'weights must be finite and >= 0.'
      )
    keep = weight > 0
    for field, array in (('prediction', prediction), ('label', label)):
      if np.any(np.isnan(array[keep])):
        raise ValueError(
          f'{name}.update({field}=): got nan; give rows without a value '
          'weight 0, or find where the model diverged.'
        )
    self._update(
      prediction[keep],
      label[keep],
      weight[keep],
      None if group is None else group[keep],
    )

  @abc.abstractmethod
  def _update(
    self,
    prediction: np.ndarray,
    label: np.ndarray,
    weight: np.ndarray,
    group: np.ndarray | None,
  ) -> None:
    """Adds checked rows of positive weight."""

  @abc.abstractmethod
  def compute(self) -> float:
    """Returns the value over all rows so far, or nan if undefined."""

  @abc.abstractmethod
  def _arrays(self) -> dict[str, np.ndarray]:
    """Returns the accumulated rows, as arrays without objects."""

  @abc.abstractmethod
  def _add(self, arrays: Mapping[str, np.ndarray]) -> None:
    """Adds the arrays of a metric with the same options."""

  def state(self) -> dict[str, np.ndarray]:
    """Returns the state, including options, as arrays without objects."""
    options = {name: np.asarray(getattr(self, name)) for name in self.OPTIONS}
    return options | self._arrays()

  def add(self, state: Mapping[str, np.ndarray]) -> None:
    """Adds the `state` of a metric of the same class.

    Raises:
      ValueError: The options differ.
    """
    for option in self.OPTIONS:
      x, y = getattr(self, option), state[option].item()
      if x != y:
        raise ValueError(
          f'{type(self).__name__}.merge: {option} is {x} here and {y} there; '
          'build both with the same options.'
        )
    self._add({k: x for k, x in state.items() if k not in self.OPTIONS})

  def empty(self) -> Self:
    """Returns a metric with the same options and no rows."""
    return type(self)(**{name: getattr(self, name) for name in self.OPTIONS})

  def merge(self, other: Self) -> Self:
    """Returns a metric over the rows of both; changes neither.

    Raises:
      ValueError: The classes or options differ.
    """
    if type(self) is not type(other):
      raise ValueError(
        f'{type(self).__name__}.merge: got a {type(other).__name__}; merge '
        'metrics of one class.'
      )
    merged = self.empty()
    for metric in (self, other):
      merged.add(metric.state())
    return merged
