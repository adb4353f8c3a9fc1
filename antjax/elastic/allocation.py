# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Divides the work of a step so that all workers finish together.

Pure functions on counts and costs. Every worker computes alone and one exchange
ends the step, so a step takes as long as its slowest worker. A micro-batch is a
compiled shape: only counts are free. Two forms:

  proportional  shares by speed, rounded by largest remainder; what is clamped
                goes to the others.
  greedy        one micro-batch at a time to whoever would finish it first.
                Optimal.

The derivations are ours: docs/design/antdt_policies.md.
"""

from collections.abc import Sequence
import dataclasses
import heapq
import itertools
import math

from antjax.elastic.view import StepMoments


@dataclasses.dataclass(frozen=True)
class Cost:
  """Seconds of x units of work: alpha_s + beta_s * x."""

  alpha_s: float  # Fixed.
  beta_s: float  # Per unit.

  def __post_init__(self) -> None:
    if not (
      0 <= self.alpha_s < math.inf
      and 0 <= self.beta_s < math.inf
      and self.alpha_s + self.beta_s > 0
    ):
      raise ValueError(
        f'Cost: alpha_s={self.alpha_s} and beta_s={self.beta_s} must be finite,'
        ' not negative and not both zero'
      )

  def __call__(self, x: float) -> float:
    return self.alpha_s + self.beta_s * x if x else 0.0


def fit(moments: StepMoments) -> Cost | None:
  """Least-squares line of busy seconds over work; None: no steps.

  Where all steps did the same amount of work nothing tells fixed from
  proportional time, and all counts as proportional. Negative parts are put at
  zero and the line is fitted again without them.
  """
  if moments.num == 0 or moments.x <= 0 or moments.t <= 0:
    return None
  through_zero = Cost(0.0, moments.xt / moments.xx)
  # num^2 times the variance of the work.
  spread = moments.num * moments.xx - moments.x**2
  if spread <= 1e-9 * moments.x**2:
    return through_zero
  beta = (moments.num * moments.xt - moments.x * moments.t) / spread
  alpha = (moments.t - beta * moments.x) / moments.num
  if alpha < 0:
    return through_zero
  if beta < 0:
    return Cost(moments.t / moments.num, 0.0)
  return Cost(alpha, beta)


def _check_bounds(
  call: str,
  total: int,
  num_workers: int,
  minima: Sequence[int],
  maxima: Sequence[int | None],
) -> None:
  if total < 0 or num_workers == 0:
    raise ValueError(
      f'{call}: {total} units for {num_workers} workers; the units must not be'
      ' negative and there must be a worker'
    )
  if not num_workers == len(minima) == len(maxima):
    raise ValueError(
      f'{call}: {num_workers} workers, {len(minima)} minima and {len(maxima)}'
      ' maxima; their numbers must be equal'
    )
  for at, (low, high) in enumerate(zip(minima, maxima)):
    if low < 0 or (high is not None and high < low):
      raise ValueError(
        f'{call}: worker {at} has minimum {low} and maximum {high}; needed is'
        ' 0 <= minimum <= maximum'
      )


def proportional(
  total: int,
  speeds: Sequence[float],
  minima: Sequence[int],
  maxima: Sequence[int | None],
) -> list[int]:
  """Shares `total` units by speed, rounded by largest remainder.

  Workers outside their bounds are clamped, and the others share the remainder.
  O(n^2) at worst.

  Args:
    total: Number of units.
    speeds: Speeds of the workers, > 0, in any unit.
    minima: Smallest number of units of each worker.
    maxima: Largest number of units of each worker; None: no limit.

  Returns:
    Units of each worker. Their sum is `total` where the bounds allow it, else
    the sum of the bounds that do not.

  Raises:
    ValueError: Numbers differ, a bound is wrong or a speed is not > 0.
  """
  _check_bounds('proportional', total, len(speeds), minima, maxima)
  for at, speed in enumerate(speeds):
    if not 0 < speed < math.inf:
      raise ValueError(
        f'proportional: worker {at} has speed {speed}; it must be > 0'
      )
  tops = [total if top is None else min(top, total) for top in maxima]
  tops = [max(low, top) for low, top in zip(minima, tops)]
  if sum(minima) >= total:
    return list(minima)
  if sum(tops) <= total:
    return tops
  # Fix first the side whose clamps move more work: by then the others' shares
  # can only move away from the bounds of the other side.
  fixed: dict[int, int] = {}
  while True:
    free = [at for at in range(len(speeds)) if at not in fixed]
    left = total - sum(fixed.values())
    speed = sum(speeds[at] for at in free)
    share = {at: left * speeds[at] / speed for at in free}
    above = {at: tops[at] for at in free if share[at] > tops[at]}
    below = {at: minima[at] for at in free if share[at] < minima[at]}
    excess = sum(share[at] - tops[at] for at in above)
    lack = sum(minima[at] - share[at] for at in below)
    if not above and not below:
      break
    fixed.update(above if excess >= lack else below)
  counts = {at: math.floor(share[at]) for at in free}
  rest = left - sum(counts.values())
  by_remainder = sorted(free, key=lambda at: (counts[at] - share[at], at))
  for at in itertools.islice(itertools.cycle(by_remainder), len(free) * 2):
    if rest == 0:
      break
    if counts[at] < tops[at]:
      counts[at] += 1
      rest -= 1
  assert rest == 0, (total, speeds, minima, maxima)
  return [(fixed | counts)[at] for at in range(len(speeds))]


def greedy(
  total: int,
  costs: Sequence[Cost],
  minima: Sequence[int],
  maxima: Sequence[int | None],
) -> list[int]:
  """Shares `total` micro-batches so that the last worker ends soonest.

  Each goes to the worker that would end it first, from a heap:
  O(total * log n). Optimal, because a worker's time grows with its count: were
  there a better sharing, some worker would have fewer than here, and its last
  one here was given when none ended sooner.

  Args:
    total: Number of micro-batches.
    costs: Seconds of a step over micro-batches, of each worker.
    minima: Smallest number of each worker.
    maxima: Largest number of each worker; None: no limit.

  Returns:
    Micro-batches of each worker. Their sum is `total` where the bounds allow
    it, else the sum of the bounds that do not.

  Raises:
    ValueError: Numbers differ or a bound is wrong.
  """
  _check_bounds('greedy', total, len(costs), minima, maxima)
  counts = list(minima)

  def has_room(at: int) -> bool:
    top = maxima[at]
    return top is None or counts[at] < top

  heap = [
    (cost(counts[at] + 1), at) for at, cost in enumerate(costs) if has_room(at)
  ]
  heapq.heapify(heap)
  for _ in range(total - sum(counts)):
    if not heap:
      break
    at = heap[0][1]
    counts[at] += 1
    if has_room(at):
      heapq.heapreplace(heap, (costs[at](counts[at] + 1), at))
    else:
      heapq.heappop(heap)
  return counts
