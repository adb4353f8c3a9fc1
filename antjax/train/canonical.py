# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A state as a checkpoint has it: free of PaRO code, mesh and processes.

Whole arrays by name (their padding at the end is cut or added on reading) and
tables in the order of their ids.
"""

from collections.abc import Sequence
import json
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp

from antjax.collectives import transition
from antjax.mesh.paro import Level
from antjax.train.state import (
  Layout,
  leaf_names,
  PyTree,
  SparseTables,
  state_shardings,
  TrainState,
)


class Canonical:
  """Turns the state of one model into that form, and back."""

  def __init__(
    self,
    layout: Layout,
    optimizer: optax.GradientTransformation,
    tables: SparseTables | None,
  ):
    """Takes what a `Checkpointer` takes."""
    self._layout = layout
    self._optimizer = optimizer
    self._tables = tables

  def describe(self) -> dict[str, Any]:
    """Names, true shapes and dtypes: what makes a checkpoint fit a model."""
    layout = self._layout
    tables = {}
    if self._tables is not None:
      tables = _named_shapes(self._tables.canonical_shapes())
    leaves = zip(layout.names, layout.specs, layout.trainable, strict=True)
    shapes, _ = layout.opt_state_specs(self._optimizer)
    return {
      'params': {
        n: [list(s.shape), s.dtype.name, 'trained' if t else 'frozen']
        for n, s, t in leaves
      },
      'opt_state': sorted(_named_shapes(shapes)),
      'tables': tables,
    }

  def check_model(self, saved: dict[str, Any], where: str) -> None:
    """Raises ValueError unless `describe` said this of the model there."""
    here = json.loads(json.dumps(self.describe()))
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

  def of(self, state: TrainState) -> dict[str, Any]:
    """The state in this form."""
    layout = self._layout
    leaves = jax.tree.leaves(state.params)
    if state.master is not None:
      leaves = layout.with_trained(leaves, jax.tree.leaves(state.master))
    tables = {}
    if self._tables is not None:
      tables = jax.jit(
        self._tables.to_canonical,
        out_shardings=self._tables.canonical_shardings(),
      )(state.tables)
    return {
      'step': state.step,
      'params': dict(zip(layout.names, leaves, strict=True)),
      'opt_state': dict(_named(state.opt_state)),
      'tables': tables,
      'rng': state.rng,
    }

  def target(self) -> tuple[Any, Any]:
    """What to ask Orbax for: shapes at our levels, cut or padded as needed."""
    layout = self._layout
    shardings = state_shardings(layout, self._optimizer, self._tables)
    opt_shapes, _ = layout.opt_state_specs(self._optimizer)

    def want(shape, dtype, sharding):
      return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=sharding)

    params = {}
    for i, name in enumerate(layout.names):
      spec, level = layout.specs[i], self._param_level(i)
      params[name] = want(
        spec.stored_shape(level),
        self._param_dtype(i),
        spec.sharding(level, layout.mesh),
      )
    opt_state = {
      name: want(shape.shape, shape.dtype, sharding)
      for (name, shape), (_, sharding) in zip(
        _named(opt_shapes), _named(shardings.opt_state), strict=True
      )
    }
    tables = {}
    if self._tables is not None:
      stored = jax.eval_shape(
        self._tables.to_canonical,
        jax.eval_shape(self._tables.init, jax.random.key(0)),
      )
      tables = jax.tree.map(
        lambda x, s: want(x.shape, x.dtype, s),
        stored,
        self._tables.canonical_shardings(),
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

  def _param_level(self, i: int) -> Level:
    """A trained leaf is read as a master in mixed precision."""
    layout = self._layout
    if layout.compute_dtype is not None and layout.trainable[i]:
      return layout.paro.opt_state
    return layout.paro.params

  def _param_dtype(self, i: int) -> np.dtype:
    spec = self._layout.specs[i]
    trained = self._layout.trainable[i]
    return spec.dtype if trained else self._layout.compute_type(spec)

  def state(self, canonical: dict[str, Any]) -> TrainState:
    """The state of what was read as `target` says."""
    layout = self._layout
    shardings = state_shardings(layout, self._optimizer, self._tables)
    leaves = [canonical['params'][name] for name in layout.names]
    opt_shapes, _ = layout.opt_state_specs(self._optimizer)
    opt_state = jax.tree.unflatten(
      jax.tree.structure(opt_shapes),
      [canonical['opt_state'][name] for name, _ in _named(opt_shapes)],
    )
    tables = {}
    if self._tables is not None:
      tables = jax.jit(
        self._tables.from_canonical, out_shardings=self._tables.shardings()
      )(canonical['tables'])
    master = None
    if layout.compute_dtype is not None:
      master = layout.trained_tree(layout.trained(leaves))
      leaves = self._compute_copies(leaves)
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

  def _compute_copies(self, leaves: Sequence[jax.Array]) -> list[jax.Array]:
    """The step's copies of the parameters, from their masters."""
    layout, paro = self._layout, self._layout.paro
    levels = [self._param_level(i) for i in range(len(leaves))]

    def local(xs):
      return [
        transition.coarsen(
          x.astype(layout.compute_type(spec)), spec, level, paro.params
        )
        for x, spec, level in zip(xs, layout.specs, levels, strict=True)
      ]

    specs = zip(layout.specs, levels, strict=True)
    return jax.jit(
      jax.shard_map(
        local,
        mesh=layout.mesh,
        in_specs=([s.partition_spec(level) for s, level in specs],),
        out_specs=layout.level_specs(paro.params, trained=False),
      )
    )(list(leaves))


def _named(tree: PyTree) -> list[tuple[str, Any]]:
  by_path = jax.tree.leaves_with_path(tree)
  names = leaf_names([path for path, _ in by_path])
  return [(n, x) for n, (_, x) in zip(names, by_path, strict=True)]


def _named_shapes(tree: PyTree) -> dict[str, Any]:
  return {n: [list(x.shape), np.dtype(x.dtype).name] for n, x in _named(tree)}
