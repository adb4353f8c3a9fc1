# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Starts a run from the parameters of another one."""

from collections.abc import Mapping
import dataclasses
import os
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from antjax import paths
from antjax.embedding.stream import RowStream
from antjax.train import canonical
from antjax.train.checkpoint import Checkpointer, HOME, latest_step
from antjax.train.sparse_tables import home_of
from antjax.train.state import Layout, PyTree, TrainState
from antjax.train.trainer import Trainer


def warm_start(
  trainer: Trainer,
  state: TrainState,
  directory: str | os.PathLike[str],
  step: int | None = None,
  sources: Mapping[str, np.ndarray] | None = None,
) -> TrainState:
  """Replaces the parameters of a new state by those of a checkpoint.

  Step, optimizer state and random key of `state` do not change. The names and
  shapes of the parameters must be the same; frozen leaves, optimizer, PaRO
  code, mesh and dtypes of the other run may differ. Each device reads only its
  own shard. Tables may differ in size. Of these only rows with a source are
  replaced, and a process reads the whole table.

  Args:
    trainer: The trainer that made `state`.
    state: State from `trainer.init`.
    directory: Folder of checkpoints of the other run.
    step: Step of the checkpoint; the newest by default.
    sources: Table -> int [V], for each row the row of the saved table to copy,
      or -1 for no change.

  Raises:
    ValueError: There is no checkpoint, or it is damaged, has other names or
      shapes of parameters, or lacks a table of this width and enough rows.
  """
  directory = paths.origin(directory)
  step = latest_step(directory) if step is None else step
  if step is None:
    raise ValueError(
      f'warm_start: {directory} holds no checkpoint; give the folder'
      " 'checkpoints' of a run that has saved one."
    )
  layout = trainer.layout
  with Checkpointer(directory, layout) as reader:
    meta = reader.read_item(step, 'meta', ocp.args.JsonRestore())
    saved = {n: x[0] for n, x in meta['model']['params'].items()}
    wanted = {leaf.name: list(leaf.spec.shape) for leaf in layout.leaves}
    for name in sorted({*saved, *wanted}):
      if saved.get(name) != wanted.get(name):
        raise ValueError(
          f'warm_start: {name} is {saved.get(name, "absent")} in step {step} of'
          f' {directory} and {wanted.get(name, "absent")} here; needed is the'
          ' same model.'
        )
    target = {'params': canonical.restore_target(layout)['params']}
    parts = canonical.of_state(layout, state)
    parts |= reader.read_state(step, meta, target)
    home = home_of(layout.tables)
    for name, source in (sources or {}).items():
      if home is not None and name in home.specs:
        raise ValueError(
          f'warm_start: the rows of table {name} are in {home.config.folder},'
          ' and only training changes them; leave out home, or the table.'
        )
      table = parts['tables'][name]
      saved_rows = _read_table(reader, step, meta, name)
      table['table'] = _replace_rows(name, table['table'], saved_rows, source)
    # The old copies are released first; the rest of `parts` stays.
    left = state.residuals
    del state
    new = canonical.to_state(layout, parts, left)
  logging.info('Parameters are those of step %d of %s.', step, directory)
  return dataclasses.replace(new, step=jax.numpy.zeros_like(new.step))


def read_model(
  layout: Layout, directory: str | os.PathLike[str], step: int
) -> tuple[PyTree, dict[str, np.ndarray | RowStream]]:
  """Parameters and rows [V, D] by table of a checkpoint, and no more of it.

  Raises:
    ValueError: It is damaged, or of another model.
  """
  directory = paths.origin(directory)
  with Checkpointer(directory, layout) as reader:
    meta = reader.read_item(step, 'meta', ocp.args.JsonRestore())
    where = f'step {step} of {directory}'
    canonical.check_model(layout, meta['model'], where)
    target = {'params': canonical.restore_target(layout)['params']}
    found = reader.read_state(step, meta, target)['params']
    tables = [n for n in meta['model']['tables'] if n.endswith('.table')]
    tables = [n.removesuffix('.table') for n in tables]
    of_home = dict[str, Any]()
    if home := home_of(layout.tables):
      home.restore(step, reader.read_item(step, HOME, ocp.args.PyTreeRestore()))
      of_home = home.rows(layout.tables)
    rows = {
      n: of_home[n] if n in of_home else _read_table(reader, step, meta, n)
      for n in tables
    }
  leaves = [found[leaf.name] for leaf in layout.leaves]
  return jax.tree.unflatten(layout.treedef, leaves), rows


def _read_table(
  reader: Checkpointer, step: int, meta: Any, name: str
) -> np.ndarray:
  """Reads a saved table [V, D] into the memory of this process."""
  shape = meta['model']['tables'].get(f'{name}.table', [None])[0]
  if shape is None:
    raise ValueError(f'warm_start: step {step} has no table {name}.')
  if name in meta.get(HOME, ()):
    raise ValueError(
      f'warm_start: step {step} was saved with the rows of table {name} in'
      ' files (home=...), which only its own run reads. Export that run, or'
      ' train it without home.'
    )
  restored = reader.read_item(
    step,
    'state',
    ocp.args.PyTreeRestore(
      item={'tables': {name: {'table': 0}}},
      restore_args={
        'tables': {name: {'table': ocp.RestoreArgs(restore_type=np.ndarray)}}
      },
      partial_restore=True,
    ),
  )
  return restored['tables'][name]['table'][: shape[0]]


def _replace_rows(
  name: str, table: jax.Array, saved: np.ndarray, source: np.ndarray
) -> jax.Array:
  """Replaces the rows of a table that have a source in a saved one."""
  if saved.shape[1] != table.shape[1] or source.max(initial=-1) >= len(saved):
    raise ValueError(
      f'warm_start: table {name} is {list(saved.shape)} there; needed is width'
      f' {table.shape[1]} and row {source.max(initial=-1)}.'
    )
  padded = np.full(len(table), -1, np.int64)  # Like the rows on the devices.
  padded[: len(source)] = source

  def rows(index):
    return saved[np.maximum(padded[index[0]], 0)]

  def is_moved(index):
    return padded[index[0]][:, None] >= 0

  mask_shape = (len(table), 1)
  sharding = table.sharding
  return jnp.where(
    jax.make_array_from_callback(mask_shape, sharding, is_moved),
    jax.make_array_from_callback(table.shape, sharding, rows),
    table,
  )
