# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Drawn items: of the domain, none twice, the same whoever asks."""

import numpy as np

from antjax.ctr.llm_rec import negatives

DOMAINS = np.array([-1] + [0] * 40 + [1] * 25, np.int32)


def problem(num=200):
  rng = np.random.default_rng(0)
  targets = rng.integers(1, len(DOMAINS), num)
  return np.arange(num), targets, rng.integers(0, len(DOMAINS), (num, 6))


def test_of_the_domain_none_twice_none_seen():
  users, targets, seen = problem()
  found = negatives.draw(DOMAINS, users, targets, seen, num=15)
  assert found.shape == (200, 15) and found.dtype == np.int32
  for row, target, history in zip(found, targets, seen):
    assert len({*row}) == 15
    assert {*DOMAINS[row]} == {DOMAINS[target]}
    assert not {*row} & {target, *history}


def test_the_official_way_takes_target_and_history_too():
  users, targets, seen = problem()
  found = negatives.draw(
    DOMAINS, users, targets, seen, num=15, exclude_seen=False
  )
  assert all(len({*row}) == 15 for row in found)
  has_target = (found == targets[:, None]).any(axis=1)
  assert 0.3 < has_target.mean() < 0.7


def test_only_seed_and_user_decide():
  users, targets, seen = problem()
  whole = negatives.draw(DOMAINS, users, targets, seen, num=9)
  some = np.array([150, 3, 77])
  part = negatives.draw(DOMAINS, users[some], targets[some], seen[some], num=9)
  np.testing.assert_array_equal(part, whole[some])
  other = negatives.draw(DOMAINS, users, targets, seen, num=9, seed=1)
  assert (other != whole).any(axis=1).mean() > 0.99


def test_draws_are_uniform():
  num = 20_000
  users = np.arange(num)
  targets, seen = np.ones(num, int), np.full((num, 1), 2)
  found = negatives.draw(DOMAINS, users, targets, seen, num=5)
  counts = np.bincount(found.reshape(-1), minlength=len(DOMAINS))
  assert not counts[[0, 1, 2]].any() and not counts[41:].any()
  expected = num * 5 / 38
  assert abs(counts[3:41] / expected - 1).max() < 0.08


def test_a_small_domain_is_filled_up_and_told(caplog):
  users, targets, seen = problem(4)
  targets[:] = 60
  with caplog.at_level('WARNING'):
    found = negatives.draw(DOMAINS, users, targets, seen, num=30)
  for row, history in zip(found, seen):
    expected = {*range(41, 66)} - {60, *history}
    assert {*row[row > 0]} == expected
    assert not row[len(expected) :].any()
  assert '4 of 4 examples have fewer than 30' in caplog.text
