# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What `benchmarks.llm_rec_bench` says of what it measured."""

import statistics
from typing import Any

from benchmarks import llm_rec_problem as problem_lib

OURS = ('own', 'shared')
# Peer -> antjax's form of the same negatives.
PEERS = {'published': 'own', 'deduplicated': 'own', 'shared': 'shared'}
NUM_USERS, NUM_ITEMS = 96, 512  # Of a call that measures evaluation.
# float32 sums through a deep model, in another order.
_LOSS_RTOL = 1e-4


def lines_of(
  case: problem_lib.Case, found: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
  """A line a peer; where there are no peers, one for each of antjax's forms.

  Args:
    case: The case.
    found: Worker -> what it measured; workers may be missing.
  """
  pairs: list[tuple[str | None, str]] = [
    (peer, own)
    for peer, own in PEERS.items()
    if f'peer_{peer}' in found and f'antjax_{own}' in found
  ]
  if not pairs:
    pairs = [(None, form) for form in OURS if f'antjax_{form}' in found]
  lines = []
  for peer, form in pairs:
    ours = found[f'antjax_{form}']
    line = {
      'model': case.model,
      'dtype': case.dtype,
      'batch': problem_lib.BATCH,
      'negatives': form,
      'peer': peer,
      **_speeds(ours, ''),
      'num_steps': len(ours['step']),
      **ours['facts'],
    }
    if peer is not None:
      theirs = found[f'peer_{peer}']
      line |= _speeds(theirs, 'peer_')
      for ratio, name in (
        ('ratio', 'examples_per_s'),
        ('eval_ratio', 'eval_users_per_s'),
        ('items_ratio', 'items_per_s'),
      ):
        line[ratio] = float(f'{line[name] / line[f"peer_{name}"]:.3g}')
      difference = abs(ours['loss'] - theirs['loss'])
      if case.dtype == 'float32' and difference > _LOSS_RTOL * theirs['loss']:
        line['error'] = (
          f'antjax and {peer} disagree: losses {ours["loss"]},'
          f' {theirs["loss"]}.'
        )
    lines.append(line)
  return lines


def _speeds(form: dict[str, Any], prefix: str) -> dict[str, float]:
  def rate(count: int, name: str) -> float:
    return float(f'{count / statistics.median(form[name]):.4g}')

  return {
    f'{prefix}examples_per_s': rate(problem_lib.BATCH, 'step'),
    f'{prefix}eval_users_per_s': rate(NUM_USERS, 'users'),
    f'{prefix}items_per_s': rate(NUM_ITEMS, 'items'),
  }
