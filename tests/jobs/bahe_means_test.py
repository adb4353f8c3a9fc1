# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""jobs/bahe/means: labels of users and items, without a model."""

import types

import numpy as np
import pytest

from antjax.jobs.bahe import means


def test_means_rank_by_what_users_and_items_had():
  users, items = [1, 1, 1, 2, 2, 2], [1, 2, 3, 1, 2, 3]
  labels = [1, 1, 0, 1, 0, 0]
  columns = {'user': users, 'item': items, 'label': labels}
  training = {name: np.array(values) for name, values in columns.items()}
  batch = {
    'user': np.array([1, 2, 1, 2]),
    'item': np.array([3, 1, 1, 3]),
    'label': np.array([0.0, 1.0, 1.0, 0.0], np.float32),
    'weight': np.ones(4, np.float32),
    'is_new_user': np.zeros(4, np.float32),
    'is_new_item': np.zeros(4, np.float32),
  }
  clicks = types.SimpleNamespace(
    sizes=types.SimpleNamespace(num_users=2, num_items=3),
    splits={'train': types.SimpleNamespace(chunks=lambda names: [training])},
    evaluation=lambda split, prepare: [prepare(batch, 1)],
  )
  found = means.scores(clicks, 'test')
  # Every user likes item 1 and not item 3; users alone cannot tell.
  assert found['item mean']['auc'] == 1 and found['both means']['auc'] == 1
  assert found['user mean']['auc'] == pytest.approx(0.5)
  # Item 3's mean: 10 examples of the mean .5, and two of 0.
  share = {1: 7 / 12, 3: 5 / 12}
  logs = [np.log(share[1]), np.log(1 - share[3])]
  assert found['item mean']['log_loss'] == pytest.approx(-np.mean(logs))
