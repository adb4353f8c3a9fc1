# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Converts host batches to the global arrays of a step, and back."""

from collections.abc import Callable, Sequence
import copy
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from antjax.mesh.mesh import BATCH_AXES, group_size, local_positions, num_groups
from antjax.mesh.paro import ELASTIC_CODES, PaRO
from antjax.train.keys import Keys
from antjax.train.sparse_tables import home_of, SparseTables
from antjax.train.state import PyTree, reset_rows, TrainState
from antjax.train.step import StepInput


class BatchPlacer:
  """Places a process's batches on the devices of a mesh."""

  def __init__(
    self,
    mesh: Mesh,
    paro: PaRO,
    tables: SparseTables | None,
    num_micro_batches: int,
    keys: Keys | None = None,
    constants: PyTree = None,
  ):
    """Takes what a Trainer was given.

    Raises:
      ValueError: The tables are on another mesh, or there is no micro-batch.
    """
    if tables is not None and tables.mesh != mesh:
      raise ValueError(
        'Trainer(tables=...): give EmbeddingTables the same mesh, inter, intra.'
      )
    if num_micro_batches < 1:
      raise ValueError(
        f'Trainer(num_micro_batches={num_micro_batches}) must be at least 1.'
      )
    self._mesh = mesh
    self._paro = paro
    self._tables = tables
    self._num_micro_batches = num_micro_batches
    self.num_local = len(local_positions(mesh))
    self.keys = keys
    self._constants = constants
    # Home of the tables' rows, or a view of it.
    self.home = home_of(tables)
    # Rows that the last placed batch needs initialized, by table.
    self.reset: dict[str, np.ndarray] = {}
    self._is_elastic = False  # Stays True once counts are given.

  def place(self, batch: PyTree, **options: Any) -> StepInput:
    """A batch's inputs as global arrays; for the options see `prepare`."""
    return self.to_devices(self.prepare(batch, **options))

  def prepare(
    self,
    batch: PyTree,
    *,
    counts: Sequence[int] | None = None,
    is_valid: bool = True,
    is_stopping: bool = False,
    num_examples: float = 0,
    num_parts: int | None = None,
    is_training: bool = True,
  ) -> StepInput:
    """Checks a local batch and routes its ids; returns this process's arrays.

    Args:
      batch: This process's rows.
      counts: Number of micro-batches of each group, or None for all of them.
      is_valid: False for a filler batch of a process without data.
      is_stopping: Whether this process wants to stop.
      num_examples: Number of examples in the batch, for throughput.
      num_parts: Number of micro-batches in the batch; by default the Trainer's.
      is_training: False looks up keys without counting them.

    Raises:
      ValueError: The batch or the counts are invalid.
    """
    parts = self._num_micro_batches if num_parts is None else num_parts
    check_batch(batch, self.num_local * parts, 'local devices x micro-batches')
    local_counts = self._local_counts(counts)
    routing: PyTree = {}
    if self._tables is not None:
      check_has_ids(batch)
      ids = batch['ids']
      if self.keys is not None:
        ids = self.keys.read(ids)
      if not is_valid or local_counts is not None:
        # Skipped rows must not be touched: a lazy optimizer would change them.
        none = np.zeros((self.num_local,), np.int32)
        ids = _leave_out(ids, local_counts if is_valid else none, parts)
      if self.keys is not None:
        ids, self.reset = self.keys.ids(ids, is_training=is_training)
      if self.home is not None:
        ids = self.home.place(self._tables.features, ids, is_training)
      ids, routing = self._tables.prepare(ids, self.num_local)
      batch = batch | {'ids': ids}
    check_numbers(batch)
    once = np.zeros((self.num_local,), np.float32)
    once[0] = num_examples
    if self._constants is not None:
      if not isinstance(batch, dict) or 'constants' in batch:
        raise ValueError(
          'Trainer(constants=...): the batch must be a dict without'
          " 'constants', which is where loss_fn finds them."
        )
    return StepInput(
      batch=batch,
      routing=routing,
      num_micro_batches=local_counts,
      is_valid=np.full((self.num_local,), is_valid, np.float32),
      is_stopping=np.full((self.num_local,), is_stopping, np.float32),
      num_examples=once,
    )

  def with_new_rows(self, state: TrainState) -> TrainState:
    """The state with the rows that the last placed batch needs.

    Rows are reset, or brought from home.
    """
    reset, self.reset = self.reset, {}
    if self._tables is not None and self.home is not None:
      new = self.home.bring(self._tables, state.tables)
      return dataclasses.replace(state, tables=new)
    if self._tables is None or not reset:
      return state
    return reset_rows(self._tables, state, reset)

  def see(self, batch: PyTree) -> None:
    """Learns which rows a coming batch needs; see `Feed`."""
    if self._tables is not None and self.home is not None:
      check_has_ids(batch)
      self.home.see(self._tables.features, batch['ids'])

  def for_predictions(
    self, state: TrainState
  ) -> tuple['BatchPlacer', TrainState]:
    """A placer and a state that bring rows without changing the given ones."""
    if self._tables is None or self.home is None:
      return self, state
    self.home.flush(self._tables, state.tables)
    new = copy.copy(self)
    new.home = self.home.view()
    tables = jax.tree.map(jnp.copy, state.tables)
    return new, dataclasses.replace(state, tables=tables)

  def _local_counts(self, counts: Sequence[int] | None) -> np.ndarray | None:
    """Number of micro-batches of each local device, or None for all."""
    if counts is None and not self._is_elastic:
      return None
    n, m = num_groups(self._mesh), group_size(self._mesh)
    if counts is None:
      counts = [self._num_micro_batches] * n
    elif not self._paro.is_elastic:
      raise ValueError(
        f'Trainer.step(num_micro_batches=...): code {self._paro.code} '
        'communicates between groups inside the micro-batch loop, so all '
        'groups must do the same number. Elastic codes are '
        f'{" ".join(ELASTIC_CODES)}.'
      )
    given = np.asarray(counts)
    if given.shape != (n,) or not np.issubdtype(given.dtype, np.integer):
      raise ValueError(
        f'Trainer.step(num_micro_batches={given.tolist()}): needed is one '
        f'integer for each of the {n} groups.'
      )
    if given.min() < 0 or given.max() > self._num_micro_batches:
      raise ValueError(
        f'Trainer.step(num_micro_batches={given.tolist()}): each must be '
        f'from 0 to {self._num_micro_batches} (the number given to Trainer).'
      )
    self._is_elastic = True
    every = np.repeat(given.astype(np.int32), m)
    return every[local_positions(self._mesh)]

  def to_devices(self, inputs: StepInput, is_stack: bool = False) -> StepInput:
    """Global arrays from those of `prepare`, or of a `stack` of steps."""
    split = P(None, BATCH_AXES) if is_stack else P(BATCH_AXES)
    sharding = NamedSharding(self._mesh, split)
    is_cpu = self._mesh.devices.flat[0].platform == 'cpu'
    has_jax = any(isinstance(x, jax.Array) for x in jax.tree.leaves(inputs))
    if not is_stack:
      inputs = jax.tree.map(own_copy, inputs)
    if self._mesh.size == 1 and is_cpu and not has_jax:
      placed = inputs  # Passing numpy arrays takes a tenth of the time.
    elif jax.process_count() == 1:
      placed = jax.device_put(inputs, sharding)
    else:
      placed = jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(
          sharding, np.asarray(x)
        ),
        inputs,
      )
    return dataclasses.replace(placed, constants=self._constants)


def own_copy(x: Any) -> Any:
  """A copy, since a loader may reuse its arrays; JAX arrays are not copied."""
  if isinstance(x, jax.Array):
    return x
  x = np.asarray(x)
  return np.array(x, jax.dtypes.canonicalize_dtype(x.dtype))


def stack(steps: Sequence[StepInput]) -> StepInput | None:
  """Stacks the arrays of several steps, [K, ...]; None if shapes differ."""
  shapes = {
    tuple(map(np.shape, jax.tree.leaves(x))) + (jax.tree.structure(x),)
    for x in steps
  }
  if len(shapes) > 1:
    return None
  return jax.tree.map(lambda *x: np.stack(x), *steps)


def check_batch(batch: PyTree, multiple: int, what: str) -> None:
  """Raises ValueError unless each leading dim is a multiple of `multiple`."""
  for path, x in jax.tree.leaves_with_path(batch):
    shape = np.shape(x)
    if not shape or shape[0] % multiple or not shape[0]:
      raise ValueError(
        f'Trainer: batch{jax.tree_util.keystr(path)} has shape {shape}; its '
        f'leading dim must be a positive multiple of {multiple} ({what}). '
        'Pad the batch with examples of weight 0, or leave it out (drop_last).'
        + (not shape)
        * ' Lists are trees of their elements: make arrays of them.'
      )


_NO_BATCH = (
  'Leave it out of the batch, or encode it (texts of categories:'
  ' Trainer(vocabularies=...)).'
)
_NO_PARAMS = (
  'Keep it out of params and put it back in the loss: with Equinox `params,'
  ' static = eqx.partition(model, eqx.is_array)` and `eqx.combine(params,'
  ' static)`, with Flax NNX nnx.split and nnx.merge.'
)


def check_numbers(
  tree: PyTree, what: str = 'Trainer: batch', hint: str = _NO_BATCH
) -> None:
  """Raises ValueError unless each leaf of a tree is numeric."""
  for path, x in jax.tree.leaves_with_path(tree):
    if not isinstance(x, jax.Array) and np.asarray(x).dtype.kind in 'OSUMm':
      is_array = isinstance(x, (np.ndarray, np.generic))
      kind = f'dtype {x.dtype}' if is_array else f'type {type(x).__name__}'
      raise ValueError(
        f'{what}{jax.tree_util.keystr(path)} is of {kind}, which no device'
        f' holds: needed are numbers. {hint}'
      )


def only_numbers(params: PyTree) -> PyTree:
  """The parameters if all are numeric, else ValueError."""
  check_numbers(params, 'Trainer.init: params', _NO_PARAMS)
  return params


def check_has_ids(batch: PyTree) -> None:
  """Raises ValueError unless a batch has ids to look up in tables."""
  if not isinstance(batch, dict) or 'ids' not in batch:
    raise ValueError(
      "Trainer(tables=...): the batch must be a dict with ids under 'ids'."
    )


def join_ids(
  micro_batches: Sequence[PyTree], like: PyTree, num_devices: int, most: int
) -> tuple[PyTree, Callable[[PyTree], list[PyTree]]]:
  """Joins the ids of several micro-batches to one tree of constant shapes.

  Args:
    micro_batches: Ids of each micro-batch, like `like` or with fewer rows.
    like: Arrays of the largest shapes that occur.
    num_devices: Devices of this process.
    most: Maximum number of micro-batches; unused room is padding (-1).

  Returns:
    (ids, split): leaves [num_devices * most * rows, ...], and the function that
    splits a tree of such leaves into micro-batches.

  Raises:
    ValueError: A micro-batch is larger than `like`.
  """
  sizes = [
    [np.shape(x)[0] // num_devices for x in jax.tree.leaves(ids)]
    for ids in micro_batches
  ]

  def join(whole: np.ndarray, *parts: Any) -> np.ndarray:
    rows = np.shape(whole)[0] // num_devices
    rest = np.shape(whole)[1:]
    room = np.full(
      (num_devices, most, rows, *rest), -1, np.asarray(whole).dtype
    )
    for i, part in enumerate(parts):
      part = np.asarray(part).reshape(num_devices, -1, *rest)
      if part.shape[1] > rows:
        raise ValueError(
          f'Trainer.fit(elastic=...): a micro-batch has {part.shape[1]} rows of'
          f' ids a device and the first ones had at most {rows}. With tables'
          ' the first micro-batch must be the largest.'
        )
      room[:, i, : part.shape[1]] = part
    return room.reshape(-1, *rest)

  def split(tree: PyTree) -> list[PyTree]:
    leaves, treedef = jax.tree.flatten(tree)
    rooms = [x.reshape(num_devices, most, -1, *x.shape[1:]) for x in leaves]
    return [
      jax.tree.unflatten(
        treedef,
        [
          x[:, i, :size].reshape(-1, *x.shape[3:])
          for x, size in zip(rooms, mine, strict=True)
        ],
      )
      for i, mine in enumerate(sizes)
    ]

  return jax.tree.map(join, like, *micro_batches), split


def _leave_out(ids: PyTree, counts: Any, num_parts: int) -> PyTree:
  """Ids with padding (-1) in the micro-batches that a device skips."""
  is_done = np.arange(num_parts)[None, :] < np.asarray(counts)[:, None]

  def one(x: Any) -> np.ndarray:
    x = np.asarray(x)
    parts = x.reshape(*is_done.shape, -1)
    return np.where(is_done[..., None], parts, -1).reshape(x.shape)

  return jax.tree.map(one, ids)


def local_rows(x: jax.Array) -> np.ndarray:
  """This process's rows, in the order of its devices."""
  own = [s for s in x.addressable_shards if s.replica_id == 0]
  shards = sorted(own, key=lambda s: s.index[0].start or 0)
  return np.concatenate([np.asarray(s.data) for s in shards])
