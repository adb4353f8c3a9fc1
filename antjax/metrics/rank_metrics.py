# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Recall and NDCG from ranks, over all examples and over parts of them.

With one target per example, Recall@k is the share of ranks below k, and NDCG@k
the mean of 1 / log2(rank + 2) for ranks below k and 0 for others (the best rank
is 0; the ideal DCG is 1).
"""

from collections.abc import Mapping, Sequence

import numpy as np

# Shape suffixes: U = examples.

CUTS = (1, 5, 10, 20)
ALL = 'all'
# Name of the number of examples, and suffix of standard errors.
EXAMPLES, ERROR = 'examples', '_se'


def metric_names() -> list[str]:
  """'recall@1', ..., 'ndcg@20'."""
  return [f'{name}@{k}' for name in ('recall', 'ndcg') for k in CUTS]


def by_example(
  ranks: np.ndarray, cuts: Sequence[int] = CUTS
) -> dict[str, np.ndarray]:
  """Each example's value of each metric, float64 [U]."""
  gain = 1 / np.log2(ranks + 2.0)
  values: dict[str, np.ndarray] = {}
  for k in cuts:
    values[f'recall@{k}'] = (ranks < k).astype(float)
  for k in cuts:
    values[f'ndcg@{k}'] = np.where(ranks < k, gain, 0)
  return values


def scores(
  ranks: np.ndarray, parts: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
  """Means over parts of the examples, and their standard errors.

  Args:
    ranks: int [U], from `ranking`.
    parts: Name -> bool [U].

  Returns:
    Part -> {'examples': n, 'recall@1': mean, 'recall@1_se': standard error of
    the mean, ...}; nan without examples, for errors also with a single one.
  """
  values = by_example(ranks)
  found = {}
  for part, is_in in parts.items():
    size = int(is_in.sum())
    row: dict[str, float] = {EXAMPLES: size}
    for name, value in values.items():
      mine = value[is_in]
      row[name] = float(mine.mean()) if size else float('nan')
      row[f'{name}{ERROR}'] = (
        float(mine.std(ddof=1) / np.sqrt(size)) if size > 1 else float('nan')
      )
    found[part] = row
  return found


def parts(
  target_domains: np.ndarray,
  domain_names: Sequence[str],
  num_domains: np.ndarray,
  target_counts: np.ndarray,
  num_trained: np.ndarray,
) -> dict[str, np.ndarray]:
  """The parts by which LLM-Rec is evaluated.

  Args:
    target_domains: int [U], the target's domain.
    domain_names: Names of all domains.
    num_domains: int [U], number of domains of the user's events.
    target_counts: int [U], number of events of the target in training.
    num_trained: int [U], number of examples of the user in training.

  Returns:
    Name -> bool [U]: all; domain/NAME; one_domain_user, several_domain_user;
    warm_item, cold_item (no event of the target in training); cold_user (no
    example of the user in training).
  """
  found = {ALL: np.ones(len(target_domains), bool)}
  for i, name in enumerate(domain_names):
    found[f'domain/{name}'] = target_domains == i
  found['one_domain_user'] = num_domains == 1
  found['several_domain_user'] = num_domains > 1
  found['warm_item'] = target_counts > 0
  found['cold_item'] = target_counts == 0
  found['cold_user'] = num_trained == 0
  return found
