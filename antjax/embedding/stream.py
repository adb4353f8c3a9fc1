# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Arrays of tables in the order of ids, a block of rows at a time.

Files of checkpoints and exports hold rows by id, but owners hold them by id
modulo owners. A stream reorders few rows at once, so that writing a table takes
no second one, and a sink does the reverse. Both are collective calls.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
import math
from typing import Any

import jax
from jax import lax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from antjax.embedding.layout import Stack, TableSpec
from antjax.embedding.rows import ShardedTables
from antjax.mesh.manual import manual

_BLOCK_BYTES = 1 << 21  # Of a block on a device.
_READ_ROWS = 1 << 16  # Rows of a block from files.


@dataclasses.dataclass(frozen=True, eq=False)
class RowStream:
  """A table, or a slot of it, [V, ...] by id.

  Attributes:
    mesh: Mesh of the tables.
    stack: Stack of the table.
    spec: The table.
    array: That of the stack, [W * rows_per_device, ...].
  """

  mesh: Mesh
  stack: Stack
  spec: TableSpec
  array: jax.Array

  @property
  def shape(self) -> tuple[int, ...]:
    return (self.spec.num_embeddings, *self.array.shape[1:])

  @property
  def dtype(self) -> Any:
    return self.array.dtype

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize

  def __len__(self) -> int:
    return self.shape[0]

  def __array__(
    self, dtype: Any = None, copy: bool | None = None
  ) -> np.ndarray:
    del copy
    return np.concatenate([*self.blocks()]).astype(dtype or self.dtype)

  @property
  def chunk(self) -> tuple[int, ...]:
    """Shape of what a device has of a block; chunks of files are the same."""
    tail = self.array.shape[1:]
    row_bytes = math.prod(tail) * self.dtype.itemsize
    return (_rows(self.stack, self.spec, _BLOCK_BYTES // row_bytes), *tail)

  def __iter__(self) -> Iterator[tuple[int, jax.Array]]:
    """Blocks [W * chunk[0], ...] and the id of the first row of each.

    Rows are over the owners' devices, as in `to_canonical`, and those behind
    the end of the table zero.
    """
    rows = self.chunk[0]
    of = self.mesh, self.stack, self.spec
    for start in range(0, self.stack.local_rows(self.spec), rows):
      block = _block(*of, rows, self.array, np.int32(start))
      yield start * self.stack.num_owners, block

  def blocks(self) -> Iterator[np.ndarray]:
    """All rows in order on the host, [n, ...] each, on every process."""
    for first, block in self:
      rows = block
      if not block.is_fully_addressable:
        rows = multihost_utils.process_allgather(block, tiled=True)
      yield np.asarray(rows)[: len(self) - first]


@dataclasses.dataclass(frozen=True, eq=False)
class HomeRows(RowStream):
  """A table with a home by id; rows that were never trained are made new.

  Attributes:
    read: Rows of ids [n].
  """

  read: Callable[[np.ndarray], np.ndarray]

  def blocks(self) -> Iterator[np.ndarray]:
    for start in range(0, len(self), _READ_ROWS):
      yield self.read(np.arange(start, min(start + _READ_ROWS, len(self))))


class StackArray:
  """An array of a stack's state that sinks write to."""

  def __init__(self, like: jax.ShapeDtypeStruct):
    zeros = functools.partial(jnp.zeros, like.shape, like.dtype)
    self.array = jax.jit(zeros, out_shardings=like.sharding)()


@dataclasses.dataclass(frozen=True, eq=False)
class RowSink:
  """Where a table, or a slot of it, is read to.

  Attributes:
    mesh: Mesh of the tables.
    stack: Stack of the table.
    spec: The table.
    kept: The stack's array.
  """

  mesh: Mesh
  stack: Stack
  spec: TableSpec
  kept: StackArray

  @property
  def shape(self) -> tuple[int, ...]:
    return (self.spec.num_embeddings, *self.kept.array.shape[1:])

  @property
  def dtype(self) -> Any:
    return self.kept.array.dtype

  def take(
    self, chunk: int, read: Callable[[int, int], Callable[[], np.ndarray]]
  ) -> None:
    """Reads all rows.

    Args:
      chunk: Rows that are best read together.
      read: Starts to read the rows of two ids, and gives what waits for them.
    """
    tail = self.shape[1:]
    row_bytes = math.prod(tail) * self.dtype.itemsize
    num_rows = max(chunk, _BLOCK_BYTES // row_bytes)
    rows = _rows(self.stack, self.spec, num_rows)
    w, size = self.stack.num_owners, self.shape[0]
    shape = (w * rows, *tail)
    sharding = NamedSharding(self.mesh, self.stack.partition_spec)
    places: Any = sharding.addressable_devices_indices_map(shape)
    for start in range(0, self.stack.local_rows(self.spec), rows):
      found = dict[int, Any]()
      for index in places.values():
        first = index[0].start or 0
        ids = (min(start * w + first + n, size) for n in (0, rows))
        found[first] = found.get(first) or read(*ids)
      parts = {at: self._padded(wait(), rows) for at, wait in found.items()}

      def part(index: Any, parts: dict[int, Any] = parts) -> np.ndarray:
        return parts[index[0].start or 0]

      block = jax.make_array_from_callback(shape, sharding, part)
      of = self.mesh, self.stack, self.spec
      self.kept.array = put(*of, self.kept.array, block, np.int32(start))

  def _padded(self, found: np.ndarray, rows: int) -> np.ndarray:
    found = found.astype(self.dtype, copy=False)
    if len(found) == rows:
      return found
    padded = np.zeros((rows, *self.shape[1:]), self.dtype)
    padded[: len(found)] = found
    return padded


def streams(tables: ShardedTables, state: Any) -> dict[str, Any]:
  """Table -> its part of the state, with a `RowStream` for each array."""
  return _by_table(tables, state, RowStream)


def ordered(tables: ShardedTables, state: Any) -> dict[str, Any]:
  """Table -> its part of the state, rows by id, and zeros behind; in `jit`."""

  def order(mesh: Mesh, stack: Stack, spec: TableSpec, x: jax.Array) -> Any:
    rows = _rows(stack, spec, stack.local_rows(spec))
    return _block(mesh, stack, spec, rows, x, np.int32(0))

  return _by_table(tables, state, order)


def sinks(tables: ShardedTables) -> dict[str, Any]:
  """Table -> its part of the state, with a `RowSink` for each array."""
  kept = jax.tree.map(
    lambda x, s: StackArray(jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)),
    tables.shapes,
    tables.shardings(),
  )
  return _by_table(tables, kept, RowSink)


def _by_table(tables: ShardedTables, state: Any, make: Any) -> dict[str, Any]:
  return {
    name: jax.tree.map(
      functools.partial(make, tables.mesh, tables.stack_of[name], spec),
      state[tables.stack_of[name].name],
    )
    for name, spec in tables.specs.items()
  }


def taken(tables: ShardedTables, found: Mapping[str, Any]) -> dict[str, Any]:
  """The state that sinks have read; all tables of a stack share its arrays."""
  return {
    tables.stack_of[name].name: jax.tree.map(lambda x: x.kept.array, sink)
    for name, sink in found.items()
  }


def _rows(stack: Stack, spec: TableSpec, rows: int) -> int:
  """About so many rows of an owner, as blocks need them."""
  w = stack.num_owners
  return max(-(-min(rows, stack.local_rows(spec)) // w), 1) * w


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _block(
  mesh: Mesh,
  stack: Stack,
  spec: TableSpec,
  rows: int,
  x: jax.Array,
  start: jax.Array,
) -> jax.Array:
  """Rows by id of `rows` local ones of each owner, from local row `start`.

  Device b has the b-th part of them.
  """
  w, local_rows = stack.num_owners, stack.local_rows(spec)

  def local(x, start):
    at = start + jnp.arange(rows, dtype=jnp.int32)
    at = jnp.where(at < local_rows, at + stack.offset(spec.name), len(x))
    part = x.at[at].get(mode='fill', fill_value=0, indices_are_sorted=True)
    if w == 1:
      return part
    # Owner w has ids w, w + W, ...: all have a part of every device's rows.
    part = lax.all_to_all(part, stack.axes, 0, 0, tiled=True)
    part = part.reshape(w, rows // w, *x.shape[1:]).swapaxes(0, 1)
    return part.reshape(rows, *x.shape[1:])

  of = stack.partition_spec
  run = manual(local, mesh, in_specs=(of, P()), out_specs=of)
  return run(x, start)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def put(
  mesh: Mesh,
  stack: Stack,
  spec: TableSpec,
  x: jax.Array,
  block: jax.Array,
  start: jax.Array | int = 0,
) -> jax.Array:
  """Sets the rows that `_block` gave, in place."""
  w, local_rows = stack.num_owners, stack.local_rows(spec)

  def local(x, part, start):
    rows, tail = part.shape[0], part.shape[1:]
    if w > 1:
      part = part.reshape(rows // w, w, *tail).swapaxes(0, 1)
      part = part.reshape(rows, *tail)
      part = lax.all_to_all(part, stack.axes, 0, 0, tiled=True)
    at = start + jnp.arange(rows, dtype=jnp.int32)
    behind = len(x) + jnp.arange(rows, dtype=jnp.int32)  # Distinct, too.
    at = jnp.where(at < local_rows, at + stack.offset(spec.name), behind)
    return x.at[at].set(part, mode='drop', unique_indices=True)

  of = stack.partition_spec
  run = manual(local, mesh, in_specs=(of, of, P()), out_specs=of)
  return run(x, block, jnp.asarray(start, jnp.int32))
