# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Bootstrap intervals of metrics, from draws of groups of rows.

The rows of a group (a user, a task) depend on each other, but groups are
independent. Each draw samples as many groups with replacement, and the interval
is from the 2.5th to the 97.5th percentile of the metric (Efron and Tibshirani
1993, chapter 13). A draw gives each group a weight. Rows are sorted once; for
each draw, AUC is then one pass over them.
"""

from typing import NamedTuple

import numpy as np

from antjax.metrics.ranking import auc_by_group

# Shape suffixes: N = rows, G = groups, U = users, which are groups, R = draws,
# of which the first is the data itself, K = sums of a user.

METRICS = ('AUC', 'GAUC', 'log-loss', 'ECE')  # Metrics of clicks.


class Estimate(NamedTuple):
  """A metric and its 95% interval; nan if undefined."""

  value: float
  low: float
  high: float


def estimate(values_R: np.ndarray) -> Estimate:
  """The value of the data itself, and percentiles over the draws."""
  drawn = values_R[1:][np.isfinite(values_R[1:])]
  low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else [np.nan] * 2
  return Estimate(float(values_R[0]), float(low), float(high))


def draws(num_groups: int, num_resamples: int, seed: int) -> np.ndarray:
  """Number of times each draw has each group, uint8 [1 + num_resamples, G]."""
  rng = np.random.default_rng(seed)
  counts_RG = np.ones((1 + num_resamples, num_groups), np.uint8)
  for counts_G in counts_RG[1:]:
    chosen = rng.integers(num_groups, size=num_groups)
    # A group is drawn once on average, so a count never reaches 256.
    counts_G[:] = np.bincount(chosen, minlength=num_groups)
  return counts_RG


class OrderedPairs:
  """Rows ordered so that AUC of weighted groups needs no sort."""

  def __init__(
    self, score_N: np.ndarray, is_positive_N: np.ndarray, group_N: np.ndarray
  ):
    """Takes rows in ascending order of the score; groups count from 0."""
    negative = score_N[~is_positive_N]
    positive = score_N[is_positive_N]
    self._positive_group = group_N[is_positive_N]
    self._negative_group = group_N[~is_positive_N]
    # Numbers of negatives below each positive, and of those below or tied.
    self._below = np.searchsorted(negative, positive, 'left')
    upto = np.searchsorted(negative, positive, 'right')
    self._upto = None if np.array_equal(upto, self._below) else upto

  def auc(self, weight_G: np.ndarray) -> float:
    """Weighted share of ordered pairs, ties half; nan without pairs."""
    negative = np.zeros(len(self._negative_group) + 1)
    np.cumsum(weight_G[self._negative_group], out=negative[1:])
    positive = weight_G[self._positive_group]
    below = positive @ negative[self._below]
    if self._upto is not None:
      below = 0.5 * (below + positive @ negative[self._upto])
    return np.divide(below, positive.sum() * negative[-1])


def click_metrics(
  logit_N: np.ndarray,
  is_click_N: np.ndarray,
  user_N: np.ndarray,
  counts_RU: np.ndarray,
  num_bins: int,
) -> tuple[np.ndarray, np.ndarray]:
  """`METRICS` of clicks for each draw of the users.

  AUC takes one pass over the rows; the others are products of user weights with
  sums over their rows.

  Args:
    logit_N: float64, ascending.
    is_click_N: bool.
    user_N: int, from 0 to U - 1.
    counts_RU: Counts from `bootstrap.draws`.
    num_bins: Bins of the calibration error.

  Returns:
    [R, len(METRICS)], nan if a metric is undefined, and rows [R].
  """
  ordered = OrderedPairs(logit_N, is_click_N, user_N)
  users, user_N = np.unique(user_N, return_inverse=True)
  sums_UK = np.stack(
    [
      np.bincount(user_N, minlength=len(users)),
      np.bincount(user_N, log_loss(logit_N, is_click_N)),
      *_gauc_sums(logit_N, is_click_N, user_N, len(users)),
    ],
    axis=1,
  )
  bin_N = bins(logit_N, num_bins)
  gap_UK = sums_by_bin(
    user_N, bin_N, sigmoid(logit_N) - is_click_N, len(users), num_bins
  )
  values, rows = [], []
  with np.errstate(invalid='ignore', divide='ignore'):
    for counts_U in counts_RU:
      weight_U = counts_U[users].astype(np.float64)
      num_rows, loss, pairs, ordered_pairs = weight_U @ sums_UK
      gap = np.abs(weight_U @ gap_UK).sum()
      gauc = np.divide(ordered_pairs, pairs)
      auc = ordered.auc(counts_U.astype(np.float64))
      values.append([auc, gauc, loss / num_rows, gap / num_rows])
      rows.append(num_rows)
  return np.asarray(values), np.asarray(rows)


def _gauc_sums(logit_N, is_click_N, user_N, num_users):
  """For each user with both classes: rows, and rows times AUC."""
  by_user = np.argsort(user_N, kind='stable')  # By logit within a user.
  clicks = is_click_N[by_user].astype(np.float64)
  user, auc, rows = auc_by_group(
    user_N[by_user], logit_N[by_user], clicks, 1 - clicks
  )
  return (
    np.bincount(user, rows, minlength=num_users),
    np.bincount(user, rows * auc, minlength=num_users),
  )


def sigmoid(logit: np.ndarray) -> np.ndarray:
  """1 / (1 + exp(-z)), without overflow."""
  return np.exp(-np.logaddexp(0, -logit))


def log_loss(logit_N: np.ndarray, is_click_N: np.ndarray) -> np.ndarray:
  """Log-loss of each row, in nats."""
  return np.logaddexp(0, logit_N) - is_click_N * logit_N


def bins(logit_N: np.ndarray, num_bins: int) -> np.ndarray:
  """Bins with about the same number of rows; equal predictions share one."""
  first = np.searchsorted(logit_N, logit_N, 'left')
  return first * num_bins // len(logit_N)


def sums_by_bin(user_N, bin_N, value_N, num_users, num_bins) -> np.ndarray:
  """Sums over the rows of each user in each bin, [U, bins]."""
  sums = np.bincount(
    user_N * num_bins + bin_N, value_N, minlength=num_users * num_bins
  )
  return sums.reshape(num_users, num_bins)
