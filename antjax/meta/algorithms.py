# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Meta-learning algorithms by name: presets of what the parts can do."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, get_args, Literal

import jax

from antjax.meta import meta_loss, phases
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
  """What a name stands for.

  Attributes:
    summary: a line for the user.
    inner: how a task adapts.
    outer: where the outer gradient comes from: the query after the inner steps
      ('query'), Reptile's pull on all rows ('pull'), or nowhere: 'none' leaves
      the references only.
    network: kind of network that belongs to it; '' for any.
    first_order_share: share of the outer steps to do in first order.
    multi_step_share: share of the outer steps until only the last inner step's
      loss counts.
  """

  summary: str
  inner: InnerLoop
  outer: Literal['query', 'pull', 'none'] = 'query'
  network: Literal['', 'cbml'] = ''
  first_order_share: float = 0.0
  multi_step_share: float = 0.0

  def phases(self, inner: InnerLoop, num_steps: int) -> list[phases.Phase]:
    """Returns the phases of training under `inner`, the preset or a change."""
    return phases.anneal(
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
    """Returns the outer loss under `inner`."""
    if self.outer == 'pull':
      return meta_loss.reptile_loss_fn(model, inner)
    return meta_loss.meta_loss_fn(model, inner)


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
