# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Negatives: items of the domain that a user has not had, by lot."""

import numpy as np
import pytest

from antjax.ctr.llm_rec import negatives
from antjax.ctr.llm_rec.negatives import NegativeSampler

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


@pytest.mark.slow
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


SAMPLED = np.array([-1] + [0] * 50 + [1] * 6)
KEYS = np.arange(400, dtype=np.int64)


def draw(sampler, keys=KEYS, num=10, forbidden=None):
  domain = np.zeros(len(keys), np.int64)
  if forbidden is None:
    forbidden = np.zeros((len(keys), 0), np.int32)
  return sampler.draw(keys, domain, forbidden, num)


def test_draws_are_distinct_items_of_the_domain_and_even():
  found = draw(NegativeSampler(SAMPLED))
  assert found.shape == (400, 10) and found.dtype == np.int32
  assert found.min() >= 1 and found.max() <= 50
  assert all(len(set(row)) == 10 for row in found.tolist())
  counts = np.bincount(found.ravel(), minlength=51)[1:]
  # 80 expected; 5 standard deviations of a binomial.
  assert np.abs(counts - 80).max() < 5 * np.sqrt(80 * 0.8)


def test_an_example_has_its_draws_in_any_batch_and_order():
  sampler = NegativeSampler(SAMPLED, seed=3)
  whole = draw(sampler)
  order = np.random.default_rng(0).permutation(400)
  np.testing.assert_array_equal(draw(sampler, KEYS[order]), whole[order])
  np.testing.assert_array_equal(draw(sampler, KEYS[7:8]), whole[7:8])
  assert (draw(NegativeSampler(SAMPLED, seed=4)) != whole).any(axis=1).all()


def test_forbidden_items_are_never_drawn():
  forbidden = np.tile(np.arange(1, 41, dtype=np.int32), (400, 1))
  forbidden[0] = 0
  found = draw(NegativeSampler(SAMPLED), forbidden=forbidden)
  assert (found[1:] > 40).all()
  assert all(set(row) == set(range(41, 51)) for row in found[1:].tolist())
  assert (found[0] <= 40).any()


def test_a_small_domain_gives_what_it_has():
  sampler = NegativeSampler(SAMPLED)
  forbidden = np.array([[51, 52], [0, 0]], np.int32)
  found = sampler.draw(KEYS[:2], np.array([1, 1]), forbidden, 8)
  assert sorted(found[0].tolist()) == [0, 0, 0, 0, 53, 54, 55, 56]
  assert sorted(found[1].tolist()) == [0, 0, 51, 52, 53, 54, 55, 56]
  assert (found[:, -2:] == 0).all()


def test_a_parts_own_items_follow_the_domains_of_its_targets():
  sampler = NegativeSampler(SAMPLED)
  domain = np.array([0] * 15 + [1] * 5)
  found = [sampler.draw_shared(key, domain, 8) for key in range(200)]
  share = np.concatenate([SAMPLED[items] for items in found]).mean()
  assert 0.15 < share < 0.3
  assert all(len(set(items.tolist())) == len(items) for items in found)
  np.testing.assert_array_equal(sampler.draw_shared(7, domain, 8), found[7])
