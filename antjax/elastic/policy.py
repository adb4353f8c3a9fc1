# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What to do about slow workers: pure functions from a view to actions.

  static        an equal split (BSP).
  drop_slowest  a deadline that the slowest workers miss (backup workers).
  lb_bsp        shares by the speed of the last step (LB-BSP's idea).
  antdt_nd      non-dedicated clusters: slow now -> less work; slow for long ->
                a new host, when that pays.
  antdt_dd      dedicated clusters of unlike hardware: the shortest step.

A user's own is any function of the same kind: `package.module:function`.
All but drop_slowest keep the sum of micro-batches of a step; where limits or a
deadline do not let them, the learning rate follows by the linear rule.
"""

from collections.abc import Callable, Mapping, Sequence
import importlib
import inspect
import math

from antjax.elastic import allocation
from antjax.elastic.actions import (
  Action,
  AdjustBatch,
  AdjustLR,
  BackupWorkers,
  KillRestart,
  Nothing,
)
from antjax.elastic.allocation import Cost, fit
from antjax.elastic.view import ClusterView, WorkerView

# An equal split that costs no more than this is preferred: it is the plain one.
_EQUAL_IS_FINE = 0.03

Policy = Callable[[ClusterView], list[Action]]


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


def _total(view: ClusterView) -> int:
  return view.global_micro_batches or sum(view.num_micro_batches.values())


def _maxima(view: ClusterView) -> list[int | None]:
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
  return minima if sum(minima) <= _total(view) else [0] * len(minima)


def _costs(view: ClusterView) -> list[Cost] | None:
  """Time by micro-batches at today's speeds; None: one is unknown."""
  each = [view.s_per_micro_batch(worker) for worker in view.workers]
  known = [Cost(0.0, s) for s in each if s is not None]
  return known if len(known) == len(each) else None


def _unknown(view: ClusterView) -> list[Action]:
  names = [w.worker for w in view.workers if w.s_per_sample is None]
  return [
    Nothing(
      f'waiting for the first steps of {len(names)} of'
      f' {len(view.workers)} workers'
    )
  ]


def _longest(costs: Sequence[Cost], counts: Sequence[int]) -> float:
  return max(cost(count) for cost, count in zip(costs, counts))


def _equal(view: ClusterView) -> list[int]:
  alike = [Cost(0.0, 1.0)] * len(view.workers)
  return allocation.greedy(_total(view), alike, [0] * len(alike), _maxima(view))


def _shortest(view: ClusterView, costs: Sequence[Cost]) -> list[int]:
  """Counts of the shortest step; equal ones where they are about as good."""
  best = allocation.greedy(_total(view), costs, _minima(view), _maxima(view))
  equal = _equal(view)
  is_fine = sum(equal) == sum(best) and _longest(costs, equal) <= (
    1 + _EQUAL_IS_FINE
  ) * _longest(costs, best)
  return equal if is_fine else best


def _follow_lr(view: ClusterView, num_micro_batches: float) -> list[Action]:
  """The linear rule: the learning rate goes with the global batch."""
  total = _total(view)
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


def _adjust(view: ClusterView, counts: Sequence[int]) -> list[Action]:
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
  actions += _follow_lr(view, sum(counts))
  return actions or [Nothing('the counts in force are the best known')]


def static(view: ClusterView) -> list[Action]:
  """BSP: everyone does the same; only keeps the sum when workers change."""
  if not view.workers:
    return [Nothing('no workers')]
  if sum(view.num_micro_batches.values()) == _total(view):
    return _follow_lr(view, _total(view)) or [Nothing('an equal split')]
  return _adjust(view, _equal(view))


def drop_slowest(view: ClusterView, quantile: float = 0.75) -> list[Action]:
  """Backup workers: a deadline at the time that a quantile of workers makes.

  The others stop there; records that they have not taken stay to be done. The
  expected global batch is smaller, and the learning rate follows.
  """
  if not view.workers:
    return [Nothing('no workers')]
  known = [s for w in view.workers if (s := view.s_per_micro_batch(w))]
  if len(known) < len(view.workers):
    return _unknown(view)
  times = [w.num_micro_batches * s for w, s in zip(view.workers, known)]
  rank = max(1, math.ceil(quantile * len(times)))
  # A tenth above: those who belong to the quantile are not to miss it by noise.
  deadline_s = 1.1 * sorted(times)[rank - 1]
  late = [w for w, t in zip(view.workers, times) if t > deadline_s]
  if not late:
    actions: list[Action] = []
    if view.deadline_s:
      actions.append(BackupWorkers(0.0, 'no worker is late any more'))
    actions += _follow_lr(view, sum(view.num_micro_batches.values()))
    return actions or [Nothing('no worker is late')]
  made = sum(
    min(w.num_micro_batches, max(1, math.ceil(deadline_s / s)))
    for w, s in zip(view.workers, known)
  )
  return [
    BackupWorkers(
      deadline_s,
      f'{len(late)} of {len(times)} workers, {late[0].worker} among them, would'
      f' take up to {max(times):.3g} s a step; the others take at most'
      f' {deadline_s / 1.1:.3g} s',
    ),
    *_follow_lr(view, made),
  ]


def lb_bsp(view: ClusterView) -> list[Action]:
  """Shares in proportion to the speed of the last step, as LB-BSP does."""
  if not view.workers:
    return [Nothing('no workers')]
  speeds = [
    1 / (w.last_s_per_sample * (w.samples_per_micro_batch or 1.0))
    for w in view.workers
    if w.last_s_per_sample
  ]
  if len(speeds) < len(view.workers):
    return _unknown(view)
  total = _total(view)
  minima = [1 if len(speeds) <= total else 0] * len(speeds)
  return _adjust(
    view, allocation.proportional(total, speeds, minima, _maxima(view))
  )


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
  slow = [at for at, w in enumerate(view.workers) if w.state == 'persistent']
  slow.sort(key=lambda at: -view.workers[at].short_slowness)
  if not slow or view.restarts_left < 1 or view.pending_s > max_pending_s:
    return []

  def shortest_s(costs: Sequence[Cost]) -> float:
    return _longest(costs, _shortest(view, costs))

  now_s = shortest_s(costs) + view.exchange_s
  if view.remaining_samples is None:
    remaining_s = horizon_s
  else:
    step = _total(view) * view.samples_per_micro_batch
    remaining_s = view.remaining_samples / step * now_s
  others = max(
    [1.0, *(w.short_slowness for w in view.workers if w.state != 'persistent')]
  )
  cured = list(costs)
  best: tuple[float, int] = (0.0, 0)
  for num, at in enumerate(slow, 1):
    beta = costs[at].beta_s / view.workers[at].short_slowness
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
  if gain_s <= view.restart_cost_s:
    return []
  return [
    KillRestart(
      view.workers[at].worker,
      f'{view.workers[at].worker} has been'
      f' {view.workers[at].long_slowness:.1f}x slower than the median for'
      f' long; a new host saves {gain_s:.0f} s of the remaining'
      f' {remaining_s:.0f} s, beyond what less work for it saves, and a restart'
      f' costs {view.restart_cost_s:.0f} s',
    )
    for at in slow[:num]
  ]


def antdt_nd(
  view: ClusterView, max_pending_s: float = 300.0, horizon_s: float = 3600.0
) -> list[Action]:
  """AntDT-ND: less work for transient stragglers, new hosts for the others.

  Args:
    view: View of the job.
    max_pending_s: No restart where hosts have lately waited longer than this
      to be placed.
    horizon_s: Remaining time to assume where it is unknown.
  """
  if not view.workers:
    return [Nothing('no workers')]
  costs = _costs(view)
  if costs is None:
    return _unknown(view)
  restart = _restart(view, costs, max_pending_s, horizon_s)
  if restart:
    return restart
  counts = view.num_micro_batches.values()
  if (
    all(w.state == 'normal' for w in view.workers)
    and sum(counts) == _total(view)
    and list(counts) == _equal(view)
  ):
    return _follow_lr(view, sum(counts)) or [Nothing('no worker is slow')]
  return _adjust(view, _shortest(view, costs))


def _line(view: ClusterView, worker: WorkerView) -> Cost | None:
  """Time of a step by micro-batches, fitted while it explains today's speed."""
  each = view.s_per_micro_batch(worker)
  if each is None:
    return None
  plain = Cost(0.0, each)
  fitted = fit(worker.moments) if worker.is_measured else None
  if fitted is None:
    return plain
  usual = worker.moments.x / worker.moments.num
  # A speed that changed together with the counts looks like a fixed time.
  is_sound = abs(fitted(usual) - plain(usual)) <= 0.1 * plain(
    usual
  ) and fitted.alpha_s <= 0.5 * plain(usual)
  return fitted if is_sound else plain


def antdt_dd(view: ClusterView) -> list[Action]:
  """AntDT-DD, micro-batch fixed: counts of the shortest step by fitted times.

  A compiled micro-batch has one shape, so that of the paper's two free numbers,
  batch size and count, the count is left. A worker that has not been measured
  is taken to be like others of its device kind.
  """
  if not view.workers:
    return [Nothing('no workers')]
  lines = [_line(view, worker) for worker in view.workers]
  known = [line for line in lines if line is not None]
  if len(known) < len(lines):
    return _unknown(view)
  return _adjust(view, _shortest(view, known))


BUILT_IN: Mapping[str, Policy] = {
  one.__name__: one
  for one in (static, drop_slowest, lb_bsp, antdt_nd, antdt_dd)
}


def resolve(name: str) -> Policy:
  """Returns a policy by its name, or a user's by `package.module:function`.

  Raises:
    ValueError: There is no such policy.
  """
  if name in BUILT_IN:
    return BUILT_IN[name]
  path, colon, function = name.partition(':')
  if not (colon and path and function.isidentifier()):
    raise ValueError(
      f'policy={name!r} is none of {", ".join(BUILT_IN)}; a policy of your own'
      ' is named package.module:function'
    )
  try:
    module = importlib.import_module(path)
  except ImportError as error:
    raise ValueError(
      f'policy={name!r}: cannot import {path!r} ({error}); it must be on the'
      " coordinator's PYTHONPATH"
    ) from error
  found = getattr(module, function, None)
  if not callable(found):
    what = 'is not a function' if hasattr(module, function) else 'is not there'
  elif not _takes_one(found):
    what = 'cannot be called with one argument'
  else:
    return found
  raise ValueError(
    f'policy={name!r}: {function!r} {what} in {path} ({module.__file__});'
    ' needed is a function of a ClusterView that returns a list of actions'
  )


def _takes_one(function: Callable[..., object]) -> bool:
  try:
    inspect.signature(function).bind(None)
  except (TypeError, ValueError) as error:
    return isinstance(error, ValueError)  # Some of C do not say what they take.
  return True
