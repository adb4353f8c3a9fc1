# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Ranks, against a loop over users and items, and histories as padded rows."""

import jax
import numpy as np
import pytest

from antjax.ctr.llm_rec import histories, ranking

NUM_USERS, NUM_ITEMS, DIM = 37, 101, 6


def problem(seed=0):
  """Vectors with equal rows, so that there are ties, and padded histories."""
  rng = np.random.default_rng(seed)
  items = rng.normal(size=(NUM_ITEMS, DIM)).astype(np.float32)
  items[50:60] = items[20:30]  # Equal titles.
  items[70] = items[71] = items[72]
  users = rng.normal(size=(NUM_USERS, DIM)).astype(np.float32)
  users[3] = 0  # Everything is tied.
  targets = rng.integers(1, NUM_ITEMS, NUM_USERS)
  targets[:5] = [20, 55, 71, 9, 70]
  seen = rng.integers(0, NUM_ITEMS, (NUM_USERS, 9))
  seen[:, 4] = seen[:, 1]  # The same item twice,
  seen[::3, 2] = targets[::3]  # and the target bought before.
  return users, items, targets.astype(np.int32), seen.astype(np.int32)


def rank(scores, target, seen=(), allowed=None, among=None):
  """Items other than the target that score as high, one by one."""
  ahead = 0
  for item in range(1, len(scores)) if among is None else among:
    if item == 0 or (among is None and (item == target or item in seen)):
      continue
    if allowed is not None and not allowed[item]:
      continue
    ahead += bool(scores[item] >= scores[target] - 1e-9)
  return ahead


def exact(users, items):
  return users.astype(np.float64) @ items.T.astype(np.float64)


@pytest.mark.parametrize('block_items', [1, 7, 64, 1000])
@pytest.mark.parametrize('block_users', [8, 1000])
def test_full_ranks_are_those_of_a_loop(block_items, block_users):
  users, items, targets, seen = problem()
  scores = exact(users, items)
  expected = [
    rank(s, t, row) for s, t, row in zip(scores, targets, seen, strict=True)
  ]
  for kind in (np.asarray, jax.numpy.asarray):
    found = ranking.full_ranks(
      users,
      kind(items),
      targets,
      seen,
      block_items=block_items,
      block_users=block_users,
    )
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)


def test_candidates_can_be_fewer():
  users, items, targets, seen = problem(1)
  allowed = np.arange(NUM_ITEMS) % 3 > 0
  expected = [
    rank(s, t, row, allowed)
    for s, t, row in zip(exact(users, items), targets, seen, strict=True)
  ]
  found = ranking.full_ranks(
    users, items, targets, seen, allowed=allowed, block_items=16
  )
  np.testing.assert_array_equal(found, expected)
  by_scores = ranking.ranks_of_scores(
    exact(users, items), targets, seen=seen, allowed=allowed
  )
  # Exact scores have exact ties only: equal vectors give equal sums here.
  np.testing.assert_array_equal(by_scores, expected)


def test_sampled_ranks_are_those_of_a_loop():
  users, items, targets, _ = problem(2)
  rng = np.random.default_rng(3)
  drawn = rng.integers(0, NUM_ITEMS, (NUM_USERS, 20))
  drawn[:, -2:] = 0  # A domain with fewer items.
  drawn[5, 0] = targets[5]  # As the official code may draw.
  scores = exact(users, items)
  expected = [
    rank(s, t, among=row) for s, t, row in zip(scores, targets, drawn)
  ]
  found = ranking.sampled_ranks(users, items, targets, drawn)
  np.testing.assert_array_equal(found, expected)
  by_scores = ranking.ranks_of_scores(scores, targets, negatives=drawn)
  np.testing.assert_array_equal(by_scores, expected)


@pytest.mark.parametrize('value', [0.0, 1.0, np.nan])
def test_constant_scores_and_nan_reach_nothing(value):
  users, items, targets, seen = problem()
  items[:] = value
  num_seen = [
    len({*row} - {0, target}) for row, target in zip(seen, targets, strict=True)
  ]
  last = NUM_ITEMS - 2 - np.array(num_seen)
  found = ranking.full_ranks(users, items, targets, seen)
  np.testing.assert_array_equal(found, last)
  scores = np.full((NUM_USERS, NUM_ITEMS), value)
  found = ranking.ranks_of_scores(scores, targets, seen=seen)
  np.testing.assert_array_equal(found, last)
  drawn = np.tile(np.arange(1, 11), (NUM_USERS, 1))
  for found in (
    ranking.sampled_ranks(users, items, targets, drawn),
    ranking.ranks_of_scores(scores, targets, negatives=drawn),
  ):
    assert found.tolist() == [10] * NUM_USERS


def test_equal_titles_are_tied_whatever_the_order_of_the_sums():
  """In blocks of other shapes the same product may end in another bit."""
  rng = np.random.default_rng(0)
  one = rng.normal(size=384).astype(np.float32)
  items = np.tile(one, (513, 1))
  users = rng.normal(size=(64, 384)).astype(np.float32)
  targets = np.full(64, 300)
  seen = np.zeros((64, 1), np.int32)
  found = ranking.full_ranks(users, items, targets, seen, block_items=100)
  assert found.tolist() == [511] * 64


def test_shapes_and_ids_are_checked():
  users, items, targets, seen = problem()
  with pytest.raises(ValueError, match=r'item vectors \(101, 5\)'):
    ranking.full_ranks(users, items[:, :5], targets, seen)
  with pytest.raises(ValueError, match='targets are from 200 to 200'):
    ranking.full_ranks(users, items, np.full(NUM_USERS, 200), seen)


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
