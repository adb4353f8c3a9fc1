# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Metrics against plain references, and the algebra of merging them."""

import functools
import math

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from antjax.metrics import means as metrics
from antjax.metrics import ranking
from antjax.metrics.merge import merge_across_processes

# Sums of at most a thousand float64 terms in another order.
_SUM_RTOL = 1e-12


def _auc_by_pairs(score, label, weight, threshold):
  """The definition: every (positive, negative) pair, O(n^2)."""
  right = total = 0.0
  for s_p, y_p, w_p in zip(score, label, weight):
    if y_p < threshold:
      continue
    for s_n, y_n, w_n in zip(score, label, weight):
      if y_n >= threshold:
        continue
      right += w_p * w_n * (1.0 if s_p > s_n else 0.5 if s_p == s_n else 0.0)
      total += w_p * w_n
  return right / total if total else math.nan


def _gauc_by_groups(score, label, weight, group, threshold):
  aucs, impressions = [], []
  for g in np.unique(group):
    rows = group == g
    auc = _auc_by_pairs(score[rows], label[rows], weight[rows], threshold)
    if not math.isnan(auc):
      aucs.append(auc)
      impressions.append(weight[rows].sum())
  return np.average(aucs, weights=impressions) if aucs else math.nan


def _ndcg_by_tie_breaks(score, label, group, k, rng, num_samples):
  """Mean nDCG@k over groups, ties broken at random many times."""

  def dcg(gains):
    return sum(g / math.log2(i + 2) for i, g in enumerate(gains[:k]))

  values = []
  for g in np.unique(group):
    gain = 2.0 ** label[group == g] - 1
    ideal = dcg(np.sort(gain)[::-1])
    if not ideal:
      continue
    samples = []
    for _ in range(num_samples):
      order = np.lexsort((rng.random(len(gain)), -score[group == g]))
      samples.append(dcg(gain[order]) / ideal)
    values.append(np.mean(samples))
  return np.mean(values) if values else math.nan


def _rows(seed, n=120, num_groups=7, num_scores=15, weights=True):
  """Random rows with many ties; scores are exact in 12 bits."""
  rng = np.random.default_rng(seed)
  return {
    'prediction': rng.integers(-num_scores, num_scores, n) / 16,
    'label': rng.integers(0, 6, n).astype(float),
    'weight': rng.integers(0, 4, n) / 2.0 if weights else np.ones(n),
    'group': rng.integers(0, num_groups, n),
  }


def _updated(metric, rows):
  metric.update(**rows)
  return metric


@pytest.mark.parametrize('seed', range(5))
def test_mean_metrics_equal_numpy(seed):
  rows = _rows(seed)
  p, y, w = rows['prediction'], rows['label'], rows['weight']
  mae = _updated(metrics.MAE(), rows).compute()
  rmse = _updated(metrics.RMSE(), rows).compute()
  np.testing.assert_allclose(mae, np.average(abs(p - y), weights=w))
  np.testing.assert_allclose(rmse, np.sqrt(np.average((p - y) ** 2, weights=w)))


def test_log_loss_of_logits_equals_log_loss_of_probabilities():
  rng = np.random.default_rng(0)
  logit, label = rng.normal(0, 3, 100), rng.integers(0, 2, 100)
  p = 1 / (1 + np.exp(-logit))
  expected = -np.mean(np.where(label, np.log(p), np.log(1 - p)))
  from_logits = metrics.LogLoss(from_logits=True)
  from_logits.update(logit, label)
  from_p = metrics.LogLoss(from_logits=False)
  from_p.update(p, label)
  np.testing.assert_allclose(from_logits.compute(), expected)
  np.testing.assert_allclose(from_p.compute(), expected)


def test_log_loss_of_a_sure_mistake_is_finite():
  from_logits = metrics.LogLoss(from_logits=True)
  from_logits.update(np.array([1000.0]), np.array([0]))
  assert from_logits.compute() == 1000.0
  from_p = metrics.LogLoss(from_logits=False)
  from_p.update(np.array([0.0]), np.array([1]))
  np.testing.assert_allclose(from_p.compute(), -math.log(1e-7))


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('threshold', [1.0, 4.0])
def test_auc_equals_all_pairs_with_ties_and_weights(seed, threshold):
  rows = _rows(seed)
  expected = _auc_by_pairs(
    rows['prediction'], rows['label'], rows['weight'], threshold
  )
  auc = _updated(ranking.AUC(threshold), rows)
  np.testing.assert_allclose(auc.compute(), expected, rtol=_SUM_RTOL)


@pytest.mark.parametrize('seed', range(3))
def test_auc_error_stays_within_its_bound(seed):
  rng = np.random.default_rng(seed)
  label = rng.integers(0, 2, 400)
  # Scores so close that many pairs share a bin.
  score = 1 + (rng.normal(size=400) + label) * 2e-3
  auc = ranking.AUC()
  auc.update(score, label)
  exact = _auc_by_pairs(score.astype(np.float32), label, np.ones(400), 0.5)
  # One half of the share of pairs that fall into one bin.
  state = auc.state()
  positive, negative = state['positive'], state['negative']
  bound = 0.5 * positive @ negative / (positive.sum() * negative.sum())
  assert 0 < abs(auc.compute() - exact) <= bound < 0.1


@hypothesis.settings(max_examples=40)  # 32 MiB each.
@hypothesis.given(
  st.floats(2.0**-126, 2.0**100, width=32), st.booleans(), st.booleans()
)
@hypothesis.example(1.0, True, False)
def test_auc_orders_pairs_apart_by_more_than_relative_2_to_minus_11(
  low, negative, label_of_high
):
  high = low * (1 + 2.0**-11) * (1 + 1e-6)
  score = np.array([-low, -high] if negative else [high, low])
  auc = ranking.AUC()
  auc.update(score, np.array([label_of_high, not label_of_high]))
  assert auc.compute() == float(label_of_high)


def test_auc_counts_pairs_closer_than_a_bin_as_ties():
  auc = ranking.AUC()
  auc.update(np.array([1 + 2.0**-13, 1.0]), np.array([1, 0]))
  assert auc.compute() == 0.5


def test_auc_orders_infinities_and_takes_zeros_of_both_signs_as_one():
  auc = ranking.AUC()
  score = np.array([-np.inf, -1, -1e-30, 1e-30, 1, 1e300, np.inf])
  auc.update(score, np.array([0, 0, 0, 1, 1, 1, 1]))
  assert auc.compute() == 1.0
  zeros = ranking.AUC()
  zeros.update(np.array([0.0, -0.0]), np.array([0, 1]))
  assert zeros.compute() == 0.5


@pytest.mark.parametrize('seed', range(5))
def test_gauc_equals_auc_of_each_group(seed):
  rows = _rows(seed)
  expected = _gauc_by_groups(
    *(rows[k] for k in ('prediction', 'label', 'weight', 'group')), 4.0
  )
  gauc = _updated(ranking.GAUC(4.0), rows).compute()
  np.testing.assert_allclose(gauc, expected, rtol=_SUM_RTOL)


def test_gauc_of_one_group_is_its_auc_and_skips_one_class_groups():
  gauc = ranking.GAUC()
  score = np.array([0.1, 0.4, 0.35, 0.8, 0.5])
  gauc.update(score, np.array([0, 0, 1, 1, 1]), group=np.array([3, 3, 3, 3, 9]))
  assert gauc.compute() == 0.75


@pytest.mark.parametrize('k', [1, 3, 10])
def test_ndcg_without_ties_equals_the_definition(k):
  rng = np.random.default_rng(k)
  score, label = rng.normal(size=90), rng.integers(0, 5, 90)
  group = rng.integers(0, 12, 90)
  ndcg = ranking.NDCG(k)
  ndcg.update(score, label, group=group)
  expected = _ndcg_by_tie_breaks(score, label, group, k, rng, num_samples=1)
  np.testing.assert_allclose(ndcg.compute(), expected, rtol=_SUM_RTOL)


def test_ndcg_with_ties_is_the_mean_over_random_tie_breaks():
  rng = np.random.default_rng(0)
  score = rng.integers(0, 3, 40).astype(float)
  label, group = rng.integers(0, 5, 40), rng.integers(0, 4, 40)
  ndcg = ranking.NDCG(3)
  ndcg.update(score, label, group=group)
  expected = _ndcg_by_tie_breaks(score, label, group, 3, rng, num_samples=3000)
  # Monte Carlo: 4 groups x 3000 draws leave a standard error of about 2e-3.
  np.testing.assert_allclose(ndcg.compute(), expected, atol=8e-3)


def test_ndcg_of_best_and_worst_order():
  label, group = np.array([5.0, 3, 1]), np.zeros(3, int)
  best, worst = ranking.NDCG(1), ranking.NDCG(1)
  best.update(np.array([3.0, 2, 1]), label, group=group)
  worst.update(np.array([1.0, 2, 3]), label, group=group)
  assert best.compute() == 1.0
  np.testing.assert_allclose(worst.compute(), 1 / 31)


_METRICS = {
  'mae': metrics.MAE,
  'rmse': metrics.RMSE,
  'log_loss': functools.partial(metrics.LogLoss, from_logits=True),
  'auc': ranking.AUC,
  'gauc': ranking.GAUC,
  'ndcg': functools.partial(ranking.NDCG, 3),
}


@st.composite
def _three_parts(draw):
  """Three row sets, empty ones among them; integers keep sums exact."""
  parts = []
  for _ in range(3):
    n = draw(st.integers(0, 8))

    def ints(low, high, n=n):
      values = st.lists(st.integers(low, high), min_size=n, max_size=n)
      return np.array(draw(values), int)

    parts.append(
      {
        'prediction': ints(-4, 4).astype(float),
        'label': ints(0, 1).astype(float),
        'weight': ints(0, 1).astype(float),
        'group': ints(0, 2),
      }
    )
  return parts


@pytest.mark.parametrize('name', _METRICS)
@hypothesis.settings(max_examples=12)
@hypothesis.given(parts=_three_parts())
def test_merge_is_associative_commutative_and_equals_one_pass(name, parts):
  a, b, c = (_updated(_METRICS[name](), part) for part in parts)
  before = a.compute()
  left = a.merge(b).merge(c).compute()
  right = a.merge(b.merge(c)).compute()
  swapped = c.merge(b).merge(a).compute()
  whole = _METRICS[name]()
  for part in parts:
    whole.update(**part)
  np.testing.assert_allclose(
    [left, right, swapped], whole.compute(), rtol=_SUM_RTOL
  )
  np.testing.assert_equal(a.compute(), before)


@pytest.mark.parametrize('name', _METRICS)
def test_state_round_trip_keeps_value_and_goes_on(name):
  first, second = _rows(1, weights=False), _rows(2, weights=False)
  for rows in (first, second):
    rows['label'] = (rows['label'] > 2).astype(float)
  metric = _updated(_METRICS[name](), first)
  state = metric.state()
  assert all(array.dtype != object for array in state.values())
  copy = metric.empty()
  copy.add(state)
  assert copy.compute() == metric.compute()
  np.testing.assert_allclose(
    _updated(copy, second).compute(),
    _updated(metric, second).compute(),
    rtol=_SUM_RTOL,
  )


@pytest.mark.parametrize('name', _METRICS)
def test_weight_two_equals_the_row_twice_and_zero_equals_no_row(name):
  rows = _rows(3, weights=False)
  rows['label'] = (rows['label'] > 2).astype(float)
  twice = {k: np.concatenate([v, v[:50]]) for k, v in rows.items()}
  weight = np.ones(120)
  weight[:50] = 2
  padded = {k: np.concatenate([v, v[:9]]) for k, v in rows.items()}
  padded['weight'] = np.r_[np.ones(120), np.zeros(9)]
  # What padding holds must not matter, not even nan.
  padded['prediction'][120:] = np.nan
  plain = _updated(_METRICS[name](), rows).compute()
  assert _updated(_METRICS[name](), padded).compute() == plain
  if name != 'ndcg':
    np.testing.assert_allclose(
      _updated(_METRICS[name](), rows | {'weight': weight}).compute(),
      _updated(_METRICS[name](), twice).compute(),
      rtol=_SUM_RTOL,
    )


@pytest.mark.parametrize('name', _METRICS)
def test_no_rows_give_nan(name):
  assert math.isnan(_METRICS[name]().compute())
  empty = {'prediction': [], 'label': [], 'group': np.zeros(0, int)}
  assert math.isnan(_updated(_METRICS[name](), empty).compute())


def test_one_class_gives_nan_for_ranking_metrics():
  for metric in (ranking.AUC(), ranking.GAUC(), ranking.NDCG(3)):
    metric.update(np.arange(4.0), np.zeros(4), group=np.zeros(4, int))
    assert math.isnan(metric.compute())


@pytest.mark.parametrize(
  'rows, message',
  [
    ({'prediction': [[1.0]], 'label': [[1.0]]}, 'must be 1-D'),
    ({'prediction': [1.0, 2.0], 'label': [1.0]}, 'must be 1-D of one'),
    ({'prediction': [1.0], 'label': [1.0], 'weight': [-1.0]}, 'negative'),
    ({'prediction': [np.nan], 'label': [1.0]}, 'prediction=.: got nan'),
    ({'prediction': [1.0], 'label': [np.nan]}, 'label=.: got nan'),
  ],
)
def test_update_rejects_bad_rows(rows, message):
  with pytest.raises(ValueError, match=message):
    metrics.MAE().update(**rows)


def test_options_and_rows_that_do_not_fit_the_metric_are_errors():
  one = np.ones(1)
  with pytest.raises(ValueError, match='rating'):
    metrics.LogLoss(from_logits=True).update(one, 4 * one)
  with pytest.raises(ValueError, match='from_logits=True'):
    metrics.LogLoss(from_logits=False).update(3 * one, one)
  with pytest.raises(ValueError, match='got None'):
    ranking.GAUC().update(one, one)
  with pytest.raises(ValueError, match='must be integers'):
    ranking.GAUC().update(one, one, group=np.array(['u']))
  with pytest.raises(ValueError, match='0 and 1'):
    ranking.NDCG(3).update(one, one, 0.5 * one, np.zeros(1, int))
  with pytest.raises(ValueError, match='negative label'):
    ranking.NDCG(3).update(one, -one, group=np.zeros(1, int))
  with pytest.raises(ValueError, match='at least 1'):
    ranking.NDCG(0)
  with pytest.raises(ValueError, match='got a RMSE'):
    metrics.MAE().merge(metrics.RMSE())
  with pytest.raises(ValueError, match='label_threshold is 4.0 here and 0.5'):
    ranking.AUC(4.0).merge(ranking.AUC(0.5))
  with pytest.raises(ValueError, match='k is 3 here and 1 there'):
    ranking.NDCG(3).merge(ranking.NDCG(1))


def test_merge_across_one_process_is_a_copy():
  auc = _updated(ranking.AUC(4.0), _rows(0))
  merged = merge_across_processes({'auc': auc})
  assert merged['auc'].compute() == auc.compute()
  merged['auc'].update(np.array([9.0]), np.array([0.0]))
  assert merged['auc'].compute() != auc.compute()
