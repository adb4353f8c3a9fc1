# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Columns of predictions after a number of inner steps."""

import numpy as np

from antjax.jobs.gmeta import scores


def test_columns_of_a_step_are_found_by_name():
  columns = {
    'label': np.ones(2),
    'group': np.arange(2),
    'prediction_1': np.zeros(2),
    'prediction_11': np.ones(2),
  }
  found = scores.after_step(columns, 1)
  assert set(found) == {'label', 'group', 'prediction'}
  np.testing.assert_array_equal(found['prediction'], np.zeros(2))
