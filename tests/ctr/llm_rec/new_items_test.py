# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""How items without training events are scored, and who chooses it."""

import numpy as np
import pytest

from antjax.ctr.llm_rec import evaluation, new_items
from antjax.ctr.llm_rec.new_items import ScoredExamples

IS_NEW = np.arange(12) >= 9


class Model:
  """Scores of 12 items; `words` multiplies every second one's."""

  def __init__(self, words=1.0):
    self.words = words

  def scores(self, history):
    rows = np.random.default_rng(0).normal(size=(9, 12))[history[:, 0]]
    return (rows * np.where(np.arange(12) % 2, self.words, 1)).astype('f')


def examples(targets):
  rng = np.random.default_rng(1)
  drawn = rng.integers(0, 12, (len(targets), 6))  # 0 fills up.
  history = 1 + np.arange(len(targets))[:, None] % 8
  return evaluation.RankedExamples(
    np.asarray(targets), drawn, lambda index: history[index]
  )


def problem(num=200):
  """New items are no targets: raising them costs."""
  rng = np.random.default_rng(0)
  known, new = rng.normal(size=(2, num, 20))
  known[:, 0] += 2
  is_new = rng.random((num, 20)) < 0.2
  is_new[:, 0] = False
  return ScoredExamples(known, is_new, lambda factor: factor * new)


def test_new_items_have_scores_of_their_own():
  history = np.array([[3, 4], [5, 0]])
  plain = Model().scores(history)
  found = new_items.Raised(Model(), IS_NEW, 2.0, -0.5).scores(history)
  np.testing.assert_array_equal(found[:, ~IS_NEW], plain[:, ~IS_NEW])
  np.testing.assert_allclose(found[:, IS_NEW], 2 * plain[:, IS_NEW] - 0.5)


def test_new_items_are_raised_as_far_as_is_allowed():
  whole = problem()
  found = [
    new_items.choose(whole, None, loss_of_ndcg=share) for share in (0, 0.2, 1)
  ]
  assert {factor for factor, _ in found} == {1.0}
  biases = [bias for _, bias in found]
  assert biases[0] < biases[1] < biases[2] == new_items.ADDITIONS[-1]
  none = whole._replace(is_new_XJ=whole.is_new_XJ & False)
  assert new_items.choose(none, None, loss_of_ndcg=1) == (1.0, 0.0)


def test_examples_of_new_targets_choose_the_factor():
  whole = problem()
  known = np.zeros((50, 20))
  mine = np.where(np.arange(20) == 0, 1.0, -1.0)[None]  # The target's is high.
  of_new = ScoredExamples(
    known, known == 0, lambda factor: (factor == 3) * mine
  )
  factor, bias = new_items.choose(whole, of_new, loss_of_ndcg=0.1)
  assert factor == 3.0
  # c is that of the factor: at the most, NDCG of all falls by the share.
  best = max(
    new_items.ndcg(whole, f, new_items.ADDITIONS).max() for f in (1, 3)
  )
  at = new_items.ndcg(whole, 3, np.array([bias, bias + 0.125]))
  assert at[0] >= 0.9 * best > at[1]


def test_a_factor_that_costs_too_much_is_not_chosen():
  whole = problem()
  _, _, new_fn = whole

  def dear(factor):
    return np.full(whole.scores_XJ.shape, 9.0) if factor == 3 else new_fn(1)

  known = np.zeros((50, 20))
  of_new = ScoredExamples(
    known, known == 0, lambda factor: (factor == 3) * np.eye(20)[:1]
  )
  factor, _ = new_items.choose(
    whole._replace(new_fn=dear), of_new, loss_of_ndcg=0.02
  )
  assert factor != 3


@pytest.mark.parametrize('targets', [[1, 9, 3, 10, 2], [1, 2, 3]])
def test_new_candidates_alone_are_scored_again(targets):
  mine = examples(targets)
  found = new_items.scored(Model(), mine, IS_NEW, Model)
  candidates, scores = evaluation.candidate_scores(Model(2.0), mine)
  is_new = IS_NEW[candidates]
  np.testing.assert_array_equal(found.is_new_XJ, is_new)
  np.testing.assert_array_equal(found.new_fn(2.0)[is_new], scores[is_new])
  assert (found.scores_XJ[candidates == 0] == -np.inf).all()
  whole = new_items.scored(Model(), mine, IS_NEW)
  raised = new_items.Raised(Model(), IS_NEW, 3.0, 0.0)
  _, scores = evaluation.candidate_scores(raised, mine)
  np.testing.assert_array_equal(whole.new_fn(3.0)[is_new], scores[is_new])
