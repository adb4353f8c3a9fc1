# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which rule would have made most of the last minutes?

Slowness that lasts wants less work for the slow worker; slowness that is over
before anyone can act wants a deadline and counts that stay. Which of the two a
job has is not guessed from thresholds: each rule is played over the recorded
speeds of all workers, acting as late as a real decision does, and the best one
is followed. Equal parts are one of the rules, so that none is followed that
would have been worse.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Literal

import numpy as np

from antjax.elastic.view import ClusterView, WorkerView

Rule = Literal['equal', 'recent', 'usual', 'mean']

# Slices, or longer steps, between what a decision sees and what it acts on.
_LAG = 2
# Fewer of them say too little.
_MIN_SLICES = 6
# A rule must be better than a simpler one by this share: equal parts are the
# plainest, and no deadline is plainer than one.
_BETTER = 0.03
_BETTER_WITH_DEADLINE = 0.01
# A worker keeps a deadline that exceeds its predicted time by so many standard
# deviations of its noise, within bounds.
_DEVIATIONS = 3.0
_MIN_MARGIN, _MAX_MARGIN = 0.1, 1.0


@dataclasses.dataclass(frozen=True)
class Verdict:
  """The rule to follow."""

  # How counts are chosen: equal parts, by the speeds of now, by the usual ones
  # (medians), or by the mean ones.
  rule: Rule
  # Seconds of a micro-batch of each worker that the rule counts on; those of
  # 'recent' and 'equal' are the latest.
  s_per_micro_batch: Sequence[float]
  has_deadline: bool  # Whether a deadline would have won something.
  gain: float  # Micro-batches per second over those of equal parts.


def margin(worker: WorkerView) -> float:
  """Share by which a step of `worker` may take longer by its own noise."""
  return min(max(_DEVIATIONS * worker.noise, _MIN_MARGIN), _MAX_MARGIN)


def speeds(view: ClusterView) -> np.ndarray | None:
  """Seconds of a micro-batch, (slices, workers), oldest first.

  Where the newest steps reach as far as the slices, or those are too few, it is
  by steps: reports of long ones do not fall into the same slices. Where a
  worker made no step its speed before counts, or else its next one. None: of
  some worker nothing is known.
  """
  slices = np.array([worker.history for worker in view.workers], float)
  num = max([len(worker.newest) for worker in view.workers], default=0)
  steps = np.full((len(view.workers), num), np.nan)
  for at, worker in enumerate(view.workers):  # In lock step: the last is one.
    steps[at, num - len(worker.newest) :] = worker.newest
  each = slices[:, ~np.isnan(slices).all(axis=0)]
  reach = max([worker.moments.num for worker in view.workers])
  if num and (reach <= num or each.shape[1] < min(num, _MIN_SLICES)):
    each = steps
  if not each.size:
    return None
  for at, worker in enumerate(view.workers):
    if np.isnan(each[at]).all():  # It had no work for long.
      each[at] = np.nan if worker.s_per_sample is None else worker.s_per_sample
  known = ~np.isnan(each)
  if not known.any(axis=1).all():
    return None
  # Index of the newest known slice up to each one; before the first, that one.
  newest = np.where(known, np.arange(each.shape[1]), -1)
  newest = np.maximum.accumulate(newest, axis=1)
  newest = np.where(newest < 0, known.argmax(axis=1)[:, None], newest)
  sizes = [
    worker.samples_per_micro_batch or view.samples_per_micro_batch
    for worker in view.workers
  ]
  filled = np.take_along_axis(each, newest, axis=1) * np.array(sizes)[:, None]
  return np.maximum(filled.T, 1e-9)


def _rate(
  counts: np.ndarray,
  times: np.ndarray,
  exchange_s: float,
  deadline_s: np.ndarray | None,
) -> float:
  """Micro-batches per second, over slices of equal length."""
  made = counts
  if deadline_s is not None:
    # One that has begun is finished: half of one more on average.
    most = np.maximum(deadline_s[:, None] / times + 0.5, 1.0)
    made = np.minimum(counts, most)
  step_s = (made * times).max(axis=1) + exchange_s
  return float((made.sum(axis=1) / step_s).mean())


def best_rule(view: ClusterView, total: int) -> Verdict | None:
  """Plays the rules over the recorded speeds; None: too little is recorded.

  A step has `total` micro-batches.
  """
  times = speeds(view)
  if times is None or len(times) < _MIN_SLICES or not total:
    return None
  margins = np.array([margin(worker) for worker in view.workers])
  late, seen = times[_LAG:], times[:-_LAG]
  usual = np.median(times, axis=0)
  predicted: Mapping[Rule, np.ndarray] = {
    'equal': np.broadcast_to(usual, late.shape),
    'usual': np.broadcast_to(usual, late.shape),
    'mean': np.broadcast_to(times.mean(axis=0), late.shape),
    'recent': seen,
  }
  rates: dict[Rule, tuple[float, float]] = {}
  for rule, each in predicted.items():
    speed = np.ones_like(each) if rule == 'equal' else 1 / each
    counts = np.maximum(total * speed / speed.sum(axis=1, keepdims=True), 1.0)
    deadline_s = ((1 + margins) * (counts - 1) * each).max(axis=1)
    rates[rule] = (
      _rate(counts, late, view.exchange_s, None),
      _rate(counts, late, view.exchange_s, deadline_s),
    )
  best: Rule = max(rates, key=lambda rule: max(rates[rule]))
  if max(rates[best]) < (1 + _BETTER) * max(rates['equal']):
    best = 'equal'
  without, with_one = rates[best]
  needs_one = with_one > (1 + _BETTER_WITH_DEADLINE) * without
  return Verdict(
    best,
    [float(s) for s in predicted[best][-1]] if best != 'recent' else [],
    needs_one,
    max(rates[best]) / rates['equal'][0],
  )
