# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Meta-learning algorithms by name, as presets of settings."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, get_args, Literal

import jax

from antjax.meta import meta_loss
from antjax.meta.maml import InnerLoop

Name = Literal[
  'default',
  'maml',
  'fomaml',
  'maml++',
  'meta_sgd',
  'anil',
  'melu',
  'reptile',
  'cbml',
  'joint',
  'per_task',
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Algorithm:
  """Settings of a named algorithm."""

  summary: str  # One-line help text.
  inner: InnerLoop  # How a task adapts.
  # Source of the outer gradient: the query after the inner steps ('query'),
  # Reptile's pull on all rows ('pull'), or 'none', for baselines without meta-
  # learning.
  outer: Literal['query', 'pull', 'none'] = 'query'
  network: Literal['', 'cbml'] = ''  # Required kind of network; '': any.
  # Share of the outer steps to run in first order.
  first_order_share: float = 0.0
  # Share of the outer steps after which only the last inner step's loss counts.
  multi_step_share: float = 0.0

  def phases(self, inner: InnerLoop, num_steps: int) -> list['Phase']:
    """Phases of training with `inner`, which may differ from the preset."""
    return anneal(
      inner,
      num_steps,
      second_order_from=round(self.first_order_share * num_steps),
      multi_step_until=(
        round(self.multi_step_share * num_steps) if inner.num_steps > 1 else 0
      ),
    )

  def loss_fn(
    self, model: meta_loss.TaskModel, inner: InnerLoop
  ) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """The outer loss with `inner`."""
    if self.outer == 'pull':
      return meta_loss.reptile_loss_fn(model, inner)
    return meta_loss.meta_loss_fn(model, inner)


@dataclasses.dataclass(frozen=True)
class Phase:
  """An inner loop, and the outer step at which its use ends.

  Each phase is compiled separately, so a first-order phase has the cost of
  first order, and a restart finds its phase from the step alone.
  """

  until: int
  inner: InnerLoop


def anneal(
  inner: InnerLoop,
  num_steps: int,
  *,
  second_order_from: int = 0,
  multi_step_until: int = 0,
  num_levels: int = 4,
) -> list[Phase]:
  """Phases of training: the annealing of Antoniou et al. 2019 (MAML++).

  At first the query losses after all inner steps have equal weights. Those of
  all but the last fall by equal amounts, `num_levels` times, to zero at
  `multi_step_until`. MAML++ lowers them slightly in each epoch.

  Args:
    inner: Loop of the last phase.
    num_steps: Total number of outer steps.
    second_order_from: Number of outer steps to run in first order; 0: none.
    multi_step_until: Outer step from which only the last loss counts; 0: from
      the start.
    num_levels: Number of sets of weights before that step.

  Returns:
    Phases by ascending `until`; the last one ends at `num_steps`.

  Raises:
    ValueError: A count is negative, or `num_steps` or `num_levels` is not
      positive.
  """
  if (
    min(second_order_from, multi_step_until) < 0
    or min(num_steps, num_levels) < 1
  ):
    raise ValueError(
      f'anneal(num_steps={num_steps}, second_order_from={second_order_from},'
      f' multi_step_until={multi_step_until}, num_levels={num_levels}): steps'
      ' must not be negative, and there must be at least one step and level.'
    )
  levels = [
    multi_step_until * level // num_levels for level in range(1, num_levels + 1)
  ]
  ends = {*levels, second_order_from, num_steps}
  starts = sorted({0, *(end for end in ends if 0 < end < num_steps)})
  phases = []
  for start, end in zip(starts, [*starts[1:], num_steps], strict=True):
    changes: dict[str, Any] = {}
    if start < second_order_from:
      changes['order'] = 1
    level = sum(start >= level_end for level_end in levels)
    if level < num_levels:
      progress = level / num_levels
      changes['step_weights'] = step_weights(inner.num_steps, progress)
    phases.append(Phase(end, dataclasses.replace(inner, **changes)))
  return phases


def step_weights(num_steps: int, progress: float) -> tuple[float, ...]:
  """K weights of sum 1: equal at progress 0, only the last one at 1."""
  share = (1 - progress) / num_steps
  return (*(share for _ in range(num_steps - 1)), 1 - (num_steps - 1) * share)


def _inner(**options: Any) -> InnerLoop:
  return InnerLoop(**{'learning_rate': 0.1, 'num_steps': 1} | options)


ALGORITHMS: Mapping[Name, Algorithm] = {
  'default': Algorithm(
    summary='decision layers, a learned rate a leaf, second order',
    inner=_inner(adapt='decision', learn_rates=True),
  ),
  'maml': Algorithm(
    summary='all leaves and rows, second order (Finn et al. 2017)',
    inner=_inner(adapt='all'),
  ),
  'fomaml': Algorithm(
    summary='maml in first order',
    inner=_inner(adapt='all', order=1),
  ),
  'maml++': Algorithm(
    summary='maml in 3 steps: losses of all steps, a learned rate a leaf and'
    ' step, first order at first (Antoniou et al. 2019)',
    inner=_inner(adapt='all', num_steps=3, learn_rates=True, rates='step'),
    first_order_share=0.3,
    multi_step_share=0.5,
  ),
  'meta_sgd': Algorithm(
    summary='maml with a learned rate an element (Li et al. 2017)',
    inner=_inner(adapt='all', learn_rates=True, rates='element'),
  ),
  'anil': Algorithm(
    summary='only the head adapts (Raghu et al. 2020)',
    inner=_inner(adapt='head'),
  ),
  'melu': Algorithm(
    summary='only the decision layers adapt (Lee et al. 2019)',
    inner=_inner(adapt='decision'),
  ),
  'reptile': Algorithm(
    summary='moves towards what tasks adapt to in 5 steps (Nichol et al. 2018)',
    inner=_inner(adapt='all', num_steps=5, order=1),
    outer='pull',
  ),
  'cbml': Algorithm(
    summary='melu whose layers are gated by soft clusters of tasks (after Song'
    ' et al. 2021)',
    inner=_inner(adapt='decision'),
    network='cbml',
  ),
  'joint': Algorithm(
    summary='no meta-learning: one model for all, with and without fine-tuning',
    inner=_inner(num_steps=0),
    outer='none',
  ),
  'per_task': Algorithm(
    summary='no meta-learning: each task trains a new model on its support',
    inner=_inner(num_steps=0),
    outer='none',
  ),
}
assert tuple(ALGORITHMS) == get_args(Name)


HELP = '\n'.join(f'{name}: {a.summary}.' for name, a in ALGORITHMS.items())
