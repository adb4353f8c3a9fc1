# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores and their intervals against loops over rows and pairs."""

import dataclasses
import json
import math

import numpy as np
import pytest

from antjax.metrics import bootstrap
from antjax.metrics import by_slice as scores

CONFIG = scores.ScoreConfig(
  num_resamples=20, num_bins=4, few_users=2, few_items=3
)


def columns(num_rows=300, num_users=25, seed=0, step=0.25):
  """Rows whose logits have ties and whose clicks follow them a little."""
  rng = np.random.default_rng(seed)
  logit = np.round(rng.normal(size=num_rows) / step) * step
  return {
    'prediction': logit.astype(np.float32),
    'label': (rng.uniform(size=num_rows) < 1 / (1 + np.exp(-logit))) * 1,
    'user': rng.integers(0, num_users, size=num_rows) * 7 + 3,
    'scenario': rng.integers(0, 3, size=num_rows),
    'user_count': rng.integers(0, 6, size=num_rows),
    'item_count': rng.integers(0, 6, size=num_rows),
  }


def auc(score, label, weight):
  """Every pair of a click and a row without."""
  above = pairs = 0.0
  for i in np.flatnonzero(label):
    for j in np.flatnonzero(label == 0):
      pairs += weight[i] * weight[j]
      order = (score[i] > score[j]) + 0.5 * (score[i] == score[j])
      above += weight[i] * weight[j] * order
  return above / pairs if pairs else math.nan


def metrics_by_hand(score, label, user, weight, num_bins):
  score = score.astype(np.float64)
  p = 1 / (1 + np.exp(-score))
  total = rows = 0.0
  for u in np.unique(user):
    mine = user == u
    value = auc(score[mine], label[mine], np.ones(mine.sum()))
    if not math.isnan(value):
      total += weight[mine].sum() * value
      rows += weight[mine].sum()
  loss = -np.where(label == 1, np.log(p), np.log(1 - p))
  # The bin of a row: where the first of those that are tied with it stands.
  below = np.asarray([np.sum(score < one) for one in score])
  gaps = 0.0
  for b in range(num_bins):
    chosen = below * num_bins // len(score) == b
    gaps += abs(np.sum((weight * (p - label))[chosen]))
  return [
    auc(score, label, weight),
    total / rows if rows else math.nan,
    np.sum(weight * loss) / weight.sum(),
    gaps / weight.sum(),
  ]


def test_metrics_of_every_draw():
  c = columns()
  order = np.argsort(c['prediction'], kind='stable')
  users, user = np.unique(c['user'][order], return_inverse=True)
  score, label = c['prediction'][order].astype(float), c['label'][order]
  counts = bootstrap.draws(len(users), 4, seed=3)
  assert (counts[0] == 1).all() and (counts[1:].sum(axis=1) == len(users)).all()
  found, rows = bootstrap.click_metrics(score, label == 1, user, counts, 4)
  for r, weight in enumerate(counts):
    expected = metrics_by_hand(
      score, label, user, weight[user].astype(float), 4
    )
    np.testing.assert_allclose(found[r], expected, rtol=1e-10)
    assert rows[r] == weight[user].sum()


def test_without_ties():
  c = columns(step=1e-6)
  assert len(np.unique(c['prediction'])) == len(c['prediction'])
  found = scores.score(c, CONFIG)[scores.ALL].metrics
  expected = metrics_by_hand(
    c['prediction'], c['label'], c['user'], np.ones(300), 4
  )
  np.testing.assert_allclose([e.value for e in found.values()], expected)


def test_a_second_label_has_scores_of_its_own():
  c = columns()
  rng = np.random.default_rng(5)
  sale = rng.integers(0, 2, 300).astype(np.float32)
  labels = {'click': c['label'], 'sale': sale}
  parts = [scores.task('sale'), scores.task('sale', 'click')]
  logits = {part: rng.normal(size=300) for part in parts}
  found = scores.tasks(c, labels, logits, CONFIG)
  clicks = c['label'] > 0
  assert list(found) == parts == ['task/sale', 'task/sale after click']
  for part, rows in zip(parts, (clicks | True, clicks), strict=True):
    label = sale
    expected = metrics_by_hand(
      logits[part][rows],
      label[rows].astype(int),
      c['user'][rows],
      np.ones(rows.sum()),
      4,
    )
    metrics = [e.value for e in found[part].metrics.values()]
    np.testing.assert_allclose(metrics, expected)
    assert found[part].rows == rows.sum()
    assert found[part].clicks == label[rows].sum()
  labels['click'] = 0 * c['label']
  assert list(scores.tasks(c, labels, logits, CONFIG)) == parts[:1]


def test_parts_are_the_rows_that_they_name():
  c = columns()
  table = scores.score(c, CONFIG, ['ads', 'videos', 'vouchers'])
  chosen = {
    'all': c['label'] >= 0,
    'scenario/videos': c['scenario'] == 1,
    'item/zero': c['item_count'] == 0,
    'item/few': (c['item_count'] > 0) & (c['item_count'] <= 3),
    'user/few': (c['user_count'] > 0) & (c['user_count'] <= 2),
    'user/warm': c['user_count'] > 2,
    'scenario/ads/item/zero': (c['scenario'] == 0) & (c['item_count'] == 0),
  }
  assert len(table) == 1 + 1 + 3 + 6 + 18
  for name, rows in chosen.items():
    part = table[name]
    expected = metrics_by_hand(
      *(c[k][rows] for k in ('prediction', 'label', 'user')),
      np.ones(rows.sum()),
      4,
    )
    values = [part.metrics[m].value for m in scores.METRICS]
    np.testing.assert_allclose(values, expected, rtol=1e-10)
    assert part.rows == rows.sum()
    assert part.clicks == c['label'][rows].sum()
    assert part.users == len(np.unique(c['user'][rows]))
  assert [p for p in table if scores.is_scenario(p)] == [
    'scenario/ads',
    'scenario/videos',
    'scenario/vouchers',
  ]


def test_the_mean_of_scenarios_is_weighted_by_their_rows():
  c = columns()
  c['label'][c['scenario'] == 2] = 0  # No AUC there: left out of its mean.
  table = scores.score(c, CONFIG)
  for metric in scores.METRICS:
    parts = [table[f'scenario/{i}'] for i in range(3)]
    parts = [p for p in parts if math.isfinite(p.metrics[metric].value)]
    assert len(parts) == (2 if metric in ('AUC', 'GAUC') else 3)
    rows = sum(p.rows for p in parts)
    expected = sum(p.rows * p.metrics[metric].value for p in parts) / rows
    found = table[scores.WEIGHTED].metrics[metric].value
    assert found == pytest.approx(expected)


def test_one_scenario_is_all():
  c = columns()
  c['scenario'] = np.zeros_like(c['scenario'])
  table = scores.score(c, CONFIG, ['all'])
  assert list(table)[0] == scores.ALL and 'item/few' in table
  assert not any('scenario' in part for part in table)


def test_intervals_come_from_users_not_rows():
  """100 rows of a user say no more than one where they are all alike."""
  rng = np.random.default_rng(0)
  num_users = 60
  logit = rng.normal(size=num_users)
  label = (rng.uniform(size=num_users) < 0.5) * 1
  zeros = np.zeros(num_users, int)
  once = {
    'prediction': logit,
    'label': label,
    'user': np.arange(num_users),
    'scenario': zeros,
    'user_count': zeros,
    'item_count': zeros,
  }
  often = {name: np.repeat(x, 100) for name, x in once.items()}
  first, second = (scores.score(c, CONFIG)['all'] for c in (once, often))
  for metric in ('AUC', 'log-loss'):
    np.testing.assert_allclose(first.metrics[metric], second.metrics[metric])
    value, low, high = first.metrics[metric]
    assert low < value < high


def test_draws_are_seeded():
  c = columns()
  first = scores.score(c, CONFIG)
  assert first == scores.score(c, CONFIG)
  other = scores.ScoreConfig(
    num_resamples=20, num_bins=4, few_users=2, few_items=3, seed=1
  )
  second = scores.score(c, other)
  assert first['all'].metrics['AUC'].value == second['all'].metrics['AUC'].value
  assert first['all'].metrics['AUC'].low != second['all'].metrics['AUC'].low


def test_a_difference_is_of_the_same_draws():
  c = columns()
  other = c['prediction'] + 0.1 * np.random.default_rng(1).normal(size=300)
  sampled = [scores.sample(c, [x], CONFIG) for x in (c['prediction'], other)]
  found = scores.difference(*sampled)
  first = scores.score(c, CONFIG)
  second = scores.score({**c, 'prediction': other}, CONFIG)
  for name in first:
    for metric in scores.METRICS:
      a, b = first[name].metrics[metric], second[name].metrics[metric]
      assert found[name].metrics[metric].value == pytest.approx(
        b.value - a.value, abs=1e-12
      )
  alone, paired = first['all'].metrics['AUC'], found['all'].metrics['AUC']
  assert paired.high - paired.low < (alone.high - alone.low) / 2
  same = scores.difference(sampled[0], sampled[0])
  assert same['all'].metrics['AUC'] == (0, 0, 0)


def test_a_difference_of_several_trainings_has_their_spread_too():
  """Against the variance of a mean of trainings, users being the same."""
  # One part of each kind, as others are not looked at.
  parts = ('scenario', 'user_count', 'item_count')
  c = columns() | dict.fromkeys(parts, np.zeros(300, int))
  rng = np.random.default_rng(2)
  noisy = [c['prediction'] + rng.normal(size=300) for _ in range(4)]
  config = dataclasses.replace(CONFIG, num_resamples=1500)
  first = scores.sample(c, [c['prediction']], config)
  other = scores.sample(c, noisy, config)
  found = scores.difference(first, other)['all'].metrics['AUC']
  aucs = [
    scores.score({**c, 'prediction': x}, CONFIG)['all'].metrics['AUC'].value
    for x in (c['prediction'], *noisy)
  ]
  assert found.value == pytest.approx(np.mean(aucs[1:]) - aucs[0], abs=1e-12)
  # Without draws of users: only trainings vary.
  still = [
    x._replace(
      values={
        k: np.repeat(v[:, :1], v.shape[1], 1) for k, v in x.values.items()
      }
    )
    for x in (first, other)
  ]
  spread = scores.difference(*still)['all'].metrics['AUC']
  error = np.std(aucs[1:], ddof=1) / 2
  # Student's 97.5 % of 3 degrees of freedom.
  assert (spread.high - spread.low) / 2 == pytest.approx(3.18 * error, rel=0.1)
  one = scores.difference(
    first, other._replace(values={k: v[:1] for k, v in other.values.items()})
  )['all'].metrics['AUC']
  assert one.value == pytest.approx(aucs[1] - aucs[0], abs=1e-12)


def test_calibration_is_by_bin():
  c = columns()
  found = scores.calibration(c, CONFIG)
  assert sum(one.rows for one in found) == 300
  p = 1 / (1 + np.exp(-c['prediction'].astype(float)))
  below = np.asarray([np.sum(p < one) for one in p])
  bins = below * 4 // 300
  ece = 0.0
  for one, b in zip(found, np.unique(bins), strict=True):
    chosen = bins == b
    assert one.rows == chosen.sum()
    assert one.prediction == pytest.approx(p[chosen].mean())
    assert one.clicks.value == pytest.approx(c['label'][chosen].mean())
    assert one.clicks.low <= one.clicks.value <= one.clicks.high
    ece += one.rows / 300 * abs(one.prediction - one.clicks.value)
  table = scores.score(c, CONFIG)
  assert table['all'].metrics['ECE'].value == pytest.approx(ece)


def test_a_model_that_diverged_has_no_scores():
  c = columns()
  c['prediction'][5] = np.nan
  table = scores.score(c, CONFIG)
  assert table['all'].rows == 300
  assert all(math.isnan(e.value) for e in table['all'].metrics.values())
  text = json.dumps(scores.as_json(table), allow_nan=False)
  again = scores.from_json(json.loads(text))
  assert scores.as_json(again) == scores.as_json(table)


def test_a_table_comes_back_from_json():
  table = scores.score(columns(), CONFIG)
  text = json.dumps(scores.as_json(table), allow_nan=False)
  assert scores.from_json(json.loads(text)) == table


def test_without_draws_there_are_no_intervals():
  config = scores.ScoreConfig(num_resamples=0)
  found = scores.score(columns(), config)['all'].metrics['AUC']
  assert math.isfinite(found.value)
  assert math.isnan(found.low) and math.isnan(found.high)


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda c: c.pop('user'), "no column user; there are .'item_count'"),
    (lambda c: c.update(label=c['label'] * 5), 'labels must be 0 or 1'),
    (lambda c: c.update(user=c['user'][:9]), r'column user has shape \(9,\)'),
    (lambda c: c.update({k: x[:0] for k, x in c.items()}), 'no rows'),
  ],
)
def test_columns_that_cannot_be_scored_are_refused(change, message):
  c = columns()
  change(c)
  with pytest.raises(ValueError, match=message):
    scores.score(c, CONFIG)


def test_settings_and_names_that_make_no_sense_are_refused():
  with pytest.raises(ValueError, match='few_items=0: must be at least 1'):
    scores.ScoreConfig(few_items=0)
  with pytest.raises(ValueError, match=r"scenario 2 has no name among \['a'"):
    scores.score(columns(), CONFIG, ['a', 'b'])
