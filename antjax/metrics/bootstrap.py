# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Intervals of metrics, from draws of groups of rows.

The rows of a group (a user, a task) are not independent of each other, the
groups are. An interval comes from drawing as many groups again, with
replacement, and taking the 2.5th and 97.5th percentile of the metric (Efron and
Tibshirani 1993, chapter 13). A draw gives each group a weight. Rows are sorted
once; for each draw, AUC is then one pass over them.
"""

from typing import NamedTuple

import numpy as np

# Shape suffixes: N = rows, G = groups, R = draws, the first of them as is.


class Estimate(NamedTuple):
  """A metric and its 95% interval; nan where it has no value."""

  value: float
  low: float
  high: float


def estimate(values_R: np.ndarray) -> Estimate:
  """The value of the rows as they are, and percentiles over the draws."""
  drawn = values_R[1:][np.isfinite(values_R[1:])]
  low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else [np.nan] * 2
  return Estimate(float(values_R[0]), float(low), float(high))


def draws(num_groups: int, num_resamples: int, seed: int) -> np.ndarray:
  """How often each draw has each group, uint8 [1 + num_resamples, G]."""
  rng = np.random.default_rng(seed)
  counts_RG = np.ones((1 + num_resamples, num_groups), np.uint8)
  for counts_G in counts_RG[1:]:
    chosen = rng.integers(num_groups, size=num_groups)
    # A group is drawn once on average; 256 times is out of the question.
    counts_G[:] = np.bincount(chosen, minlength=num_groups)
  return counts_RG


class OrderedPairs:
  """Rows arranged so that AUC of weighted groups needs no sort."""

  def __init__(
    self, score_N: np.ndarray, is_positive_N: np.ndarray, group_N: np.ndarray
  ):
    """Takes rows in ascending order of the score; groups count from 0."""
    negative = score_N[~is_positive_N]
    positive = score_N[is_positive_N]
    self._positive_group = group_N[is_positive_N]
    self._negative_group = group_N[~is_positive_N]
    # Negatives below each positive; those from the second on are tied with it.
    self._below = np.searchsorted(negative, positive, 'left')
    upto = np.searchsorted(negative, positive, 'right')
    self._upto = None if np.array_equal(upto, self._below) else upto

  def auc(self, weight_G: np.ndarray) -> float:
    """Share of weighted pairs in order, ties half; nan without pairs."""
    negative = np.zeros(len(self._negative_group) + 1)
    np.cumsum(weight_G[self._negative_group], out=negative[1:])
    positive = weight_G[self._positive_group]
    below = positive @ negative[self._below]
    if self._upto is not None:
      below = 0.5 * (below + positive @ negative[self._upto])
    return np.divide(below, positive.sum() * negative[-1])
