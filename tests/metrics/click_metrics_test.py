# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores of click models against sums by hand, by slice, and merged."""

import math

import numpy as np
import pytest

from antjax.metrics import click_metrics
from antjax.metrics.merge import merge_across_processes

LOGIT = np.array([2.0, -1.0, 0.5, 0.5, -2.0, 1.0])
LABEL = np.array([1, 0, 1, 0, 0, 1])
USER = np.array([7, 7, 8, 8, 9, 9])
ARRAYS = {
  'prediction': LOGIT,
  'label': LABEL,
  'weight': np.array([1, 1, 1, 1, 1, 0]),
  'group': USER,
  'is_new_item': np.array([1, 1, 0, 0, 0, 0]),
  'is_new_user': np.zeros(6),
}


def scores(*parts):
  found = click_metrics.click_metrics()
  for part in parts:
    for metric in found.values():
      metric.update(**part)
  merged = merge_across_processes(found)
  return {name: metric.compute() for name, metric in merged.items()}


def test_scores_of_all_examples():
  found = scores(ARRAYS)
  loss = np.log1p(np.exp(-LOGIT)) + LOGIT * (1 - LABEL)
  mean = loss[:5].mean()
  entropy = -(0.4 * math.log(0.4) + 0.6 * math.log(0.6))
  assert found['examples'] == 5
  assert found['log_loss'] == pytest.approx(mean)
  assert found['normalized_entropy'] == pytest.approx(mean / entropy)
  # Pairs: 2.0 above all three; 0.5 above -1 and -2, tied with 0.5.
  assert found['auc'] == pytest.approx(5.5 / 6)
  # User 7 is in order, 8 is tied, 9 has one class (the other has weight 0).
  assert found['gauc'] == pytest.approx((1.0 * 2 + 0.5 * 2) / 4)
  assert found['one_class_users'] == 1


def test_slices():
  found = scores(ARRAYS)
  assert found['new_item/examples'] == 2
  assert found['new_item/auc'] == 1.0
  assert found['new_user/examples'] == 0
  assert math.isnan(found['new_user/auc'])
  assert math.isnan(found['new_user/normalized_entropy'])


def test_parts_add_up():
  first = {name: x[:3] for name, x in ARRAYS.items()}
  second = {name: x[3:] for name, x in ARRAYS.items()}
  whole, parts = scores(ARRAYS), scores(first, second)
  one, two = click_metrics.click_metrics(), click_metrics.click_metrics()
  for name in one:
    one[name].update(**first)
    two[name].update(**second)
  merged = {name: one[name].merge(two[name]).compute() for name in one}
  for name, value in whole.items():
    assert parts[name] == pytest.approx(value, nan_ok=True)
    assert merged[name] == pytest.approx(value, nan_ok=True)


def test_metrics_of_other_slices_do_not_merge():
  found = click_metrics.click_metrics()
  with pytest.raises(ValueError, match='where is  here and is_new_item there'):
    found['auc'].merge(found['new_item/auc'])


def test_what_is_better():
  assert click_metrics.best_mode('validation_auc') == 'max'
  assert click_metrics.best_mode('validation_new_item/log_loss') == 'min'
  with pytest.raises(ValueError, match="'loss' is no metric of clicks"):
    click_metrics.best_mode('loss')
