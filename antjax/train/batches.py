# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From an iterator on the host to a step's global arrays, and back."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from antjax.mesh.mesh import BATCH_AXES, group_size, num_groups
from antjax.mesh.paro import ELASTIC_CODES, PaRO
from antjax.train.state import PyTree, SparseTables
from antjax.train.step import StepInput


class BatchPlacer:
  """Puts a process's batches on the devices of a mesh."""

  def __init__(
    self,
    mesh: Mesh,
    paro: PaRO,
    tables: SparseTables | None,
    num_micro_batches: int,
  ):
    self._mesh = mesh
    self._paro = paro
    self._tables = tables
    self._num_micro_batches = num_micro_batches
    self._num_local = len(mesh.local_devices)
    self._is_elastic = False  # Until counts are given; then for good.

  def place(
    self,
    batch: PyTree,
    *,
    counts: Sequence[int] | None = None,
    is_valid: bool = True,
    is_stopping: bool = False,
    num_examples: float = 0,
    num_parts: int | None = None,
  ) -> StepInput:
    """Checks a local batch, routes its ids, and forms global arrays.

    Args:
      batch: This process's rows.
      counts: Micro-batches of each group, or None for all of them.
      is_valid: False for a filler of a process without data.
      is_stopping: Whether this process wants to stop.
      num_examples: Examples in the batch, for throughput.
      num_parts: Micro-batches that the batch is split into; the Trainer's by
        default.

    Raises:
      ValueError: A batch or counts that do not fit.
    """
    parts = self._num_micro_batches if num_parts is None else num_parts
    self._check_batch(batch, self._num_local * parts)
    local_counts = self._local_counts(counts)
    routing: PyTree = {}
    if self._tables is not None:
      if not isinstance(batch, dict) or 'ids' not in batch:
        raise ValueError(
          "Trainer(tables=...): the batch must be a dict with ids under 'ids'."
        )
      ids = batch['ids']
      if not is_valid or local_counts is not None:
        # What is left out is not even touched: a lazy optimizer would move it.
        none = np.zeros((self._num_local,), np.int32)
        ids = _leave_out(ids, local_counts if is_valid else none, parts)
      ids, routing = self._tables.prepare(ids, self._num_local)
      batch = batch | {'ids': ids}
    once = np.zeros((self._num_local,), np.float32)
    once[0] = num_examples
    return self._to_devices(
      StepInput(
        batch=batch,
        routing=routing,
        num_micro_batches=local_counts,
        is_valid=np.full((self._num_local,), is_valid, np.float32),
        is_stopping=np.full((self._num_local,), is_stopping, np.float32),
        num_examples=once,
      )
    )

  def _check_batch(self, batch: PyTree, multiple: int) -> None:
    for path, x in jax.tree.leaves_with_path(batch):
      shape = np.shape(x)
      if not shape or shape[0] % multiple or not shape[0]:
        raise ValueError(
          f'Trainer: batch{jax.tree_util.keystr(path)} has shape {shape}; its '
          f'leading dim must be a positive multiple of {multiple} (local '
          'devices x micro-batches). Pad the batch with examples of weight 0.'
        )

  def _local_counts(self, counts: Sequence[int] | None) -> np.ndarray | None:
    """Micro-batches of each local device, or None for all of them."""
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
    local = [
      i
      for i, device in enumerate(self._mesh.devices.ravel())
      if device.process_index == jax.process_index()
    ]
    return every[local]

  def _to_devices(self, tree: PyTree) -> PyTree:
    sharding = NamedSharding(self._mesh, P(BATCH_AXES))
    if jax.process_count() == 1:
      return jax.device_put(tree, sharding)
    return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)),
      tree,
    )


def _leave_out(ids: PyTree, counts: Any, num_parts: int) -> PyTree:
  """Ids with padding (-1) in the micro-batches that a device leaves out."""
  is_done = np.arange(num_parts)[None, :] < np.asarray(counts)[:, None]

  def one(x: Any) -> np.ndarray:
    x = np.asarray(x)
    parts = x.reshape(*is_done.shape, -1)
    return np.where(is_done[..., None], parts, -1).reshape(x.shape)

  return jax.tree.map(one, ids)


class Feed:
  """An iterator that ends quietly and remembers its last batch."""

  def __init__(self, iterator: Iterator[PyTree]):
    self._iterator = iterator
    self._last: PyTree = None

  def next(self) -> PyTree | None:
    """The next batch, or None at the end."""
    batch = next(self._iterator, None)
    if batch is not None:
      self._last = batch
    return batch

  def filler(self) -> PyTree:
    """Something of a batch's shape, to keep in step with other processes."""
    if self._last is None:
      raise RuntimeError(
        f'Trainer: process {jax.process_index()} got no batch at all, while '
        'others have some. Give each process data for one batch at least.'
      )
    return self._last


def get_position(iterator: Any) -> Any:
  """An iterator's position, or None if it keeps none."""
  return iterator.get_state() if hasattr(iterator, 'get_state') else None


def set_position(
  iterator: Any,
  positions: list[Any],
  merge: Callable[[list[Any]], Any] | None,
) -> None:
  """Restores an input position saved by len(positions) processes."""
  if all(p is None for p in positions):
    return
  if not hasattr(iterator, 'set_state'):
    raise ValueError(
      'Trainer.fit: the checkpoint holds an input position and this iterator '
      f'({type(iterator).__name__}) cannot go to it; it needs set_state().'
    )
  if merge is not None:
    iterator.set_state(merge(positions))
  elif len(positions) == jax.process_count():
    iterator.set_state(positions[jax.process_index()])
  else:
    raise ValueError(
      f'Trainer.fit: the checkpoint holds input positions of {len(positions)} '
      f'processes and there are {jax.process_count()}; pass '
      'merge_input_states to make one of them, e.g. '
      'antjax.input.dataset.merge_states.'
    )


def local_flat(x: jax.Array) -> np.ndarray:
  """This process's elements, 1-D, in the order of its devices."""
  shards = sorted(x.addressable_shards, key=lambda s: s.index[0].start or 0)
  return np.concatenate([np.asarray(s.data).reshape(-1) for s in shards])
