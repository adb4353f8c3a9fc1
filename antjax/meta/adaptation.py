# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The two forms of an inner loop: copies of a task, and low-rank pairs.

Both give the same numbers. `antjax.meta.maml` chooses and drives them.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from antjax.layers import fast_weights
from antjax.meta.inner_loop import InnerLoop

PyTree = Any
Fast = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
  """What a task adapts, and by what.

  Attributes:
    loss_fn: (model, rows, support) -> scalar.
    params: the parameters before any step.
    rows: feature -> embedding rows of the task.
    moving: those of the rows that adapt.
    support: the data.
    inner: the loop.
    rate_fn: name of a leaf -> its rate, one a step [K], or one an element.
    merge_fn: params -> module; None: `loss_fn` takes the parameters.
  """

  loss_fn: Callable[[Any, PyTree, PyTree], jax.Array]
  params: PyTree
  rows: Mapping[str, jax.Array]
  moving: Mapping[str, jax.Array]
  support: PyTree
  inner: InnerLoop
  rate_fn: Callable[[str], jax.Array | float]
  merge_fn: fast_weights.MergeFn | None


class Copies:
  """Every leaf that adapts is a copy of the task: the plain form."""

  def __init__(self, problem: Problem):
    """Takes the problem; nothing is computed yet."""
    self._problem = problem

  def start(self) -> Fast:
    """Returns what adapts, before the first step."""
    problem = self._problem
    leaves = fast_weights.named_leaves(problem.params)
    names = problem.inner.adapted_names(problem.params)
    fast = {
      'params': {name: leaves[name] for name in names},
      'rows': dict(problem.moving),
    }
    return fast_weights.match_varying(fast, problem.support)

  def step(self, fast: Fast, index: jax.Array | int) -> Fast:
    """Takes step number `index`, from 0."""
    problem = self._problem
    rest = problem.params, dict(problem.rows), problem.support
    step: Callable[..., Fast] = functools.partial(self._step, index)
    if problem.inner.remat:
      step = jax.checkpoint(step)
    return step(fast, rest)

  def bind(self, fast: Fast) -> tuple[Any, dict[str, jax.Array]]:
    """Returns (model, rows) that compute with what has adapted."""
    return self._bound(fast, self._problem.params, dict(self._problem.rows))

  def pull(self, fast: Fast) -> jax.Array:
    """See `fast_weights.pull`; without the rows."""
    leaves = fast_weights.named_leaves(self._problem.params)
    total = jnp.zeros(())
    for name, value in fast['params'].items():
      change = jax.lax.stop_gradient(leaves[name] - value)
      total += jnp.vdot(change, leaves[name])
    return total

  def _bound(self, fast, params, rows):
    merge_fn = self._problem.merge_fn
    params = fast_weights.replace_leaves(params, fast['params'])
    model = params if merge_fn is None else merge_fn(params)
    return model, {**rows, **fast['rows']}

  def _step(self, index, fast, rest):
    problem = self._problem
    inner = problem.inner

    def loss(fast, rest):
      params, rows, support = rest
      model, rows = self._bound(fast, params, rows)
      return problem.loss_fn(model, rows, support)

    if inner.derivative == 'mixed' and inner.order == 2:
      rest = fast_weights.match_varying(rest, problem.support)
      grads = mixed_mode_grad(loss)(fast, rest)
    else:
      grads = jax.grad(loss)(fast, rest)
    if inner.order == 1:
      grads = jax.lax.stop_gradient(grads)

    def moved(part, name, value):
      rate = problem.rate_fn(name if part == 'params' else f'rows/{name}')
      if inner.rates == 'step':
        rate = fast_weights.rate_at(rate, index)
      return fast_weights.descend(value, grads[part][name], rate)

    return {
      part: {name: moved(part, name, value) for name, value in leaves.items()}
      for part, leaves in fast.items()
    }


class Pairs:
  """Kernels adapt by pairs, see `antjax.layers.fast_weights`."""

  def __init__(self, problem: Problem):
    """Makes the plan by an abstract forward pass."""
    if problem.merge_fn is None:
      raise ValueError('Pairs(problem): merge_fn is needed; it is None.')
    self._problem = problem
    self._merge_fn = problem.merge_fn
    self._plan = fast_weights.make_plan(
      self._loss(problem.rows),
      self._merge_fn,
      problem.params,
      problem.moving,
      problem.support,
      adapted=problem.inner.adapted_names(problem.params),
      adapt_rows=bool(problem.moving),
    )

  def start(self) -> fast_weights.FastWeights:
    """Returns what adapts, before the first step."""
    problem = self._problem
    return fast_weights.start(
      self._plan,
      problem.params,
      problem.moving,
      problem.support,
      rate_fn=problem.rate_fn,
    )

  def step(
    self, fast: fast_weights.FastWeights, index: jax.Array | int
  ) -> fast_weights.FastWeights:
    """Takes the next step, which must be number `index`."""
    del index  # The fast weights count themselves.
    problem = self._problem
    step = jax.checkpoint(self._step) if problem.inner.remat else self._step
    return step(problem.params, problem.rows, fast, problem.support)

  def bind(
    self, fast: fast_weights.FastWeights
  ) -> tuple[Any, dict[str, jax.Array]]:
    """Returns (model, rows) that compute with what has adapted."""
    model = fast_weights.bind(
      self._merge_fn, self._plan, self._problem.params, fast
    )
    return model, {**self._problem.rows, **fast.rows}

  def pull(self, fast: fast_weights.FastWeights) -> jax.Array:
    """See `fast_weights.pull`."""
    return fast_weights.pull(self._plan, self._problem.params, fast)

  def _loss(self, rows):
    return lambda model, moving, support: self._problem.loss_fn(
      model, {**rows, **moving}, support
    )

  def _step(self, params, rows, fast, support):
    order = self._problem.inner.order
    if order == 1:
      rows = jax.lax.stop_gradient(rows)
    return fast_weights.step(
      self._loss(rows),
      self._merge_fn,
      self._plan,
      params,
      fast,
      support,
      order=order,
    )


def mixed_mode_grad(
  loss_fn: Callable[[PyTree, PyTree], jax.Array],
) -> Callable[[PyTree, PyTree], PyTree]:
  """Returns `jax.grad(loss_fn)` with a forward-over-reverse derivative.

  A cotangent v of the gradient g = dL/dx needs v^T dg/d(x, rest). Second
  derivatives commute, so that is d/de of the gradient in (x, rest) at x + e v:
  one JVP of one reverse pass, in place of a reverse pass through a reverse
  pass. Nothing of the inner backward pass is kept for the outer one but (x,
  rest). Kemaev et al. 2025 (MixFlow-MG) do meta-learning so.

  Args:
    loss_fn: (x, rest) -> scalar, twice differentiable, without a `custom_vjp`
      inside (JAX has no forward mode for one). It may close over constants
      only: pass whatever is differentiated in `rest`.

  Returns:
    (x, rest) -> the gradient in x. Leaves of `rest` that are not floating
    point have no derivative.
  """

  def gradient(x: PyTree, rest: PyTree) -> PyTree:
    leaves, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, rest))
    is_float = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]

    def loss(x, floats, others):
      floats, others = iter(floats), iter(others)
      merged = [next(floats if known else others) for known in is_float]
      return loss_fn(x, jax.tree.unflatten(treedef, merged))

    @jax.custom_vjp
    def grad_fn(x, floats, others):
      return jax.grad(loss)(x, floats, others)

    def forward(x, floats, others):
      return grad_fn(x, floats, others), (x, floats, others)

    def backward(residuals, cotangent):
      x, floats, others = residuals
      _, (x_bar, floats_bar) = jax.jvp(
        lambda x: jax.grad(loss, argnums=(0, 1))(x, floats, others),
        (x,),
        (cotangent,),
      )
      return x_bar, floats_bar, None

    grad_fn.defvjp(forward, backward)
    floats = [leaf for leaf, known in zip(leaves, is_float) if known]
    others = [leaf for leaf, known in zip(leaves, is_float) if not known]
    return grad_fn(x, floats, others)

  return gradient
