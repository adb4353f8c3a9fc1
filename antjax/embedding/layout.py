# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Layout of embedding tables: stacks, owners, and the order of ids.

Tables of one width, level and optimizer are stacked into one array, so that a
batch needs one exchange for all of them. Row `id` of a table belongs to owner
`id % W` (MOD sharding spreads frequent low ids), at local row
`offset + id // W`.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import functools
import math
from typing import Any, get_args, Literal
import zlib

from absl import logging
import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
import numpy as np

from antjax.embedding import rounding
from antjax.embedding.exchange import Exchange
from antjax.embedding.lookup import num_below
from antjax.embedding.optimizer import RowOptimizer, RowWiseAdagrad
from antjax.embedding.two_level import TwoLevel
from antjax.mesh.manual import manual
from antjax.mesh.mesh import GLOBAL_AXES, INTER, INTRA
from antjax.mesh.paro import Level

# Up to this size a dense copy on every device is as fast as an exchange.
_MAX_REPLICATED_ROWS = 16_384
# Rows made at once, so that new tables take little memory beside their own.
_VECTOR = 64  # Rows: at least the width of a CPU's vector loop.
_INIT_BLOCK = 65_536
# A device numbers its rows, and new numbers behind them, by int32.
_MAX_LOCAL_ROWS = 2**31 - 2**26
# More positions than these are not sent as they are, see `exchange`.
_MAX_POSITIONS = 2**31 - 1
# Two levels are used if one sends this many times more between groups, of which
# there are at least so many.
_WORTH, _MANY_GROUPS = 1.2, 4
Levels = Literal['auto', 1, 2]


@dataclasses.dataclass(frozen=True)
class TableSpec:
  """One embedding table.

  Attributes:
    name: Unique name; the key in checkpoints.
    num_embeddings: Number of rows.
    embedding_dim: Width of a row.
    level: 'global' (rows sharded over all devices), 'intra' (rows sharded over
      the devices of a group, with a copy per group and touched rows
      synchronized once per step), 'none' (a dense copy on every device), or
      'auto': 'none' for tables of up to 16,384 rows, else 'global'.
    optimizer: Optimizer of the touched rows.
    init_scale: Standard deviation of the elements of new rows.
    dtype: Dtype of the rows; updates of bfloat16 and int8 are rounded
      stochastically, see `rounding`. Gradients, slots and looked-up rows are
      float32.
  """

  name: str
  num_embeddings: int
  embedding_dim: int
  level: Literal['auto', 'none', 'intra', 'global'] = 'auto'
  optimizer: RowOptimizer = RowWiseAdagrad()
  init_scale: float = 0.01
  dtype: rounding.Dtype = 'float32'

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
    if self.dtype not in get_args(rounding.Dtype):
      raise ValueError(
        f'TableSpec({self.name!r}): unknown dtype {self.dtype!r}; use '
        'float32, bfloat16 or int8.'
      )

  @property
  def row_bytes(self) -> int:
    return self.width * jnp.dtype(self.dtype).itemsize

  @property
  def width(self) -> int:
    """Numbers that are kept of a row."""
    return rounding.width(self.embedding_dim, self.dtype)

  def resolved_level(self) -> Level:
    if self.level == 'auto':
      small = self.num_embeddings <= _MAX_REPLICATED_ROWS
      return Level.NONE if small else Level.GLOBAL
    return Level[self.level.upper()]


@dataclasses.dataclass(frozen=True)
class Stack:
  """Tables kept in one array. `offsets` are local rows."""

  name: str
  specs: tuple[TableSpec, ...]
  level: Level
  num_owners: int
  num_groups: int = 1

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
  def width(self) -> int:
    return self.specs[0].width

  @property
  def optimizer(self) -> RowOptimizer:
    return self.specs[0].optimizer

  @property
  def dtype(self) -> str:
    return self.specs[0].dtype

  def seeds(self, rows: jax.Array, step: jax.Array) -> jax.Array | None:
    """Rounding seeds of local rows [n], flat; None for float32."""
    if self.dtype == 'float32':
      return None
    offsets = np.array([self.offset(s.name) for s in self.specs], np.int32)
    salts = np.array([zlib.crc32(s.name.encode()) for s in self.specs])
    rows = rows.reshape(-1)
    table = num_below(jnp.asarray(offsets), rows + 1) - 1
    owner = lax.axis_index(self.axes) if self.axes else 0
    local = rows - jnp.asarray(offsets)[table]
    salt = jnp.asarray(salts.astype('uint32'))[table]
    return rounding.seeds(*self.ids(owner, local), salt, step)

  def ids(self, owner: Any, local: jax.Array) -> tuple[jax.Array, Any]:
    """Ids of local rows [n] of tables, as two words uint32 [n].

    The upper one is None if all are below 2^31.
    """
    w = self.num_owners
    if max(s.num_embeddings for s in self.specs) + w <= _MAX_POSITIONS:
      return owner + local * w, None
    low = local.astype(jnp.uint32)
    # Products of 16 bits by the number of owners, at most 2^16.
    upper, lower = (low >> 16) * w, (low & 0xFFFF) * w
    lower += jnp.asarray(owner, jnp.uint32)
    low = (upper << 16) + lower
    return low, (upper >> 16) + (low < lower).astype(jnp.uint32)

  def local_rows(self, spec: TableSpec) -> int:
    return -(-spec.num_embeddings // self.num_owners)

  def offset(self, name: str) -> int:
    total = 0
    for spec in self.specs:
      if spec.name == name:
        return total
      total += self.local_rows(spec)
    raise KeyError(name)

  @functools.cached_property
  def rows_per_device(self) -> int:
    return sum(self.local_rows(s) for s in self.specs)

  @property
  def num_positions(self) -> int:
    return self.num_owners * self.rows_per_device

  @property
  def is_wide(self) -> bool:
    """Whether positions do not fit in int32."""
    return self.num_positions > _MAX_POSITIONS

  def exchange(
    self,
    num_unique: int,
    factor: float,
    payload_dtype: Any = None,
    levels: Levels = 'auto',
  ) -> Exchange | TwoLevel:
    """Sizes of the messages of a batch, in one level or two."""

    def make(axes, num_owners, rows_per_device, most):
      capacity = _capacity(num_unique / num_owners, factor)
      capacity = max(1, min(capacity, most, rows_per_device))
      return Exchange(
        axes, num_owners, rows_per_device, capacity, payload_dtype
      )

    flat = make(self.axes, self.num_owners, self.rows_per_device, num_unique)
    groups = self.num_groups
    members = self.num_owners // max(groups, 1)
    if self.level is not Level.GLOBAL or min(groups, members) < 2:
      return flat
    if groups * self.rows_per_device > _MAX_LOCAL_ROWS:
      if levels == 2:
        raise ValueError(
          f'EmbeddingTables(exchange_levels=2): stack {self.name} has'
          f' {self.rows_per_device} rows a device and {groups} groups; their'
          f' product may be {_MAX_LOCAL_ROWS}. Use 1 or auto, or fewer groups.'
        )
      return flat
    inside = make((INTRA,), members, groups * self.rows_per_device, num_unique)
    most = members * inside.capacity
    between = make((INTER,), groups, self.rows_per_device, most)
    # Slots sent to other groups per device.
    slots = self.num_owners * flat.capacity, groups * between.capacity
    is_better = groups >= _MANY_GROUPS and slots[0] > _WORTH * slots[1]
    is_chosen = levels == 2 or (levels == 'auto' and is_better)
    return TwoLevel(inside, between) if is_chosen else flat


def _capacity(mean: float, factor: float) -> int:
  """Number of ids that a message holds, given its `mean` number of ids.

  For random ids the number is Poisson distributed: with room for six
  deviations, none of millions of messages overflows. A factor below 1 means
  more rounds.
  """
  likely = mean + 6 * math.sqrt(mean) + 5 if factor >= 1 else 0
  return math.ceil(max(factor * mean, likely))


def make_stacks(specs: Sequence[TableSpec], mesh: Mesh) -> dict[str, Stack]:
  """Stacks tables of one width, level and optimizer; stack name -> stack.

  Raises:
    ValueError: A device has more rows than int32 can index.
  """
  groups: dict[Any, list[TableSpec]] = {}
  for spec in specs:
    level, width = spec.resolved_level(), (spec.embedding_dim, spec.dtype)
    key = (width, level, spec.optimizer)
    groups.setdefault(key, []).append(spec)
  stacks: dict[str, Stack] = {}
  for ((dim, _), level, _), members in groups.items():
    name = f'{level.name.lower()}_{dim}'
    if name in stacks:
      name += f'_{members[0].name}'
    pieces = level.num_pieces(mesh.shape[INTER], mesh.shape[INTRA])
    stack = Stack(name, tuple(members), level, pieces, mesh.shape[INTER])
    if stack.rows_per_device > _MAX_LOCAL_ROWS or pieces > 2**16:
      num_rows = sum(s.num_embeddings for s in members)
      raise ValueError(
        f'EmbeddingTables: stack {name} has {num_rows} rows at level'
        f' {level.name.lower()}, {stack.rows_per_device} on each of {pieces}'
        f' devices; at most {_MAX_LOCAL_ROWS} on each of 65,536 are possible.'
        ' Level global needs at least'
        f' {-(-num_rows // _MAX_LOCAL_ROWS)} devices for them.'
      )
    stacks[name] = stack
  return stacks


def log(stacks: Iterable[Stack]) -> None:
  """Logs which tables share a stack, and the number of rows per device."""
  for stack in stacks:
    tables = ', '.join(f'{s.name} [{s.num_embeddings}]' for s in stack.specs)
    level, size = stack.level.name.lower(), (stack.rows_per_device, stack.dim)
    text = 'Embedding stack %s: %s; level %s, %d rows x %d a device.'
    logging.info(text, stack.name, tables, level, *size)


def new_rows(
  spec: TableSpec,
  key: jax.Array,
  ids: jax.Array,
  upper: jax.Array | None = None,
) -> jax.Array:
  """Initial values of the rows `ids` [...] of a table, float32 [..., D].

  A row depends only on the key of all tables, the name of the table and the id.
  Rows beyond the table are zero. Of ids of two words, see `Stack.ids`, `upper`
  is the other one.
  """
  table_key = jax.random.fold_in(key, zlib.crc32(spec.name.encode()))
  last_upper, last = divmod(spec.num_embeddings - 1, 2**32)

  def new_row(row_id, upper=None):
    row_key = jax.random.fold_in(table_key, row_id)
    if upper is None:
      is_there = row_id < spec.num_embeddings
    else:
      is_there = (upper < last_upper) | (upper == last_upper) & (
        row_id <= np.uint32(last)
      )
    if last_upper:
      other = jax.random.fold_in(row_key, upper)
      row_key = jnp.where(upper > 0, other, row_key)
    row = jax.random.normal(row_key, (spec.embedding_dim,), jnp.float32)
    return jnp.where(is_there, row, 0) * spec.init_scale

  # XLA rounds the last bits differently in the remainder of a vectorized loop,
  # and if it fuses the loop with consumers of the rows.
  words = [ids] if upper is None else [ids, upper]
  flat = [jnp.pad(x.reshape(-1), (0, -x.size % _VECTOR)) for x in words]
  rows = lax.optimization_barrier(jax.vmap(new_row)(*flat))[: ids.size]
  return rows.reshape(*ids.shape, spec.embedding_dim)


def init_rows(mesh: Mesh, stack: Stack, key: jax.Array) -> jax.Array:
  """A stack's new rows [W * rows_per_device, width], by owner; in `jit`.

  Each owner creates its own rows block by block, so the extra memory does not
  depend on the number of rows.
  """

  def local(key):
    rows = jnp.zeros((stack.rows_per_device, stack.width), stack.dtype)
    owner = jnp.int32(0)
    if stack.axes:
      owner = lax.axis_index(stack.axes)
      rows = lax.pcast(rows, stack.axes, to='varying')
    for spec in stack.specs:
      count, offset = stack.local_rows(spec), stack.offset(spec.name)
      block = min(count, _INIT_BLOCK)

      def write(i, rows, spec=spec, offset=offset, last=count - block):
        start = jnp.minimum(i * block, last)  # The last two blocks may overlap.
        ids = stack.ids(owner, start + jnp.arange(block))
        new = rounding.to_kept(new_rows(spec, key, *ids), rows.dtype, None)
        return lax.dynamic_update_slice_in_dim(rows, new, offset + start, 0)

      rows = lax.fori_loop(0, -(-count // block), write, rows)
    return rows

  return manual(local, mesh, in_specs=P(), out_specs=stack.partition_spec)(key)
