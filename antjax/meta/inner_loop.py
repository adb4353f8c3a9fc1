# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""How a task adapts: the settings of an inner loop, and its learned rates."""

from collections.abc import Callable
import dataclasses
import math
from typing import Any, get_args, Literal

import jax.numpy as jnp

from antjax.layers import fast_weights

PyTree = Any

_PRESETS = ('all', 'mlp', 'decision', 'head')
# Parts of a network selected by adapt='decision'.
DECISION = frozenset({'decision', 'top', 'head'})
# More steps run as a loop, in the plain form, to keep the program short.
MAX_UNROLLED = 16
Rates = Literal['leaf', 'step', 'element']
Derivative = Literal['reverse', 'mixed']


@dataclasses.dataclass(frozen=True, kw_only=True)
class InnerLoop:
  """How a task adapts."""

  # Number of gradient steps on the support rows. 0: no adaptation.
  num_steps: int = 1
  # Inner learning rate; the initial value if rates are learned.
  learning_rate: float = 0.01
  # 2 differentiates through the inner steps, 1 treats their gradients as
  # constants (FOMAML).
  order: Literal[1, 2] = 2
  # Leaves that adapt. 'all' (MAML: every parameter and the embedding rows of
  # the task), 'mlp' (every parameter, no rows), 'decision' (MeLU: leaves under
  # a part named 'decision', 'top' or 'head'), 'head' (ANIL: leaves under a part
  # named 'head'), or a function of the leaf's name, e.g. `lambda name:
  # name.endswith('bias')`; rows are named 'rows/<feature>'.
  adapt: str | Callable[[str], bool] = 'mlp'
  # Whether inner rates are learned with the outer loop (Meta-SGD); see
  # `init_rates`.
  learn_rates: bool = False
  # Granularity of learned rates: one per 'leaf', per leaf and 'step' (MAML++),
  # or per 'element' of a leaf (Meta-SGD as published; the rows of a feature
  # share one). Kernels with one rate per element adapt as copies, because their
  # change does not have low rank.
  rates: Rates = 'leaf'
  # Weights of the query loss after each of the `num_steps` steps (MAML++). ():
  # only the last one.
  step_weights: tuple[float, ...] = ()
  # Mode in which order 2 differentiates an inner gradient: 'reverse' over
  # reverse, or 'mixed', forward over reverse, which uses the plain form (see
  # `maml.mixed_mode_grad`).
  derivative: Derivative = 'reverse'
  # Whether the backward pass recomputes each inner step, so that memory no
  # longer grows with the width of the model times `num_steps`.
  remat: bool = False
  map_size: int = 0  # Number of tasks that adapt at once. 0: all tasks.

  def __post_init__(self):
    for name in ('num_steps', 'map_size'):
      if getattr(self, name) < 0:
        raise ValueError(
          f'InnerLoop({name}={getattr(self, name)}): must not be negative.'
        )
    if self.order not in (1, 2):
      raise ValueError(
        f'InnerLoop(order={self.order}): use 1 (first order) or 2 (exact).'
      )
    if not self.learning_rate > 0:
      raise ValueError(
        f'InnerLoop(learning_rate={self.learning_rate}): must be positive;'
        ' num_steps=0 switches adaptation off.'
      )
    if isinstance(self.adapt, str) and self.adapt not in _PRESETS:
      raise ValueError(
        f'InnerLoop(adapt={self.adapt!r}): use one of {_PRESETS} or a'
        ' function of the name of a leaf.'
      )
    for name, kind in (('rates', Rates), ('derivative', Derivative)):
      if getattr(self, name) not in get_args(kind):
        raise ValueError(
          f'InnerLoop({name}={getattr(self, name)!r}): use one of'
          f' {get_args(kind)}.'
        )
    weights = self.step_weights
    if weights and (len(weights) != self.num_steps or not sum(weights) > 0):
      raise ValueError(
        f'InnerLoop(step_weights={weights}): one weight for each of the'
        f' {self.num_steps} steps is needed, and a positive sum.'
      )

  def adapts(self, name: str) -> bool:
    """Whether the leaf of this name adapts."""
    if callable(self.adapt):
      return bool(self.adapt(name))
    parts = name.split('/')
    if parts[0] == 'rows':
      return self.adapt == 'all'
    if self.adapt in ('all', 'mlp'):
      return True
    chosen = frozenset({'head'}) if self.adapt == 'head' else DECISION
    return not chosen.isdisjoint(parts)

  def adapted_names(self, params: PyTree) -> frozenset[str]:
    """Names of the leaves of `params` that adapt."""
    names = fast_weights.named_leaves(params)
    return frozenset(name for name in names if self.adapts(name))

  def require_adapted(self, params: PyTree) -> None:
    """Raises ValueError if no leaf of `params` adapts."""
    if not self.adapted_names(params):
      names = ', '.join(fast_weights.named_leaves(params))
      raise ValueError(
        f'InnerLoop(adapt={self.adapt!r}): no parameter is named so; there'
        f' are {names}. Pass a function of the name of a leaf.'
      )

  @property
  def needs_copies(self) -> bool:
    """Whether leaves adapt as copies even if pairs could represent them."""
    return (
      self.derivative == 'mixed'
      or (self.learn_rates and self.rates == 'element')
      or self.num_steps > MAX_UNROLLED
    )


def init_rates(
  params: PyTree, inner: InnerLoop, features: tuple[str, ...] = ()
) -> dict[str, PyTree]:
  """Outer parameters of a loop that learns its inner rates.

  Args:
    params: Parameters of the model.
    inner: Inner loop; `learning_rate` is the initial value of the rates.
    features: Features with adapted rows, each with its own rate.

  Returns:
    {'model': params, 'log_rates': {name of an adapted leaf: float32}}, with
    shape [], [num_steps] with `rates='step'`, or the leaf's shape with
    'element'. The logarithm is learned, so rates stay positive.
  """
  leaves = fast_weights.named_leaves(params)
  shapes: dict[str, tuple[int, ...]] = {
    name: leaves[name].shape if inner.rates == 'element' else ()
    for name in inner.adapted_names(params)
  }
  shapes |= {f'rows/{f}': () for f in features if inner.adapts(f'rows/{f}')}
  if inner.rates == 'step':
    shapes = dict.fromkeys(shapes, (inner.num_steps,))
  start = math.log(inner.learning_rate)
  # A separate buffer per rate: a donated state must not have one twice.
  log_rates = {
    name: jnp.full(shape, start, jnp.float32) for name, shape in shapes.items()
  }
  return {'model': params, 'log_rates': log_rates}
