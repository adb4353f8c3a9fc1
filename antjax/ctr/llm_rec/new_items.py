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
from typing import Any, NamedTuple

import numpy as np

from antjax.ctr.llm_rec import evaluation
from antjax.metrics import rank_metrics

# Shape suffixes: N = items with the padding, B = users, L = places of a
# history, X = examples, J = candidates of an example, A = additions.

FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0)
ADDITIONS = np.arange(-6, 3.01, 0.125)


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
    scores_BN = np.array(self.model.scores(history_BL))
    mine = self.is_new_N
    scores_BN[:, mine] = self.factor * scores_BN[:, mine] + self.bias
    return scores_BN


class ScoredExamples(NamedTuple):
  """Scores of held-out examples.

  Attributes:
    scores_XJ: float32, of the candidates, the target first; -inf: none.
    is_new_XJ: bool, whether they are of new items.
    new_fn: Factor -> scores with it, float32 [X, J]; read where new.
  """

  scores_XJ: np.ndarray
  is_new_XJ: np.ndarray
  new_fn: Callable[[float], np.ndarray]


def scored(
  model: Any,
  examples: evaluation.RankedExamples,
  is_new_N: np.ndarray,
  with_factor: Callable[[float], Any] | None = None,
) -> ScoredExamples:
  """Scores of a model.

  Args:
    model: The model.
    examples: What it scores.
    is_new_N: bool [N].
    with_factor: Factor -> model with it; None: `Raised`, whole scores times it.
  """
  candidates, scores = evaluation.candidate_scores(model, examples)
  scores[candidates == 0] = -np.inf
  is_new = is_new_N[candidates] & (candidates > 0)
  if with_factor is None:
    return ScoredExamples(scores, is_new, lambda factor: factor * scores)
  # New ones are few: they alone are scored again.
  most = max(1, is_new.sum(axis=1).max())
  places = np.argsort(~is_new, axis=1, kind='stable')[:, :most]
  few = dataclasses.replace(
    examples,
    targets=np.take_along_axis(candidates, places[:, :1], axis=1)[:, 0],
    negatives=np.take_along_axis(candidates, places[:, 1:], axis=1),
  )

  def new_fn(factor: float) -> np.ndarray:
    _, found = evaluation.candidate_scores(with_factor(factor), few)
    whole = np.zeros_like(scores)
    np.put_along_axis(whole, places, found, axis=1)
    return whole

  return ScoredExamples(scores, is_new, new_fn)


def choose(
  whole: ScoredExamples,
  of_new: ScoredExamples | None,
  *,
  loss_of_ndcg: float,
  factors: Sequence[float] = FACTORS,
  additions: np.ndarray = ADDITIONS,
) -> tuple[float, float]:
  """The factor and c.

  Args:
    whole: Examples of any target.
    of_new: Those of new targets; None: the factor is the first.
    loss_of_ndcg: Share of NDCG@10 over all examples that may be given.
    factors: Factors to choose from.
    additions: c, likewise, ascending.
  """
  if not whole.is_new_XJ.any():
    return factors[0], 0.0
  if of_new is None:
    factors = factors[:1]
  values = np.array([ndcg(whole, factor, additions) for factor in factors])
  found = []
  for factor, mine in zip(factors, values, strict=True):
    good = np.flatnonzero(mine >= values.max() * (1 - loss_of_ndcg))
    if good.size:
      bias = float(additions[good[-1]])
      of_targets = 0.0
      if of_new is not None:
        of_targets = float(ndcg(of_new, factor, np.array([bias]))[0])
      found.append((of_targets, factor, bias))
  _, factor, bias = max(found, key=lambda x: x[0])
  return factor, bias


def ndcg(
  scored: ScoredExamples, factor: float, additions: np.ndarray
) -> np.ndarray:
  """Mean NDCG with each addition to scores of new items, float [A].

  New items crowd out the more, the more candidates there are: NDCG is cut so
  that it stands for that @10 among 1,000.
  """
  scores, is_new, new_fn = scored
  cut, new = max(1, round(scores.shape[1] / 100)), new_fn(factor)
  values = []
  for addition in additions:
    found = np.where(is_new, new + addition, scores)
    ranks = (found[:, 1:] >= found[:, :1]).sum(axis=1)
    gains = rank_metrics.by_example(ranks, [cut])[f'ndcg@{cut}']
    values.append(gains.mean())
  return np.array(values)
