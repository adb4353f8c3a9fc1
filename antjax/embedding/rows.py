# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Some rows of sharded tables and their slots, by id.

Each call takes time and memory in proportion to the rows, not to the tables.
Ids must be the same in every process.
"""

from collections.abc import Mapping
import functools
from typing import Any, Protocol

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
import numpy as np

from antjax.embedding import rounding
from antjax.embedding.layout import new_rows, Stack, TableSpec
from antjax.mesh.manual import manual

Ids = Mapping[str, np.ndarray]  # Table -> distinct ids [n].


class ShardedTables(Protocol):
  """What is needed of `EmbeddingTables`."""

  mesh: Mesh
  specs: dict[str, TableSpec]
  stack_of: dict[str, Stack]
  features: Any

  @property
  def shapes(self) -> Any: ...
  def shardings(self) -> Any: ...


def touched(tables: ShardedTables, ids: Any) -> dict[str, np.ndarray]:
  """Rows that a step may change: table -> ids [n] rising, of `batch['ids']`."""
  found: dict[str, list[np.ndarray]] = {}
  for path, leaf in jax.tree.leaves_with_path(ids):
    names = tables.features[path[-1].key].tables
    columns = np.asarray(leaf).reshape(-1, len(names))
    for name, column in zip(names, columns.T, strict=True):
      found.setdefault(name, []).append(np.unique(column))
  return {n: x[x >= 0] for n, x in joined(found).items()}


def joined(ids: Mapping[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
  """Distinct ids of several lists, rising."""
  return {n: np.unique(np.concatenate(x)) for n, x in ids.items()}


def read(tables: ShardedTables, state: Any, ids: Ids) -> dict[str, Any]:
  """Rows as they are kept: table -> {'table': [n, width], 'slots': {...}}."""
  found = {}
  for name, rows in ids.items():
    got, cut = on_devices(tables, state, name, rows), slice(len(rows))
    found[name] = jax.tree.map(lambda x, cut=cut: np.asarray(x)[cut], got)
  return found


def on_devices(
  tables: ShardedTables, state: Any, name: str, ids: np.ndarray
) -> Any:
  """`read` of one table's rows, as arrays that have further ones behind."""
  stack, spec = tables.stack_of[name], tables.specs[name]
  places = _places(stack, ids)
  return _read(tables.mesh, stack, spec, state[stack.name], places)


def write(
  tables: ShardedTables, state: Any, ids: Ids, new: Mapping[str, Any]
) -> dict[str, Any]:
  """Sets rows to what `read` gave; donates the state."""
  for name, rows in ids.items():
    stack, spec = tables.stack_of[name], tables.specs[name]
    padded = _places(stack, rows)
    size = padded.shape[1]
    arrays = jax.tree.map(lambda x, n=size: _lengthened(x, n, 0), new[name])
    args = tables.mesh, stack, spec, state[stack.name], arrays, padded
    state = {**state, stack.name: _write(*args)}
  return state


def reset(
  tables: ShardedTables,
  state: Any,
  ids: Ids,
  key: jax.Array,
  new: Mapping[str, tuple[TableSpec, np.ndarray]] | None = None,
) -> dict[str, Any]:
  """Sets rows and slots to what they were at first; donates the state.

  `key` is the one that initialized the tables. With `new`, table -> (another
  table, its ids [n]), they become what the rows of that table were.
  """
  for name, rows in ids.items():
    stack = tables.stack_of[name]
    spec, born = (new or {}).get(name, (tables.specs[name], None))
    args = tables.mesh, stack, spec, state[stack.name], _places(stack, rows)
    if born is not None:
      born = _lengthened(born.astype(np.int32), args[-1].shape[1], -1)
    state = {**state, stack.name: _reset(*args, born, key)}
  return state


def _places(stack: Stack, ids: np.ndarray) -> np.ndarray:
  """Owners of ids and rows there, int32 [2, n]; owner -1 is no row.

  n is a power of two, for few compilations.
  """
  size = 1 << max(len(ids) - 1, 0).bit_length()
  row, owner = np.divmod(ids, stack.num_owners)
  return np.stack(
    [_lengthened(x.astype(np.int32), size, -1) for x in (owner, row)]
  )


def _lengthened(x: np.ndarray, size: int, value: int) -> np.ndarray:
  widths = [(0, size - len(x))] + [(0, 0)] * (x.ndim - 1)
  return np.pad(x, widths, constant_values=value)


_of_table = functools.partial(
  jax.jit, static_argnames=('mesh', 'stack', 'spec')
)


@_of_table
def _read(mesh, stack, spec, old, ids):
  def local(old, ids):
    row = _local_rows(stack, spec, ids)

    def get(x):
      rows = x.at[row].get(mode='fill', fill_value=0)
      if not stack.axes:
        return rows
      # As integers: a sum of floats would lose the sign of zero.
      bits = lax.bitcast_convert_type(rows, f'uint{8 * x.dtype.itemsize}')
      return lax.bitcast_convert_type(lax.psum(bits, stack.axes), x.dtype)

    return jax.tree.map(get, old)

  specs = stack.partition_spec, P()
  return manual(local, mesh, in_specs=specs, out_specs=P())(old, ids)


@functools.partial(_of_table, donate_argnames='old')
def _write(mesh, stack, spec, old, new, ids):
  return _set(mesh, stack, spec, old, new, ids)


@functools.partial(_of_table, donate_argnames='old')
def _reset(mesh, stack, spec, old, ids, born, key):
  words = stack.ids(*ids) if born is None else (born, None)
  rows = new_rows(spec, key, *words)
  rows = rounding.to_kept(rows, spec.dtype, None)
  slots = stack.optimizer.init(ids.shape[1], stack.dim)
  new = {'table': rows, 'slots': slots}
  return _set(mesh, stack, spec, old, new, ids)


def _set(mesh, stack, spec, old, new, ids):
  def local(old, new, ids):
    row = _local_rows(stack, spec, ids)
    return jax.tree.map(
      lambda x, y: x.at[row].set(y.astype(x.dtype), mode='drop'), old, new
    )

  return manual(
    local,
    mesh,
    in_specs=(stack.partition_spec, P(), P()),
    out_specs=stack.partition_spec,
  )(old, new, ids)


def _local_rows(stack: Stack, spec: TableSpec, ids: jax.Array) -> jax.Array:
  """Local row of each of `_places`; behind the end if another device has it."""
  owner = lax.axis_index(stack.axes) if stack.axes else 0
  row = stack.offset(spec.name) + ids[1]
  return jnp.where(ids[0] == owner, row, stack.rows_per_device)
