# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What `benchmarks.llm_rec_bench` says of what it measured."""

from collections.abc import Collection
import statistics
from typing import Any

from benchmarks import harness
from benchmarks import llm_rec_problem as problem_lib

OURS = ('own', 'shared')
# Peer -> antjax's form of the same negatives.
PEERS = {'published': 'own', 'deduplicated': 'own', 'shared': 'shared'}
NUM_USERS, NUM_ITEMS = 96, 512  # Of a call that measures evaluation.
# float32 sums through a deep model, in another order.
_LOSS_RTOL = 1e-4


def pairs_of(names: Collection[str]) -> list[tuple[str, str | None]]:
  """(antjax's worker, the peer beside it): a line each.

  Args:
    names: Workers that run; without a peer each of antjax's stands alone.
  """
  pairs = [
    (f'antjax_{own}', f'peer_{peer}')
    for peer, own in PEERS.items()
    if f'peer_{peer}' in names and f'antjax_{own}' in names
  ]
  alone = [(f'antjax_{own}', None) for own in OURS if f'antjax_{own}' in names]
  return list(pairs or alone)


def line_of(
  case: problem_lib.Case,
  pair: tuple[str, str | None],
  found: dict[str, dict[str, Any]],
) -> dict[str, Any]:
  """The figures of a pair; see `benchmarks.llm_rec_bench`.

  Args:
    case: The case.
    pair: Workers, see `pairs_of`.
    found: Worker -> what it measured.
  """
  own, other = pair
  ours = found[own]
  peer = other and other.removeprefix('peer_')
  line = {
    'model': case.model,
    'dtype': case.dtype,
    'batch': problem_lib.BATCH,
    'negatives': own.removeprefix('antjax_'),
    'peer': peer,
    **_speeds(ours, ''),
    'num_steps': len(ours['step']),
    **ours['facts'],
  }
  if other is None:
    return line
  theirs = found[other]
  line |= _speeds(theirs, 'peer_')
  for ratio, name in (
    ('ratio', 'examples_per_s'),
    ('eval_ratio', 'eval_users_per_s'),
    ('items_ratio', 'items_per_s'),
  ):
    line[ratio] = harness.rounded(line[name] / line[f'peer_{name}'])
  difference = abs(ours['loss'] - theirs['loss'])
  if case.dtype == 'float32' and difference > _LOSS_RTOL * theirs['loss']:
    line['error'] = (
      f'antjax and {peer} disagree: losses {ours["loss"]}, {theirs["loss"]}.'
    )
  return line


def _speeds(form: dict[str, Any], prefix: str) -> dict[str, float]:
  def rate(count: int, name: str) -> float:
    return harness.rounded(count / statistics.median(form[name]), 4)

  return {
    f'{prefix}examples_per_s': rate(problem_lib.BATCH, 'step'),
    f'{prefix}eval_users_per_s': rate(NUM_USERS, 'users'),
    f'{prefix}items_per_s': rate(NUM_ITEMS, 'items'),
  }
