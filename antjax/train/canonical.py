# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A state as a checkpoint has it: free of PaRO code, mesh and processes.

Whole arrays by name (their padding at the end is cut or added on reading) and
tables in the order of their ids.
"""

import json
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from antjax.collectives import transition
from antjax.mesh.paro import Level
from antjax.train.state import Layout, Leaf, named_leaves, PyTree, TrainState


def describe(layout: Layout) -> dict[str, Any]:
  """Names, true shapes and dtypes: what makes a checkpoint fit a model."""
  tables = {}
  if layout.tables is not None:
    tables = _named_shapes(layout.tables.canonical_shapes())
  return {
    'params': {
      leaf.name: [
        list(leaf.spec.shape),
        leaf.spec.dtype.name,
        'trained' if leaf.is_trained else 'frozen',
      ]
      for leaf in layout.leaves
    },
    'opt_state': sorted(_named_shapes(layout.opt_state_specs()[0])),
    'tables': tables,
  }


def check_model(layout: Layout, saved: dict[str, Any], where: str) -> None:
  """Raises ValueError unless `describe` said this of the model there."""
  here = json.loads(json.dumps(describe(layout)))
  for part in ('params', 'opt_state', 'tables'):
    if saved[part] == here[part]:
      continue
    there, ours = saved[part], here[part]
    if isinstance(ours, list):
      there, ours = dict.fromkeys(there, ''), dict.fromkeys(ours, '')
    name = next(
      n for n in sorted({*there, *ours}) if there.get(n) != ours.get(n)
    )
    raise ValueError(
      f'Checkpointer: {where} is of another model: '
      f'{part} {name} is {there.get(name, "absent")} there and '
      f'{ours.get(name, "absent")} here. Use another run folder, or the '
      'configuration that it was saved with.'
    )


def of_state(layout: Layout, state: TrainState) -> dict[str, Any]:
  """A state in this form."""
  leaves = jax.tree.leaves(state.params)
  if state.master is not None:
    leaves = layout.with_trained(leaves, jax.tree.leaves(state.master))
  tables = {}
  if layout.tables is not None:
    tables = jax.jit(
      layout.tables.to_canonical,
      out_shardings=layout.tables.canonical_shardings(),
    )(state.tables)
  return {
    'step': state.step,
    'params': {leaf.name: x for leaf, x in zip(layout.leaves, leaves)},
    'opt_state': dict(_named(state.opt_state)),
    'tables': tables,
    'rng': state.rng,
  }


def restore_target(layout: Layout) -> tuple[Any, Any]:
  """What to ask Orbax for: shapes at our levels, cut or padded as needed."""
  shardings = layout.shardings()

  def want(shape, dtype, sharding):
    return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=sharding)

  params = {}
  for leaf in layout.leaves:
    spec, level = leaf.spec, _read_level(layout, leaf)
    dtype = spec.dtype if leaf.is_trained else layout.compute_type(spec)
    params[leaf.name] = want(
      spec.stored_shape(level), dtype, spec.sharding(level, layout.mesh)
    )
  opt_state = {
    name: want(shape.shape, shape.dtype, sharding)
    for (name, shape), (_, sharding) in zip(
      _named(layout.opt_state_specs()[0]),
      _named(shardings.opt_state),
      strict=True,
    )
  }
  tables = {}
  if layout.tables is not None:
    tables = jax.tree.map(
      lambda x, s: want(x.shape, x.dtype, s),
      jax.eval_shape(
        layout.tables.to_canonical,
        jax.eval_shape(layout.tables.init, jax.random.key(0)),
      ),
      layout.tables.canonical_shardings(),
    )
  target = {
    'step': want((), np.int32, shardings.step),
    'params': params,
    'opt_state': opt_state,
    'tables': tables,
    'rng': want((2,), np.uint32, shardings.rng),
  }
  return target, jax.tree.map(
    lambda x: ocp.ArrayRestoreArgs(
      sharding=x.sharding, global_shape=x.shape, dtype=x.dtype, strict=False
    ),
    target,
  )


def to_state(layout: Layout, canonical: dict[str, Any]) -> TrainState:
  """The state of what was read as `restore_target` says."""
  shardings = layout.shardings()
  leaves = [canonical['params'][leaf.name] for leaf in layout.leaves]
  opt_shapes, _ = layout.opt_state_specs()
  opt_state = jax.tree.unflatten(
    jax.tree.structure(opt_shapes),
    [canonical['opt_state'][name] for name, _ in _named(opt_shapes)],
  )
  tables = {}
  if layout.tables is not None:
    tables = jax.jit(
      layout.tables.from_canonical, out_shardings=layout.tables.shardings()
    )(canonical['tables'])
  master = None
  if layout.compute_dtype is not None:
    master = layout.trained_tree(layout.trained(leaves))
    leaves = _compute_copies(layout, leaves)
  return TrainState(
    step=canonical['step'],
    params=jax.device_put(
      jax.tree.unflatten(layout.treedef, leaves), shardings.params
    ),
    master=master,
    opt_state=opt_state,
    tables=tables,
    rng=canonical['rng'],
  )


def _read_level(layout: Layout, leaf: Leaf) -> Level:
  """A trained leaf is read as a master in mixed precision."""
  if layout.compute_dtype is not None and leaf.is_trained:
    return layout.paro.opt_state
  return layout.paro.params


def _compute_copies(layout: Layout, leaves: list[Any]) -> list[jax.Array]:
  """The step's copies of the parameters, from their masters."""
  specs = [leaf.spec for leaf in layout.leaves]
  levels = [_read_level(layout, leaf) for leaf in layout.leaves]

  def local(xs):
    return [
      transition.coarsen(
        x.astype(layout.compute_type(spec)), spec, level, layout.paro.params
      )
      for x, spec, level in zip(xs, specs, levels, strict=True)
    ]

  return jax.jit(
    jax.shard_map(
      local,
      mesh=layout.mesh,
      in_specs=([s.partition_spec(at) for s, at in zip(specs, levels)],),
      out_specs=layout.param_specs,
    )
  )(leaves)


def _named(tree: PyTree) -> list[tuple[str, Any]]:
  return named_leaves(jax.tree.leaves_with_path(tree))


def _named_shapes(tree: PyTree) -> dict[str, Any]:
  return {n: [list(x.shape), np.dtype(x.dtype).name] for n, x in _named(tree)}
