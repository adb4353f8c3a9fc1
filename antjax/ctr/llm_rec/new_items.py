# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""How items without training events are scored: chosen by held-out examples.

Few items are new, so where they stand costs the others little and is a choice.
A score f of theirs, with some parts of it multiplied by a factor, becomes
f + c. c is the largest with which NDCG of all examples hardly falls below the
best of any factor and c; the factor is that with the largest NDCG of examples
whose targets are new.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import numpy as np

from antjax.ctr.llm_rec import evaluation
from antjax.metrics import rank_metrics

# Shape suffixes: N = items with the padding, B = users, L = places of a
# history, X = examples, J = candidates of an example, A = additions.

FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0)
ADDITIONS = np.arange(-4, 2.01, 0.125)


@dataclasses.dataclass(frozen=True)
class Raised:
  """A model of scores whose new items have others.

  Attributes:
    model: What gives the scores.
    is_new_N: bool [N].
    factor: Factor on the scores of these.
    bias: What is added then.
  """

  model: evaluation.ScoreModel
  is_new_N: np.ndarray
  factor: float
  bias: float

  def scores(self, history_BL: np.ndarray) -> np.ndarray:
    """float32 [B, N]."""
    scores_BN = self.model.scores(history_BL)
    mine = self.is_new_N
    scores_BN[:, mine] = self.factor * scores_BN[:, mine] + self.bias
    return scores_BN


def choose(
  model_fn: Callable[[float], Any],
  examples: evaluation.RankedExamples,
  of_new: evaluation.RankedExamples | None,
  is_new_N: np.ndarray,
  *,
  loss_of_ndcg: float,
  factors: Sequence[float] = FACTORS,
  additions: np.ndarray = ADDITIONS,
) -> tuple[float, float]:
  """The factor and c.

  Args:
    model_fn: Factor -> model with it, c being 0.
    examples: Examples of any target.
    of_new: Those of new targets; None: the factor is the first.
    is_new_N: bool [N].
    loss_of_ndcg: Share of NDCG@10 over all examples that may be given.
    factors: Factors to choose from.
    additions: c, likewise, ascending.
  """
  found: dict[float, np.ndarray] = {}
  for factor in factors if of_new is not None else factors[:1]:
    scores, is_new = _scored(model_fn(factor), examples, is_new_N)
    weights = np.full(len(scores), 1 / len(scores))
    found[factor] = ndcg(scores, scores, is_new, weights, additions)
  least = max(values.max() for values in found.values()) * (1 - loss_of_ndcg)
  biases = {
    factor: float(additions[np.flatnonzero(values >= least)[-1]])
    for factor, values in found.items()
    if values.max() >= least
  }

  def of_targets(factor: float) -> float:
    if of_new is None:
      return 0.0
    scores, is_new = _scored(model_fn(factor), of_new, is_new_N)
    weights = np.full(len(scores), 1 / len(scores))
    bias = np.array([biases[factor]])
    return float(ndcg(scores, scores, is_new, weights, bias)[0])

  best = max(biases, key=of_targets)
  return best, biases[best]


def raised(
  known_XJ: np.ndarray,
  new_XJ: np.ndarray,
  is_new_XJ: np.ndarray,
  weights_X: np.ndarray,
  loss_of_ndcg: float,
) -> float:
  """The largest of `ADDITIONS` that loses so little, see `ndcg`."""
  if not is_new_XJ.any():
    return 0.0
  values = ndcg(known_XJ, new_XJ, is_new_XJ, weights_X, ADDITIONS)
  good = values >= values.max() * (1 - loss_of_ndcg)
  return float(ADDITIONS[np.flatnonzero(good)[-1]])


def ndcg(
  known_XJ: np.ndarray,
  new_XJ: np.ndarray,
  is_new_XJ: np.ndarray,
  weights_X: np.ndarray,
  additions: np.ndarray,
) -> np.ndarray:
  """Weighted NDCG with each addition to scores of new items, float [A].

  Candidate 0 is the target. New items crowd out the more, the more candidates
  there are: NDCG is cut so that it stands for that @10 among 1,000.
  """
  cut = max(1, round(known_XJ.shape[1] / 100))
  values = []
  for addition in additions:
    scores = np.where(is_new_XJ, new_XJ + addition, known_XJ)
    ranks = (scores[:, 1:] >= scores[:, :1]).sum(axis=1)
    gains = rank_metrics.by_example(ranks, [cut])[f'ndcg@{cut}']
    values.append(weights_X @ gains)
  return np.array(values)


def _scored(
  model: Any, examples: evaluation.RankedExamples, is_new_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Scores [X, J] of the candidates, and which are new."""
  candidates, scores = evaluation.candidate_scores(model, examples)
  scores[candidates == 0] = -np.inf
  return scores, is_new_N[candidates] & (candidates > 0)
