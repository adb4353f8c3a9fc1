# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Crosses of id columns."""

import numpy as np
import pytest

from antjax.ctr.antm2c import crosses

TRAIN = {
  'user': np.array([1, 1, 2, 2, 2]),
  'scenario': np.array([0, 1, 1, 1, 1]),
}


def chunks():
  for part in (slice(0, 3), slice(3, 5)):
    yield {name: ids[part] for name, ids in TRAIN.items()}


def test_each_pair_of_training_is_an_id_and_others_are_unknown():
  cross = crosses.Cross.fit('user*scenario', chunks, 1)
  assert cross.name == 'user_x_scenario' and cross.num_ids == 4
  assert cross(TRAIN).tolist() == [1, 2, 3, 3, 3]
  # (2, 2) has the code of (3, 0), were scenario 2 not told apart.
  others = {'user': np.array([2, 3, 2, 9]), 'scenario': np.array([0, 0, 2, 9])}
  assert cross(others).tolist() == [0, 0, 0, 0]


def test_rare_pairs_are_unknown():
  cross = crosses.Cross.fit('user*scenario', chunks, 2)
  assert cross(TRAIN).tolist() == [0, 0, 1, 1, 1]
  none = crosses.Cross.fit('user*scenario', chunks, 9)
  assert none(TRAIN).tolist() == [0] * 5


@pytest.mark.parametrize('text', ['user', 'user*city', 'user*user'])
def test_what_is_no_pair_is_refused(text):
  with pytest.raises(ValueError, match='two of user, scenario'):
    crosses.Cross.fit(text, chunks, 1)


def test_columns_are_chosen_by_name():
  assert crosses.chosen(['a', 'b', 'c'], ('c', 'a')) == [0, 2]
  assert crosses.chosen(['a', 'b'], ()) == [0, 1]
  with pytest.raises(ValueError, match='d unknown; the data have a, b'):
    crosses.chosen(['a', 'b'], ('d',))
