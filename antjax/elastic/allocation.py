# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Divides the work of a step so that all workers finish together.

Pure functions on counts and costs. Every worker computes alone and one exchange
ends the step, so a step takes as long as its slowest worker. A micro-batch is a
compiled shape: only counts are free.

The derivations are ours: docs/design/antdt_policies.md.
"""

from collections.abc import Sequence
import dataclasses
import heapq
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
  if total < 0 or not 0 < len(costs) == len(minima) == len(maxima):
    raise ValueError(
      f'greedy: {total} units for {len(costs)} workers, {len(minima)} minima'
      f' and {len(maxima)} maxima; the units must not be negative, there must'
      ' be a worker, and one of each for all'
    )
  for at, (low, high) in enumerate(zip(minima, maxima)):
    if low < 0 or (high is not None and high < low):
      raise ValueError(
        f'greedy: worker {at} has minimum {low} and maximum {high}; needed is'
        ' 0 <= minimum <= maximum'
      )
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
