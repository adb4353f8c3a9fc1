# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Early stopping: when it ends, and which step was the best."""

import math

import pytest

from antjax.jobs.run import EarlyStopping


def test_it_refuses_a_metric_that_nothing_gives():
  early = EarlyStopping(2, 'validation_new_item/auc', 'max')
  early.see(1, {'loss': 0.5})
  with pytest.raises(ValueError, match='no such number.* validation_auc'):
    early.see(2, {'loss': 0.5, 'validation_auc': 0.6})
  early.see(2, {'validation_new_item/auc': 0.6})
  early.see(3, {'validation_auc': 0.6})  # Undefined for once.
  assert early.best_step == 2


def test_it_counts_validations():
  early = EarlyStopping(2, 'validation_log_loss', 'min')
  for step, loss in ((2, 0.6), (4, 0.5), (4, 0.9), (6, 0.55)):
    early.see(step, {'validation_log_loss': loss})
    early.see(step + 1, {'loss': 0.1})
    assert not early.is_over
  early.see(8, {'validation_log_loss': math.nan})
  assert early.is_over and early.best_step == 4
  # Of equals the newest, which is the checkpoint that is kept.
  early = EarlyStopping(3, 'validation_auc', 'max')
  for step, auc in ((2, 0.5), (4, 0.7), (6, 0.7), (8, 0.6)):
    early.see(step, {'validation_auc': auc})
  assert early.best_step == 6 and not early.is_over
  early.see(10, {'validation_auc': 0.7})
  assert early.best_step == 10 and early.is_over
  assert not EarlyStopping(0, 'validation_auc', 'max').is_over
