# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores of click models, over all examples and over new users and items.

AUC and GAUC order, log-loss and normalised entropy judge probabilities. GAUC
weighs each user by impressions and leaves out those with one class only;
`one_class_users` counts them.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from antjax.metrics.metric import check_mergeable, Metric
from antjax.metrics.streaming import AUC, GAUC, LogLoss

# Name of a slice -> the array of `Trainer.evaluate` that marks its examples.
SLICES = {'all': '', 'new_item': 'is_new_item', 'new_user': 'is_new_user'}


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

  @classmethod
  def from_state(cls, state: Mapping[str, np.ndarray]) -> Self:
    rest = dict(state)
    positive = float(rest.pop('positive'))
    metric = super().from_state(rest)
    metric._positive = positive
    return metric


class OneClassUsers(GAUC):
  """Users of one class only, whom GAUC leaves out."""

  def compute(self) -> float:
    group = self._columns()[0]
    return float(len(np.unique(group)) - len(self.by_group()[0]))


class Examples(LogLoss):
  """Weight of all examples."""

  def compute(self) -> float:
    return self._weight


_KINDS: dict[str, Any] = {
  'auc': AUC,
  'gauc': GAUC,
  'log_loss': LogLoss,
  'normalized_entropy': NormalizedEntropy,
  'one_class_users': OneClassUsers,
  'examples': Examples,
}


def _new(kind: str) -> Metric:
  options = {'from_logits': True} if issubclass(_KINDS[kind], LogLoss) else {}
  return _KINDS[kind](**options)


class SliceMetric(Metric):
  """A metric of the examples that belong to a slice."""

  def __init__(self, kind: str, slice_name: str, inner: Metric | None = None):
    """Takes the names in `_KINDS` and `SLICES`."""
    self._kind, self._slice = kind, slice_name
    self._inner: Metric = inner if inner is not None else _new(kind)

  def update(
    self,
    prediction: np.ndarray,
    label: np.ndarray,
    weight: np.ndarray | None = None,
    group: np.ndarray | None = None,
    **marks: np.ndarray,
  ) -> None:
    """See `Metric.update`; `marks` are the arrays named in `SLICES`."""
    mark = SLICES[self._slice]
    if mark:
      ones = np.ones(len(label)) if weight is None else np.asarray(weight)
      weight = ones * (np.asarray(marks[mark]) != 0)
    self._inner.update(prediction, label, weight, group)

  def _update(self, prediction, label, weight, group):
    raise AssertionError('update hands its rows to the inner metric.')

  def merge(self, other: Self) -> Self:
    check_mergeable(self, other, '_kind', '_slice')
    inner = self._inner.merge(other._inner)
    return type(self)(self._kind, self._slice, inner)

  def compute(self) -> float:
    return self._inner.compute()

  def state(self) -> dict[str, np.ndarray]:
    names = {'kind': np.asarray(self._kind), 'slice': np.asarray(self._slice)}
    inner = self._inner.state().items()
    return names | {f'inner.{name}': x for name, x in inner}

  @classmethod
  def from_state(cls, state: Mapping[str, np.ndarray]) -> Self:
    kind = str(state['kind'])
    inner = {
      name.removeprefix('inner.'): x
      for name, x in state.items()
      if name.startswith('inner.')
    }
    return cls(kind, str(state['slice']), _KINDS[kind].from_state(inner))


def click_metrics() -> dict[str, Metric]:
  """Fresh metrics for `Trainer.evaluate`: 'auc', 'new_item/auc' and so on.

  Its predict_fn gives 'prediction' (a logit), 'label', 'weight', 'group'
  (the user, an integer), 'is_new_item' and 'is_new_user', [B] each.
  """
  return {
    kind if name == 'all' else f'{name}/{kind}': SliceMetric(kind, name)
    for name in SLICES
    for kind in _KINDS
  }


def best_mode(name: str) -> str:
  """'max' for metrics that order, 'min' for those that are losses."""
  kind = name.removeprefix('validation_').rpartition('/')[2]
  if kind not in _KINDS:
    raise ValueError(
      f'{name!r} is no metric of clicks; they are {", ".join(_KINDS)}.'
    )
  return 'max' if kind in ('auc', 'gauc') else 'min'
