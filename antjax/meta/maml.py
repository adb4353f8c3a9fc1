# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""MAML: adapt to a task on its support rows, learn from its query rows.

Sources: Finn et al. 2017 (MAML), Raghu et al. 2020 (ANIL), Lee et al. 2019
(MeLU), Li et al. 2017 (Meta-SGD, the learned rates), Antoniou et al. 2019
(MAML++: one rate per step, weighted losses of all steps, order annealing),
Nichol et al. 2018 (Reptile). docs/design/gmeta.md describes the row buffer that
support and query share.

Two implementations compute the same values: `Copies`, the plain one, accepts
any loss over any pytree. `Pairs`, the low-rank one
(`antjax.layers.fast_weights`), accepts Flax NNX modules and is faster. Tests
compare the second with the first.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from antjax.layers import fast_weights
from antjax.meta import inner_loop

PyTree = Any
# (model, rows), as arguments of `Problem.loss_fn`.
State = tuple[Any, dict[str, jax.Array]]

InnerLoop = inner_loop.InnerLoop
init_rates = inner_loop.init_rates
MAX_UNROLLED = inner_loop.MAX_UNROLLED


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
  """Model, data and settings of a task's adaptation.

  Attributes:
    loss_fn: Function (model, rows, support) -> scalar.
    params: Parameters of the model before the first step.
    support: Support data of the task, passed to `loss_fn`.
    inner: Settings of the inner loop.
    rows: Feature -> embedding rows of the task. Those that `inner` selects
      adapt. A row that the support does not use has a zero gradient and does
      not change.
    merge_fn: Function from params to a new `nnx.Module`, e.g.
      `partial(nnx.merge, graphdef)`, for the low-rank form. None: the plain
      form, in which the model passed to `loss_fn` is the parameters themselves.
    log_rates: Learned rates (see `init_rates`), or None.
  """

  loss_fn: Callable[[Any, PyTree, PyTree], jax.Array]
  params: PyTree
  support: PyTree
  inner: InnerLoop
  rows: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)
  merge_fn: fast_weights.MergeFn | None = None
  log_rates: Mapping[str, jax.Array] | None = None

  @functools.cached_property
  def moving(self) -> dict[str, jax.Array]:
    """The rows that adapt."""
    adapts = self.inner.adapts
    return {n: x for n, x in self.rows.items() if adapts(f'rows/{n}')}

  def rate(self, name: str) -> jax.Array | float:
    """Inner rate of a leaf: a scalar, one per step [K] or one per element."""
    if self.log_rates is None:
      return self.inner.learning_rate
    if name not in self.log_rates:
      raise ValueError(
        f'log_rates: no inner rate for {name!r}; it has'
        f' {", ".join(sorted(self.log_rates))}. Make it by maml.init_rates with'
        ' the same InnerLoop and the features whose rows adapt.'
      )
    return jnp.exp(self.log_rates[name])

  def merge(self, params: PyTree) -> Any:
    """The model with the given parameters."""
    return params if self.merge_fn is None else self.merge_fn(params)

  def start(self) -> 'tuple[Copies | Pairs, Any]':
    """The form of the loop, and its state before the first step."""
    if not self.moving:
      self.inner.require_adapted(self.params)
    is_plain = self.merge_fn is None or self.inner.needs_copies
    form = Copies(self) if is_plain else Pairs(self)
    return form, form.start()


def adapt_task(problem: Problem) -> State:
  """Adapts a model, and the embedding rows of the task, to one task.

  It may be called inside `vmap`, `grad`, `jit` and `shard_map`. The result is
  differentiable with respect to parameters, rows and learned rates.

  Returns:
    (model, rows) after the steps; the model is a module, or the parameters
    without a `merge_fn`. Use a module in the same trace only.

  Raises:
    ValueError: No leaf adapts, or `merge_fn` does not return a module.
  """
  if not problem.inner.num_steps:
    return problem.merge(problem.params), dict(problem.rows)
  form, fast = problem.start()
  return form.bind(_all_steps(form, fast, problem.inner))


def adapt_by_step(problem: Problem) -> list[State]:
  """Like `adapt_task`, with (model, rows) after 0, 1, .. num_steps steps."""
  states = [(problem.merge(problem.params), dict(problem.rows))]
  if problem.inner.num_steps:
    form, fast = problem.start()
    for index in range(problem.inner.num_steps):
      fast = form.step(fast, index)
      states.append(form.bind(fast))
  return states


def reptile_pull(problem: Problem) -> tuple[jax.Array, State]:
  """Reptile's outer gradient, as the gradient of a scalar.

  The loop must have at least one step; its order does not matter.

  Returns:
    (pull [], (model, rows) after the steps). The gradient of `pull` with
    respect to parameters and rows is their value before the steps minus that
    after them, and zero for leaves that do not adapt.
  """
  inner = dataclasses.replace(problem.inner, order=1)
  form, fast = dataclasses.replace(problem, inner=inner).start()
  fast = _all_steps(form, fast, inner)
  model, adapted = form.bind(fast)
  pull = form.pull(fast)
  for name, value in problem.rows.items():
    pull += jnp.vdot(jax.lax.stop_gradient(value - adapted[name]), value)
  return pull, (model, adapted)


def _all_steps(form: 'Copies | Pairs', fast: Any, inner: InnerLoop) -> Any:
  if inner.num_steps > MAX_UNROLLED:
    return jax.lax.fori_loop(
      0, inner.num_steps, lambda index, fast: form.step(fast, index), fast
    )
  for index in range(inner.num_steps):
    fast = form.step(fast, index)
  return fast


class Copies:
  """The plain form: each task has copies of all adapting leaves."""

  def __init__(self, problem: Problem):
    self._problem = problem

  def start(self) -> PyTree:
    """State of the adapting parts before the first step."""
    problem = self._problem
    leaves = fast_weights.named_leaves(problem.params)
    names = problem.inner.adapted_names(problem.params)
    fast = {
      'params': {name: leaves[name] for name in names},
      'rows': problem.moving,
    }
    return fast_weights.match_varying(fast, problem.support)

  def step(self, fast: PyTree, index: jax.Array | int) -> PyTree:
    """Runs step number `index`, from 0."""
    problem = self._problem
    rest = problem.params, dict(problem.rows), problem.support
    step: Callable[..., PyTree] = functools.partial(self._step, index)
    return (jax.checkpoint(step) if problem.inner.remat else step)(fast, rest)

  def bind(self, fast: PyTree) -> State:
    """The adapted model and rows."""
    return self._bound(fast, self._problem.params, self._problem.rows)

  def pull(self, fast: PyTree) -> jax.Array:
    """See `fast_weights.pull`; excludes the rows."""
    leaves = fast_weights.named_leaves(self._problem.params)
    return sum(
      (
        jnp.vdot(jax.lax.stop_gradient(leaves[name] - value), leaves[name])
        for name, value in fast['params'].items()
      ),
      jnp.zeros(()),
    )

  def _bound(self, fast, params, rows):
    params = fast_weights.replace_leaves(params, fast['params'])
    return self._problem.merge(params), {**rows, **fast['rows']}

  def _step(self, index, fast, rest):
    problem, inner = self._problem, self._problem.inner

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
      rate = problem.rate(name if part == 'params' else f'rows/{name}')
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
    """Makes the plan, by an abstract forward pass."""
    assert problem.merge_fn is not None
    self._problem, self._merge_fn = problem, problem.merge_fn
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
    """State of the adapting parts before the first step."""
    problem = self._problem
    return fast_weights.start(
      self._plan,
      problem.params,
      problem.moving,
      problem.support,
      rate_fn=problem.rate,
    )

  def step(
    self, fast: fast_weights.FastWeights, index: jax.Array | int
  ) -> fast_weights.FastWeights:
    """Runs the next step, which must be number `index`."""
    del index  # The fast weights count their steps.
    problem = self._problem
    step = jax.checkpoint(self._step) if problem.inner.remat else self._step
    return step(problem.params, problem.rows, fast, problem.support)

  def bind(self, fast: fast_weights.FastWeights) -> State:
    """The adapted model and rows."""
    problem = self._problem
    model = fast_weights.bind(self._merge_fn, self._plan, problem.params, fast)
    return model, {**problem.rows, **fast.rows}

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
  """`jax.grad(loss_fn)` with a forward-over-reverse derivative.

  A cotangent v of the gradient g = dL/dx needs v^T dg/d(x, rest). Second
  derivatives commute, so this is d/de of the gradient in (x, rest) at x + e v:
  one JVP of one reverse pass instead of a reverse pass through a reverse pass.
  Of the inner backward pass, only (x, rest) is kept for the outer one. Kemaev
  et al. 2025 (MixFlow-MG) use this for meta-learning.

  Args:
    loss_fn: Function (x, rest) -> scalar, twice differentiable, without a
      `custom_vjp` inside (JAX has no forward mode for it). It may close over
      constants only; pass all that is differentiated in `rest`.

  Returns:
    Function (x, rest) -> gradient in x. Leaves of `rest` that are not floating
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
