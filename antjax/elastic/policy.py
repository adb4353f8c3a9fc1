# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Policies for slow workers: pure functions from a view to actions.

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

from collections.abc import Callable, Mapping
import importlib
import inspect
import math

from antjax.elastic import allocation
from antjax.elastic import policy_parts as parts
from antjax.elastic.actions import (
  Action,
  BackupWorkers,
  Nothing,
)
from antjax.elastic.allocation import Cost, fit
from antjax.elastic.non_dedicated import antdt_nd
from antjax.elastic.view import ClusterView, WorkerView

Policy = Callable[[ClusterView], list[Action]]


def static(view: ClusterView) -> list[Action]:
  """BSP: everyone does the same; only keeps the sum when workers change."""
  if not view.workers:
    return [Nothing('no workers')]
  if sum(view.num_micro_batches.values()) == parts.whole(view):
    return parts.follow_lr(view, parts.whole(view)) or [
      Nothing('an equal split')
    ]
  return parts.adjust(view, parts.equal_counts(view))


def drop_slowest(view: ClusterView, quantile: float = 0.75) -> list[Action]:
  """Backup workers: a deadline at the time that a quantile of workers makes.

  The others stop there; records that they have not taken stay to be done. The
  expected global batch is smaller, and the learning rate follows.
  """
  if not view.workers:
    return [Nothing('no workers')]
  known = [s for w in view.workers if (s := view.s_per_micro_batch(w))]
  if len(known) < len(view.workers):
    return parts.unknown(view)
  times = [w.num_micro_batches * s for w, s in zip(view.workers, known)]
  rank = max(1, math.ceil(quantile * len(times)))
  # A tenth above: those who belong to the quantile are not to miss it by noise.
  deadline_s = 1.1 * sorted(times)[rank - 1]
  late = [w for w, t in zip(view.workers, times) if t > deadline_s]
  if not late:
    actions: list[Action] = []
    if view.deadline_s:
      actions.append(BackupWorkers(0.0, 'no worker is late any more'))
    actions += parts.follow_lr(view, sum(view.num_micro_batches.values()))
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
    *parts.follow_lr(view, made),
  ]


def lb_bsp(view: ClusterView) -> list[Action]:
  """Shares by the speed of the last step, as LB-BSP does."""
  if not view.workers:
    return [Nothing('no workers')]
  costs = [
    Cost(0.0, w.last_s_per_sample * (w.samples_per_micro_batch or 1.0))
    for w in view.workers
    if w.last_s_per_sample
  ]
  if len(costs) < len(view.workers):
    return parts.unknown(view)
  total = parts.whole(view)
  minima = [1 if len(costs) <= total else 0] * len(costs)
  return parts.adjust(
    view, allocation.greedy(total, costs, minima, parts.maxima(view))
  )


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
    return parts.unknown(view)
  return parts.adjust(view, parts.shortest_counts(view, known))


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
