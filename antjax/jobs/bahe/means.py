# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A user's own mean label and an item's: what a click costs without a model.

Both are rates of ids (`ctr/antm2c/rates.py`), drawn to the mean of all, and
both together add their distances to it as logits. On small data they can beat
trained models.
"""

import numpy as np

from antjax.ctr.antm2c import rates
from antjax.jobs.bahe.data import Clicks
from antjax.metrics import click_metrics
from antjax.train import predict

_METHODS = {
  'user mean': ('user',),
  'item mean': ('item',),
  'both means': ('user', 'item'),
}


def scores(clicks: Clicks, split: str) -> dict[str, dict[str, float]]:
  """Scores of a split by method, as those of the trained model."""
  training = clicks.splits['train'].chunks(('user', 'item', 'label'))
  counted = rates.count(training, ('user', 'item'))
  kept = ('label', 'weight', 'is_new_user', 'is_new_item')
  outputs: dict[str, list[dict[str, np.ndarray]]] = {m: [] for m in _METHODS}
  for batch in clicks.evaluation(split, lambda batch, num_parts: batch):
    for method, columns in _METHODS.items():
      outputs[method].append(
        {
          'prediction': counted.of(columns).logits(batch),
          'group': batch['user'],
          **{name: batch[name] for name in kept},
        }
      )
  return {
    method: predict.evaluate(made, click_metrics.click_metrics())
    for method, made in outputs.items()
  }
