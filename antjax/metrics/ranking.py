# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics of order: AUC, AUC within groups, nDCG within groups."""

import numpy as np

from antjax.metrics.columns import Kept
from antjax.metrics.metric import Metric

# Sign, 8 exponent bits and 11 mantissa bits of a float32.
_AUC_BITS = 20
_NUM_AUC_BINS = 1 << _AUC_BITS


def _auc_bins(score: np.ndarray) -> np.ndarray:
  """Maps scores [N] to bins of [0, 2^20), keeping their order.

  Read as an unsigned integer, a float32 is ordered like its value once the
  sign bit of positive and all bits of negative numbers are flipped.
  """
  with np.errstate(over='ignore'):  # Overflow gives infinity: one bin.
    bits = (score.astype(np.float32) + np.float32(0)).view(np.uint32)
  negative = bits >> np.uint32(31) == 1
  ordered = np.where(negative, ~bits, bits | np.uint32(1 << 31))
  return (ordered >> np.uint32(32 - _AUC_BITS)).astype(np.int64)


class AUC(Metric):
  """Area under the ROC curve from a histogram; O(1) memory (16 MiB).

  The weighted share of (positive, negative) pairs that the score orders
  correctly, ties counting one half. Scores are binned by the top 20 bits of a
  float32, so **pairs whose scores agree to relative 2^-11 (4.9e-4) may count as
  ties** (below 1.2e-38, in absolute terms). Such a pair is off by at most one
  half, so the error is at most half the share of pairs in the same bin. Scores
  in different bins are always ordered exactly.

  nan if a class is missing, since there are no pairs to order.

  Args:
    label_threshold: A row is positive if its label is >= this.
  """

  OPTIONS = ('label_threshold',)

  def __init__(self, label_threshold: float = 0.5):
    self.label_threshold = float(label_threshold)
    self._positive = np.zeros(_NUM_AUC_BINS)
    self._negative = np.zeros(_NUM_AUC_BINS)

  def _update(self, prediction, label, weight, group):
    bins = _auc_bins(prediction)
    positive = label >= self.label_threshold
    np.add.at(self._positive, bins[positive], weight[positive])
    np.add.at(self._negative, bins[~positive], weight[~positive])

  def compute(self) -> float:
    pairs = float(self._positive.sum() * self._negative.sum())
    if not pairs:
      return float('nan')
    below = np.cumsum(self._negative) - 0.5 * self._negative
    return float(np.sum(self._positive * below) / pairs)

  def _arrays(self):
    # Only nonzero bins: a few thousand scores should not send 16 MiB.
    bins = np.flatnonzero(self._positive + self._negative)
    return {
      'bins': bins.astype(np.int32),
      'positive': self._positive[bins],
      'negative': self._negative[bins],
    }

  def _add(self, arrays):
    self._positive[arrays['bins']] += arrays['positive']
    self._negative[arrays['bins']] += arrays['negative']


class _Rows(Kept):
  """Keeps every row, 32 bytes each, for metrics that need whole groups."""

  def _update(self, prediction, label, weight, group):
    if group is None:
      raise ValueError(
        f'{type(self).__name__}.update(group=): got None; it ranks within '
        'groups, so give the integer group (user) of every row.'
      )
    if not np.issubdtype(group.dtype, np.integer):
      raise ValueError(
        f'{type(self).__name__}.update(group=): got dtype {group.dtype}; '
        'groups must be integers. Map names to integers first.'
      )
    self._chunks.append(
      {
        'group': group.astype(np.int64),
        'score': prediction.astype(float),
        'label': label.astype(float),
        'weight': weight.astype(float),
      }
    )

  def _columns(self) -> tuple[np.ndarray, ...]:
    """Returns (group, score, label, weight), sorted for any merge order."""
    arrays = self._arrays()
    if not arrays:
      return (np.zeros(0, np.int64), *(np.zeros(0) for _ in range(3)))
    columns = tuple(arrays[k] for k in ('group', 'score', 'label', 'weight'))
    # The last key of lexsort is the primary one.
    order = np.lexsort(columns[::-1])
    return tuple(column[order] for column in columns)


def _run_starts(*columns: np.ndarray) -> np.ndarray:
  """Returns bool [N]: whether any of the sorted columns changes."""
  starts = np.ones(len(columns[0]), bool)
  starts[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
  return starts


class GAUC(_Rows):
  """Exact AUC inside each group, averaged with the groups' row weights.

  Groups with one class only are left out of both sums (Zhu et al., 2017,
  https://arxiv.org/abs/1703.02091, section 4.2, weighted by impressions). nan
  if no group has both classes.

  Args:
    label_threshold: A row is positive if its label is >= this.
  """

  OPTIONS = ('label_threshold',)

  def __init__(self, label_threshold: float = 0.5):
    super().__init__()
    self.label_threshold = float(label_threshold)

  def compute(self) -> float:
    _, auc, impressions = self.by_group()
    if not len(auc):
      return float('nan')
    return float(np.sum(auc * impressions) / np.sum(impressions))

  def by_group(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (group, AUC, row weight) of the groups with both classes."""
    group, score, label, weight = self._columns()
    positive = np.where(label >= self.label_threshold, weight, 0)
    return auc_by_group(group, score, positive, weight - positive)


def auc_by_group(
  group: np.ndarray,
  score: np.ndarray,
  positive: np.ndarray,
  negative: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """AUC inside each group that has both classes; ties count one half.

  Args:
    group: int [N]; rows are sorted by group, then by score.
    score: [N].
    positive: [N], weight of a row as a positive.
    negative: [N], weight of a row as a negative.

  Returns:
    (group, AUC, row weight) [groups with both classes].
  """
  if not len(group):
    return group, np.zeros(0), np.zeros(0)
  # A run is the rows of a group with equal score, which are tied.
  starts_run = _run_starts(group, score)
  run = np.cumsum(starts_run) - 1
  run_positive = np.bincount(run, positive)
  run_negative = np.bincount(run, negative)
  starts = _run_starts(group)
  run_group = (np.cumsum(starts) - 1)[starts_run]
  group_positive = np.bincount(run_group, run_positive)
  group_negative = np.bincount(run_group, run_negative)
  below = np.cumsum(run_negative) - 0.5 * run_negative
  below -= (np.cumsum(group_negative) - group_negative)[run_group]
  ordered = np.bincount(run_group, run_positive * below)
  pairs = group_positive * group_negative
  both = pairs > 0
  impressions = (group_positive + group_negative)[both]
  return group[starts][both], ordered[both] / pairs[both], impressions


class NDCG(_Rows):
  """Mean over groups of nDCG@k with gain 2^label - 1, discount log2(rank + 1).

  Tied scores share their ranks: each gets the mean gain of its tie, which is
  the expectation over random tie-breaks (McSherry and Najork, 2008,
  https://doi.org/10.1007/978-3-540-78646-7_38), so the value does not depend
  on the order of rows. Groups whose labels are all 0 have no ideal order and
  are left out; nan if no group is left. Each group counts once, so weights
  must be 0 (drop the row) or 1.

  Args:
    k: Number of top ranks that count, at least 1.
  """

  OPTIONS = ('k',)

  def __init__(self, k: int):
    super().__init__()
    if k < 1:
      raise ValueError(f'NDCG(k={k}): k must be at least 1.')
    self.k = int(k)

  def _update(self, prediction, label, weight, group):
    if np.any(weight != 1):
      raise ValueError(
        'NDCG.update(weight=): got a weight other than 0 and 1; every group '
        'counts once, so mark rows as kept (1) or dropped (0).'
      )
    if np.any(label < 0):
      raise ValueError(
        'NDCG.update(label=): got a negative label; gains 2^label - 1 need '
        'labels >= 0.'
      )
    super()._update(prediction, label, weight, group)

  def compute(self) -> float:
    _, ndcg = self.by_group()
    return float(np.mean(ndcg)) if len(ndcg) else float('nan')

  def by_group(self) -> tuple[np.ndarray, np.ndarray]:
    """Returns (group, nDCG) of the groups that have an ideal order."""
    group, score, label, _ = self._columns()
    if not len(group):
      return group, np.zeros(0)
    gain = np.exp2(label) - 1
    by_score = np.lexsort((-score, group))  # Best score first in each group.
    by_label = np.lexsort((-label, group))
    starts = _run_starts(group)
    names, group = group[starts], np.cumsum(starts) - 1
    rank = np.arange(len(group)) - np.flatnonzero(starts)[group]
    discount = np.where(rank < self.k, 1 / np.log2(rank + 2), 0)
    run = np.cumsum(_run_starts(group, score[by_score])) - 1
    run_gain = np.bincount(run, gain[by_score]) / np.bincount(run)
    dcg = np.bincount(group, run_gain[run] * discount)
    ideal = np.bincount(group, gain[by_label] * discount)
    ranked = ideal > 0
    return names[ranked], dcg[ranked] / ideal[ranked]
