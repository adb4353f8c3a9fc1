# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""MAML: adapt to a task on its support rows, learn from its query rows.

Sources: Finn et al. 2017 (MAML), Raghu et al. 2020 (ANIL), Lee et al. 2019
(MeLU), Li et al. 2017 (Meta-SGD, the learned rates), Antoniou et al. 2019
(MAML++: a rate a step, weighted losses of all steps, order annealing), Nichol
et al. 2018 (Reptile). The row buffer that support and query share is described
in docs/design/gmeta.md.

Two forms compute the same: the plain form takes any loss over any pytree; the
low-rank form (`antjax.layers.fast_weights`) takes Flax NNX modules and is
faster. The plain form is what the tests hold the other one against.
"""

from collections.abc import Callable, Mapping
import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from antjax.layers import fast_weights
from antjax.meta import adaptation

PyTree = Any

_PRESETS = ('all', 'mlp', 'decision', 'head')
# Parts of a network that adapt='decision' means.
DECISION = frozenset({'decision', 'top', 'head'})
# More steps run as a loop, in the plain form: a program of each would be long.
MAX_UNROLLED = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class InnerLoop:
  """How a task adapts.

  Attributes:
    num_steps: gradient steps on the support rows; 0 adapts nothing.
    learning_rate: rate of an inner step; the initial one if rates are learned.
    order: 2 differentiates through the inner steps, 1 takes their gradients
      for constants (FOMAML).
    adapt: which leaves adapt. 'all' (MAML: every parameter and the embedding
      rows of the task), 'mlp' (every parameter, no rows), 'decision' (MeLU:
      leaves under a part named 'decision', 'top' or 'head'), 'head' (ANIL:
      leaves under a part named 'head'), or a function of the leaf's name, e.g.
      `lambda name: name.endswith('bias')`; rows are named 'rows/<feature>'.
    learn_rates: True learns the inner rates with the outer loop (Meta-SGD); see
      `init_rates`.
    rates: what has a learned rate of its own: each 'leaf', each leaf at each
      'step' (MAML++), or each 'element' of a leaf (Meta-SGD as published; the
      rows of a feature share one). Kernels with a rate an element adapt as
      copies: their change has no low rank.
    step_weights: weights of the query loss after each of the `num_steps` steps
      (MAML++); () counts the last one only.
    derivative: how order 2 differentiates an inner gradient: 'reverse' over
      reverse, or 'mixed', forward over reverse, which uses the plain form (see
      `antjax.meta.inner_gradient`).
    remat: recompute each inner step in the backward pass, so that memory no
      longer grows with the width of the model times `num_steps`.
    map_size: number of tasks that adapt at once; 0 takes all of them.
  """

  num_steps: int = 1
  learning_rate: float = 0.01
  order: Literal[1, 2] = 2
  adapt: str | Callable[[str], bool] = 'mlp'
  learn_rates: bool = False
  rates: Literal['leaf', 'step', 'element'] = 'leaf'
  step_weights: tuple[float, ...] = ()
  derivative: Literal['reverse', 'mixed'] = 'reverse'
  remat: bool = False
  map_size: int = 0

  def __post_init__(self):
    if self.num_steps < 0:
      raise ValueError(
        f'InnerLoop(num_steps={self.num_steps}): must not be negative.'
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
    for field, choices in (
      ('rates', ('leaf', 'step', 'element')),
      ('derivative', ('reverse', 'mixed')),
    ):
      if getattr(self, field) not in choices:
        raise ValueError(
          f'InnerLoop({field}={getattr(self, field)!r}): use one of {choices}.'
        )
    weights = self.step_weights
    if weights and (len(weights) != self.num_steps or not sum(weights) > 0):
      raise ValueError(
        f'InnerLoop(step_weights={weights}): one weight for each of the'
        f' {self.num_steps} steps is needed, and a positive sum.'
      )
    if self.map_size < 0:
      raise ValueError(
        f'InnerLoop(map_size={self.map_size}): must not be negative.'
      )

  def adapts(self, name: str) -> bool:
    """Says whether the leaf of this name adapts."""
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
    """Returns the names of the leaves of `params` that adapt."""
    names = fast_weights.named_leaves(params)
    return frozenset(name for name in names if self.adapts(name))

  def require_adapted(self, params: PyTree) -> None:
    """Checks that at least one leaf of `params` adapts.

    Raises:
      ValueError: If none does.
    """
    if not self.adapted_names(params):
      names = ', '.join(fast_weights.named_leaves(params))
      raise ValueError(
        f'InnerLoop(adapt={self.adapt!r}): no parameter is named so; there'
        f' are {names}. Pass a function of the name of a leaf.'
      )

  @property
  def needs_copies(self) -> bool:
    """Whether leaves adapt as copies even where pairs could stand for them."""
    return (
      self.derivative == 'mixed'
      or (self.learn_rates and self.rates == 'element')
      or self.num_steps > MAX_UNROLLED
    )


def init_rates(
  params: PyTree, inner: InnerLoop, features: tuple[str, ...] = ()
) -> dict[str, PyTree]:
  """Returns the outer parameters of a loop that learns its inner rates.

  Args:
    params: the model's parameters.
    inner: the loop; `learning_rate` is where the rates start.
    features: features with adapted rows, each with a rate of its own.

  Returns:
    {'model': params, 'log_rates': {name of an adapted leaf: float32}}, [] each,
    [num_steps] with `rates='step'`, or of the leaf's shape with 'element'. The
    logarithm is learned, so a rate stays positive.
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
  # A buffer of its own for each rate: a donated state may hold none twice.
  log_rates = {
    name: jnp.full(shape, start, jnp.float32) for name, shape in shapes.items()
  }
  return {'model': params, 'log_rates': log_rates}


def rate_function(
  inner: InnerLoop, log_rates: Mapping[str, jax.Array] | None
) -> Callable[[str], jax.Array | float]:
  """Returns a function from the name of a leaf to its inner rate."""
  if log_rates is None:
    return lambda name: inner.learning_rate

  def rate(name):
    if name not in log_rates:
      raise ValueError(
        f'log_rates: no inner rate for {name!r}; it has'
        f' {", ".join(sorted(log_rates))}. Make it by maml.init_rates with'
        ' the same InnerLoop and the features whose rows adapt.'
      )
    return jnp.exp(log_rates[name])

  return rate


def adapt(
  loss_fn: Callable[[PyTree, PyTree], jax.Array],
  params: PyTree,
  support: PyTree,
  inner: InnerLoop,
  *,
  log_rates: Mapping[str, jax.Array] | None = None,
) -> PyTree:
  """Adapts any pytree by any loss: the plain form, for one task.

  Args:
    loss_fn: (params, support) -> scalar.
    params: any pytree of arrays.
    support: what `loss_fn` takes as its data.
    inner: the loop.
    log_rates: learned rates (see `init_rates`), or None.

  Returns:
    The adapted parameters, differentiable with respect to `params` and
    `log_rates`. May be called inside `vmap`, `grad`, `jit` and `shard_map`.

  Raises:
    ValueError: If no leaf adapts.
  """
  params, _ = adapt_task(
    lambda params, rows, support: loss_fn(params, support),
    params,
    {},
    support,
    inner,
    log_rates=log_rates,
  )
  return params


def adapt_task(
  loss_fn: Callable[[Any, PyTree, PyTree], jax.Array],
  params: PyTree,
  rows: Mapping[str, jax.Array],
  support: PyTree,
  inner: InnerLoop,
  *,
  merge_fn: fast_weights.MergeFn | None = None,
  log_rates: Mapping[str, jax.Array] | None = None,
) -> tuple[Any, dict[str, jax.Array]]:
  """Adapts a model, and the embedding rows of the task, to one task.

  Args:
    loss_fn: (model, rows, support) -> scalar.
    params: the model's parameters.
    rows: feature -> embedding rows of the task. Those that `inner` names
      adapt; a row that the support does not use has a zero gradient and stays.
    support: what `loss_fn` takes as its data.
    inner: the loop.
    merge_fn: params -> a fresh `nnx.Module`, e.g. `partial(nnx.merge,
      graphdef)`, for the low-rank form; None for the plain form, in which
      `loss_fn` gets the parameters themselves as its model.
    log_rates: learned rates (see `init_rates`), or None.

  Returns:
    (model, rows) after the steps; the model is the module, or the parameters
    in the plain form. Use a module in the same trace only.

  Raises:
    ValueError: If no leaf adapts, or `merge_fn` does not return a module.
  """
  if not inner.num_steps:
    return (params if merge_fn is None else merge_fn(params)), dict(rows)
  form, fast = _start(
    loss_fn, params, rows, support, inner, merge_fn, log_rates
  )
  return form.bind(_all_steps(form, fast, inner))


def adapt_by_step(
  loss_fn: Callable[[Any, PyTree, PyTree], jax.Array],
  params: PyTree,
  rows: Mapping[str, jax.Array],
  support: PyTree,
  inner: InnerLoop,
  *,
  merge_fn: fast_weights.MergeFn | None = None,
  log_rates: Mapping[str, jax.Array] | None = None,
) -> list[tuple[Any, dict[str, jax.Array]]]:
  """As `adapt_task`; returns (model, rows) after 0, 1, .. num_steps steps."""
  first = params if merge_fn is None else merge_fn(params)
  states: list[tuple[Any, dict[str, jax.Array]]] = [(first, dict(rows))]
  if inner.num_steps:
    form, fast = _start(
      loss_fn, params, rows, support, inner, merge_fn, log_rates
    )
    for index in range(inner.num_steps):
      fast = form.step(fast, index)
      states.append(form.bind(fast))
  return states


def reptile_pull(
  loss_fn: Callable[[Any, PyTree, PyTree], jax.Array],
  params: PyTree,
  rows: Mapping[str, jax.Array],
  data: PyTree,
  inner: InnerLoop,
  *,
  merge_fn: fast_weights.MergeFn | None = None,
) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
  """Reptile's outer gradient, as the gradient of a number.

  Args:
    loss_fn: (model, rows, data) -> scalar.
    params: the model's parameters.
    rows: feature -> embedding rows of the task.
    data: what `loss_fn` takes as its data.
    inner: the loop, at least one step; its order does not matter.
    merge_fn: see `adapt_task`.

  Returns:
    (pull [], model, rows) after the steps. The gradient of `pull` in `params`
    and `rows` is what they were minus what they are; that of a leaf that does
    not adapt is zero.
  """
  inner = dataclasses.replace(inner, order=1)
  form, fast = _start(loss_fn, params, rows, data, inner, merge_fn, None)
  fast = _all_steps(form, fast, inner)
  model, adapted = form.bind(fast)
  pull = form.pull(fast)
  for name, value in rows.items():
    change = jax.lax.stop_gradient(value - adapted[name])
    pull += jnp.vdot(change, value)
  return pull, model, adapted


def _start(loss_fn, params, rows, support, inner, merge_fn, log_rates):
  """Returns the form that a loop takes, and its state before any step."""
  moving = {name: x for name, x in rows.items() if inner.adapts(f'rows/{name}')}
  if not moving:
    inner.require_adapted(params)
  problem = adaptation.Problem(
    loss_fn=loss_fn,
    params=params,
    rows=dict(rows),
    moving=moving,
    support=support,
    inner=inner,
    rate_fn=rate_function(inner, log_rates),
    merge_fn=merge_fn,
  )
  make: type[adaptation.Copies] | type[adaptation.Pairs] = adaptation.Pairs
  if merge_fn is None or inner.needs_copies:
    make = adaptation.Copies
  form = make(problem)
  return form, form.start()


def _all_steps(form, fast, inner):
  if inner.num_steps > MAX_UNROLLED:
    return jax.lax.fori_loop(
      0, inner.num_steps, lambda index, fast: form.step(fast, index), fast
    )
  for index in range(inner.num_steps):
    fast = form.step(fast, index)
  return fast
