# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoint form of a state, independent of PaRO code, mesh and processes.

Arrays by name in their true shapes (padding is removed on writing and added on
reading), and tables in the order of their ids. In files, parameters and
optimizer state are the user's own trees, so that plain Orbax can read them.
"""

from collections.abc import Mapping
import functools
import json
import sys
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from antjax.collectives import transition
from antjax.mesh.manual import manual
from antjax.mesh.paro import Level
from antjax.mesh.sharding import LeafSpec
from antjax.train.state import Layout, Leaf, named_leaves, PyTree, TrainState


def describe(layout: Layout) -> dict[str, Any]:
  """Names, true shapes and dtypes, by which a checkpoint matches a model."""
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
    'opt_state': sorted(n for n, _ in _named(layout.opt_state_shapes())),
    'tables': tables,
  }


def check_model(layout: Layout, saved: dict[str, Any], where: str) -> None:
  """Raises ValueError unless `describe` gives `saved` for this model."""
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


def without_empty(tree: dict[str, Any]) -> dict[str, Any]:
  """A tree of dicts without empty arrays, which files cannot hold."""
  return {
    name: without_empty(x) if isinstance(x, dict) else x
    for name, x in tree.items()
    if isinstance(x, dict) or 0 not in x.shape
  }


def with_empty(tree: dict[str, Any], target: dict[str, Any]) -> dict[str, Any]:
  """The inverse of `without_empty`; `target` has the empty arrays."""
  return {
    name: with_empty(tree.get(name, {}), want)
    if isinstance(want, dict)
    else jnp.zeros(want.shape, want.dtype, device=want.sharding)
    if 0 in want.shape
    else tree[name]
    for name, want in target.items()
  }


def of_state(
  layout: Layout, state: TrainState, for_files: bool = False
) -> dict[str, Any]:
  """Converts a state to this form.

  Arrays of large tables are streams `for_files`, which take no memory.
  """
  leaves = jax.tree.leaves(state.params)
  if state.master is not None:
    leaves = layout.with_trained(leaves, jax.tree.leaves(state.master))
  params = {
    leaf.name: _cut(leaf.spec, layout.mesh, x)
    for leaf, x in zip(layout.leaves, leaves, strict=True)
  }
  opt_state = layout.map_moments(
    lambda spec, x: _cut(spec, layout.mesh, x), state.opt_state
  )
  tables = {}
  if layout.tables is not None:
    is_streamed = for_files and layout.tables.are_large
    convert = layout.tables.streams if is_streamed else None
    tables = (convert or layout.tables.to_canonical)(state.tables)
  return {
    'step': state.step,
    'params': params,
    'opt_state': {name: _key_data(x) for name, x in _named(opt_state)},
    'tables': tables,
    'rng': state.rng,
  }


def _cut(spec: LeafSpec, mesh: Mesh, x: jax.Array) -> jax.Array:
  """Removes padding; an array that had some is replicated afterwards."""
  return x if x.shape == spec.shape else _unpadded(spec, mesh, x)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _unpadded(spec: LeafSpec, mesh: Mesh, x: jax.Array) -> jax.Array:
  whole = spec.sharding(Level.NONE, mesh)
  return lax.with_sharding_constraint(spec.unpad(x), whole)


def _key_data(x: jax.Array) -> jax.Array:
  """Files hold numbers, not typed keys of random numbers."""
  return jax.random.key_data(x) if _is_key(x.dtype) else x


def _with_keys(x: jax.Array, dtype: Any) -> jax.Array:
  """The inverse of `_key_data`; `dtype` is that before it."""
  if not _is_key(dtype):
    return x
  kinds = ('threefry2x32', 'rbg', 'unsafe_rbg')
  kind = next(k for k in kinds if jax.random.key(0, impl=k).dtype == dtype)
  return jax.random.wrap_key_data(x, impl=kind)


def _is_key(dtype: Any) -> bool:
  return jnp.issubdtype(dtype, jax.dtypes.prng_key)


def to_items(layout: Layout, named: Mapping[str, Any]) -> dict[str, Any]:
  """Trees as in files: 'params', and 'state' with the rest.

  `named` is the result of `of_state` or `restore_target`, or only its 'params';
  missing arrays become None.
  """
  items: dict[str, Any] = {'params': _tree(*_params(layout), named['params'])}
  if 'opt_state' in named:
    rest = {name: named[name] for name in ('step', 'tables', 'rng')}
    opt_state = _tree(*_opt_state(layout), named['opt_state'])
    items['state'] = rest | {'opt_state': opt_state}
  return items


def from_items(layout: Layout, items: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `to_items`."""
  named = {'params': _by_name(*_params(layout), items['params'])}
  if 'state' in items:
    opt_state = items['state']['opt_state']
    named = items['state'] | named
    named['opt_state'] = _by_name(*_opt_state(layout), opt_state)
  return named


def _tree(structure: Any, names: list[str], by_name: dict[str, Any]) -> Any:
  """A tree of arrays, or a dict by name if names would collide in files."""
  leaves = [by_name.get(name) for name in names]
  if _collides(structure):
    return dict(zip(names, leaves, strict=True))
  return jax.tree.unflatten(structure, leaves)


def _by_name(structure: Any, names: list[str], tree: Any) -> dict[str, Any]:
  if not _collides(structure):
    tree = dict(zip(names, structure.flatten_up_to(tree), strict=True))
  return {name: x for name, x in tree.items() if x is not None}


def _collides(structure: Any) -> bool:
  """Whether Orbax cannot tell paths apart, or sort them.

  ['a.b'] and ['a']['b'] are equal in files; an `nnx.List` has names beside its
  numbers.
  """
  tree = jax.tree.unflatten(structure, range(structure.num_leaves))
  paths = [path for path, _ in jax.tree.leaves_with_path(tree)]
  names = {jax.tree_util.keystr(p, simple=True, separator='.') for p in paths}

  def is_list(x: Any) -> bool:  # Flax is imported by models that use it.
    return isinstance(x, getattr(sys.modules.get('flax.nnx'), 'List', ()))

  return len(names) < len(paths) or any(
    map(is_list, jax.tree.leaves(tree, is_leaf=is_list))
  )


def _params(layout: Layout) -> tuple[Any, list[str]]:
  """Structure of the parameters, and the names of their leaves."""
  return layout.treedef, [leaf.name for leaf in layout.leaves]


def _opt_state(layout: Layout) -> tuple[Any, list[str]]:
  """Structure of the optimizer's state, and the names of its leaves."""
  shapes = layout.opt_state_shapes()
  return jax.tree.structure(shapes), [name for name, _ in _named(shapes)]


def restore_target(layout: Layout) -> dict[str, Any]:
  """Arrays to request from Orbax: shapes and shardings at our levels."""
  shardings = layout.shardings()

  def want(shape, dtype, sharding):
    return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=sharding)

  params = {}
  for leaf in layout.leaves:
    spec, level = leaf.spec, _read_level(layout, leaf)
    dtype = spec.dtype if leaf.is_trained else leaf.kept_type
    params[leaf.name] = want(
      spec.stored_shape(level), dtype, spec.sharding(level, layout.mesh)
    )
  tables = {}
  if layout.tables is not None and layout.tables.are_large:
    tables = layout.tables.sinks()
  elif layout.tables is not None:
    tables = jax.tree.map(
      lambda x, s: want(x.shape, x.dtype, s),
      jax.eval_shape(layout.tables.to_canonical, layout.tables.shapes),
      layout.tables.canonical_shardings(),
    )
  return {
    'step': want((), np.int32, shardings.step),
    'params': params,
    'opt_state': {
      name: want(data.shape, data.dtype, x.sharding)
      for name, x in _named(layout.opt_state_shapes())
      for data in [jax.eval_shape(_key_data, x)]
    },
    'tables': tables,
    'rng': want((2,), np.uint32, shardings.rng),
  }


def to_state(
  layout: Layout, canonical: dict[str, Any], residuals: PyTree
) -> TrainState:
  """The state from arrays read as in `restore_target`, and its residuals."""
  shardings = layout.shardings()
  leaves = [canonical['params'][leaf.name] for leaf in layout.leaves]
  opt_shapes = layout.opt_state_shapes()
  opt_state = jax.tree.unflatten(
    jax.tree.structure(opt_shapes),
    [
      _with_keys(canonical['opt_state'][name], want.dtype)
      for name, want in _named(opt_shapes)
    ],
  )
  tables = {}
  if layout.tables is not None:
    tables = layout.tables.from_canonical(canonical['tables'])
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
    residuals=residuals,
  )


def _read_level(layout: Layout, leaf: Leaf) -> Level:
  """Level at which to read a leaf: in mixed precision, that of its master."""
  is_fine = layout.compute_dtype is not None or layout.late_params
  paro = layout.paro
  return paro.opt_state if is_fine and leaf.is_trained else paro.params


def _compute_copies(layout: Layout, leaves: list[Any]) -> list[jax.Array]:
  """Compute copies of the parameters, from their masters."""
  specs = [leaf.spec for leaf in layout.leaves]
  levels = [_read_level(layout, leaf) for leaf in layout.leaves]
  dtypes = [leaf.kept_type for leaf in layout.leaves]

  def local(xs):
    return [
      transition.coarsen(x.astype(dtype), spec, level, target)
      for x, dtype, spec, level, target in zip(
        xs, dtypes, specs, levels, layout.param_levels, strict=True
      )
    ]

  return jax.jit(
    manual(
      local,
      layout.mesh,
      in_specs=([s.partition_spec(at) for s, at in zip(specs, levels)],),
      out_specs=layout.param_specs,
    )
  )(leaves)


def _named(tree: PyTree) -> list[tuple[str, Any]]:
  return named_leaves(jax.tree.leaves_with_path(tree))


def _named_shapes(tree: PyTree) -> dict[str, Any]:
  return {n: [list(x.shape), np.dtype(x.dtype).name] for n, x in _named(tree)}
