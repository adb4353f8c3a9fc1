# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Item-kNN, EASE, BM25 with recency, and the hybrid, against plain formulas."""

import functools
import math

import numpy as np
import pytest

from antjax.ctr.llm_rec import (
  evaluation,
  hybrid,
  item_knn,
  new_items,
  untrained,
)

NUM_ITEMS = 24  # With the padding; the last three have no event.
HISTORY = np.array([[3, 7, 5, 0], [20, 2, 0, 0], [9, 0, 0, 0], [0, 0, 0, 0]])
TITLES = [
  '',
  *(f'kind{i % 4} tone{i % 3} no{i}' for i in range(1, NUM_ITEMS)),
]
DOMAINS = np.where(np.arange(NUM_ITEMS) > 0, np.arange(NUM_ITEMS) % 2, -1)


def events():
  rng = np.random.default_rng(0)
  users = np.repeat(np.arange(30), rng.integers(1, 9, 30))
  return users, rng.integers(1, NUM_ITEMS - 3, len(users))


def plain_pairs(window, *, by_lag=False):
  users, items = events()
  found = np.zeros((NUM_ITEMS, NUM_ITEMS))
  for e in range(len(users)):
    weight = 1 / math.log2(2 + (users == users[e]).sum())
    for f in range(e + 1, min(e + window + 1, len(users))):
      if users[f] == users[e] and items[f] != items[e]:
        found[items[e], items[f]] += weight / (f - e if by_lag else 1)
  return found


@pytest.mark.parametrize('window, by_lag', [(1, False), (3, True), (50, False)])
@pytest.mark.parametrize('in_order', [True, False])
def test_item_knn_is_the_formula(window, by_lag, in_order):
  users, items = events()
  counts = np.bincount(items, minlength=NUM_ITEMS)
  pairs = item_knn.cooccurrence(users, items, NUM_ITEMS, window, by_lag=by_lag)
  similar = item_knn.likeness(pairs, counts, 0.3, in_order=in_order)
  plain = plain_pairs(window, by_lag=by_lag)
  plain = plain if in_order else plain + plain.T
  plain /= np.outer(np.maximum(counts, 1), np.maximum(counts, 1)) ** 0.3
  np.testing.assert_allclose(similar.toarray(), plain, rtol=1e-5)
  model = item_knn.LinearModel(similar, half_life=2, max_history=2)
  expected = 0.5**0.5 * plain[7] + plain[5]
  found = model.scores(HISTORY)
  np.testing.assert_allclose(found[0], expected, rtol=1e-5)
  assert not found[3].any() and found.shape == (4, NUM_ITEMS)


def test_ease_is_the_inverse():
  users, items = events()
  model = item_knn.EASE(users, items, NUM_ITEMS, ridge=3)
  had = np.zeros((30, NUM_ITEMS))
  had[users, items] = 1
  chosen = np.flatnonzero(had.any(axis=0))
  inverse = np.linalg.inv(
    had[:, chosen].T @ had[:, chosen] + 3 * np.eye(len(chosen))
  )
  plain = np.zeros((NUM_ITEMS, NUM_ITEMS))
  plain[np.ix_(chosen, chosen)] = -inverse / np.diag(inverse)
  np.fill_diagonal(plain, 0)
  expected = plain[[3, 7, 5]].sum(axis=0)
  np.testing.assert_allclose(model.scores(HISTORY)[0], expected, atol=1e-5)
  few = item_knn.EASE(users, items, NUM_ITEMS, max_items=4)
  is_scored = few.scores(np.arange(1, NUM_ITEMS)[None]).any(axis=0)
  counts = np.bincount(items, minlength=NUM_ITEMS)
  assert is_scored.sum() == 4
  assert counts[is_scored].min() >= counts[~is_scored].max()


def test_bm25_with_recency_is_the_best_of_the_titles():
  model = untrained.BM25(TITLES, half_life=5)
  alone = untrained.BM25(TITLES).of_titles(np.array([3, 7, 5]))
  expected = (alone * 0.5 ** (np.array([2, 1, 0]) / 5)[:, None]).max(axis=0)
  found = model.scores(HISTORY)
  np.testing.assert_allclose(found[0], expected, rtol=1e-5)
  assert not found[3].any()


def test_neighbors_are_others_and_weigh_1_together():
  rng = np.random.default_rng(1)
  like = rng.normal(size=(NUM_ITEMS, NUM_ITEMS))
  near = item_knn.nearest(lambda items: like[items], NUM_ITEMS, 3).toarray()
  np.testing.assert_allclose(near.sum(axis=1), 1, rtol=1e-5)
  assert not near.diagonal().any() and not near[:, 0].any()
  assert (near > 0).sum(axis=1).max() == 3
  others = like[5].copy()
  others[[0, 5]] = 0
  assert set(np.flatnonzero(near[5])) == set(np.argsort(-others)[:3])


class Model:
  """A model of vectors."""

  def item_vectors(self):
    return np.random.default_rng(2).normal(size=(NUM_ITEMS, 3))

  def user_vectors(self, history):
    return self.item_vectors()[history].sum(axis=1)


def drawn():
  """Histories and candidates."""
  rng = np.random.default_rng(4)
  history = rng.integers(1, NUM_ITEMS, (40, 4))
  # A target shares the kind of the newest item.
  target = (history[:, -1] + 3) % (NUM_ITEMS - 1) + 1
  others = rng.integers(1, NUM_ITEMS, (40, 8))
  others = np.where(others == target[:, None], 0, others)  # 0: padding.
  return history, np.concatenate([target[:, None], others], axis=1)


@functools.cache
def fitted(parts=hybrid.PARTS):
  vectors = np.random.default_rng(3).normal(size=(NUM_ITEMS, 5))
  features = hybrid.Features(
    TITLES, DOMAINS, *events(), vectors=vectors, model=Model(), parts=parts
  )
  history, candidates = drawn()
  x = features.of_candidates(history, candidates)
  return hybrid.fit(features, x, candidates)


def test_fit_lowers_the_loss_and_scores_are_the_sum_of_parts():
  model, (first, last) = fitted()
  assert last < 0.8 * first
  scores = model.scores(HISTORY)
  assert scores.dtype == np.float32 and np.isfinite(scores).all()
  total = sum(model.by_part(HISTORY).values())
  np.testing.assert_allclose(scores, total, rtol=1e-5)
  assert {*model.by_part(HISTORY)} == {*hybrid.PARTS}


def test_items_without_events_are_scored_by_titles_alone():
  model, _ = fitted()
  is_new = model.features.counts == 0
  assert is_new[-3:].all()
  parts = model.by_part(HISTORY)
  for part in ('knn', 'popularity'):
    assert not parts[part][:, is_new].any()
    assert parts[part][:2, ~is_new].any()
  assert parts['words'][:2, -3:].any() and parts['nearest'][:2, -3:].any()


def test_texts_of_items_without_events_count_as_often_as_is_chosen():
  model, _ = fitted()
  raised = model.with_factor(2.0, 0.5)
  is_new = model.features.counts == 0
  before, after = model.by_part(HISTORY), raised.by_part(HISTORY)
  before['words'][:, is_new] -= model.bias
  after['words'][:, is_new] -= model.bias + 0.5
  for part in hybrid.PARTS:
    factor = np.where(is_new & (part in ('words', 'vectors', 'lm')), 2, 1)
    np.testing.assert_allclose(
      after[part], factor * before[part], rtol=1e-4, atol=1e-5
    )
  # What they are chosen by is what they then score.
  candidates = np.tile([23, 1, 22, 4, 0], (4, 1))
  x = model.features.of_candidates(HISTORY, candidates)
  scored = model.scored(x, candidates)
  assert scored.is_new_XJ[0].tolist() == [True, False, True, False, False]
  found = np.where(scored.is_new_XJ, scored.new_fn(2.0) + 0.5, scored.scores_XJ)
  want = raised.scores(HISTORY)[:, [23, 1, 22, 4]]
  np.testing.assert_allclose(found[:, :4], want, rtol=1e-4, atol=1e-5)
  assert (found[:, 4] == -np.inf).all()


def test_examples_of_new_targets_choose():
  features = fitted()[0].features
  history, candidates = drawn()
  x = features.of_candidates(history, candidates)
  mine = np.where(np.arange(9) == 0, 22, candidates)
  mine[mine == mine[:, :1]] = 0
  mine[:, 0] = 22
  of_new = features.of_candidates(history, mine), mine
  plain, _ = hybrid.fit(features, x, candidates)
  found, _ = hybrid.fit(features, x, candidates, new_targets=of_new)
  np.testing.assert_array_equal(found.known_F, plain.known_F)
  first, _ = hybrid.fit(features, x, candidates, loss_of_ndcg=0)
  factor, addition = new_items.choose(
    first.scored(x, candidates), first.scored(*of_new), loss_of_ndcg=0.02
  )
  chosen = first.with_factor(factor, addition)
  np.testing.assert_array_equal(found.new_F, chosen.new_F)
  np.testing.assert_allclose(found.bias, chosen.bias)


def test_features_of_candidates_are_those_of_all_items():
  features = fitted()[0].features
  history, candidates = drawn()
  found = features.of_candidates(history, candidates)
  for f, (part, x) in enumerate(features(history)):
    want = np.take_along_axis(x, candidates, axis=1)
    np.testing.assert_allclose(
      *(found[..., f], want), rtol=1e-5, atol=1e-6, err_msg=part
    )


def test_the_padding_is_never_ahead():
  model, _ = fitted()
  examples = evaluation.RankedExamples(
    np.array([23, 1]), np.zeros((2, 3), int), lambda index: HISTORY[index]
  )
  assert evaluation.ranks(model, examples)['sampled'].tolist() == [0, 0]


def test_parts_are_left_out():
  model, _ = fitted(('words', 'knn'))
  assert {*model.features.parts} == {'words', 'knn'}
  titles_only, _ = fitted(('words',))
  assert {*titles_only.features.parts} == {'words'}
