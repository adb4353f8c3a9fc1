# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Recall and NDCG of ranks, with errors, over parts."""

import math
import statistics

import numpy as np
import pytest

from antjax.metrics import rank_metrics

RANKS = np.array([0, 0, 3, 4, 5, 9, 10, 19, 20, 1000])


def test_metrics_by_hand():
  everything = {'all': np.ones(10, bool)}
  found = rank_metrics.scores(RANKS, everything)['all']
  assert found['examples'] == 10
  recalls = [found[f'recall@{k}'] for k in (1, 5, 10, 20)]
  assert recalls == [0.2, 0.4, 0.6, 0.8]
  gains = [1 / math.log2(r + 2) for r in RANKS.tolist()]
  for k in (1, 5, 10, 20):
    mine = [g if r < k else 0.0 for g, r in zip(gains, RANKS.tolist())]
    assert found[f'ndcg@{k}'] == pytest.approx(statistics.fmean(mine))
    error = statistics.stdev(mine) / math.sqrt(10)
    assert found[f'ndcg@{k}_se'] == pytest.approx(error)
  assert rank_metrics.metric_names() == [
    n for n in found if n.partition('@')[1] and not n.endswith('_se')
  ]


def test_parts_without_examples_have_no_scores():
  nothing, one = np.zeros(10, bool), np.arange(10) == 2
  found = rank_metrics.scores(RANKS, {'none': nothing, 'one': one})
  assert found['none']['examples'] == 0
  assert math.isnan(found['none']['ndcg@5'])
  assert found['one']['recall@5'] == 1
  assert math.isnan(found['one']['recall@5_se'])


def test_parts():
  found = rank_metrics.parts(
    np.array([0, 1, 1, 0]),
    ['Food', 'Kitchen', 'Toys'],
    np.array([1, 2, 1, 3]),
    np.array([0, 5, 1, 0]),
    np.array([4, 0, 1, 2]),
  )
  assert {name: mask.tolist() for name, mask in found.items()} == {
    'all': [True] * 4,
    'domain/Food': [True, False, False, True],
    'domain/Kitchen': [False, True, True, False],
    'domain/Toys': [False] * 4,
    'one_domain_user': [True, False, True, False],
    'several_domain_user': [False, True, False, True],
    'warm_item': [False, True, True, False],
    'cold_item': [True, False, False, True],
    'cold_user': [False, True, False, False],
  }
