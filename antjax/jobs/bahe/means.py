# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A user's own mean label and an item's: what a click costs without a model.

  m(u) = (S m + sum of u's labels) / (S + number of u's labels)

over training, m being the mean of all, and so for items. Both together add
their distances to m as logits. On small data they can beat trained models.
"""

import numpy as np

from antjax.jobs.bahe.data import Clicks
from antjax.metrics import click_metrics
from antjax.train import predict

_STRENGTH = 10.0  # S, not tuned.


def scores(clicks: Clicks, split: str) -> dict[str, dict[str, float]]:
  """Scores of a split by method, as those of the trained model."""
  sums = {
    'user': np.zeros((clicks.sizes.num_users + 1, 2)),
    'item': np.zeros((clicks.sizes.num_items + 1, 2)),
  }
  for block in clicks.blocks('train'):
    labels = np.array([record['label'] for record in block], np.float64)
    for name, table in sums.items():
      ids = np.array([record[name] for record in block])
      np.add.at(table, ids, np.stack([labels, np.ones(len(ids))], axis=1))
  clicked, num = sums['user'].sum(axis=0)
  mean = min(max(clicked / max(num, 1), 1e-6), 1 - 1e-6)

  def logits(table: np.ndarray) -> np.ndarray:
    share = (table[:, 0] + _STRENGTH * mean) / (table[:, 1] + _STRENGTH)
    return np.log(share / (1 - share)) - np.log(mean / (1 - mean))

  of = {name: logits(table) for name, table in sums.items()}
  kept = ('label', 'weight', 'is_new_user', 'is_new_item')
  outputs: dict[str, list[dict[str, np.ndarray]]] = {}
  for batch in clicks.evaluation(split, lambda batch, num_parts: batch):
    user, item = of['user'][batch['user']], of['item'][batch['item']]
    methods = {'user mean': user, 'item mean': item, 'both means': user + item}
    for method, values in methods.items():
      outputs.setdefault(method, []).append(
        {
          'prediction': (values + np.log(mean / (1 - mean))).astype(np.float32),
          'group': batch['user'],
          **{name: batch[name] for name in kept},
        }
      )
  return {
    method: predict.evaluate(made, click_metrics.click_metrics())
    for method, made in outputs.items()
  }
