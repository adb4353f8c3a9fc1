# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Negatives: in the domain, distinct, not seen, and the same in any batch."""

import numpy as np

from antjax.ctr.llm_rec.negatives import NegativeSampler

DOMAINS = np.array([-1] + [0] * 50 + [1] * 6)
KEYS = np.arange(400, dtype=np.int64)


def draw(sampler, keys=KEYS, num=10, forbidden=None):
  domain = np.zeros(len(keys), np.int64)
  if forbidden is None:
    forbidden = np.zeros((len(keys), 0), np.int32)
  return sampler.draw(keys, domain, forbidden, num)


def test_draws_are_distinct_items_of_the_domain_and_even():
  found = draw(NegativeSampler(DOMAINS))
  assert found.shape == (400, 10) and found.dtype == np.int32
  assert found.min() >= 1 and found.max() <= 50
  assert all(len(set(row)) == 10 for row in found.tolist())
  counts = np.bincount(found.ravel(), minlength=51)[1:]
  # 80 expected; 5 standard deviations of a binomial.
  assert np.abs(counts - 80).max() < 5 * np.sqrt(80 * 0.8)


def test_an_example_has_its_draws_in_any_batch_and_order():
  sampler = NegativeSampler(DOMAINS, seed=3)
  whole = draw(sampler)
  order = np.random.default_rng(0).permutation(400)
  np.testing.assert_array_equal(draw(sampler, KEYS[order]), whole[order])
  np.testing.assert_array_equal(draw(sampler, KEYS[7:8]), whole[7:8])
  assert (draw(NegativeSampler(DOMAINS, seed=4)) != whole).any(axis=1).all()


def test_forbidden_items_are_never_drawn():
  forbidden = np.tile(np.arange(1, 41, dtype=np.int32), (400, 1))
  forbidden[0] = 0
  found = draw(NegativeSampler(DOMAINS), forbidden=forbidden)
  assert (found[1:] > 40).all()
  assert all(set(row) == set(range(41, 51)) for row in found[1:].tolist())
  assert (found[0] <= 40).any()


def test_a_small_domain_gives_what_it_has():
  sampler = NegativeSampler(DOMAINS)
  forbidden = np.array([[51, 52], [0, 0]], np.int32)
  found = sampler.draw(KEYS[:2], np.array([1, 1]), forbidden, 8)
  assert sorted(found[0].tolist()) == [0, 0, 0, 0, 53, 54, 55, 56]
  assert sorted(found[1].tolist()) == [0, 0, 51, 52, 53, 54, 55, 56]
  assert (found[:, -2:] == 0).all()


def test_a_parts_own_items_follow_the_domains_of_its_targets():
  sampler = NegativeSampler(DOMAINS)
  domain = np.array([0] * 15 + [1] * 5)
  found = [sampler.draw_shared(key, domain, 8) for key in range(200)]
  share = np.concatenate([DOMAINS[items] for items in found]).mean()
  assert 0.15 < share < 0.3
  assert all(len(set(items.tolist())) == len(items) for items in found)
  np.testing.assert_array_equal(sampler.draw_shared(7, domain, 8), found[7])
