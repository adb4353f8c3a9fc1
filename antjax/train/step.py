# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The PaRO training step as one program; `elastic_step` is its other form.

`shard_map` contains what PaRO controls manually (gather, differentiate,
accumulate, sync). The optax update runs in the same `jit` on global arrays, so
that any transform, such as clipping by global norm, sees the whole gradient.
`optimization_barrier` keeps XLA from hoisting the gathers out of the
micro-batch loop or sinking the reductions out of it, which would silently turn
one code into another.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from antjax.mesh import compiler
from antjax.mesh.manual import manual
from antjax.mesh.mesh import BATCH_AXES
from antjax.train import gradient
from antjax.train.open_leaves import bring_back
from antjax.train.state import PyTree, TrainState
from antjax.train.step_spec import StateView, StepSpec
from antjax.train.update import make_update, Metrics

Array = jax.Array | np.ndarray
Step = Callable[[TrainState, 'StepInput'], tuple[TrainState, Metrics]]
_BATCH = P(BATCH_AXES)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepInput:
  """One step's global arrays, split over devices along their leading dim."""

  batch: PyTree  # The user's batch, with row indices in place of ids.
  routing: PyTree  # Routing from `SparseTables.prepare`, or an empty dict.
  # int32 [num_devices], or None for all micro-batches.
  num_micro_batches: Array | None
  is_valid: Array  # float32 [num_devices], 0 if a process has run out of data.
  is_stopping: Array  # float32 [num_devices], 1 if a process wants to stop.
  num_examples: Array  # float32 [num_devices], used only for throughput.
  # Constants of the Trainer, unchanged; None: no constants.
  constants: PyTree = None


def input_specs(constants: PyTree) -> StepInput:
  """PartitionSpecs of a step's inputs, given those of the constants."""
  split: Any = _BATCH
  return StepInput(split, split, split, split, split, split, constants)


def make_step(spec: StepSpec) -> Step:
  """Compiles lazily to `step(state, step_input) -> (state, metrics)`.

  The state is donated. Metrics are replicated scalars: the weighted mean
  `loss`, the sum of weights `weight`, `grad_norm`, `num_examples`, and how
  many devices have data (`num_valid`) or want to stop (`is_stopping`). An
  optimizer of `with_loss_scale` adds its `loss_scale`.
  """
  backward = make_backward(spec, functools.partial(accumulate, spec))
  update = make_update(spec)

  def step(state: TrainState, inputs: StepInput) -> tuple[TrainState, Metrics]:
    return update(state, *backward(state, inputs), None)

  return jit_step(spec, step)


def make_steps(spec: StepSpec) -> Step:
  """`make_step` for several steps per call.

  Inputs and metrics are arrays [K, ...] for K steps; constants are those of one
  step.
  """
  backward = make_backward(spec, functools.partial(accumulate, spec))
  update = make_update(spec)

  def steps(state: TrainState, inputs: StepInput) -> tuple[TrainState, Metrics]:
    def one(state: TrainState, each: StepInput) -> tuple[TrainState, Metrics]:
      each = dataclasses.replace(each, constants=inputs.constants)
      return update(state, *backward(state, each), None)

    each = dataclasses.replace(inputs, constants=None)
    return lax.scan(one, state, each)

  return jit_step(spec, steps)


def make_backward(
  spec: StepSpec,
  local: Callable[..., Any],
  more_in: tuple[Any, ...] = (),
  more_out: tuple[Any, ...] = (),
) -> Callable[..., Any]:
  """The manual part of a step, to be called in `jit`.

  `local` is the function of a device's part, such as `accumulate`; `more_in`
  and `more_out` are PartitionSpecs of its further arguments and results.

  Returns:
    `(state, inputs, *more) -> (*results of gradient.sync, *more)`.
  """
  mapped = manual(
    local,
    spec.layout.mesh,
    in_specs=(spec.view_specs, input_specs(spec.constants), *more_in),
    out_specs=(*grad_specs(spec), *more_out),
    check_vma=spec.is_typed,
  )
  return lambda state, *more: mapped(spec.view(state), *more)


def grad_specs(spec: StepSpec) -> tuple[Any, ...]:
  """PartitionSpecs of the results of `gradient.sync`."""
  layout = spec.layout
  return layout.master_specs, layout.table_specs, _BATCH, P()


def jit_step(
  spec: StepSpec, step: Callable[..., object], more_out: tuple[P, ...] = ()
) -> Any:
  """Compiles `(state, ...) -> (state, metrics, *more)`; the state is donated.

  `more_out` are the PartitionSpecs of further results.
  """
  layout = spec.layout
  rest = [NamedSharding(layout.mesh, p) for p in (P(), *more_out)]
  return jax.jit(
    step,
    donate_argnums=0,
    out_shardings=(layout.shardings(), *rest),
    compiler_options=compiler.options(layout.mesh),
  )


def accumulate(
  spec: StepSpec,
  view: StateView,
  inputs: StepInput,
  fetched: PyTree = None,
) -> tuple[list[jax.Array], PyTree, PyTree, dict[str, jax.Array]]:
  """One device's part: synchronized gradients of the weighted mean loss.

  `fetched` are `(rows, rounds)` if the rows are fetched; None fetches them.

  Returns:
    See `gradient.sync`.
  """
  spec = spec.reading(inputs.constants)
  num_micro_batches = spec.num_micro_batches
  batch = _split(inputs.batch, num_micro_batches)
  rows: PyTree = {}
  rounds: PyTree = {}
  if fetched is not None:
    rows, rounds = fetched
  elif spec.tables is not None:
    # A single exchange for all micro-batches of the step.
    rows, rounds = spec.tables.fetch(view.tables, inputs.routing)

  def run(i, carry, leaves, levels, is_last=False):
    return gradient.add_micro_batch(
      spec,
      carry,
      leaves,
      rows,
      jax.tree.map(lambda x: x[i], batch),
      gradient.device_key(view.rng, view.step, num_micro_batches, i),
      view.factor,
      inputs.is_valid[0],
      is_last,
      levels,
    )

  # Groups with unequal numbers of micro-batches share no first and last one.
  # XLA would unroll a loop of one iteration.
  is_even = inputs.num_micro_batches is None
  num = num_micro_batches
  has_crossed = spec.crosses_early and is_even and num != 2
  num_looped = num - 1 - (has_crossed and num > 1)
  is_late = spec.comes_late and is_even and num_looped != 1
  is_loop = num_micro_batches > 1 or inputs.num_micro_batches is not None
  names: list[str] = []
  if is_loop:
    first = jax.tree.map(lambda x: x[0], batch)
    key = gradient.device_key(view.rng, view.step, num_micro_batches, 0)
    names = gradient.metric_names(spec, view.leaves, rows, first, key)
  carry = gradient.empty_carry(spec, rows, names, view)
  leaves, levels = bring_back(
    spec.layout, view.leaves, spec.how, keep_stacks=is_late
  )

  def add_micro_batch(i, carry):
    return run(i + (is_late and is_loop), carry, leaves, levels)[0]

  if inputs.num_micro_batches is not None:
    count = inputs.num_micro_batches[0]
    carry = lax.fori_loop(0, count, add_micro_batch, carry)
  elif is_loop:
    num = num_micro_batches - has_crossed
    if is_late:
      with jax.named_scope(gradient.FIRST_MICRO_BATCH):
        carry, leaves = run(0, carry, leaves, levels)
      levels = [spec.layout.paro.params] * len(leaves)
    carry = lax.fori_loop(0, num - is_late, add_micro_batch, carry)
    if has_crossed:
      with jax.named_scope(gradient.LAST_MICRO_BATCH):
        carry, _ = run(num, carry, leaves, levels, is_last=True)
  else:
    carry, _ = run(0, carry, leaves, levels, is_last=has_crossed)
  flags = {
    'num_valid': inputs.is_valid[0],
    'is_stopping': inputs.is_stopping[0],
    'num_examples': inputs.num_examples[0],
  }
  return gradient.sync(
    spec,
    carry,
    view,
    inputs.routing,
    rounds,
    flags,
    has_crossed=has_crossed,
  )


def _split(batch: PyTree, num_micro_batches: int) -> PyTree:
  """[B, ...] -> [M, B / M, ...] for every leaf."""
  return jax.tree.map(
    lambda x: x.reshape(num_micro_batches, -1, *x.shape[1:]), batch
  )
