# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics of clicks for many draws of the users (`antjax.metrics.bootstrap`).

For a draw, AUC is one pass over the rows, and all else a product of the users'
weights with sums over their rows.
"""

import numpy as np

from antjax.metrics.bootstrap import OrderedPairs
from antjax.metrics.ranking import auc_by_group

# Shape suffixes: N = rows, U = users, R = draws, the first of them as is, K =
# sums of a user.

METRICS = ('AUC', 'GAUC', 'log-loss', 'ECE')


def metrics(
  logit_N: np.ndarray,
  is_click_N: np.ndarray,
  user_N: np.ndarray,
  counts_RU: np.ndarray,
  num_bins: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Metrics of each draw.

  Args:
    logit_N: float64, ascending.
    is_click_N: bool.
    user_N: int, from 0 to U - 1.
    counts_RU: Counts from `bootstrap.draws`.
    num_bins: Bins of the calibration error.

  Returns:
    [R, len(METRICS)], nan where a metric has no value, and rows [R].
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
  """By user: rows, where there are both classes, and rows times AUC."""
  by_user = np.argsort(user_N, kind='stable')  # Within a user by logit, still.
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
  """Bins of about equal numbers of rows; equal predictions share one."""
  first = np.searchsorted(logit_N, logit_N, 'left')
  return first * num_bins // len(logit_N)


def sums_by_bin(user_N, bin_N, value_N, num_users, num_bins) -> np.ndarray:
  """Sums over the rows of each user in each bin, [U, bins]."""
  sums = np.bincount(
    user_N * num_bins + bin_N, value_N, minlength=num_users * num_bins
  )
  return sums.reshape(num_users, num_bins)
