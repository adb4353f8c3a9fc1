# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The gradient of a step, piece by piece; both forms of the step share it.

`add_micro_batch` is the body of the micro-batch loop and moves nothing between
groups under the elastic codes; `sync` is what a step exchanges once. Both run
in `shard_map`, the first one also on the devices of one process alone.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import optax

from antjax.collectives import transition
from antjax.collectives.choose import Collectives, XLA
from antjax.collectives.varying import psum, to_varying
from antjax.mesh.mesh import INTER, INTRA
from antjax.mesh.sharding import LeafSpec
from antjax.train.leaves import (
  empty_accumulator,
  open_leaves,
  trained_args,
  with_trained,
)
from antjax.train.loss_scale import LossScaleState
from antjax.train.state import Layout, PyTree, SparseTables

LossFn = Callable[..., Any]
# Accumulators by leaf, those of rows, sum of losses, sum of weights.
Carry = tuple[list[jax.Array], PyTree, jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class StepSpec:
  """What a step is made of.

  Attributes:
    layout: Layout of the state.
    loss_fn: See `Trainer`.
    optimizer: See `Trainer`.
    tables: See `Trainer`.
    num_micro_batches: Number of micro-batches of a device's batch; in the
      host-loop form, where there is no plan.
    how: Algorithm that moves arrays over both mesh axes at once.
    loss_scale: Constant factor of the loss that is differentiated, times the
      optimizer's own where it has one.
    regather: Whether stacked layers are gathered again in the backward pass.
    constants: PartitionSpecs of the Trainer's constants, or None.
    check_vma: See `Trainer`.
  """

  layout: Layout
  loss_fn: LossFn
  optimizer: optax.GradientTransformation
  tables: SparseTables | None
  num_micro_batches: int
  how: Collectives = XLA
  loss_scale: float = 1.0
  regather: bool = True
  constants: PyTree = None
  check_vma: bool = True

  @property
  def is_typed(self) -> bool:
    """Whether `shard_map` checks which results are equal on all devices."""
    is_alone = self.layout.mesh.size == 1  # See `varying.is_alone`.
    return self.check_vma and self.how.is_typed and not is_alone

  @property
  def table_partition(self) -> PyTree:
    """PartitionSpecs of the tables' state."""
    return {} if self.tables is None else self.tables.partition_specs()

  def factor(self, opt_state: PyTree) -> jax.Array:
    """What the loss is multiplied by before it is differentiated."""
    scaled = isinstance(opt_state, LossScaleState)
    return jnp.float32(self.loss_scale) * (opt_state.scale if scaled else 1)

  def reading(self, constants: PyTree) -> 'StepSpec':
    """With a loss that finds these constants in its batch; in `shard_map`."""
    loss_fn = reading_constants(self.loss_fn, constants)
    return dataclasses.replace(self, loss_fn=loss_fn)


def empty_carry(spec: StepSpec, rows: PyTree) -> Carry:
  """Zeros of this device, marked as differing between devices."""
  layout = spec.layout
  leaves = [
    empty_accumulator(layout, s) for s in layout.trained(list(layout.specs))
  ]
  zero = jnp.zeros((), jnp.float32)
  zeros = (leaves, jax.tree.map(jnp.zeros_like, rows), zero, zero)
  return jax.tree.map(transition.to_varying, zeros)


def add_micro_batch(
  spec: StepSpec,
  carry: Carry,
  leaves: list[jax.Array],
  rows: PyTree,
  micro: PyTree,
  key: jax.Array,
  factor: jax.Array,
  is_valid: jax.Array | None = None,
) -> Carry:
  """Adds one micro-batch's weighted sums of losses and gradients.

  Args:
    spec: Spec of the step.
    carry: Sums so far.
    leaves: This device's pieces of the parameters.
    rows: Table rows, or an empty dict.
    micro: Micro-batch.
    key: Random key of the micro-batch.
    factor: Factor on the loss.
    is_valid: Factor of the weights; None is 1.
  """
  layout, how = spec.layout, spec.how
  acc, row_acc, loss_sum, weight_sum = carry
  pieces, micro = lax.optimization_barrier((leaves, micro))
  whole = open_leaves(layout, pieces, how, regather=spec.regather)

  def loss_of(trained, rows):
    params = jax.tree.unflatten(
      layout.treedef, with_trained(layout, whole, trained)
    )
    args = (params,) if spec.tables is None else (params, rows)
    losses, weights = losses_and_weights(spec.loss_fn(*args, micro, key))
    if is_valid is not None:
      weights = weights * is_valid
    # Padding may have any loss; its gradient should be finite all the same.
    losses = jnp.where(weights > 0, losses, 0)
    loss = jnp.sum(losses * weights)
    return loss * factor, (loss, jnp.sum(weights))

  (_, (loss, weight)), (grads, row_grads) = jax.value_and_grad(
    loss_of, argnums=(0, 1), has_aux=True
  )(trained_args(layout, whole), rows)

  def reduce(g: jax.Array, a: jax.Array, leaf: LeafSpec) -> jax.Array:
    g = g.astype(a.dtype)
    return transition.reduce_addend(g, leaf, layout.paro.grads, how)

  addends = [
    # A stack's gradient comes reduced, layer by layer.
    g if is_stack else reduce(g, a, leaf)
    for g, a, leaf, is_stack in zip(
      grads,
      acc,
      layout.trained(list(layout.specs)),
      layout.trained(list(layout.scanned)),
      strict=True,
    )
  ]
  addends, acc = lax.optimization_barrier((addends, acc))
  return (
    [a + g for a, g in zip(acc, addends, strict=True)],
    jax.tree.map(jnp.add, row_acc, row_grads),
    loss_sum + loss,
    weight_sum + weight,
  )


def sync(
  spec: StepSpec,
  carry: Carry,
  table_state: PyTree,
  routing: PyTree,
  rounds: PyTree,
  step: jax.Array,
  factor: jax.Array,
  flags: Mapping[str, jax.Array],
  lr_scale: jax.Array | None = None,
) -> tuple[list[jax.Array], PyTree, dict[str, jax.Array]]:
  """The step's exchange: gradients of the weighted mean loss over all devices.

  Args:
    spec: Spec of the step.
    carry: This device's sums.
    table_state: State of the tables.
    routing: Routing of the step's rows.
    rounds: Result of the tables' `fetch`.
    step: Steps done so far.
    factor: Factor on the losses.
    flags: Scalars of this device, to be summed as well.
    lr_scale: Factor of the rows' changes.

  Returns:
    (grads at the optimizer's level, new tables, sums replicated).
  """
  layout, paro = spec.layout, spec.layout.paro
  acc, row_acc, loss_sum, weight_sum = carry
  specs = layout.trained(list(layout.specs))
  synced = transition.sync_all(acc, specs, paro.grads, paro.opt_state, spec.how)
  # Sums that are rounded to be sent may overflow on the way.
  checked = acc if spec.how.payload_dtype is None else synced
  # Sums and weights cross the wire, never means.
  sums = _sum_scalars(
    {
      'loss': loss_sum,
      'weight': weight_sum,
      'num_bad': sum(
        jnp.sum(~jnp.isfinite(a), dtype=jnp.float32)
        for a in jax.tree.leaves((checked, row_acc))
      ),
      **flags,
    }
  )
  scale = jnp.where(sums['weight'] > 0, 1 / (sums['weight'] * factor), 0.0)
  grads = [g * scale for g in synced]
  if spec.tables is not None:
    table_state = spec.tables.push(
      table_state,
      routing,
      rounds,
      jax.tree.map(lambda g: g * scale, row_acc),
      step,
      (sums['weight'] > 0) & (sums['num_bad'] == 0),
      lr_scale,
    )
  return grads, table_state, sums


def _sum_scalars(scalars: Mapping[str, Any]) -> dict[str, jax.Array]:
  """Sums fp32 scalars over all devices, in one message."""
  each = [to_varying(jnp.asarray(x, jnp.float32)) for x in scalars.values()]
  total = psum(jnp.stack(each))
  return {name: total[i] for i, name in enumerate(scalars)}


def device_key(
  rng: jax.Array, step: jax.Array, num_micro_batches: int, i: Any
) -> jax.Array:
  """A key for this device's micro-batch i; the same on any mesh shape."""
  device = lax.axis_index(INTER) * lax.axis_size(INTRA) + lax.axis_index(INTRA)
  return key_of(rng, step, device * num_micro_batches + i)


def key_of(rng: jax.Array, step: jax.Array, index: Any) -> jax.Array:
  """The key of a step's `index`-th micro-batch, counted over all devices."""
  key = jax.random.fold_in(jax.random.wrap_key_data(rng), step)
  return jax.random.fold_in(key, index)


def reading_constants(
  fn: Callable[..., Any], constants: PyTree
) -> Callable[..., Any]:
  """A loss_fn or predict_fn that finds `constants` in its batch."""
  if constants is None:
    return fn

  def reading(*args: Any) -> Any:
    *front, batch, rng = args
    return fn(*front, batch | {'constants': constants}, rng)

  return reading


def losses_and_weights(result: Any) -> tuple[jax.Array, jax.Array]:
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
