# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores of click models, over all examples and over new users and items.

AUC and GAUC measure order, log-loss and normalized entropy probabilities. GAUC
weights each user by impressions and leaves out users with one class only, which
`one_class_users` counts.
"""

from collections.abc import Callable

import numpy as np

from antjax.metrics.columns import Selected
from antjax.metrics.means import LogLoss, NormalizedEntropy
from antjax.metrics.metric import Metric
from antjax.metrics.ranking import AUC, GAUC

# Name of a slice -> the array of `Trainer.evaluate` that marks its examples.
SLICES = {'all': '', 'new_item': 'is_new_item', 'new_user': 'is_new_user'}


class OneClassUsers(GAUC):
  """Number of users with one class only, whom GAUC leaves out."""

  def compute(self) -> float:
    group = self._columns()[0]
    return float(len(np.unique(group)) - len(self.by_group()[0]))


class NumExamples(LogLoss):
  """Total weight of the examples."""

  def compute(self) -> float:
    return self._sums['weight']


_KINDS: dict[str, Callable[[], Metric]] = {
  'auc': AUC,
  'gauc': GAUC,
  'log_loss': lambda: LogLoss(from_logits=True),
  'normalized_entropy': lambda: NormalizedEntropy(from_logits=True),
  'one_class_users': OneClassUsers,
  'examples': lambda: NumExamples(from_logits=True),
}


def click_metrics() -> dict[str, Metric]:
  """Fresh metrics for `Trainer.evaluate`: 'auc', 'new_item/auc' and so on.

  The predict_fn must return 'prediction' (a logit), 'label', 'weight', 'group'
  (the user, an integer), 'is_new_item' and 'is_new_user', [B] each.
  """
  return {
    kind if name == 'all' else f'{name}/{kind}': Selected(make(), where=mark)
    for name, mark in SLICES.items()
    for kind, make in _KINDS.items()
  }


def best_mode(name: str) -> str:
  """'max' for metrics of order, 'min' for losses."""
  kind = name.removeprefix('validation_').rpartition('/')[2]
  if kind not in _KINDS:
    raise ValueError(
      f'{name!r} is no metric of clicks; they are {", ".join(_KINDS)}.'
    )
  return 'max' if kind in ('auc', 'gauc') else 'min'
