# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The host's part of a lookup: which distinct rows each device needs.

Runs in numpy in the input pipeline, since XLA sorts ten times slower on CPU.
Threads share the work of all devices and sort without the GIL.
"""

from collections.abc import Mapping, Sequence
from concurrent import futures
import functools
import os
import threading
from typing import Any

from jax.tree_util import keystr
import numpy as np

from antjax.embedding.layout import Levels, Stack, TableSpec
from antjax.mesh.paro import Level

PAD = -1  # Id and index of padding, whose vector is zero.


class Feature:
  """A feature of a batch: ids of one table, or columns with a table each."""

  def __init__(
    self,
    name: str,
    tables: str | Sequence[str],
    specs: Mapping[str, TableSpec],
    stack_of: Mapping[str, Stack],
  ):
    """Finds the feature's table, or one table per column, by name.

    Raises:
      ValueError: A table is unknown, or tables are in several stacks.
    """
    self.name = name
    self.tables = (tables,) if isinstance(tables, str) else tuple(tables)
    self.has_columns = not isinstance(tables, str)
    for table in self.tables:
      if table not in specs:
        raise ValueError(
          f'EmbeddingTables: feature {name!r} looks up table {table!r}, '
          f'which is not among {sorted(specs)}.'
        )
    stacks = sorted({stack_of[table].name for table in self.tables})
    if len(stacks) != 1:
      raise ValueError(
        f'EmbeddingTables: the tables {self.tables} of feature {name!r} are in'
        f' {len(stacks)} stacks ({", ".join(stacks)}); columns of one feature'
        ' need tables of one width, level and optimizer.'
      )
    self.stack = stack_of[self.tables[0]]
    rows = [specs[table].num_embeddings for table in self.tables]
    self._num_rows = np.array(rows, np.int64)
    offsets = [self.stack.offset(table) for table in self.tables]
    self._dtype = np.int64 if self.stack.is_wide else np.int32
    self._offsets = np.array(offsets, self._dtype)

  def positions(self, ids: np.ndarray) -> np.ndarray:
    """Positions of ids of any shape; negative ids become PAD.

    They are int32, or int64 in a stack of 2^31 and more.

    Raises:
      ValueError: Ids are not integers, exceed their table, or have the wrong
        number of columns.
    """
    where = f"batch['ids'][...][{self.name!r}] has"
    if not np.issubdtype(ids.dtype, np.integer):
      raise ValueError(f'{where} dtype {ids.dtype}; ids must be integers.')
    if not self.has_columns:
      columns = ids.reshape(-1, 1)
    elif ids.ndim > 1 and ids.shape[-1] == len(self.tables):
      columns = ids.reshape(-1, len(self.tables))
    else:
      raise ValueError(
        f'{where} shape {ids.shape}; its last dim must be {len(self.tables)},'
        ' one column a table.'
      )
    largest = columns.max(axis=0, initial=0)
    if np.any(largest >= self._num_rows):
      i = int(np.argmax(largest >= self._num_rows))
      raise ValueError(
        f'{where} id {largest[i]}; table {self.tables[i]!r} has'
        f' {self._num_rows[i]} rows. Map unknown ids to an OOV id, or make the'
        ' table larger.'
      )
    columns = columns.astype(self._dtype)
    row = columns // self.stack.num_owners
    position = columns - row * self.stack.num_owners  # The owner.
    position *= self.stack.rows_per_device
    position += row
    position += self._offsets
    position[columns < 0] = PAD
    return position.reshape(ids.shape)


def check_leaf(ids: Any, path: Any, leaf: Any, num_devices: int) -> None:
  """Rejects an array of ids that devices cannot split, naming its path."""
  where = keystr(path)
  if not path or not hasattr(path[-1], 'key'):
    raise ValueError(
      f"batch['ids'] is a {type(ids).__name__} with an array at"
      f' {where or "its top"}; it must be a nested dict whose innermost keys'
      ' are feature names.'
    )
  if not np.ndim(leaf) or np.shape(leaf)[0] % num_devices:
    raise ValueError(
      f"batch['ids']{where} has shape {np.shape(leaf)}; its leading dim must be"
      f' a multiple of {num_devices}, the devices of this process.'
    )


def deduplicate(
  stack: Stack,
  arrays: list[np.ndarray],
  *,
  max_unique: int | None,
  capacity_factor: float,
  levels: Levels = 'auto',
) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
  """Turns every array into indices into a device's distinct positions.

  Args:
    stack: Stack that all arrays look up.
    arrays: Positions [num_devices, n] of `Feature`; PAD stays PAD.
    max_unique: Option of `EmbeddingTables`.
    capacity_factor: Option of `EmbeddingTables`.
    levels: Option `exchange_levels` of `EmbeddingTables`.

  Returns:
    (indices, routing): an array of indices for each of `arrays`, and
    `positions` int32 [num_devices * U], `shift` int32 [num_devices]; in a stack
    of 2^31 positions and more, `starts` int32 [num_devices * (W + 1)], and
    `positions` modulo 2^32, see `exchange.fetch`.

  Raises:
    ValueError: There are more distinct rows than `max_unique`.
  """
  every = np.concatenate(arrays, axis=1)
  num_devices, num_ids = every.shape
  size = min(num_ids, stack.num_positions)
  if max_unique is not None:
    size = min(size, max_unique)
  ex = stack.exchange(size, capacity_factor, levels=levels)
  positions = np.full((num_devices, size), stack.num_positions, every.dtype)
  shift = np.empty((num_devices,), np.int32)
  index = np.empty(every.shape, np.int32)
  starts: list[Any] = [None] * num_devices

  def find(d: int) -> None:
    if stack.level is Level.NONE:
      # The device has the whole table: only the set of touched rows matters.
      unique, index[d] = _touched(every[d], stack.num_positions), every[d]
    else:
      unique, index[d] = _unique(every[d], stack.num_positions)
    if len(unique) > size:
      raise ValueError(
        f'EmbeddingTables(max_unique={max_unique}): a batch needs '
        f'{len(unique)} distinct rows of stack {stack.name} on one device. '
        'Raise max_unique or make the batch smaller.'
      )
    positions[d, : len(unique)] = unique
    shift[d] = ex.fit_shift(unique)
    starts[d] = ex.starts(unique) if stack.is_wide else None

  if every.size < _MANY_IDS:  # Threads would not pay off.
    list(map(find, range(num_devices)))
  else:
    list(_pool().map(find, range(num_devices)))
  edges = np.cumsum([a.shape[1] for a in arrays])[:-1]
  # Modulo 2^32, if they are larger.
  positions = positions.astype(np.int32, copy=False)
  routing = {'positions': positions.reshape(-1), 'shift': shift}
  if stack.is_wide:
    routing['starts'] = np.concatenate(starts)
  return np.split(index, edges, axis=1), routing


def _touched(positions: np.ndarray, num_positions: int) -> np.ndarray:
  """Sorted distinct positions without PAD, for a small table."""
  is_touched = np.zeros(num_positions + 1, bool)
  is_touched[positions] = True  # PAD (-1) marks the spare last entry.
  return np.flatnonzero(is_touched[:-1])


def _unique(
  positions: np.ndarray, num_positions: int
) -> tuple[np.ndarray, np.ndarray]:
  """Sorted distinct positions without PAD, and the index of each (or PAD)."""
  if positions.dtype == np.int64:
    unique, index = np.unique(positions, return_inverse=True)
    first = int(len(unique) > 0 and unique[0] == PAD)
    return unique[first:], index.astype(np.int32) - first
  if num_positions > _MAX_SCRATCH:
    return _unique_with_places(positions)
  ordered = np.sort(positions)
  is_new = _is_new(ordered)
  unique = ordered[is_new]
  first = int(len(unique) > 0 and unique[0] == PAD)
  order = np.arange(-first, len(unique) - first, dtype=np.int32)  # PAD is -1.
  index = _scratch.of(num_positions + 1)  # PAD marks the spare last entry.
  index[unique] = order
  return unique[first:], index[positions]


def _unique_with_places(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Like `_unique`, by one sort of (position, place)."""
  keys = _scratch.of(2 * len(positions)).view(np.int64)
  keys[:] = positions
  keys <<= 32
  keys |= _places(len(positions))
  keys.sort()
  # Little-endian, as are all machines that JAX supports.
  ordered = keys.view(np.int32)[1::2].copy()
  is_new = _is_new(ordered)
  unique = ordered[is_new]
  first = int(len(unique) > 0 and unique[0] == PAD)
  rank = np.cumsum(is_new, dtype=np.int32)
  rank -= 1 + first
  index = np.empty(len(positions), np.int32)
  keys &= 0xFFFFFFFF  # The places: int64 indices need no cast.
  index[keys] = rank
  return unique[first:], index


def _is_new(ordered: np.ndarray) -> np.ndarray:
  """Whether each sorted value differs from the one before it, bool [n]."""
  is_new = np.empty(ordered.shape, bool)
  is_new[:1] = True
  np.not_equal(ordered[1:], ordered[:-1], out=is_new[1:])
  return is_new


@functools.lru_cache(maxsize=4)
def _places(size: int) -> np.ndarray:
  return np.arange(size, dtype=np.int64)


@functools.cache
def _pool() -> futures.ThreadPoolExecutor:
  return futures.ThreadPoolExecutor(os.cpu_count(), 'embedding_rows')


# Up to this many rows a table of indices (4 bytes per row) beats a sort.
_MAX_SCRATCH = 1 << 23
# Number of ids of all devices from which threads pay off.
_MANY_IDS = 1 << 15


class _Scratch(threading.local):
  """Memory reused across batches, which is cheaper than allocating it."""

  array = np.empty((0,), np.int32)

  def of(self, size: int) -> np.ndarray:
    """An uninitialized array int32 [size]."""
    if len(self.array) < size:
      self.array = np.empty((size,), np.int32)
    return self.array[:size]


_scratch = _Scratch()
