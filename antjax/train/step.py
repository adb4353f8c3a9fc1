# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The PaRO training step.

Manual inside, automatic outside: `shard_map` holds what PaRO decides (gather,
differentiate, accumulate, sync); the optax update runs in the same `jit` on
global arrays, so that any transform, a global-norm clip say, sees the whole
gradient. `optimization_barrier` keeps XLA from hoisting the gathers out of the
micro-batch loop or sinking the reductions out of it, which would silently turn
one code into another.
"""

from collections.abc import Callable
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
from antjax.collectives.choose import Collectives, XLA
from antjax.mesh.mesh import BATCH_AXES, INTER, INTRA
from antjax.train import loss_scale as loss_scale_lib
from antjax.train.leaves import (
  empty_accumulator,
  open_leaves,
  trained_args,
  with_trained,
)
from antjax.train.loss_scale import LossScaleState
from antjax.train.state import (
  Layout,
  PyTree,
  SparseTables,
  state_shardings,
  stored,
  TrainState,
)

LossFn = Callable[..., Any]
Array = jax.Array | np.ndarray
_BATCH = P(BATCH_AXES)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepInput:
  """One step's global arrays, split over devices by their leading dim.

  Attributes:
    batch: The user's batch; ids already turned into row indices.
    routing: From `SparseTables.prepare`, or an empty dict.
    num_micro_batches: int32 [num_devices], or None for all of them.
    is_valid: float32 [num_devices], 0 where a process has run out of data.
    is_stopping: float32 [num_devices], 1 where a process wants to stop.
    num_examples: float32 [num_devices], for throughput only.
  """

  batch: PyTree
  routing: PyTree
  num_micro_batches: Array | None
  is_valid: Array
  is_stopping: Array
  num_examples: Array


def make_step(
  layout: Layout,
  loss_fn: LossFn,
  optimizer: optax.GradientTransformation,
  tables: SparseTables | None,
  num_micro_batches: int,
  *,
  how: Collectives = XLA,
  loss_scale: float = 1.0,
  regather: bool = True,
) -> Callable[[TrainState, StepInput], tuple[TrainState, dict[str, jax.Array]]]:
  """Compiles lazily to `step(state, step_input) -> (state, metrics)`.

  The state is donated. Metrics are replicated scalars: the weighted mean
  `loss`, the sum of weights `weight`, `grad_norm`, `num_examples`, and how
  many devices have data (`num_valid`) or want to stop (`is_stopping`). An
  optimizer of `with_loss_scale` adds its `loss_scale`.

  Args:
    layout: Of the state.
    loss_fn: See `Trainer`.
    optimizer: See `Trainer`.
    tables: See `Trainer`.
    num_micro_batches: Parts of a device's batch.
    how: How arrays move over both mesh axes at once.
    loss_scale: Constant factor of the loss that is differentiated, times the
      optimizer's own where it has one.
    regather: Whether stacked layers are gathered again in the backward pass.
  """
  mesh, paro = layout.mesh, layout.paro
  shardings = state_shardings(layout, optimizer, tables)
  trained_specs = layout.trained(list(layout.specs))
  grad_partition = layout.level_specs(paro.opt_state, trained=True)
  table_partition = {} if tables is None else tables.partition_specs()
  backward = jax.shard_map(
    functools.partial(
      _accumulate, layout, loss_fn, tables, num_micro_batches, how, regather
    ),
    mesh=mesh,
    in_specs=(
      layout.level_specs(paro.params, trained=False),
      table_partition,
      P(),
      P(),
      P(),
      _BATCH,
    ),
    out_specs=(grad_partition, table_partition, P()),
    check_vma=how.is_typed,
  )
  coarsen = jax.shard_map(
    lambda leaves: transition.coarsen_all(
      leaves, trained_specs, paro.opt_state, paro.params, how
    ),
    mesh=mesh,
    in_specs=(grad_partition,),
    out_specs=layout.level_specs(paro.params, trained=True),
    check_vma=how.is_typed,
  )
  opt_shardings = [
    NamedSharding(mesh, partition) for partition in grad_partition
  ]

  def at_opt_level(leaves: list[jax.Array]) -> list[jax.Array]:
    return lax.with_sharding_constraint(leaves, opt_shardings)

  def step(state: TrainState, inputs: StepInput):
    leaves = jax.tree.leaves(state.params)
    scaling = state.opt_state
    is_scaled = isinstance(scaling, LossScaleState)
    factor = jnp.float32(loss_scale) * (scaling.scale if is_scaled else 1)
    grads, new_tables, sums = backward(
      leaves, state.tables, state.step, state.rng, factor, inputs
    )
    total = sums['weight']
    is_finite = sums['num_bad'] == 0
    is_active = (total > 0) & (is_finite | (not is_scaled))
    if state.master is None:
      # Going finer is a local slice.
      master = [
        stored(spec, x, paro.opt_state)
        for spec, x in zip(trained_specs, layout.trained(leaves), strict=True)
      ]
    else:
      master = jax.tree.leaves(state.master)
    master = at_opt_level(master)
    grads_tree = layout.trained_tree(
      [
        g.astype(x.dtype)
        for g, x in zip(at_opt_level(grads), master, strict=True)
      ]
    )
    updates, opt_state = optimizer.update(
      grads_tree, state.opt_state, layout.trained_tree(master)
    )
    new_master = optax.apply_updates(layout.trained_tree(master), updates)

    # Without a gradient nothing changes: no decay either.
    def keep(new, old):
      return jnp.where(is_active, new, old)

    opt_state = jax.tree.map(keep, opt_state, state.opt_state)
    if is_scaled:
      opt_state = loss_scale_lib.adjust(opt_state, is_finite)
    new_leaves = at_opt_level(
      [keep(n, o) for n, o in zip(jax.tree.leaves(new_master), master)]
    )
    kept = [
      x.astype(layout.compute_type(spec))
      for x, spec in zip(new_leaves, trained_specs, strict=True)
    ]
    changed = iter(coarsen(kept))
    params = [
      next(changed) if t else x
      for x, t in zip(leaves, layout.trainable, strict=True)
    ]
    new_state = TrainState(
      step=state.step + (sums['num_valid'] > 0),
      params=jax.tree.unflatten(layout.treedef, params),
      master=None if state.master is None else layout.trained_tree(new_leaves),
      opt_state=opt_state,
      tables=new_tables,
      rng=state.rng,
    )
    metrics = {
      'loss': sums['loss'] / jnp.maximum(total, jnp.finfo(total.dtype).tiny),
      'weight': total,
      'grad_norm': optax.tree.norm(grads_tree),
      'num_examples': sums['num_examples'],
      'num_valid': sums['num_valid'],
      'is_stopping': sums['is_stopping'],
    }
    if is_scaled:
      metrics['loss_scale'] = scaling.scale
    return new_state, metrics

  return jax.jit(
    step,
    donate_argnums=0,
    out_shardings=(shardings, NamedSharding(mesh, P())),
  )


def _accumulate(
  layout: Layout,
  loss_fn: LossFn,
  tables: SparseTables | None,
  num_micro_batches: int,
  how: Collectives,
  regather: bool,
  leaves: list[jax.Array],
  table_state: PyTree,
  step: jax.Array,
  rng: jax.Array,
  factor: jax.Array,
  inputs: StepInput,
):
  """One device's part: gradients of the weighted mean loss, synced.

  Returns:
    (grads at the optimizer's level, new tables, sums replicated).
  """
  paro = layout.paro
  specs = layout.trained(list(layout.specs))
  stacked = layout.trained(list(layout.scanned))
  batch = _split(inputs.batch, num_micro_batches)
  rows: PyTree = {}
  rounds: PyTree = {}
  if tables is not None:
    # One exchange for all micro-batches of the step.
    rows, rounds = tables.fetch(table_state, inputs.routing)

  def add_micro_batch(i, carry):
    acc, row_acc, loss_sum, weight_sum = carry
    pieces, micro = lax.optimization_barrier(
      (leaves, jax.tree.map(lambda x: x[i], batch))
    )
    whole = open_leaves(layout, pieces, how, regather=regather)
    key = device_key(rng, step, num_micro_batches, i)

    def loss_of(trained, rows):
      params = jax.tree.unflatten(
        layout.treedef, with_trained(layout, whole, trained)
      )
      args = (params,) if tables is None else (params, rows)
      losses, weights = _losses_and_weights(loss_fn(*args, micro, key))
      weights = weights * inputs.is_valid[0]
      # Padding may have any loss; its gradient should be finite all the same.
      losses = jnp.where(weights > 0, losses, 0)
      loss = jnp.sum(losses * weights)
      return loss * factor, (loss, jnp.sum(weights))

    (_, (loss, weight)), (grads, row_grads) = jax.value_and_grad(
      loss_of, argnums=(0, 1), has_aux=True
    )(trained_args(layout, whole), rows)
    addends = [
      # A stack's gradient comes reduced, layer by layer.
      g
      if is_stack
      else transition.reduce_addend(g.astype(a.dtype), spec, paro.grads, how)
      for g, a, spec, is_stack in zip(grads, acc, specs, stacked, strict=True)
    ]
    addends, acc = lax.optimization_barrier((addends, acc))
    return (
      [a + g for a, g in zip(acc, addends, strict=True)],
      jax.tree.map(jnp.add, row_acc, row_grads),
      loss_sum + loss,
      weight_sum + weight,
    )

  carry = jax.tree.map(
    transition.to_varying,
    (
      [empty_accumulator(layout, spec) for spec in specs],
      jax.tree.map(jnp.zeros_like, rows),
      jnp.zeros((), jnp.float32),
      jnp.zeros((), jnp.float32),
    ),
  )
  if inputs.num_micro_batches is not None:
    count = inputs.num_micro_batches[0]
    carry = lax.fori_loop(0, count, add_micro_batch, carry)
  elif num_micro_batches == 1:
    carry = add_micro_batch(0, carry)
  else:
    carry = lax.fori_loop(0, num_micro_batches, add_micro_batch, carry)
  acc, row_acc, loss_sum, weight_sum = carry

  # Sums and weights cross the wire, never means.
  sums = lax.psum(
    {
      'loss': loss_sum,
      'weight': weight_sum,
      'num_valid': inputs.is_valid[0],
      'is_stopping': inputs.is_stopping[0],
      'num_examples': inputs.num_examples[0],
      'num_bad': sum(
        jnp.sum(~jnp.isfinite(a), dtype=jnp.float32)
        for a in jax.tree.leaves((acc, row_acc))
      ),
    },
    (INTER, INTRA),
  )
  scale = jnp.where(sums['weight'] > 0, 1 / (sums['weight'] * factor), 0.0)
  synced = transition.sync_all(acc, specs, paro.grads, paro.opt_state, how)
  grads = [g * scale for g in synced]
  if tables is not None:
    table_state = tables.push(
      table_state,
      inputs.routing,
      rounds,
      jax.tree.map(lambda g: g * scale, row_acc),
      step,
      (sums['weight'] > 0) & (sums['num_bad'] == 0),
    )
  return grads, table_state, sums


def _split(batch: PyTree, num_micro_batches: int) -> PyTree:
  """[B, ...] -> [M, B / M, ...] for every leaf."""
  return jax.tree.map(
    lambda x: x.reshape(num_micro_batches, -1, *x.shape[1:]), batch
  )


def device_key(
  rng: jax.Array, step: jax.Array, num_micro_batches: int, i: Any
) -> jax.Array:
  """A key for this device's micro-batch i; the same on any mesh shape."""
  device = lax.axis_index(INTER) * lax.axis_size(INTRA) + lax.axis_index(INTRA)
  key = jax.random.fold_in(jax.random.wrap_key_data(rng), step)
  return jax.random.fold_in(key, device * num_micro_batches + i)


def _losses_and_weights(result: Any) -> tuple[jax.Array, jax.Array]:
  """Checks what the user's loss returned; weights are 1 by default."""
  losses, weights = result if isinstance(result, tuple) else (result, None)
  if losses.ndim != 1:
    raise ValueError(
      f'loss_fn returned losses of shape {losses.shape}; needed is one loss '
      'for each example, [B]. Do not take their mean: antjax weighs them.'
    )
  if weights is None:
    weights = jnp.ones_like(losses)
  if weights.shape != losses.shape:
    raise ValueError(
      f'loss_fn returned weights of shape {weights.shape} for losses of shape '
      f'{losses.shape}; they must be equal.'
    )
  weights = lax.stop_gradient(weights.astype(jnp.float32))
  return losses.astype(jnp.float32), weights
