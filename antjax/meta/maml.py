# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""MAML: adapt to a task on its support rows, learn from its query rows.

Sources: Finn et al. 2017 (MAML), Raghu et al. 2020 (ANIL), Lee et al. 2019
(MeLU), Li et al. 2017 (Meta-SGD, the learned rates); Xiao et al. 2023 (G-Meta,
sections 3 and 4) for one row buffer that support and query share.

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

PyTree = Any

_PRESETS = ('all', 'mlp', 'decision', 'head')


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
    learn_rates: True learns one rate a leaf with the outer loop (Meta-SGD);
      see `init_rates`.
    remat: recompute each inner step in the backward pass, so that memory no
      longer grows with the width of the model times `num_steps`.
    map_size: number of tasks that adapt at once; 0 takes all of them.
  """

  num_steps: int = 1
  learning_rate: float = 0.01
  order: Literal[1, 2] = 2
  adapt: str | Callable[[str], bool] = 'mlp'
  learn_rates: bool = False
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
    chosen = {'head'} if self.adapt == 'head' else {'decision', 'top', 'head'}
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


def init_rates(
  params: PyTree, inner: InnerLoop, features: tuple[str, ...] = ()
) -> dict[str, PyTree]:
  """Returns the outer parameters of a loop that learns its inner rates.

  Args:
    params: the model's parameters.
    inner: the loop; `learning_rate` is where the rates start.
    features: features with adapted rows, each with a rate of its own.

  Returns:
    {'model': params, 'log_rates': {name of an adapted leaf: float32 []}}. The
    logarithm is learned, so a rate stays positive.
  """
  names = [*inner.adapted_names(params)]
  names += [f'rows/{f}' for f in features if inner.adapts(f'rows/{f}')]
  start = math.log(inner.learning_rate)
  # A buffer of its own for each rate: a donated state may hold none twice.
  log_rates = {name: jnp.full((), start, jnp.float32) for name in names}
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
  rows = dict(rows)
  if not inner.num_steps:
    return (params if merge_fn is None else merge_fn(params)), rows
  rate_fn = rate_function(inner, log_rates)
  moving = {name: x for name, x in rows.items() if inner.adapts(f'rows/{name}')}
  if not moving:
    inner.require_adapted(params)
  if merge_fn is None:
    return _adapt_plain(loss_fn, params, rows, moving, support, inner, rate_fn)
  return _adapt_low_rank(
    loss_fn, params, rows, moving, support, inner, rate_fn, merge_fn
  )


def _adapt_plain(loss_fn, params, rows, moving, support, inner, rate_fn):
  leaves = fast_weights.named_leaves(params)
  fast = {
    'params': {name: leaves[name] for name in inner.adapted_names(params)},
    'rows': moving,
  }
  fast = fast_weights.match_varying(fast, support)

  def merged(params, rows, fast):
    return (
      fast_weights.replace_leaves(params, fast['params']),
      {**rows, **fast['rows']},
    )

  def step(params, rows, fast, support):
    grads = jax.grad(
      lambda fast: loss_fn(*merged(params, rows, fast), support)
    )(fast)
    if inner.order == 1:
      grads = jax.lax.stop_gradient(grads)
    return {
      part: {
        name: fast_weights.descend(
          value,
          grads[part][name],
          rate_fn(name if part == 'params' else f'rows/{name}'),
        )
        for name, value in leaves.items()
      }
      for part, leaves in fast.items()
    }

  if inner.remat:
    step = jax.checkpoint(step)
  for _ in range(inner.num_steps):
    fast = step(params, rows, fast, support)
  return merged(params, rows, fast)


def _adapt_low_rank(
  loss_fn, params, rows, moving, support, inner, rate_fn, merge_fn
):
  def loss(model, moving, support, rows=rows):
    return loss_fn(model, {**rows, **moving}, support)

  plan = fast_weights.make_plan(
    loss,
    merge_fn,
    params,
    moving,
    support,
    adapted=inner.adapted_names(params),
    adapt_rows=bool(moving),
  )

  def step(params, rows, fast, support):
    if inner.order == 1:
      rows = jax.lax.stop_gradient(rows)
    return fast_weights.step(
      lambda model, moving, support: loss(model, moving, support, rows),
      merge_fn,
      plan,
      params,
      fast,
      support,
      order=inner.order,
    )

  if inner.remat:
    step = jax.checkpoint(step)
  fast = fast_weights.start(plan, params, moving, support, rate_fn=rate_fn)
  for _ in range(inner.num_steps):
    fast = step(params, rows, fast, support)
  model = fast_weights.bind(merge_fn, plan, params, fast)
  return model, {**rows, **fast.rows}
