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

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax

from antjax.collectives import transition
from antjax.mesh import compiler
from antjax.mesh.manual import manual
from antjax.mesh.mesh import BATCH_AXES
from antjax.mesh.sharding import LeafSpec
from antjax.train import gradient
from antjax.train import loss_scale as loss_scale_lib
from antjax.train import optimizer as optimizer_lib
from antjax.train.loss import is_summed
from antjax.train.loss_scale import LossScaleState
from antjax.train.open_leaves import bring_back
from antjax.train.state import PyTree, TrainState
from antjax.train.step_spec import StateView, StepSpec

Array = jax.Array | np.ndarray
Metrics = dict[str, jax.Array]
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


def make_update(spec: StepSpec) -> Callable[..., tuple[TrainState, Metrics]]:
  """The automatic part of a step, to be called in `jit`.

  Returns:
    `(state, *results of gradient.sync, lr_scale) -> (state, metrics)`;
    `lr_scale` is a factor of the updates or None.
  """
  layout, trained_specs = spec.layout, spec.layout.trained_specs
  mesh, paro = layout.mesh, layout.paro
  params_level = paro.opt_state if layout.late_params else paro.params
  coarsen = manual(
    lambda leaves: transition.coarsen_all(
      leaves, trained_specs, paro.opt_state, params_level, spec.how
    ),
    mesh,
    in_specs=(layout.master_specs,),
    out_specs=layout.trained(layout.param_specs),
    check_vma=spec.is_typed,
  )
  opt_shardings = layout.master_shardings

  def kept_at(leaf: LeafSpec, x: jax.Array) -> jax.Array:
    return leaf.stored(x, paro.opt_state)

  def at_opt_level(leaves: list[jax.Array]) -> list[jax.Array]:
    return lax.with_sharding_constraint(leaves, opt_shardings)

  def update(
    state: TrainState,
    grads: list[jax.Array],
    new_tables: PyTree,
    left: PyTree,
    sums: Mapping[str, jax.Array],
    lr_scale: jax.Array | None,
  ) -> tuple[TrainState, Metrics]:
    leaves = jax.tree.leaves(state.params)
    scaling = state.opt_state
    is_scaled = isinstance(scaling, LossScaleState)
    total = sums['weight']
    is_finite = sums['num_bad'] == 0
    is_active = (total != 0) & (is_finite | (not is_scaled))
    if state.master is None:
      # Refining is a local slice.
      master = [
        s.stored(x, paro.opt_state)
        for s, x in zip(trained_specs, layout.trained(leaves), strict=True)
      ]
    else:
      master = jax.tree.leaves(state.master)
    master = at_opt_level(master)
    # The optimizer sees true shapes; unpadding and padding move nothing.
    masters_tree = layout.trained_tree(
      [s.unpad(x) for s, x in zip(trained_specs, master, strict=True)]
    )
    grads_tree = layout.trained_tree(
      [
        s.unpad(g.astype(s.dtype))
        for s, g in zip(trained_specs, at_opt_level(grads), strict=True)
      ]
    )
    mean_loss = sums['loss'] / jnp.where(is_active, total, 1)
    updates, opt_state = optimizer_lib.update(
      layout.optimizer,
      grads_tree,
      layout.map_moments(LeafSpec.unpad, state.opt_state),
      masters_tree,
      value=mean_loss,
      grad=grads_tree,
    )
    if lr_scale is not None:
      updates = jax.tree.map(lambda u: u * lr_scale.astype(u.dtype), updates)
    new_master = optax.apply_updates(masters_tree, updates)
    opt_state = layout.map_moments(kept_at, opt_state)

    # Without a gradient nothing changes, not even by decay.
    def keep(new, old):
      return jnp.where(is_active, new, old)

    opt_state = jax.tree.map(keep, opt_state, state.opt_state)
    if is_scaled:
      opt_state = loss_scale_lib.adjust(opt_state, is_finite)
    new_leaves = at_opt_level(
      [
        keep(kept_at(s, n), o)
        for s, n, o in zip(
          trained_specs, jax.tree.leaves(new_master), master, strict=True
        )
      ]
    )
    kept = [
      x.astype(layout.compute_type(s))
      for x, s in zip(new_leaves, trained_specs, strict=True)
    ]
    params = layout.with_trained(leaves, coarsen(kept))
    for i, leaf in enumerate(layout.leaves):
      if leaf.is_mutable:
        new = sums['updates'][leaf.name]
        if is_summed(new):
          new = new / jnp.where(is_active, total, 1)
        params[i] = keep(new.astype(leaf.spec.dtype), leaves[i])
    new_state = TrainState(
      step=state.step + (sums['num_valid'] > 0),
      params=jax.tree.unflatten(layout.treedef, params),
      master=None if state.master is None else layout.trained_tree(new_leaves),
      opt_state=opt_state,
      tables=new_tables,
      rng=state.rng,
      residuals=jax.tree.map(keep, left, state.residuals),
    )
    metrics = {
      'loss': mean_loss,
      'weight': total,
      'grad_norm': optax.tree.norm(grads_tree),
      'num_examples': sums['num_examples'],
      'num_valid': sums['num_valid'],
      'is_stopping': sums['is_stopping'],
    }
    if is_scaled:
      metrics['loss_scale'] = scaling.scale
    of_loss = {
      name.removeprefix(gradient.METRIC): x / jnp.where(is_active, total, 1)
      for name, x in sums.items()
      if name.startswith(gradient.METRIC)
    }
    if taken := of_loss.keys() & metrics.keys():
      raise ValueError(
        f'loss_fn returned metrics {sorted(taken)}, which every step has of its'
        ' own; use other names.'
      )
    return new_state, of_loss | metrics

  return update


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
