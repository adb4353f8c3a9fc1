# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Figures of `ctr_bench`, without its flags."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks import ctr_problem as problem_lib


def compared(
  ours: np.ndarray, peers: np.ndarray, test: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """AUC of both sides, and ours less the peer's with its 95 % interval.

  Args:
    ours: Logits of the test clicks.
    peers: Likewise.
    test: 'label' and 'user' [N].
  """
  from antjax.metrics import by_slice as scores  # Peers do without antjax.

  nothing = np.zeros(len(ours), np.int32)
  columns = {
    'label': test['label'],
    'user': test['user'],
    **dict.fromkeys(('scenario', 'user_count', 'item_count'), nothing),
  }
  config = scores.ScoreConfig(num_resamples=200)
  none = scores.ScoreConfig(num_resamples=0)

  def auc(logits: np.ndarray) -> float:
    table = scores.score({**columns, 'prediction': logits}, none)
    return table[scores.ALL].metrics['AUC'].value

  first, other = (scores.sample(columns, [x], config) for x in (peers, ours))
  table = scores.difference(first, other)
  difference = table[scores.ALL].metrics['AUC']
  return {
    'auc': round(auc(ours), 5),
    'peer_auc': round(auc(peers), 5),
    'auc_difference': [round(x, 5) for x in difference],
  }


def flops_of_step(model: str, problem: problem_lib.Problem) -> float:
  """Multiply-adds, twice, of a step's matrix products, backward included.

  Three times those of the forward pass, and only what a row needs: weights of
  its own scenario.
  """
  fields = len(problem.num_ids)
  width = fields * problem_lib.DIM

  def mlp(*widths: int) -> int:
    return sum(a * b for a, b in zip(widths, widths[1:]))

  deep = mlp(width, *problem_lib.WIDTHS)
  last = problem_lib.WIDTHS[-1]
  expert = mlp(width, *problem_lib.EXPERT_WIDTHS)
  top = problem_lib.EXPERT_WIDTHS[-1]
  shared, own = problem_lib.NUM_EXPERTS, problem_lib.NUM_SPECIFIC
  tower = mlp(top, *problem_lib.TOWER_WIDTHS, 1)
  products = {
    'mlp': deep + last,
    'deepfm': deep + last,
    'dcnv2': deep + last + width + problem_lib.CROSS_LAYERS * width * width,
    'shared_bottom': deep + mlp(last, *problem_lib.TOWER_WIDTHS, 1),
    'mmoe': shared * (expert + width) + tower,
    'ple': (shared + own) * (expert + width) + tower,
  }
  return 6.0 * problem_lib.BATCH * products[model]
