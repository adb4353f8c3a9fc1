# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The parts of a step's gradient, shared by both forms of the step.

`add_micro_batch` is the body of the micro-batch loop, which moves nothing
between groups under elastic codes. `sync` is the exchange at the end of a step.
Both run in `shard_map`, the first also on the devices of a single process.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from antjax.collectives import transition
from antjax.collectives.layer_piece import LayerPiece, OneUse
from antjax.collectives.varying import pmax, psum, to_varying
from antjax.mesh.mesh import INTER, INTRA
from antjax.mesh.paro import Level
from antjax.mesh.sharding import LeafSpec
from antjax.train import residuals
from antjax.train.loss import (
  blank,
  checked_updates,
  is_summed,
  read_loss,
  summed,
  Sums,
)
from antjax.train.open_leaves import (
  crosses_early,
  empty_accumulator,
)
from antjax.train.residuals import BETWEEN, INSIDE
from antjax.train.row_keys import row_key
from antjax.train.state import PyTree
from antjax.train.step_spec import StateView, StepSpec


class Carry(NamedTuple):
  """What a device adds up in a step: see `empty_carry`."""

  grads: list[jax.Array]  # Accumulators of leaves.
  rows: PyTree  # Those of rows.
  sums: Sums
  residuals: PyTree  # Of sent gradients, see `residuals.on_device`.


# Name scopes of micro-batches that run outside of the loop.
FIRST_MICRO_BATCH, LAST_MICRO_BATCH = 'first_micro_batch', 'last_micro_batch'
METRIC = 'metric '  # Prefix of the names of metrics among a step's sums.


def empty_carry(
  spec: StepSpec,
  rows: PyTree,
  metrics: Iterable[str] = (),
  view: StateView | None = None,
) -> Carry:
  """Zero sums of this device, marked as varying between devices.

  Without tables `rows` is an empty dict. `metrics` are the names of the loss's
  metrics, if the carry is that of a loop and must not change its type. The view
  is of the state before the step, if it has residuals.
  """
  layout = spec.layout
  leaves = [empty_accumulator(layout, s) for s in layout.trained_specs]
  zero = jnp.zeros((), jnp.float32)
  updates = {
    leaf.name: blank(summed(jnp.zeros(leaf.spec.shape, leaf.spec.dtype)))
    for leaf in layout.leaves
    if leaf.is_mutable
  }
  sums = Sums(zero, zero, dict.fromkeys(metrics, zero), updates)
  left = {}
  if view is not None:
    left = residuals.on_device(view.residuals, view.factor)
  zeros = Carry(leaves, jax.tree.map(jnp.zeros_like, rows), sums, left)
  return jax.tree.map(to_varying, zeros)


def metric_names(
  spec: StepSpec,
  leaves: list[jax.Array],
  rows: PyTree,
  micro: PyTree,
  key: jax.Array,
) -> list[str]:
  """Names of the loss's metrics, from the arguments of a micro-batch."""
  layout = spec.layout
  names: list[str] = []

  def trace(leaves, rows, micro, key):
    whole = spec.open_leaves(leaves)
    params = jax.tree.unflatten(layout.treedef, whole)
    args = (params,) if spec.tables is None else (params, rows)
    names.extend(read_loss(spec.loss_fn(*args, micro, key)).metrics)

  jax.eval_shape(trace, leaves, rows, micro, key)
  return names


def add_micro_batch(
  spec: StepSpec,
  carry: Carry,
  leaves: list[jax.Array],
  rows: PyTree,
  micro: PyTree,
  key: jax.Array,
  factor: jax.Array,
  is_valid: jax.Array | None = None,
  is_last: bool = False,
  levels: list[Level] | None = None,
) -> tuple[Carry, list[jax.Array]]:
  """Adds one micro-batch's weighted sums of losses and gradients.

  `leaves` are this device's pieces of the parameters; without tables `rows` is
  an empty dict. The loss is multiplied by `factor`, and the weights by
  `is_valid`, if given. With `is_last`, of a step's last micro-batch, sums of
  leaves with `crosses_early` are sent now: these are returned as after `sync`.
  `levels` are those of the leaves, see `open_leaves`.

  Returns:
    (sums, leaves at the level of the parameters).
  """
  layout = spec.layout
  acc, row_acc, sums, left = carry
  pieces = leaves
  if levels is None or set(levels) == {layout.paro.params}:
    pieces, micro = lax.optimization_barrier((leaves, micro))
  whole = spec.open_leaves(pieces, acc if is_last else None, left, levels)
  opened = layout.trained(whole)

  # With respect to whole arrays, and to the slots of stacks, whose gradients
  # are already reduced layer by layer.
  arguments = [x.argument if isinstance(x, LayerPiece) else x for x in opened]
  (_, new_sums), (grads, row_grads) = jax.value_and_grad(
    _loss_of(spec, whole, micro, key, factor, is_valid),
    argnums=(0, 1),
    has_aux=True,
  )(arguments, rows)
  arrived = layout.trained(pieces)
  for i, x in enumerate(opened):
    if isinstance(x, LayerPiece) and x.home is not None:
      grads[i], arrived[i] = grads[i]
  addends, left = _addends(spec, grads, acc, opened, left)
  addends, acc = lax.optimization_barrier((addends, acc))
  new = Carry(
    [
      g if isinstance(x, LayerPiece) and x.carried is not None else a + g
      for a, g, x in zip(acc, addends, opened, strict=True)
    ],
    jax.tree.map(jnp.add, row_acc, row_grads),
    sums.plus(jax.tree.map(to_varying, new_sums)),
    left,
  )
  return new, layout.with_trained(pieces, arrived)


def _loss_of(
  spec: StepSpec,
  whole: list[Any],
  micro: PyTree,
  key: jax.Array,
  factor: jax.Array,
  is_valid: jax.Array | None,
) -> Callable[[list[Any], PyTree], tuple[jax.Array, Sums]]:
  """Function from (arguments of trained leaves, rows) to (loss, sums)."""
  layout = spec.layout
  opened = layout.trained(whole)

  def loss_of(trained, rows):
    # Each stack is used once, whether its layers are split alike or not.
    uses: dict[int, OneUse] = {}

    def given(x: Any, new: jax.Array) -> Any:
      if not isinstance(x, LayerPiece):
        return new
      use = None
      if x.is_once:
        any_slot = jax.tree.leaves(new)[0]
        use = uses.setdefault(any_slot.shape[0], OneUse(any_slot))
      return x.given(new, use)

    trained = [given(*pair) for pair in zip(opened, trained, strict=True)]
    params = jax.tree.unflatten(
      layout.treedef, layout.with_trained(whole, trained)
    )
    args = (params,) if spec.tables is None else (params, rows)
    said = read_loss(spec.loss_fn(*args, micro, key))
    weights = said.weights if is_valid is None else said.weights * is_valid
    # Padding may have any loss, but its gradient should be finite.
    losses = jnp.where(weights != 0, said.losses, 0)
    loss, weight = jnp.sum(losses * weights), jnp.sum(weights)
    metrics = {
      name: jnp.sum(jnp.where(weights != 0, x, 0) * weights)
      for name, x in said.metrics.items()
    }
    new = checked_updates(layout, said.updates)
    updates = {n: x * weight if is_summed(x) else x for n, x in new.items()}
    return loss * factor, Sums(loss, weight, metrics, updates)

  return loss_of


def _addends(
  spec: StepSpec,
  grads: list[Any],
  acc: list[jax.Array],
  opened: list[Any],
  left: dict[str, Any],
) -> tuple[list[jax.Array], dict[str, Any]]:
  """(the gradients as they are added to `acc`, residuals behind them)."""

  def addend(
    g: Any, a: jax.Array, leaf: LeafSpec, x: Any, residual: Any
  ) -> tuple[jax.Array, Any, Any]:
    """A leaf's addend, new residual, and that between groups if crossed."""
    if isinstance(x, LayerPiece):
      return (*g, None)[:3] if isinstance(g, tuple) else (g, None, None)
    g = g.astype(a.dtype)
    if residual is not None:
      g, residual = transition.narrowly_reduce_addend(
        g, leaf, spec.how, residual
      )
      return g, residual, None
    g = transition.reduce_addend(g, leaf, spec.layout.paro.grads, spec.how)
    return g, None, None

  before = left.get(INSIDE, [None] * len(acc))
  leaves = spec.layout.trained_specs
  addends, inside, between = map(
    list, zip(*map(addend, grads, acc, leaves, opened, before))
  )
  if not left:
    return addends, left
  crossed = [
    old if new is None else new
    for new, old in zip(between, left[BETWEEN], strict=True)
  ]
  return addends, left | {INSIDE: inside, BETWEEN: crossed}


def sync(
  spec: StepSpec,
  carry: Carry,
  view: StateView,
  routing: PyTree,
  rounds: PyTree,
  flags: Mapping[str, jax.Array],
  lr_scale: jax.Array | None = None,
  has_crossed: bool = False,
) -> tuple[list[jax.Array], PyTree, PyTree, dict[str, jax.Array]]:
  """The step's exchange: gradients of the weighted mean loss over all devices.

  The view is of the state before the step, and its leaves are not read.
  `rounds` is the second result of the tables' `fetch`, `flags` are further
  scalars of this device to sum, and `lr_scale` is a factor of the updates of
  rows. `has_crossed` tells that the last micro-batch was added with `is_last`.

  Returns:
    (grads at the optimizer's level, new tables, new residuals, sums
    replicated).
  """
  layout, paro = spec.layout, spec.layout.paro
  acc, row_acc, mine, left = carry
  leaves = [leaf for leaf in layout.leaves if leaf.is_trained]
  rest = [
    i
    for i, leaf in enumerate(leaves)
    if not (has_crossed and crosses_early(layout, leaf))
  ]
  synced = list(acc)
  if left:  # Each by itself: messages of several leaves have no residuals.
    narrow = [i for i in rest if leaves[i].spec.dim is not None]
    rest = [i for i in rest if leaves[i].spec.dim is None]

    def send(i: int, pair: Any) -> tuple[jax.Array, Any]:
      return transition.narrowly_sync(
        acc[i], leaves[i].spec, paro.opt_state, spec.how, pair
      )

    sent, left = residuals.sync(send, left, narrow)
    for i, x in zip(narrow, sent, strict=True):
      synced[i] = x
    left = residuals.off_device(left, view.factor)
  late = transition.sync_all(
    [acc[i] for i in rest],
    [leaves[i].spec for i in rest],
    paro.grads,
    paro.opt_state,
    spec.how,
  )
  for i, x in zip(rest, late, strict=True):
    synced[i] = x
  # Sums may overflow if they are rounded for sending.
  checked = acc if spec.how.payload_dtype is None else synced
  # Sums and weights are sent, never means.
  sums: dict[str, Any] = _sum_scalars(
    {
      'loss': mine.loss,
      'weight': mine.weight,
      'num_bad': sum(
        jnp.sum(~jnp.isfinite(a), dtype=jnp.float32)
        for a in jax.tree.leaves((checked, row_acc))
      ),
      **flags,
      **{METRIC + name: x for name, x in mine.metrics.items()},
    }
  )
  sums['updates'] = {
    name: psum(x) if is_summed(x) else pmax(x)
    for name, x in mine.updates.items()
  }
  total = sums['weight']
  scale = jnp.where(total != 0, 1 / (total * view.factor), 0.0)
  grads = [g * scale for g in synced]
  tables = view.tables
  if spec.tables is not None:
    tables = spec.tables.push(
      tables,
      routing,
      rounds,
      jax.tree.map(lambda g: g * scale, row_acc),
      view.step,
      (total != 0) & (sums['num_bad'] == 0),
      lr_scale,
    )
  return grads, tables, left, sums


def _sum_scalars(scalars: Mapping[str, Any]) -> dict[str, jax.Array]:
  """Sums fp32 scalars over all devices, in one message."""
  each = [to_varying(jnp.asarray(x, jnp.float32)) for x in scalars.values()]
  total = psum(jnp.stack(each))
  return {name: total[i] for i, name in enumerate(scalars)}


def device_key(
  rng: jax.Array, step: jax.Array, num_micro_batches: int, i: Any
) -> jax.Array:
  """The key of this device's micro-batch i."""
  device = lax.axis_index(INTER) * lax.axis_size(INTRA) + lax.axis_index(INTRA)
  return key_of(rng, step, device * num_micro_batches + i)


def key_of(rng: jax.Array, step: jax.Array, index: Any) -> jax.Array:
  """The key of a step's `index`-th micro-batch, see `row_key`."""
  key = jax.random.fold_in(jax.random.wrap_key_data(rng), step)
  return row_key(key, index)
