# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shared parts of policies: counts of a step, and actions to reach them."""

from collections.abc import Mapping, Sequence
import math

from antjax.elastic import allocation
from antjax.elastic.actions import Action, AdjustBatch, AdjustLR, Nothing
from antjax.elastic.allocation import Cost
from antjax.elastic.view import ClusterView

# An equal split that costs no more than this is preferred: it is the plain one.
_EQUAL_IS_FINE = 0.03


def _slowest(view: ClusterView) -> str:
  worker = max(view.workers, key=lambda w: w.short_slowness)
  if worker.state in ('normal', 'leader'):
    return ''
  what = ', waiting for its input' if worker.is_input_bound else ''
  return (
    f'{worker.worker} takes {worker.short_slowness:.1f}x the median time a'
    f' sample ({worker.state}{what}); '
  )


def _changes(view: ClusterView, counts: Mapping[str, int]) -> str:
  """The largest changes of counts; of many workers only three."""
  changed = sorted(
    (w for w in view.workers if counts[w.worker] != w.num_micro_batches),
    key=lambda w: (-abs(counts[w.worker] - w.num_micro_batches), w.worker),
  )
  some = [
    f'{w.worker} {w.num_micro_batches} -> {counts[w.worker]}'
    for w in changed[:3]
  ]
  more = f' and {len(changed) - 3} more' if len(changed) > 3 else ''
  return f'micro-batches {", ".join(some)}{more}'


def _seconds(value: float | None) -> str:
  return 'unknown' if value is None else f'{value:.3g} s'


def whole(view: ClusterView) -> int:
  """Micro-batches of a step of all workers, as the job was set up."""
  return view.global_micro_batches or sum(view.num_micro_batches.values())


def maxima(view: ClusterView) -> list[int | None]:
  """Most micro-batches of each worker; None: no limit."""
  return [w.max_micro_batches or None for w in view.workers]


def _minima(view: ClusterView) -> list[int]:
  """One for each, so that its speed stays known; none for the lastingly slow.

  Such a worker may be left out where one micro-batch takes longer than all the
  others' work. When its figures are old, it gets one to see.
  """
  minima = [
    0 if w.state in ('persistent', 'deterministic') and not w.is_idle else 1
    for w in view.workers
  ]
  return minima if sum(minima) <= whole(view) else [0] * len(minima)


def costs(view: ClusterView) -> list[Cost] | None:
  """Time by micro-batches at today's speeds; None: one is unknown."""
  each = [view.s_per_micro_batch(worker) for worker in view.workers]
  known = [Cost(0.0, s) for s in each if s is not None]
  return known if len(known) == len(each) else None


def unknown(view: ClusterView) -> list[Action]:
  """NONE, while workers have not been measured."""
  names = [w.worker for w in view.workers if w.s_per_sample is None]
  return [
    Nothing(
      f'waiting for the first steps of {len(names)} of'
      f' {len(view.workers)} workers'
    )
  ]


def longest(costs: Sequence[Cost], counts: Sequence[int]) -> float:
  """Seconds of a step: those of its slowest worker."""
  return max(cost(count) for cost, count in zip(costs, counts))


def equal_counts(view: ClusterView) -> list[int]:
  """An equal split."""
  alike = [Cost(0.0, 1.0)] * len(view.workers)
  return allocation.greedy(whole(view), alike, [0] * len(alike), maxima(view))


def shortest_counts(view: ClusterView, costs: Sequence[Cost]) -> list[int]:
  """Counts of the shortest step; equal ones where they are about as good."""
  best = allocation.greedy(whole(view), costs, _minima(view), maxima(view))
  equal = equal_counts(view)
  is_fine = sum(equal) == sum(best) and longest(costs, equal) <= (
    1 + _EQUAL_IS_FINE
  ) * longest(costs, best)
  return equal if is_fine else best


def follow_lr(view: ClusterView, num_micro_batches: float) -> list[Action]:
  """The linear rule: the learning rate goes with the global batch."""
  total = whole(view)
  scale = num_micro_batches / total if total else 1.0
  if scale <= 0 or math.isclose(scale, view.lr_scale, rel_tol=1e-6):
    return []
  return [
    AdjustLR(
      scale,
      f"a step has {num_micro_batches:.4g} of the job's {total}"
      f' micro-batches: learning rate x{view.lr_scale:.4g} -> x{scale:.4g}',
    )
  ]


def adjust(view: ClusterView, counts: Sequence[int]) -> list[Action]:
  """Actions that bring the counts about."""
  new = {w.worker: c for w, c in zip(view.workers, counts)}
  actions: list[Action] = []
  if new != view.num_micro_batches:
    idle = [w.worker for w in view.workers if w.is_idle and new[w.worker]]
    probe = (
      f'{", ".join(idle[:3])} had no work for long and gets some, to see'
      ' whether it is still slow; '
      if idle
      else _slowest(view)
    )
    actions.append(
      AdjustBatch(
        new,
        f'{probe}{_changes(view, new)}; predicted step'
        f' {_seconds(view.step_s(view.num_micro_batches))} ->'
        f' {_seconds(view.step_s(new))}',
      )
    )
  actions += follow_lr(view, sum(counts))
  return actions or [Nothing('the counts in force are the best known')]
