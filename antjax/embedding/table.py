# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Embedding tables: their description, their state, and look-ups.

Tables of one width, level and optimizer are stacked into one array, so that a
batch needs one exchange for all of them. Row `id` of a table belongs to owner
`id % W` (MOD sharding spreads frequent low ids), at local row
`offset + id // W`.
"""

import dataclasses
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from antjax.embedding import exchange
from antjax.embedding.optimizer import (
  RowOptimizer,
  RowWiseAdagrad,
  apply_to_rows,
  apply_to_table,
)
from antjax.mesh.mesh import GLOBAL_AXES, INTER, INTRA, check_mesh
from antjax.mesh.paro import Level

# Below this a dense copy on every device is as fast as an exchange.
_MAX_REPLICATED_ROWS = 16_384
PAD = -1  # The id, and the index, of "nothing": its vector is zero.


@dataclasses.dataclass(frozen=True)
class TableSpec:
  """One embedding table.

  Attributes:
    name: Unique name; the key in checkpoints.
    num_embeddings: Number of rows.
    embedding_dim: Width of a row.
    level: 'global' (rows over all devices), 'intra' (rows over a group's
      devices, a copy in each group, touched rows synchronised once a step),
      'none' (a dense copy on every device), or 'auto': 'none' for tables of
      up to 16,384 rows, else 'global'.
    optimizer: Steps the touched rows.
    init_scale: Standard deviation of a new row's elements.
  """

  name: str
  num_embeddings: int
  embedding_dim: int
  level: Literal['auto', 'none', 'intra', 'global'] = 'auto'
  optimizer: RowOptimizer = RowWiseAdagrad()
  init_scale: float = 0.01

  def __post_init__(self) -> None:
    if self.num_embeddings < 1 or self.embedding_dim < 1:
      raise ValueError(
        f'TableSpec({self.name!r}): num_embeddings={self.num_embeddings} and '
        f'embedding_dim={self.embedding_dim} must be positive.'
      )
    if self.level not in ('auto', 'none', 'intra', 'global'):
      raise ValueError(
        f'TableSpec({self.name!r}): unknown level {self.level!r}; use auto, '
        'none, intra or global.'
      )

  def resolved_level(self) -> Level:
    if self.level == 'auto':
      small = self.num_embeddings <= _MAX_REPLICATED_ROWS
      return Level.NONE if small else Level.GLOBAL
    return Level[self.level.upper()]


@dataclasses.dataclass(frozen=True)
class _Stack:
  """Tables kept in one array. `offsets` are local rows."""

  name: str
  specs: tuple[TableSpec, ...]
  level: Level
  num_owners: int

  @property
  def axes(self) -> tuple[str, ...]:
    return {Level.NONE: (), Level.INTRA: (INTRA,), Level.GLOBAL: GLOBAL_AXES}[
      self.level
    ]

  @property
  def partition_spec(self) -> P:
    return P(self.axes) if self.axes else P()

  @property
  def dim(self) -> int:
    return self.specs[0].embedding_dim

  @property
  def optimizer(self) -> RowOptimizer:
    return self.specs[0].optimizer

  def local_rows(self, spec: TableSpec) -> int:
    return -(-spec.num_embeddings // self.num_owners)

  def offset(self, name: str) -> int:
    total = 0
    for spec in self.specs:
      if spec.name == name:
        return total
      total += self.local_rows(spec)
    raise KeyError(name)

  @property
  def rows_per_device(self) -> int:
    return sum(self.local_rows(s) for s in self.specs)

  @property
  def num_positions(self) -> int:
    return self.num_owners * self.rows_per_device

  def exchange(self, num_unique: int, factor: float) -> exchange.Exchange:
    capacity = math.ceil(factor * num_unique / self.num_owners)
    return exchange.Exchange(
      self.axes,
      self.num_owners,
      self.rows_per_device,
      max(1, min(capacity, num_unique, self.rows_per_device)),
    )


class EmbeddingTables:
  """All embedding tables of a model, split over a mesh.

  The life of a batch: `prepare` (host) finds the distinct rows each device
  needs and turns ids into indices into them; `fetch` brings the rows; the
  model reads them through `lookup` and is differentiated with respect to the
  rows; `push` steps each touched row once at its owner. `fetch` and `push` run
  in `shard_map`; together they take three all-to-alls a stack, and no
  gradient of a table's size ever exists.
  """

  def __init__(
    self,
    specs: Sequence[TableSpec],
    features: Mapping[str, str],
    *,
    mesh: Mesh,
    max_unique: int | None = None,
    capacity_factor: float = 1.25,
  ):
    """Lays the tables out.

    Args:
      specs: The tables.
      features: Feature name to the name of the table that it looks up.
      mesh: From `make_mesh`.
      max_unique: Most distinct rows of one stack that a device may need in a
        step; the number of its ids by default, which is always enough. A
        smaller one saves memory and messages; a batch with more is refused.
      capacity_factor: Size of a message to one owner, relative to an even
        spread. Skewed batches take more rounds, never lose rows.

    Raises:
      ValueError: Duplicate names, or a feature of an unknown table.
    """
    check_mesh(mesh, 'EmbeddingTables')
    self.specs = {spec.name: spec for spec in specs}
    if len(self.specs) != len(specs):
      names = sorted(s.name for s in specs)
      raise ValueError(f'EmbeddingTables: table names repeat: {names}.')
    for feature, table in features.items():
      if table not in self.specs:
        raise ValueError(
          f'EmbeddingTables: feature {feature!r} looks up table {table!r}, '
          f'which is not among {sorted(self.specs)}.'
        )
    self.features = dict(features)
    self.mesh = mesh
    self._max_unique = max_unique
    self._factor = capacity_factor
    groups: dict[Any, list[TableSpec]] = {}
    for spec in specs:
      key = (spec.embedding_dim, spec.resolved_level(), spec.optimizer)
      groups.setdefault(key, []).append(spec)
    self._stacks: dict[str, _Stack] = {}
    for (dim, level, _), members in groups.items():
      name = f'{level.name.lower()}_{dim}'
      if name in self._stacks:
        name += f'_{members[0].name}'
      pieces = level.num_pieces(mesh.shape[INTER], mesh.shape[INTRA])
      stack = _Stack(name, tuple(members), level, pieces)
      if stack.num_positions >= 2**31:
        raise ValueError(
          f'EmbeddingTables: stack {name} has {stack.num_positions} rows; '
          'positions are int32, so at most 2^31 - 1 fit. Use several widths '
          'or optimizers to split it.'
        )
      self._stacks[name] = stack
    self._stack_of = {
      spec.name: stack for stack in self._stacks.values() for spec in stack.specs
    }
    self._log_layout()

  def _log_layout(self) -> None:
    for stack in self._stacks.values():
      tables = ', '.join(f'{s.name} [{s.num_embeddings}]' for s in stack.specs)
      logging.info(
        'Embedding stack %s: %s; level %s, %d rows x %d a device.',
        stack.name,
        tables,
        stack.level.name.lower(),
        stack.rows_per_device,
        stack.dim,
      )

  # State.

  def init(self, key: jax.Array) -> dict[str, Any]:
    """New tables; in `jit` with `shardings()` each row is born at its owner.

    A row's value depends on the key, the table's name and the row only, not
    on the mesh.
    """
    return {
      name: {'table': self._init_stack(stack, key)}
      | {'slots': stack.optimizer.init(stack.num_positions, stack.dim)}
      for name, stack in self._stacks.items()
    }

  def _init_stack(self, stack: _Stack, key: jax.Array) -> jax.Array:
    owners = jnp.arange(stack.num_owners)[:, None]
    parts = []
    for spec in stack.specs:
      seed = zlib.crc32(spec.name.encode())
      table_key = jax.random.fold_in(key, seed)
      local = jnp.arange(stack.local_rows(spec))[None]
      ids = owners + local * stack.num_owners

      def new_row(row_id, table_key=table_key, spec=spec):
        row_key = jax.random.fold_in(table_key, row_id)
        row = jax.random.normal(row_key, (spec.embedding_dim,), jnp.float32)
        return jnp.where(row_id < spec.num_embeddings, row, 0) * spec.init_scale

      parts.append(jax.vmap(jax.vmap(new_row))(ids))
    return jnp.concatenate(parts, 1).reshape(-1, stack.dim)

  def partition_specs(self) -> dict[str, Any]:
    """The state's tree with a PartitionSpec for each leaf."""
    shapes = jax.eval_shape(self.init, jax.random.key(0))
    return {
      name: jax.tree.map(lambda _, s=stack: s.partition_spec, shapes[name])
      for name, stack in self._stacks.items()
    }

  def shardings(self) -> dict[str, Any]:
    """The state's tree with a NamedSharding for each leaf."""
    return jax.tree.map(
      lambda spec: NamedSharding(self.mesh, spec),
      self.partition_specs(),
      is_leaf=lambda x: isinstance(x, P),
    )

  # The host's part.

  def prepare(self, ids: Any, num_devices: int) -> tuple[Any, dict[str, Any]]:
    """Finds each device's distinct rows and turns ids into indices into them.

    Args:
      ids: Nested dict; innermost keys are feature names, leaves integer arrays
        [B, ...] of this process, B a multiple of `num_devices`; device i
        takes the i-th of equal parts. Negative ids mean padding.
      num_devices: This process's devices.

    Returns:
      (indices, routing): `indices` like `ids`, int32; `routing[stack]` holds
      `positions` int32 [num_devices * U] and `shift` int32 [num_devices].

    Raises:
      ValueError: An unknown feature, an id beyond its table, or more distinct
        rows than `max_unique`.
    """
    by_path, treedef = jax.tree.flatten_with_path(ids)
    positions: dict[str, list[np.ndarray]] = {s: [] for s in self._stacks}
    where: list[tuple[str, int]] = []
    for path, leaf in by_path:
      feature = path[-1].key
      stack, pos = self._positions(feature, np.asarray(leaf), num_devices)
      where.append((stack, len(positions[stack])))
      positions[stack].append(pos)
    indices: dict[str, list[np.ndarray]] = {}
    routing = {}
    for name, arrays in positions.items():
      if arrays:
        found = self._deduplicate(self._stacks[name], arrays)
        indices[name], routing[name] = found
    leaves = [
      indices[stack][i].reshape(np.shape(leaf))
      for (stack, i), (_, leaf) in zip(where, by_path, strict=True)
    ]
    return jax.tree.unflatten(treedef, leaves), routing

  def _positions(
    self, feature: str, ids: np.ndarray, num_devices: int
  ) -> tuple[str, np.ndarray]:
    """The stack's name, and positions [num_devices, n] (PAD stays PAD)."""
    if feature not in self.features:
      raise ValueError(
        f"batch['ids']: feature {feature!r} is unknown; the tables have "
        f'features {sorted(self.features)}.'
      )
    spec = self.specs[self.features[feature]]
    if not np.issubdtype(ids.dtype, np.integer):
      raise ValueError(
        f"batch['ids'][...][{feature!r}] has dtype {ids.dtype}; ids must be "
        'integers.'
      )
    if ids.size and ids.max() >= spec.num_embeddings:
      raise ValueError(
        f"batch['ids'][...][{feature!r}] has id {ids.max()}; table "
        f'{spec.name!r} has {spec.num_embeddings} rows. Map unknown ids to an '
        'OOV id, or make the table larger.'
      )
    stack = self._stack_of[spec.name]
    owner, row = np.divmod(ids, stack.num_owners)[::-1]
    row = row + stack.offset(spec.name)
    pos = np.where(ids < 0, PAD, owner * stack.rows_per_device + row)
    return stack.name, pos.astype(np.int32).reshape(num_devices, -1)

  def _deduplicate(self, stack: _Stack, arrays: list[np.ndarray]):
    """Per device: distinct positions, and every array as indices into them."""
    every = np.concatenate(arrays, axis=1)
    num_devices, num_ids = every.shape
    size = min(num_ids, stack.num_positions)
    if self._max_unique is not None:
      size = min(size, self._max_unique)
    ex = stack.exchange(size, self._factor)
    positions = np.full((num_devices, size), stack.num_positions, np.int32)
    shift = np.empty((num_devices,), np.int32)
    index = np.empty_like(every)
    for d in range(num_devices):
      unique, index[d] = _unique(every[d], stack.num_positions)
      if len(unique) > size:
        raise ValueError(
          f'EmbeddingTables(max_unique={self._max_unique}): a batch needs '
          f'{len(unique)} distinct rows of stack {stack.name} on one device. '
          'Raise max_unique or make the batch smaller.'
        )
      positions[d, : len(unique)] = unique
      shift[d] = ex.fit_shift(unique)
    if stack.level is Level.NONE:
      index = every  # The whole table is at hand.
    edges = np.cumsum([a.shape[1] for a in arrays])[:-1]
    routing = {'positions': positions.reshape(-1), 'shift': shift}
    return np.split(index, edges, axis=1), routing

  # In shard_map.

  def fetch(self, state: Any, routing: Any) -> tuple[dict[str, Any], Any]:
    """Brings this device's rows.

    Returns:
      (rows, rounds): rows[stack] float32 [U, D] (level none: the whole
      table); `rounds` is to be handed to `push`.
    """
    rows, rounds = {}, {}
    for name, route in routing.items():
      stack, table = self._stacks[name], state[name]['table']
      if stack.level is Level.NONE:
        rows[name] = lax.pcast(table, (INTER, INTRA), to='varying')
        continue
      positions = route['positions']
      rounds[name] = exchange.agree_on_rounds(route['shift'][0])
      ex = stack.exchange(positions.shape[0], self._factor)
      rows[name] = exchange.fetch(ex, table, positions, rounds[name])
    return rows, rounds

  def push(
    self,
    state: Any,
    routing: Any,
    rounds: Any,
    grads: Mapping[str, jax.Array],
    step: jax.Array,
    is_active: jax.Array,
  ) -> Any:
    """Steps every touched row once, with the sum of all devices' gradients.

    Args:
      state: The tables' state.
      routing: From `prepare`, this device's part.
      rounds: From `fetch`.
      grads: Gradients of the fetched rows, as `rows`.
      step: int32 scalar, steps done so far.
      is_active: bool scalar, the same on all devices; False changes nothing.
    """
    state = dict(state)
    for name, route in routing.items():
      stack = self._stacks[name]
      old = (state[name]['table'], state[name]['slots'])
      update = self._push_whole if stack.level is Level.NONE else self._push
      table, slots = update(
        stack, old, route['positions'], rounds.get(name), grads[name], step,
        is_active,
      )
      state[name] = {'table': table, 'slots': slots}
    return state

  def _push_whole(self, stack, old, positions, _, grads, step, is_active):
    touched = jnp.zeros((stack.num_positions,), jnp.int32)
    touched = touched.at[positions].set(1, mode='drop')
    touched = lax.psum(touched, (INTER, INTRA)) > 0
    grads = lax.psum(grads, (INTER, INTRA))
    touched &= is_active
    table, slots = old
    return apply_to_table(stack.optimizer, table, slots, grads, touched, step)

  def _push(self, stack, old, positions, shift, grads, step, is_active):
    ex = stack.exchange(positions.shape[0], self._factor)

    def apply_fn(table_and_slots, ids, row_grads):
      ids = jnp.where(is_active, ids, stack.rows_per_device)
      table, slots = table_and_slots
      return apply_to_rows(
        stack.optimizer, table, slots, ids, row_grads, step
      )

    return exchange.push(ex, positions, shift, grads, apply_fn, old)

  def lookup(self, rows: Mapping[str, jax.Array], ids: Any) -> Any:
    """Vectors of prepared ids; differentiable with respect to `rows`.

    Args:
      rows: rows[stack] [U, D], from the step.
      ids: Nested dict of indices [...] made by `prepare`.

    Returns:
      The same nested dict with vectors [..., D]; zeros for padding.
    """

    def one(path, index):
      table = rows[self._stack_of[self.features[path[-1].key]].name]
      index = jnp.where(index < 0, table.shape[0], index)
      return table.at[index].get(mode='fill', fill_value=0)

    return jax.tree.map_with_path(one, ids)

  # Checkpoints: table name -> rows in the order of their ids.

  def to_canonical(self, state: Any) -> dict[str, Any]:
    """State by table, rows ordered by id (padded at the end); in `jit`."""
    return {
      spec.name: jax.tree.map(
        lambda x, stack=stack, spec=spec: self._reorder(stack, spec, x, True),
        state[name],
      )
      for name, stack in self._stacks.items()
      for spec in stack.specs
    }

  def from_canonical(self, tables: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `to_canonical`; in `jit`."""
    state = {}
    for name, stack in self._stacks.items():
      parts = [
        jax.tree.map(
          lambda x, stack=stack, spec=spec: self._reorder(
            stack, spec, x, False
          ),
          tables[spec.name],
        )
        for spec in stack.specs
      ]

      def join(*xs: jax.Array, stack: _Stack = stack) -> jax.Array:
        # [W * r_t, ...] for each table -> owner-major rows of the stack.
        parts = [x.reshape(stack.num_owners, -1, *x.shape[1:]) for x in xs]
        return jnp.concatenate(parts, 1).reshape(-1, *parts[0].shape[2:])

      state[name] = jax.tree.map(join, *parts)
    return state

  def canonical_shardings(self) -> dict[str, Any]:
    """The tree of `to_canonical` with a NamedSharding for each leaf."""
    specs = self.partition_specs()
    return {
      spec.name: jax.tree.map(
        lambda p: NamedSharding(self.mesh, p),
        specs[name],
        is_leaf=lambda x: isinstance(x, P),
      )
      for name, stack in self._stacks.items()
      for spec in stack.specs
    }

  def canonical_shapes(self) -> dict[str, Any]:
    """The tree of `to_canonical` as (unpadded) ShapeDtypeStructs."""
    shapes = {}
    for spec in self.specs.values():
      v, d = spec.num_embeddings, spec.embedding_dim
      slots = jax.eval_shape(lambda o=spec.optimizer, v=v, d=d: o.init(v, d))
      shapes[spec.name] = {
        'table': jax.ShapeDtypeStruct((v, d), jnp.float32),
        'slots': slots,
      }
    return shapes

  def _reorder(self, stack: _Stack, spec: TableSpec, x, to_canonical: bool):
    """Between owner-major order and the order of ids, by one all-to-all.

    Owner w has ids w, w + W, ...; in the order of ids, device b has the b-th
    block. With local rows a multiple of W both are a transpose of blocks.
    """
    w, local = stack.num_owners, stack.local_rows(spec)
    padded = -(-local // w) * w
    offset = stack.offset(spec.name)
    tail = x.shape[1:]

    def forward(x):  # [rows_per_device, ...] -> [padded, ...]
      x = lax.slice_in_dim(x, offset, offset + local)
      x = jnp.pad(x, [(0, padded - local)] + [(0, 0)] * len(tail))
      if w > 1:
        x = lax.all_to_all(x, stack.axes, 0, 0, tiled=True)
        x = x.reshape(w, padded // w, *tail).swapaxes(0, 1)
      return x.reshape(padded, *tail)

    def backward(x):  # [padded, ...] -> [local, ...]
      if w > 1:
        x = x.reshape(padded // w, w, *tail).swapaxes(0, 1)
        x = x.reshape(padded, *tail)
        x = lax.all_to_all(x, stack.axes, 0, 0, tiled=True)
      return lax.slice_in_dim(x, 0, local)

    return jax.shard_map(
      forward if to_canonical else backward,
      mesh=self.mesh,
      in_specs=stack.partition_spec,
      out_specs=stack.partition_spec,
    )(x)

  def bytes_per_device(self) -> dict[str, int]:
    """Stack name to bytes of its table and slots on each device."""
    shapes = jax.eval_shape(self.init, jax.random.key(0))
    return {
      name: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes[name]))
      // stack.num_owners
      for name, stack in self._stacks.items()
    }


def _unique(
  positions: np.ndarray, num_positions: int
) -> tuple[np.ndarray, np.ndarray]:
  """Sorted distinct positions without PAD, and the index of each (or PAD)."""
  if num_positions <= 8 * positions.size + 65_536:
    # Marking beats sorting while the table is not far larger than the batch.
    index = np.full((num_positions + 1,), PAD, np.int32)
    index[positions] = 0  # PAD marks the spare last entry.
    index[num_positions] = PAD
    unique = np.flatnonzero(index[:num_positions] == 0).astype(np.int32)
    index[unique] = np.arange(len(unique), dtype=np.int32)
    return unique, index[positions]
  unique, inverse = np.unique(positions, return_inverse=True)
  num_pad = int(len(unique) > 0 and unique[0] == PAD)
  return unique[num_pad:], (inverse - num_pad).astype(np.int32)
