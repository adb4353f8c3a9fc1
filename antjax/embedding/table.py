# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Embedding tables on a mesh: state, lookups and row updates."""

from collections.abc import Collection, Mapping, Sequence
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from antjax.collectives.varying import psum
from antjax.embedding import (
  exchange,
  layout,
  pooled,
  rounding,
  stream,
  two_level,
)
from antjax.embedding import routing as routing_lib
from antjax.embedding import rows as rows_lib
from antjax.embedding.home import Home, HomeConfig
from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import apply_to_rows, apply_to_table
from antjax.embedding.routing import Feature
from antjax.embedding.stream import RowSink
from antjax.mesh.mesh import INTER, INTRA, own_mesh
from antjax.mesh.paro import Level

# Tables and slots of this many bytes per device are written block by block.
_LARGE_BYTES = 1 << 26


class EmbeddingTables:
  """All embedding tables of a model, sharded over a mesh.

  The stages of a batch: `prepare` (on the host) finds the distinct rows that
  each device needs and maps ids to indices into them. `fetch` gets the rows.
  The model reads them through `lookup` and is differentiated with respect to
  the rows. `push` updates each touched row once at its owner. `fetch` and
  `push` run in `shard_map`. Together they take three all-to-alls per stack.
  Only gradients of tables at level none have the size of the table.
  """

  def __init__(
    self,
    specs: Sequence[TableSpec],
    features: Mapping[str, str | Sequence[str]],
    *,
    mesh: Mesh,
    inter: str = INTER,
    intra: str = INTRA,
    max_unique: int | None = None,
    capacity_factor: float = 1.25,
    payload_dtype: Any = None,
    exchange_levels: layout.Levels = 'auto',
    home: HomeConfig | None = None,
    engine: pooled.Engine = 'xla',
    sums: Collection[str] = (),
  ):
    """Lays the tables out.

    Args:
      specs: The tables.
      features: Feature name -> name of the table to look up, or several names.
        Then the feature is an array of ids [..., F], with one table of the same
        stack per column. Many one-id features are far cheaper as columns of one
        feature.
      mesh: Mesh from `make_mesh`, or your own with two axes named `inter` and
        `intra`, as in `Trainer`. Tables are replicated along all other axes.
      inter: Name of the axis between groups.
      intra: Name of the axis inside a group.
      max_unique: Maximum number of distinct rows of one stack per device and
        step. The default, the number of ids, is always enough. A smaller number
        saves memory and communication; batches with more rows are rejected.
      capacity_factor: Size of a message to one owner, relative to an even
        distribution. Skewed batches take more rounds but never lose rows.
      payload_dtype: Dtype that rows and their gradients are rounded to when
        sent, e.g. bfloat16. Tables, sums and slots stay float32. None: no
        rounding.
      exchange_levels: 1 sends ids and rows directly to their owners. 2 sends
        them inside groups first, and then between groups without duplicates.
        auto uses 2 if it sends clearly less between at least four groups.
      home: Where the rows of tables larger than the devices are. `specs` of
        these tables are then those of their places on the devices;
        `whole_specs` are the ones given.
      engine: See `pooled.pool_rows`; 'kernel' concerns stacks with `sums`.
      sums: Features whose vectors `lookup` sums over the last axis of their
        ids, if the engine is 'kernel'.

    Raises:
      ValueError: Names are duplicate, or a feature has an unknown table or
        tables of several stacks.
    """
    mesh = own_mesh(mesh, inter, intra, 'EmbeddingTables')
    if not capacity_factor > 0 or (max_unique is not None and max_unique < 1):
      raise ValueError(
        f'EmbeddingTables(max_unique={max_unique}, capacity_factor='
        f'{capacity_factor}): both must be positive.'
      )
    self.whole_specs = {spec.name: spec for spec in specs}
    self.home = Home.of(home, specs)
    if self.home is not None:
      specs = [*map(self.home.on_devices, specs)]
    self.specs = {spec.name: spec for spec in specs}
    names = sorted(spec.name for spec in specs)
    if len(self.specs) != len(specs):
      raise ValueError(f'EmbeddingTables: table names repeat: {names}.')
    self.mesh = mesh
    self._max_unique = max_unique
    self._factor = capacity_factor
    self._payload_dtype = payload_dtype
    self._levels = exchange_levels
    self._engine: pooled.Engine = engine
    self._sums = frozenset(sums if engine == 'kernel' else ())
    self._stacks = layout.make_stacks(specs, mesh)
    self.stack_of = {
      spec.name: stack
      for stack in self._stacks.values()
      for spec in stack.specs
    }
    self.features = {
      name: Feature(name, tables, self.specs, self.stack_of)
      for name, tables in features.items()
    }
    layout.log(self._stacks.values())

  # State.

  def init(self, key: jax.Array) -> dict[str, Any]:
    """Creates tables; in `jit` with `shardings()`, each row at its owner.

    The value of a row depends only on the key, the name of the table and the
    id, not on the mesh.
    """
    return {
      name: {'table': layout.init_rows(self.mesh, stack, key)}
      | {'slots': stack.optimizer.init(stack.num_positions, stack.dim)}
      for name, stack in self._stacks.items()
    }

  def reset_rows(
    self, state: Any, ids: Mapping[str, np.ndarray], key: jax.Array
  ) -> dict[str, Any]:
    """Resets rows [n] of tables and donates the state, see `rows`."""
    return rows_lib.reset(self, state, ids, key)

  @functools.cached_property
  def shapes(self) -> dict[str, Any]:
    """The state's tree with a ShapeDtypeStruct for each leaf."""
    return jax.eval_shape(self.init, jax.random.key(0))

  def partition_specs(self) -> dict[str, Any]:
    """The state's tree with a PartitionSpec for each leaf."""
    return {
      name: jax.tree.map(lambda _, s=stack: s.partition_spec, self.shapes[name])
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
    """Finds each device's distinct rows and maps ids to indices into them.

    Args:
      ids: Nested dict whose innermost keys are feature names, with integer
        arrays [B, ...] of this process, where B is a multiple of `num_devices`.
        Device i gets the i-th of equal parts. Negative ids mean padding.
      num_devices: Number of devices of this process.

    Returns:
      (indices, routing): `indices` like `ids`, int32; `routing[stack]` holds
      `positions` int32 [num_devices * U] and `shift` int32 [num_devices], see
      `routing.deduplicate`.

    Raises:
      ValueError: There is an unknown feature, an id beyond its table, or more
        distinct rows than `max_unique`.
    """
    by_path, treedef = jax.tree.flatten_with_path(ids)
    for path, leaf in by_path:
      routing_lib.check_leaf(ids, path, leaf, num_devices)
    positions: dict[str, list[np.ndarray]] = {s: [] for s in self._stacks}
    where: list[tuple[str, int]] = []
    for path, leaf in by_path:
      feature = self._feature(path[-1].key)
      stack = feature.stack.name
      where.append((stack, len(positions[stack])))
      positions[stack].append(
        feature.positions(np.asarray(leaf)).reshape(num_devices, -1)
      )
    indices, routing = dict[str, list[np.ndarray]](), {}
    for name, arrays in positions.items():
      if arrays:
        indices[name], routing[name] = routing_lib.deduplicate(
          self._stacks[name],
          arrays,
          max_unique=self._max_unique,
          capacity_factor=self._factor,
          levels=self._levels,
        )
    leaves = [
      indices[stack][i].reshape(np.shape(leaf))
      for (stack, i), (_, leaf) in zip(where, by_path, strict=True)
    ]
    return jax.tree.unflatten(treedef, leaves), routing

  def _feature(self, name: str) -> Feature:
    if name not in self.features:
      raise ValueError(
        f"batch['ids']: feature {name!r} is unknown; the tables have "
        f'features {sorted(self.features)}.'
      )
    return self.features[name]

  # In shard_map.

  def fetch(self, state: Any, routing: Any) -> tuple[dict[str, Any], Any]:
    """Fetches this device's rows.

    Returns:
      (rows, rounds): rows[stack] float32 [U, D] (level none: the whole table),
        and an argument of `push`.
    """
    rows, rounds = {}, {}
    for name, route in routing.items():
      stack, table = self._stacks[name], state[name]['table']
      if stack.level is Level.NONE:
        rows[name] = lax.pcast(table, (INTER, INTRA), to='varying')
        continue
      positions = route['positions']
      rounds[name] = exchange.agree_on_rounds(route['shift'][0])
      ex = self._exchange(stack, positions)
      how = rounds[name], route.get('starts')
      rows[name] = two_level.fetch(ex, table, positions, *how)
    return {name: rounding.to_float(x) for name, x in rows.items()}, rounds

  def push(
    self,
    state: Any,
    routing: Any,
    rounds: Any,
    grads: Mapping[str, jax.Array],
    step: jax.Array,
    is_active: jax.Array,
    lr_scale: jax.Array | None = None,
  ) -> Any:
    """Updates every touched row once, with the sum of all devices' gradients.

    Args:
      state: State of the tables.
      routing: This device's part of the routing of `prepare`.
      rounds: Second result of `fetch`.
      grads: Gradients of the fetched rows.
      step: int32 scalar, number of steps done.
      is_active: bool scalar, the same on all devices; False changes nothing.
      lr_scale: Scale of the updates. None: 1.
    """
    state = dict(state)
    for name, route in routing.items():
      stack = self._stacks[name]
      old = (state[name]['table'], state[name]['slots'])
      update = self._push_whole if stack.level is Level.NONE else self._push
      how = step, is_active, lr_scale
      table, slots = update(
        stack, old, route, rounds.get(name), grads[name], how
      )
      state[name] = {'table': table, 'slots': slots}
    return state

  def _push_whole(self, stack, old, route, _, grads, how):
    step, is_active, lr_scale = how
    positions = route['positions']
    touched = jnp.zeros((stack.num_positions,), jnp.int32)
    touched = touched.at[positions].set(1, mode='drop')
    touched = (psum(touched) > 0) & is_active
    seed = stack.seeds(jnp.arange(len(touched), dtype=jnp.int32), step)
    args = psum(grads), touched, step, lr_scale, seed
    return apply_to_table(stack.optimizer, old[0], old[1], *args)

  def _push(self, stack, old, route, shift, grads, how):
    step, is_active, lr_scale = how
    positions = route['positions']
    ex = self._exchange(stack, positions)

    def apply_fn(state, ids, row_grads):
      ids = jnp.where(is_active, ids, stack.rows_per_device)
      args = ids, row_grads, step, lr_scale, stack.seeds(ids, step)
      return apply_to_rows(stack.optimizer, state[0], state[1], *args)

    args = shift, grads, apply_fn, old, route.get('starts')
    return two_level.push(ex, positions, *args)

  def _exchange(self, stack, positions):
    num_unique = positions.shape[0]
    how = self._factor, self._payload_dtype, self._levels
    return stack.exchange(num_unique, *how)

  def lookup(self, rows: Mapping[str, jax.Array], ids: Any) -> Any:
    """Vectors [..., D] of prepared ids; differentiable with respect to `rows`.

    `rows[stack]` [U, D] are the rows of the step. `ids` is a nested dict of
    indices [...] from `prepare`. Padding becomes zeros. Vectors of `sums` are
    summed over the last axis of their ids.
    """
    by_path, treedef = jax.tree.flatten_with_path(ids)
    names = [path[-1].key for path, _ in by_path]
    stacks = [self.features[name].stack.name for name in names]
    vectors: list[jax.Array | None] = [None] * len(by_path)
    for stack in dict.fromkeys(stacks):
      # One gather per stack: its transpose is one scatter, not one per feature.
      mine = [i for i, of in enumerate(stacks) if of == stack]
      index = [by_path[i][1] for i in mine]
      are_summed = [names[i] in self._sums for i in mine]
      found = pooled.look_up(rows[stack], index, are_summed, self._engine)
      for i, x in zip(mine, found, strict=True):
        vectors[i] = x
    return jax.tree.unflatten(treedef, vectors)

  # Checkpoints: table name -> rows in the order of their ids.

  def to_canonical(self, state: Any) -> dict[str, Any]:
    """State by table, rows ordered by id (padded at the end)."""
    return self._by_table(state)

  @property
  def are_large(self) -> bool:
    """Whether files of them are written block by block, see `streams`."""
    return sum(self.bytes_per_device().values()) >= _LARGE_BYTES

  def streams(self, state: Any) -> dict[str, Any]:
    """The tree of `to_canonical` with a `RowStream` for each array."""
    return stream.streams(self, state)

  def from_canonical(self, tables: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `to_canonical`, or what the `sinks` have taken."""
    if any(isinstance(x, RowSink) for x in jax.tree.leaves(tables)):
      return stream.taken(self, tables)
    return self._by_stack(dict(tables))

  def sinks(self) -> dict[str, Any]:
    """The tree of `to_canonical` with a `RowSink` for each array."""
    return stream.sinks(self)

  @functools.cached_property
  def _by_table(self) -> Any:
    specs = {n: stack.partition_spec for n, stack in self.stack_of.items()}
    places = {n: NamedSharding(self.mesh, spec) for n, spec in specs.items()}
    return jax.jit(self._split, out_shardings=places)

  @functools.cached_property
  def _by_stack(self) -> Any:
    return jax.jit(self._join, out_shardings=self.shardings())

  def _split(self, state: Any) -> dict[str, Any]:
    return stream.ordered(self, state)

  def _join(self, tables: Mapping[str, Any]) -> dict[str, Any]:
    state = {}
    for name, stack in self._stacks.items():
      new = jax.tree.map(jnp.zeros_like, self.shapes[name])
      for spec in stack.specs:
        put = functools.partial(stream.put, self.mesh, stack, spec)
        new = jax.tree.map(put, new, tables[spec.name])
      state[name] = new
    return state

  def canonical_shardings(self) -> dict[str, Any]:
    """The tree of `to_canonical` with a NamedSharding for each leaf."""
    found = self.shardings()
    return {n: found[stack.name] for n, stack in self.stack_of.items()}

  def canonical_shapes(self) -> dict[str, Any]:
    """The tree of `to_canonical` as (unpadded) ShapeDtypeStructs."""
    shapes = {}
    for spec in self.specs.values():
      v, d = spec.num_embeddings, spec.embedding_dim
      slots = jax.eval_shape(lambda o=spec.optimizer, v=v, d=d: o.init(v, d))
      table = jax.ShapeDtypeStruct((v, spec.width), jnp.dtype(spec.dtype))
      shapes[spec.name] = {'table': table, 'slots': slots}
    return shapes

  def bytes_per_device(self) -> dict[str, int]:
    """Stack name -> bytes of its table and slots on each device."""
    sizes = jax.tree.map(lambda x: x.size * x.dtype.itemsize, self.shapes)
    of = self._stacks
    return {n: sum(jax.tree.leaves(sizes[n])) // of[n].num_owners for n in of}
