# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of antjax.ctr.antm2c.rates."""

import numpy as np
import pytest

from antjax.ctr.antm2c import rates

_NAMES = ('user', 'item')


def _draw(rng, num_rows):
  """Clicks whose logits are a sum of a user's and an item's."""
  tastes = np.random.default_rng(0)
  of_user, of_item = tastes.normal(size=40), tastes.normal(size=30)
  user, item = rng.integers(0, 40, num_rows), rng.integers(0, 30, num_rows)
  logit = of_user[user] + of_item[item] - 1
  label = rng.random(num_rows) < 1 / (1 + np.exp(-logit))
  return {'user': user, 'item': item, 'label': label.astype(np.float32)}, logit


def test_rates_find_tastes_that_add_up():
  train, _ = _draw(np.random.default_rng(1), 20_000)
  validation, _ = _draw(np.random.default_rng(2), 2_000)
  test, truth = _draw(np.random.default_rng(3), 2_000)
  plain = rates.count([train], _NAMES)
  fitted = plain.fitted(validation)
  assert np.corrcoef(fitted.logits(test), truth)[0, 1] > 0.98
  # The marginal rate of one is that over all of the other: too small a logit.
  assert all(w > 1 for w in fitted.weights[1:])
  loss = [rates._loss(m.logits(test), test['label']) for m in (plain, fitted)]
  assert loss[1] < loss[0]


def test_a_rate_is_drawn_to_the_mean():
  train = {
    'user': np.array([0, 0, 1, 1]),
    'item': np.array([0, 0, 0, 0]),
    'label': np.array([1.0, 1.0, 0.0, 1.0]),
  }
  half = [{n: x[i::2] for n, x in train.items()} for i in range(2)]
  counted = rates.count(half, _NAMES)
  # The mean is (3 + .5) / 5; what has no training row differs from it by 0.
  rate = np.array([(2 + 10 * 0.7) / 12, 0.7])
  (known, unknown) = counted.logits(
    {'user': np.array([0, 7]), 'item': np.array([7, 7])}
  )
  np.testing.assert_allclose([known, unknown], np.log(rate / (1 - rate)), 1e-6)


@pytest.mark.parametrize('label', ([], [1.0, 1.0], [0.0]))
def test_labels_that_are_alike_have_a_finite_logit(label):
  ids = np.zeros(len(label), np.int32)
  counted = rates.count(
    [{'user': ids, 'item': ids, 'label': np.array(label)}], _NAMES
  )
  assert np.isfinite(counted.logits({'user': ids, 'item': ids})).all()
