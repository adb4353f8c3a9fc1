# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Histories as padded rows."""

import numpy as np

from antjax.ctr.llm_rec import histories

ROWS = np.array([[5, 6, 7, 8], [9, 5, 0, 0], [0, 0, 0, 0], [4, 4, 3, 4]])


def test_the_newest_items():
  assert histories.newest(ROWS, 2).tolist() == [[7, 8], [9, 5], [0, 0], [3, 4]]
  assert histories.newest(ROWS, 6)[1].tolist() == [9, 5, 0, 0, 0, 0]
  assert histories.newest(ROWS[:, :0], 2).tolist() == [[0, 0]] * 4


def test_some_items_stay_in_their_order():
  is_kept = np.isin(np.arange(10), [0, 4, 5, 7, 8])
  assert histories.of_items(ROWS, is_kept).tolist() == [
    [5, 7, 8, 0],
    [5, 0, 0, 0],
    [0, 0, 0, 0],
    [4, 4, 4, 0],
  ]


def test_each_item_once():
  found = histories.distinct(ROWS)
  assert [sorted(row[row > 0].tolist()) for row in found] == [
    [5, 6, 7, 8],
    [5, 9],
    [],
    [3, 4],
  ]
