# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Ends a run that gets no better."""

from collections.abc import Mapping
import math
from typing import Any


class EarlyStopping:
  """Ends a run whose validation has not become better for long.

  Attributes:
    best_step: Step of the best validation so far, or None.
    is_over: Whether it is time to stop.
  """

  def __init__(self, patience: int, metric: str, mode: str):
    """Looks at one metric.

    Args:
      patience: Validations to wait for a better one; 0: never ends.
      metric: Its name, 'validation_...'.
      mode: 'min' or 'max', what better means.
    """
    self._patience, self._metric = patience, metric
    self._sign = -1 if mode == 'min' else 1
    self._best, self._num_worse = -math.inf, 0
    self._seen = -1
    self.best_step: int | None = None

  @property
  def is_over(self) -> bool:
    return 0 < self._patience <= self._num_worse

  def see(self, step: int, values: Mapping[str, Any]) -> None:
    """Looks at a step's values, of which few have a validation.

    Raises:
      ValueError: The first validation has no such metric.
    """
    value = values.get(self._metric)
    if value is None and self._patience and self.best_step is None:
      found = [name for name in values if name.startswith('validation_')]
      if found:
        raise ValueError(
          f'best_metric={self._metric}: the validation examples give no such'
          f' number, so patience would never end; they give'
          f' {", ".join(found)}.'
        )
    if value is None or step <= self._seen:
      return
    self._seen = step
    value = -math.inf if math.isnan(value) else self._sign * value
    if self.best_step is None or value > self._best:
      self._best, self.best_step, self._num_worse = value, step, 0
      return
    self._num_worse += 1
    if value == self._best:  # On a tie the newest checkpoint is kept.
      self.best_step = step
