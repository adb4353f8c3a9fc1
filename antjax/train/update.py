# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The automatic part of a step: the optimizer's update on global arrays."""

from collections.abc import Callable, Mapping

import jax
from jax import lax
import jax.numpy as jnp
import optax

from antjax.collectives import transition
from antjax.mesh.manual import manual
from antjax.mesh.sharding import LeafSpec
from antjax.train import gradient
from antjax.train import loss_scale as loss_scale_lib
from antjax.train import optimizer as optimizer_lib
from antjax.train.loss import is_summed
from antjax.train.loss_scale import LossScaleState
from antjax.train.state import Layout, PyTree, TrainState
from antjax.train.step_spec import StepSpec

Arrays = list[jax.Array]
Metrics = dict[str, jax.Array]


def make_update(spec: StepSpec) -> Callable[..., tuple[TrainState, Metrics]]:
  """The automatic part of a step, to be called in `jit`.

  Returns:
    `(state, *results of gradient.sync, lr_scale) -> (state, metrics)`;
    `lr_scale` is a factor of the updates or None.
  """
  layout, coarsen = spec.layout, _coarsen(spec)

  def update(
    state: TrainState,
    grads: Arrays,
    new_tables: PyTree,
    left: PyTree,
    sums: Mapping[str, jax.Array],
    lr_scale: jax.Array | None,
  ) -> tuple[TrainState, Metrics]:
    is_scaled = isinstance(state.opt_state, LossScaleState)
    total = sums['weight']
    is_finite = sums['num_bad'] == 0
    is_active = (total != 0) & (is_finite | (not is_scaled))

    # Without a gradient nothing changes, not even by decay.
    def keep(new: jax.Array, old: jax.Array) -> jax.Array:
      return jnp.where(is_active, new, old)

    def mean(x: jax.Array) -> jax.Array:
      return x / jnp.where(is_active, total, 1)

    master = _at_opt_level(layout, _master(layout, state))
    # The optimizer sees true shapes; unpadding and padding move nothing.
    masters_tree = _tree(layout, master)
    grads_tree = _tree(layout, _at_opt_level(layout, grads))
    mean_loss = mean(sums['loss'])
    new_master, opt_state = _optimized(
      layout, state.opt_state, masters_tree, grads_tree, mean_loss, lr_scale
    )
    opt_state = jax.tree.map(keep, opt_state, state.opt_state)
    if is_scaled:
      opt_state = loss_scale_lib.adjust(opt_state, is_finite)
    new_leaves = jax.tree.leaves(new_master)
    new_leaves = [
      keep(_kept_at(layout, s, new), old)
      for s, new, old in zip(
        layout.trained_specs, new_leaves, master, strict=True
      )
    ]
    new_leaves = _at_opt_level(layout, new_leaves)
    leaves = jax.tree.leaves(state.params)
    params = layout.with_trained(leaves, coarsen(new_leaves))
    for i, leaf in enumerate(layout.leaves):
      if leaf.is_mutable:
        new = sums['updates'][leaf.name]
        new = mean(new) if is_summed(new) else new
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
      **{x: sums[x] for x in ('num_examples', 'num_valid', 'is_stopping')},
    }
    if is_scaled:
      metrics['loss_scale'] = state.opt_state.scale
    return new_state, _with_those_of_loss(metrics, sums, mean)

  return update


def _coarsen(spec: StepSpec) -> Callable[[Arrays], Arrays]:
  """Function from new master leaves to trained leaves of the parameters."""
  layout, trained_specs = spec.layout, spec.layout.trained_specs
  paro = layout.paro
  params_level = paro.opt_state if layout.late_params else paro.params
  coarsen = manual(
    lambda leaves: transition.coarsen_all(
      leaves, trained_specs, paro.opt_state, params_level, spec.how
    ),
    layout.mesh,
    in_specs=(layout.master_specs,),
    out_specs=layout.trained(layout.param_specs),
    check_vma=spec.is_typed,
  )

  def params_of(master: Arrays) -> Arrays:
    trained = layout.trained(list(layout.leaves))
    pairs = zip(master, trained, strict=True)
    return coarsen([x.astype(leaf.kept_type) for x, leaf in pairs])

  return params_of


def _kept_at(layout: Layout, leaf: LeafSpec, x: jax.Array) -> jax.Array:
  return leaf.stored(x, layout.paro.opt_state)


def _at_opt_level(layout: Layout, leaves: Arrays) -> Arrays:
  return lax.with_sharding_constraint(leaves, layout.master_shardings)


def _master(layout: Layout, state: TrainState) -> Arrays:
  """Trained leaves as the optimizer updates them."""
  if state.master is not None:
    return jax.tree.leaves(state.master)
  trained = layout.trained(jax.tree.leaves(state.params))
  # Refining is a local slice.
  return [
    _kept_at(layout, s, x)
    for s, x in zip(layout.trained_specs, trained, strict=True)
  ]


def _tree(layout: Layout, leaves: Arrays) -> PyTree:
  """The tree of trained leaves, unpadded and of their own types."""
  pairs = zip(layout.trained_specs, leaves, strict=True)
  return layout.trained_tree([s.unpad(x.astype(s.dtype)) for s, x in pairs])


def _optimized(
  layout: Layout,
  opt_state: PyTree,
  masters: PyTree,
  grads: PyTree,
  mean_loss: jax.Array,
  lr_scale: jax.Array | None,
) -> tuple[PyTree, PyTree]:
  """(new masters, unpadded; new state of the optimizer)."""
  updates, opt_state = optimizer_lib.update(
    layout.optimizer,
    grads,
    layout.map_moments(LeafSpec.unpad, opt_state),
    masters,
    value=mean_loss,
    grad=grads,
  )
  if lr_scale is not None:
    updates = jax.tree.map(lambda u: u * lr_scale.astype(u.dtype), updates)
  new = optax.apply_updates(masters, updates)
  return new, layout.map_moments(
    lambda leaf, x: _kept_at(layout, leaf, x), opt_state
  )


def _with_those_of_loss(
  metrics: Metrics,
  sums: Mapping[str, jax.Array],
  mean: Callable[[jax.Array], jax.Array],
) -> Metrics:
  """The metrics with the loss's own, of which `sums` are weighted sums."""
  of_loss = {
    name.removeprefix(gradient.METRIC): mean(x)
    for name, x in sums.items()
    if name.startswith(gradient.METRIC)
  }
  if taken := of_loss.keys() & metrics.keys():
    raise ValueError(
      f'loss_fn returned metrics {sorted(taken)}, which every step has of its'
      ' own; use other names.'
    )
  return of_loss | metrics
