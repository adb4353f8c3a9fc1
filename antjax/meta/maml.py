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
from typing import Any

import jax
import jax.numpy as jnp

from antjax.layers import fast_weights
from antjax.meta import adaptation, inner_loop

PyTree = Any

InnerLoop = inner_loop.InnerLoop
init_rates = inner_loop.init_rates
MAX_UNROLLED = inner_loop.MAX_UNROLLED


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
    rate_fn=inner_loop.rate_function(inner, log_rates),
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
