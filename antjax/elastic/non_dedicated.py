# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""AntDT-ND: mitigation of slow workers on shared hosts.

Slow for long: a new host, where that pays. Slow now, and for longer than a
decision takes: less work. Bursts: a deadline. Which of the last two is left to
`hindsight`. What is risked is bounded by what was won so far over equal parts,
and a small share of the job, so that no pattern makes it much slower than them.
"""

from collections.abc import Sequence
import dataclasses
import math

from antjax.elastic import hindsight
from antjax.elastic import policy_parts as parts
from antjax.elastic.actions import Action, BackupWorkers, KillRestart, Nothing
from antjax.elastic.allocation import Cost
from antjax.elastic.view import ClusterView, WorkerView

# Share of a job that may be lost to unequal parts, seconds until they can be
# taken back, and how much is counted on of what they win in these.
_SHARE, _LAG_S, _COUNTED_ON = 0.03, 20.0, 0.3


def _room_s(view: ClusterView, more_s: float = 0.0) -> float:
  """Seconds that may be risked, in a job with `more_s` to come."""
  if view.won_s is None:
    return math.inf
  return view.won_s + _SHARE * (view.elapsed_s + more_s)


def _is_too_risky(
  view: ClusterView, costs: Sequence[Cost], counts: Sequence[int]
) -> bool:
  """Whether too much is lost where all are well from now on.

  Those that are slow by their device kind stay so.
  """
  if list(counts) == list(view.num_micro_batches.values()):
    return _room_s(view) < 0  # They were worth it.
  best = min(costs, key=lambda cost: cost.beta_s)
  well = [
    cost if worker.state == 'deterministic' else best
    for worker, cost in zip(view.workers, costs)
  ]

  def won_s(costs: Sequence[Cost]) -> float:
    equal_s, new_s = (
      parts.longest(costs, each) + view.exchange_s
      for each in (parts.equal_counts(view), counts)
    )
    return _LAG_S * (equal_s / new_s - 1)

  lost_s = -won_s(well)
  return lost_s > _room_s(view) + _COUNTED_ON * max(0.0, won_s(costs))


def _lasting(view: ClusterView, worker: WorkerView, cost: Cost) -> Cost:
  """The cost to expect for long: a burst of now is none."""
  if not worker.is_measured or not worker.long_s_per_sample:
    return cost
  size = worker.samples_per_micro_batch or view.samples_per_micro_batch
  return Cost(0.0, min(cost.beta_s, max(1e-9, worker.long_s_per_sample * size)))


def _restart(
  view: ClusterView,
  costs: Sequence[Cost],
  max_pending_s: float,
  horizon_s: float,
) -> list[Action]:
  """KILL_RESTART of the persistently slow, when it pays; else nothing.

  The alternative is not to bear the slow worker but to give it less work: what
  a restart wins is measured against that. Its part of the exchange stays slow.
  """
  costs = [_lasting(view, *pair) for pair in zip(view.workers, costs)]
  slow = [at for at, w in enumerate(view.workers) if w.state == 'persistent']
  slow.sort(key=lambda at: -view.workers[at].short_slowness)
  if not slow or view.restarts_left < 1 or view.pending_s > max_pending_s:
    return []

  def shortest_s(costs: Sequence[Cost]) -> float:
    return parts.longest(costs, parts.shortest_counts(view, costs))

  now_s = shortest_s(costs) + view.exchange_s
  if view.remaining_samples is None:
    remaining_s = horizon_s
  else:
    step = parts.whole(view) * view.samples_per_micro_batch
    remaining_s = view.remaining_samples / step * now_s
  others = max(
    [1.0, *(w.short_slowness for w in view.workers if w.state != 'persistent')]
  )
  cured = list(costs)
  best: tuple[float, int] = (0.0, 0)
  for num, at in enumerate(slow, 1):
    worker = view.workers[at]
    slowness = min(worker.short_slowness, worker.long_slowness)
    beta = costs[at].beta_s / max(1.0, slowness)
    cured[at] = Cost(0.0, beta)
    if num > 8 and num & (num - 1) and num < len(slow):
      continue  # With very many, not every number is tried.
    left = [
      others,
      *(view.workers[i].short_slowness for i in slow[num : num + 1]),
    ]
    cured_s = shortest_s(cured) + view.exchange_s_at(max(left))
    gain_s = remaining_s * (1 - cured_s / now_s)
    # One restart replaces any number of hosts: the rest is worth a surplus.
    if gain_s > best[0] * 1.01:
      best = gain_s, num
  gain_s, num = best
  cost_s = view.restart_cost_s
  # The cost may be a default, and the new host no better.
  if gain_s <= cost_s or 2 * cost_s > _room_s(view, remaining_s):
    return []
  return [
    KillRestart(
      view.workers[at].worker,
      f'{view.workers[at].worker} has been'
      f' {view.workers[at].long_slowness:.1f}x slower than the median for'
      f' long; a new host saves {gain_s:.0f} s of the remaining'
      f' {remaining_s:.0f} s, beyond what less work for it saves, and a restart'
      f' costs {cost_s:.0f} s',
    )
    for at in slow[:num]
  ]


def antdt_nd(
  view: ClusterView, max_pending_s: float = 300.0, horizon_s: float = 3600.0
) -> list[Action]:
  """AntDT-ND: less work for stragglers, a deadline for bursts, or new hosts.

  There is no restart where hosts have lately waited for longer than
  `max_pending_s` to be placed. Where the remaining time is unknown it is taken
  to be `horizon_s`.
  """
  if not view.workers:
    return [Nothing('no workers')]
  costs = parts.costs(view)
  if costs is None:
    return parts.unknown(view)
  restart = _restart(view, costs, max_pending_s, horizon_s)
  if restart:
    return restart
  verdict = hindsight.best_rule(view, parts.whole(view))
  if verdict is None:
    is_well = all(w.state == 'normal' for w in view.workers)
    rule: hindsight.Rule = (
      'equal' if is_well and not _is_uneven(view) else 'recent'
    )
    verdict = hindsight.Verdict(rule, (), False, 1.0)
  if verdict.s_per_micro_batch:
    costs = [Cost(0.0, s) for s in verdict.s_per_micro_batch]
  new = parts.equal_counts(view)
  if verdict.rule != 'equal':
    best = parts.shortest_counts(view, costs)
    if _is_too_risky(view, costs, best):
      verdict = dataclasses.replace(verdict, rule='equal')
    else:
      new = best
  done = [*parts.adjust(view, new), *_deadline(view, costs, new, verdict)]
  return [a for a in done if not isinstance(a, Nothing)] or done


def _is_uneven(view: ClusterView) -> bool:
  return list(view.num_micro_batches.values()) != parts.equal_counts(view)


def _deadline(
  view: ClusterView,
  costs: Sequence[Cost],
  counts: Sequence[int],
  verdict: hindsight.Verdict,
) -> list[Action]:
  """BACKUP_WORKERS against slowness that is over before counts can follow."""
  if not verdict.has_deadline or _room_s(view) < 0:
    if not view.deadline_s:
      return []
    return [BackupWorkers(0.0, 'a deadline would have won nothing lately')]
  # What has begun by then is finished: nobody who is well begins later.
  begins = [c.beta_s * max(0, n - 1) for c, n in zip(costs, counts)]
  margins = [hindsight.margin(worker) for worker in view.workers]
  tight, new, wide = (
    max(s * (1 + part * m) for s, m in zip(begins, margins))
    for part in (0.5, 1.0, 2.0)
  )
  if tight <= view.deadline_s <= wide:
    return []
  return [
    BackupWorkers(
      new,
      f'bursts of slowness: with {verdict.rule} parts, and no micro-batch begun'
      f' after {new:.3g} s, {verdict.gain:.2f}x the work of equal parts would'
      ' have been done lately',
    )
  ]
