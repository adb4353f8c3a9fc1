# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Computes predictions and parameters from a training state."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from antjax.collectives import transition
from antjax.mesh import compiler
from antjax.mesh.gather import gather_arrays, gather_json
from antjax.mesh.manual import manual
from antjax.mesh.mesh import BATCH_AXES, INTER, INTRA
from antjax.mesh.paro import Level
from antjax.mesh.sharding import LeafSpec
from antjax.metrics.merge import merge_across_processes
from antjax.metrics.metric import Metric
from antjax.train.batches import BatchPlacer, local_rows
from antjax.train.feed import Feed
from antjax.train.gradient import device_key
from antjax.train.open_leaves import open_leaves
from antjax.train.state import Layout, PyTree, TrainState
from antjax.train.step import input_specs, StepInput
from antjax.train.step_spec import reading_constants, StepSpec

_BATCH = P(BATCH_AXES)


def make_predict(
  spec: StepSpec, predict_fn: Callable[..., Any]
) -> Callable[[TrainState, StepInput], tuple[PyTree, jax.Array]]:
  """Compiles lazily to `predict(state, step_input) -> (outputs, num_valid)`.

  Outputs keep the leading dim of the batch; `num_valid` counts devices that
  still have data.
  """
  layout, tables = spec.layout, spec.tables

  def local(view, inputs):
    whole = open_leaves(layout, view.leaves)
    params = jax.tree.unflatten(layout.treedef, whole)
    args: tuple[PyTree, ...] = (params,)
    if tables is not None:
      args += (tables.fetch(view.tables, inputs.routing)[0],)
    fn = reading_constants(predict_fn, inputs.constants)
    outputs = fn(*args, inputs.batch, device_key(view.rng, view.step, 1, 0))
    is_dict = isinstance(outputs, Mapping)
    if not is_dict or not all(getattr(x, 'ndim', 0) for x in outputs.values()):
      raise ValueError(
        f'predict_fn returned {jax.tree.map(jnp.shape, outputs)} (shapes);'
        ' needed is a dict of arrays with a row for each example, [B, ...].'
      )
    return outputs, lax.psum(jnp.sum(inputs.is_valid), (INTER, INTRA))

  specs = (_BATCH, P())
  mapped = manual(
    local,
    layout.mesh,
    in_specs=(spec.view_specs, input_specs(spec.constants)),
    out_specs=specs,
    check_vma=spec.check_vma,
  )
  return jax.jit(
    lambda state, inputs: mapped(spec.view(state), inputs),
    out_shardings=tuple(NamedSharding(layout.mesh, p) for p in specs),
    compiler_options=compiler.options(layout.mesh),
  )


def make_params(layout: Layout) -> Callable[[TrainState], PyTree]:
  """Compiles lazily to `params(state)`, see `Trainer.params`."""
  specs = [leaf.spec for leaf in layout.leaves]
  at: list[Any] = list(zip(specs, layout.param_levels, strict=True))
  if layout.compute_dtype is not None:
    level = layout.paro.opt_state
    masters = [(spec, level) for spec in layout.trained_specs]
    at = layout.with_trained(at, masters)
  gather = _gatherer(layout, at)

  def params(state: TrainState) -> PyTree:
    leaves = jax.tree.leaves(state.params)
    if state.master is not None:
      leaves = layout.with_trained(leaves, jax.tree.leaves(state.master))
    return jax.tree.unflatten(layout.treedef, gather(leaves))

  return jax.jit(params)


def trained(layout: Layout, params: PyTree) -> PyTree:
  """Parameters with None in place of leaves that are not trained."""
  return layout.trained_tree(layout.trained(jax.tree.leaves(params)))


def make_opt_state(layout: Layout) -> Callable[[TrainState], PyTree]:
  """Compiles lazily to `opt_state(state)`, see `Trainer.opt_state`."""
  level = layout.paro.opt_state

  def opt_state(state: TrainState) -> PyTree:
    moments: list[tuple[LeafSpec, jax.Array]] = []
    layout.map_moments(lambda *x: moments.append(x), state.opt_state)
    gather = _gatherer(layout, [(spec, level) for spec, _ in moments])
    whole = iter(gather([x for _, x in moments]))
    return layout.map_moments(lambda *_: next(whole), state.opt_state)

  return jax.jit(opt_state)


def _gatherer(
  layout: Layout, at: Sequence[tuple[LeafSpec, Level]]
) -> Callable[[list[jax.Array]], list[jax.Array]]:
  """Replicates and unpads arrays on every device; call it in `jit`."""
  return manual(
    lambda xs: [
      transition.coarsen(x, spec, level, Level.NONE)
      for x, (spec, level) in zip(xs, at, strict=True)
    ],
    layout.mesh,
    in_specs=([spec.partition_spec(level) for spec, level in at],),
    out_specs=P(),
  )


def with_params(
  layout: Layout, state: TrainState, params: PyTree
) -> TrainState:
  """A state for predictions with other (whole) parameters; None: its own.

  Raises:
    ValueError: The tree has another structure or other shapes.
  """
  wanted = jax.tree.unflatten(
    layout.treedef, [leaf.spec.shape for leaf in layout.leaves]
  )
  try:
    there = jax.tree.map(
      lambda x, shape: shape if x is None else jnp.shape(x),
      *(params, wanted),
      is_leaf=_is_none,
    )
  except ValueError:  # The structure differs.
    there = jax.tree.map(jnp.shape, params)
  if there != wanted:
    raise ValueError(
      f'Trainer: params have the shapes {there}; needed are those that `init`'
      f' was given: {wanted}.'
    )

  def placed(leaves: list[Any], own: list[jax.Array]) -> PyTree:
    kept = [
      old
      if x is None
      else leaf.spec.stored(jnp.asarray(x), level).astype(leaf.kept_type)
      for leaf, level, x, old in zip(
        layout.leaves, layout.param_levels, leaves, own, strict=True
      )
    ]
    return jax.tree.unflatten(layout.treedef, kept)

  place = jax.jit(placed, out_shardings=layout.shardings().params)
  given = jax.tree.leaves(params, is_leaf=_is_none)
  new = place(given, jax.tree.leaves(state.params))
  return dataclasses.replace(state, params=new)


def _is_none(x: Any) -> bool:
  return x is None


def evaluate(
  outputs: Iterable[Mapping[str, np.ndarray]], metrics: Mapping[str, Metric]
) -> dict[str, float]:
  """Values of metrics over the `outputs` of all processes."""
  for arrays in outputs:
    for metric in metrics.values():
      metric.update(**{name: x.reshape(-1) for name, x in arrays.items()})
  merged = merge_across_processes(metrics)
  return {name: metric.compute() for name, metric in merged.items()}


def collect(outputs: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """Rows of positive weight from the `outputs` of all processes."""
  parts: list[dict[str, np.ndarray]] = []
  for arrays in outputs:
    weight = arrays.get('weight')
    if weight is not None:
      is_there = (weight > 0).reshape(len(weight), -1).any(axis=1)
      if weight.ndim == 1:
        del arrays['weight']
      arrays = {name: x[is_there] for name, x in arrays.items()}
    parts.append(arrays)
  every = gather_arrays(_joined(parts))
  return _joined([part for part in every if part])


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
  if not parts:
    return {}
  return {name: np.concatenate([x[name] for x in parts]) for name in parts[0]}


def outputs(
  predict: Callable[[TrainState, StepInput], tuple[PyTree, jax.Array]],
  placer: BatchPlacer,
  state: TrainState,
  batches: Iterable[PyTree],
) -> Iterator[dict[str, np.ndarray]]:
  """See `Trainer.outputs`; `predict` is from `make_predict`."""
  placer, state = placer.for_predictions(state)
  feed = Feed(iter(batches))
  has_data = feed.open()
  # Rows of the largest batch so far: with the last one, smaller, no program is
  # compiled, and all processes have equal shapes.
  most = max(gather_json(_num_rows(feed.filler())))
  # The outputs of one batch are fetched while the next one runs.
  pending: tuple[Any, Any, tuple[int, int] | None] | None = None
  while has_data:
    batch = feed.next()
    is_mine = batch is not None
    if not is_mine and jax.process_count() == 1:
      break
    batch = batch if is_mine else feed.filler()
    num = padded = _num_rows(batch)
    if num % placer.num_local or (num and jax.process_count() > 1):
      most = max(most, num)
      padded = -(-most // placer.num_local) * placer.num_local
    if num < padded:
      index = np.minimum(np.arange(padded), num - 1)
      batch = jax.tree.map(lambda x, index=index: np.asarray(x)[index], batch)
    inputs = placer.place(
      batch, is_valid=is_mine, num_parts=1, is_training=False
    )
    state = placer.with_new_rows(state)
    older = pending
    pending = (*predict(state, inputs), (num, padded) if is_mine else None)
    if older is not None:
      yield from _own_rows(older)
      if not float(older[1]) > 0:
        return
  if pending is not None:
    yield from _own_rows(pending)


def _num_rows(batch: PyTree) -> int:
  """Rows of a batch, if its arrays have equally many; else 0."""
  sizes = {np.shape(x)[:1] for x in jax.tree.leaves(batch)}
  return sizes.pop()[0] if len(sizes) == 1 and () not in sizes else 0


def _own_rows(
  found: tuple[Any, Any, tuple[int, int] | None],
) -> Iterator[dict[str, np.ndarray]]:
  """A batch's outputs without the rows that filled it up; none of a filler."""
  arrays, _, rows = found
  if rows is not None:
    own = {name: local_rows(x) for name, x in arrays.items()}
    num, padded = rows
    if num < padded:
      own = {name: x[: len(x) * num // padded] for name, x in own.items()}
    yield own
