# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The annealing of MAML++ (Antoniou et al. 2019) as phases of training.

A phase is an inner loop that holds for a range of outer steps. Each compiles
once, so that a first-order phase costs what first order costs, and a restart
finds its phase from the step alone.
"""

import dataclasses

from antjax.meta.maml import InnerLoop


@dataclasses.dataclass(frozen=True)
class Phase:
  """An inner loop, and the outer step that ends its use."""

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
  """Cuts training into the phases of its annealing.

  The query loss after each inner step counts at first alike; the weights of all
  but the last fall by equal amounts, `num_levels` times, to zero at
  `multi_step_until`. MAML++ lowers them a little each epoch.

  Args:
    inner: the loop of the last phase.
    num_steps: outer steps in all.
    second_order_from: outer steps to do in first order; 0: none.
    multi_step_until: outer step from which only the last loss counts; 0: from
      the start.
    num_levels: how many sets of weights come before.

  Returns:
    Phases by rising `until`; the last one ends at `num_steps`.

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
    level = sum(start >= end for end in levels)
    phases.append(
      Phase(
        end,
        dataclasses.replace(
          inner,
          order=1 if start < second_order_from else inner.order,
          step_weights=step_weights(inner.num_steps, level / num_levels)
          if level < num_levels
          else inner.step_weights,
        ),
      )
    )
  return phases


def step_weights(num_steps: int, progress: float) -> tuple[float, ...]:
  """Returns K weights of sum 1: all alike at progress 0, the last one at 1."""
  share = (1 - progress) / num_steps
  return (*(share for _ in range(num_steps - 1)), 1 - (num_steps - 1) * share)
