# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Placement of the behavior vectors, and reads by a step.

All homes give the same vectors: a copy on every device (`DeviceTable`); memory
of the host or memory-mapped files, where each batch includes the rows it needs
(`HostTable`); or rows split over the devices, where a step requests its
distinct rows from their owners (`SplitTable`). The first is fastest; files hold
tables that exceed all memory.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any, Literal

import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from antjax.ctr.bahe.store_rows import MappedRows
from antjax.embedding import exchange
from antjax.mesh.mesh import GLOBAL_AXES, INTRA

# Shape suffixes: R = behaviors, D = width, P = parts of a batch, U = maximum
# number of distinct behaviors of a part, W = owners.

Batch = Mapping[str, Any]
Home = Literal['auto', 'device', 'split', 'host', 'disk']
# Share of a device's or the host's memory that the table may use.
_SHARE = 0.25
_FACTOR = 1.25  # Room for uneven distribution in a message to one owner.


def distinct_behaviors(
  batch: Batch, num_parts: int, capacity: int, fill: int = 0
) -> tuple[np.ndarray, dict[str, Any]]:
  """Finds the distinct behaviors of each part, and indexes the batch by them.

  A part is what one device processes at a time: a micro-batch, or its share of
  the batch. The first distinct behavior is always 0, the padding.

  Args:
    batch: See `antjax.ctr.bahe.batches`: 'behaviors' int32 [B, N, M] and
      'title' int32 [B], B a multiple of `num_parts`; parts are equal runs of
      examples.
    num_parts: Number of parts, P.
    capacity: Maximum number of distinct behaviors of a part, U.
    fill: Padding for parts with fewer.

  Returns:
    (ids int32 [P * U], ascending in each part, then padded; the batch with
    'behaviors' and 'title' as indices from 0 to U - 1 into their part's ids).

  Raises:
    ValueError: A part has more distinct behaviors, or B does not divide.
  """
  behaviors = np.asarray(batch['behaviors'])
  title = np.asarray(batch['title'])
  size = len(title)
  if size % num_parts:
    raise ValueError(
      f'distinct_behaviors: a batch of {size} examples in {num_parts} parts;'
      ' make the batch a multiple of the parts.'
    )
  flat = np.concatenate([behaviors.reshape(size, -1), title[:, None]], axis=1)
  flat = flat.reshape(num_parts, -1)
  ids = np.full((num_parts, capacity), fill, np.int32)
  indices = np.empty(flat.shape, np.int32)
  for i, part in enumerate(flat):
    found, inverse = np.unique(np.append(part, 0), return_inverse=True)
    if len(found) > capacity:
      raise ValueError(
        f'distinct_behaviors: {len(found)} distinct behaviors in one part of'
        f' {size // num_parts} examples, where capacity={capacity}; raise it,'
        ' or make the parts smaller.'
      )
    ids[i, : len(found)] = found
    indices[i] = inverse[:-1]
  rows = indices.reshape(size, -1)
  return ids.reshape(-1), dict(batch) | {
    'behaviors': rows[:, :-1].reshape(behaviors.shape),
    'title': np.ascontiguousarray(rows[:, -1]),
  }


@dataclasses.dataclass(frozen=True, eq=False)
class DeviceTable:
  """All rows on every device, as `constants` of the Trainer."""

  constants: Any

  def prepare(self, batch: Batch, num_parts: int) -> dict[str, Any]:
    """Returns the batch unchanged."""
    del num_parts
    return dict(batch)

  def rows(self, batch: Batch) -> jax.Array:
    """Rows [R, D], indexed by the batch's behaviors."""
    return batch['constants']['behavior_rows']


@dataclasses.dataclass(frozen=True, eq=False)
class HostTable:
  """Rows [R, D] on the host, in memory or in files."""

  array: np.ndarray | MappedRows
  max_distinct: int
  constants: Any = None

  def prepare(self, batch: Batch, num_parts: int) -> dict[str, Any]:
    """Adds 'behavior_rows' [P * U, D]; behaviors become indices into it."""
    ids, batch = distinct_behaviors(batch, num_parts, self.max_distinct)
    return batch | {'behavior_rows': np.asarray(self.array[ids])}

  def rows(self, batch: Batch) -> jax.Array:
    """[U, D], to be read at the batch's behaviors."""
    return batch['behavior_rows']


@dataclasses.dataclass(frozen=True, eq=False)
class SplitTable:
  """Rows split over devices: row i is the (i // W)-th of owner i % W."""

  constants: Any
  exchange: exchange.Exchange
  max_distinct: int

  def prepare(self, batch: Batch, num_parts: int) -> dict[str, Any]:
    """Adds the positions to request; behaviors become indices into them."""
    ex = self.exchange

    def position(ids: Any) -> np.ndarray:
      row, owner = np.divmod(np.asarray(ids, np.int32), ex.num_owners)
      return owner * ex.rows_per_device + row

    names = ('behaviors', 'title')
    moved = dict(batch) | {name: position(batch[name]) for name in names}
    positions, batch = distinct_behaviors(
      moved, num_parts, self.max_distinct, fill=ex.num_positions
    )
    # Number of times that rounds are halved; 0, as in a filler: one round.
    halvings = [
      ex.one_round - ex.fit_shift(part[part < ex.num_positions])
      for part in positions.reshape(num_parts, -1)
    ]
    return batch | {
      'behavior_positions': positions,
      'behavior_halvings': np.array(halvings, np.int32),
    }

  def rows(self, batch: Batch) -> jax.Array:
    """Requests rows [U, D], indexed by the batch's behaviors, from owners."""
    ex = self.exchange
    halvings = lax.pmax(batch['behavior_halvings'][0], ex.axes)
    table = batch['constants']['behavior_rows']
    positions = batch['behavior_positions']
    return exchange.fetch(ex, table, positions, ex.one_round - halvings)


Table = DeviceTable | HostTable | SplitTable


def place(
  array: np.ndarray | MappedRows,
  mesh: Mesh,
  *,
  home: Home = 'auto',
  device_bytes: float | None = None,
  host_bytes: float | None = None,
  max_distinct: int,
  inside_groups: bool = False,
) -> tuple[Table, str]:
  """Places the vectors of all behaviors where there is room.

  Args:
    array: Vectors [R, D] in the dtype to keep; not read if they stay on disk.
    mesh: Mesh from `make_mesh`.
    home: 'device', 'split', 'host', 'disk', or 'auto': the first of these that
      takes at most a quarter of the memory there.
    device_bytes: Bytes of a device's memory; None: unknown, assumed to suffice.
    host_bytes: Bytes of the host's memory; None: the same.
    max_distinct: Maximum number of distinct behaviors in a device's
      micro-batch, see `most_distinct`.
    inside_groups: Whether to split over a group's devices only, so that groups
      need not run in lockstep, as for elastic training.

  Returns:
    (table, a sentence on its place and the reason).
  """
  axes = (INTRA,) if inside_groups else GLOBAL_AXES
  num_owners = math.prod(mesh.shape[axis] for axis in axes)
  per_device = {'device': array.nbytes, 'split': array.nbytes / num_owners}
  why = 'as asked for'
  if home == 'auto':
    room = math.inf if device_bytes is None else _SHARE * device_bytes
    fits = [name for name, size in per_device.items() if size <= room]
    if host_bytes is None or array.nbytes <= _SHARE * host_bytes:
      fits.append('host')
    home = fits[0] if fits else 'disk'  # type: ignore[assignment]
    why = (
      'as a device does not say how much memory it has'
      if device_bytes is None
      else f'where a table may take {room / 2**20:.0f} MiB of a device'
    )
  size = f'{array.shape[0]} rows x {array.shape[1]} {array.dtype}'
  size += f' ({array.nbytes / 2**20:.1f} MiB)'
  if home == 'device':
    said = f'Table of behaviors: {size} on every device, {why}.'
    return DeviceTable(_constants(array, NamedSharding(mesh, P()))), said
  max_distinct = min(max_distinct, len(array))
  if home in ('host', 'disk'):
    said = (
      f'Table of behaviors: {size} on the {home}, {why}; a batch brings up to'
      f' {max_distinct} rows for a micro-batch of a device.'
    )
    return HostTable(array if home == 'disk' else array[:], max_distinct), said
  rows_per_device = -(-len(array) // num_owners)
  capacity = math.ceil(_FACTOR * max_distinct / num_owners)
  table = SplitTable(
    _constants(_by_owner(array, num_owners), NamedSharding(mesh, P(axes))),
    exchange.Exchange(
      axes,
      num_owners,
      rows_per_device,
      max(1, min(capacity, max_distinct, rows_per_device)),
    ),
    max_distinct,
  )
  return table, (
    f'Table of behaviors: {size} split over {num_owners} devices, {why}; a'
    ' step asks them for its distinct rows.'
  )


def most_distinct(examples: int, lengths: Sequence[int]) -> int:
  """Maximum number of distinct behaviors of examples, including padding.

  `examples` is the number in a device's micro-batch, `lengths` are those of the
  sequences.
  """
  return examples * (sum(lengths) + 1) + 1


def _by_owner(array: np.ndarray | MappedRows, num_owners: int) -> np.ndarray:
  """Rows by owner, zero-padded: [W * rows_per_device, D]."""
  rows_per_device = -(-len(array) // num_owners)
  result = np.zeros((num_owners, rows_per_device, array.shape[1]), array.dtype)
  for owner in range(num_owners):
    own = array[owner::num_owners]
    result[owner, : len(own)] = own
  return result.reshape(-1, array.shape[1])


def _constants(
  array: np.ndarray | MappedRows, sharding: NamedSharding
) -> dict[str, Any]:
  """The table on the devices; each process provides its devices' shards."""

  def part(index: tuple[slice, ...] | None) -> np.ndarray:
    return array[index[0] if index else slice(None)]

  rows = jax.make_array_from_callback(array.shape, sharding, part)
  return {'behavior_rows': rows}
