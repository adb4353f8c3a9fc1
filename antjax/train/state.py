# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The training state and its static description."""

from collections.abc import Callable, Mapping
import dataclasses
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax

from antjax.mesh import sharding
from antjax.mesh.paro import Level, PaRO
from antjax.mesh.sharding import LeafSpec

PyTree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Everything a step changes; a pytree.

  Attributes:
    step: int32 scalar, steps done; those of weight 0 count too.
    params: The user's tree at the parameters' level, in compute dtype. Leaves
      split at that level are padded: read them through `Trainer.params`.
    master: Copies of the trained leaves, at least fp32, at the optimizer's
      level in mixed precision; else None. Frozen leaves have none.
    opt_state: Optax state, each moment at the optimizer's level.
    tables: State of the embedding tables, or an empty dict.
    rng: uint32 key data; a step folds `step` into it, and never changes it.
  """

  step: jax.Array | Any  # Any: a tree of shardings has the same class.
  params: PyTree
  master: PyTree
  opt_state: PyTree
  tables: PyTree
  rng: jax.Array | Any


class SparseTables(Protocol):
  """What a step needs of embedding tables; see `antjax.embedding`."""

  @property
  def features(self) -> Mapping[str, Any]: ...
  def init(self, key: jax.Array) -> PyTree: ...
  def reset_rows(
    self, state: PyTree, ids: Mapping[str, np.ndarray], key: jax.Array
  ) -> PyTree: ...
  def partition_specs(self) -> PyTree: ...
  def shardings(self) -> PyTree: ...
  def prepare(self, ids: PyTree, num_devices: int) -> tuple[PyTree, PyTree]: ...
  def fetch(self, state: PyTree, routing: PyTree) -> tuple[PyTree, PyTree]: ...
  def push(
    self,
    state: PyTree,
    routing: PyTree,
    rounds: PyTree,
    grads: PyTree,
    step: jax.Array,
    is_active: jax.Array,
    lr_scale: jax.Array | None = None,
  ) -> PyTree: ...
  def to_canonical(self, state: PyTree) -> PyTree: ...
  def from_canonical(self, tables: PyTree) -> PyTree: ...
  def canonical_shardings(self) -> PyTree: ...
  def canonical_shapes(self) -> PyTree: ...
  def bytes_per_device(self) -> Mapping[str, int]: ...


@dataclasses.dataclass(frozen=True)
class Layout:
  """Static description of a model's state on a mesh.

  Attributes:
    mesh: The mesh.
    paro: Levels of parameters, gradients, optimizer state.
    treedef: Structure of the user's parameter tree.
    names: Name of each leaf, in the tree's order.
    specs: LeafSpec of each leaf; dtypes are those of the masters.
    trainable: Whether each leaf is trained.
    compute_dtype: Dtype of floating leaves in the step; None keeps their own.
    scanned: Whether each leaf is a stack of layers, gathered one by one; none
      by default.
  """

  mesh: Mesh
  paro: PaRO
  treedef: Any
  names: tuple[str, ...]
  specs: tuple[LeafSpec, ...]
  trainable: tuple[bool, ...]
  compute_dtype: Any = None
  scanned: tuple[bool, ...] = ()

  @classmethod
  def of(
    cls,
    params: PyTree,
    mesh: Mesh,
    paro: PaRO,
    *,
    trainable: Callable[[str], bool] | None = None,
    scanned: Callable[[str], bool] | None = None,
    compute_dtype: Any = None,
    min_shard_size: int = 1024,
  ) -> 'Layout':
    """Describes a tree of arrays or ShapeDtypeStructs; logs what stays whole.

    Args:
      params: The tree.
      mesh: Mesh from `make_mesh`.
      paro: Levels.
      trainable: Name of a leaf -> whether it is trained; all by default.
        Leaves that are not floating point are never trained.
      scanned: Name of a leaf -> whether it is a stack of layers [L, ...] that
        the model runs by `scan_layers`; none by default.
      compute_dtype: See the class.
      min_shard_size: Leaves with fewer elements stay whole everywhere.

    Raises:
      ValueError: Nothing is left to train, or a scalar is called a stack.
    """
    by_path, treedef = jax.tree.flatten_with_path(params)
    names = tuple(leaf_names([path for path, _ in by_path]))
    leaves = [leaf for _, leaf in by_path]
    if not leaves:
      raise ValueError(
        'Trainer.init: params has no leaf. A model needs dense parameters'
        ' beside its tables; a bias will do.'
      )
    for name, leaf in zip(names, leaves, strict=True):
      if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.extended):
        raise ValueError(
          f'Trainer.init: leaf {name} is a random key, which is no parameter;'
          ' keep it out of params (nnx: nnx.split(model, nnx.Param, ...)).'
        )
    dtypes = [np.dtype(jnp.result_type(x)) for x in leaves]
    trained = tuple(
      bool(jnp.issubdtype(dtype, jnp.floating))
      and (trainable is None or bool(trainable(name)))
      for name, dtype in zip(names, dtypes, strict=True)
    )
    if compute_dtype is not None:  # Masters have at least fp32.
      dtypes = [
        np.dtype(jnp.promote_types(d, jnp.float32)) if t else d
        for d, t in zip(dtypes, trained, strict=True)
      ]
    stacked = tuple(scanned is not None and bool(scanned(n)) for n in names)
    specs = tuple(
      _leaf_spec(name, jnp.shape(x), dtype, mesh.size, min_shard_size, is_stack)
      for name, x, dtype, is_stack in zip(
        names, leaves, dtypes, stacked, strict=True
      )
    )
    if not any(trained):
      raise ValueError(
        'Trainer(trainable=...): no leaf is left to train. The leaves are: '
        f'{", ".join(names)}.'
      )
    if paro.code != 'NNN':
      sharding.log_whole_leaves(dict(zip(names, specs, strict=True)))
    return cls(
      mesh, paro, treedef, names, specs, trained, compute_dtype, stacked
    )

  # A tree's leaves with None for frozen ones is "the trained tree".

  def trained(self, leaves: list[Any]) -> list[Any]:
    """Picks the trained ones among all leaves."""
    return [x for x, t in zip(leaves, self.trainable, strict=True) if t]

  def with_trained(self, leaves: list[Any], trained: list[Any]) -> list[Any]:
    """All leaves, with these in place of the trained ones."""
    it = iter(trained)
    return [
      next(it) if t else x for x, t in zip(leaves, self.trainable, strict=True)
    ]

  def trained_tree(self, trained_leaves: list[Any]) -> PyTree:
    """The user's tree with None in place of frozen leaves."""
    nothing = [None] * len(self.trainable)
    leaves = self.with_trained(nothing, trained_leaves)
    return jax.tree.unflatten(self.treedef, leaves)

  def compute_type(self, spec: LeafSpec) -> np.dtype:
    """Dtype in which a leaf is kept at the parameters' level."""
    floating = jnp.issubdtype(spec.dtype, jnp.floating)
    if self.compute_dtype is None or not floating:
      return spec.dtype
    return np.dtype(self.compute_dtype)

  def level_specs(self, level: Level, *, trained: bool) -> list[P]:
    specs = self.trained(list(self.specs)) if trained else self.specs
    return [spec.partition_spec(level) for spec in specs]

  def opt_state_specs(
    self, optimizer: optax.GradientTransformation
  ) -> tuple[PyTree, PyTree]:
    """(shapes, PartitionSpecs) of the optax state; moments follow leaves."""
    level = self.paro.opt_state
    specs = self.trained(list(self.specs))
    master = self.trained_tree(
      [jax.ShapeDtypeStruct(s.stored_shape(level), s.dtype) for s in specs]
    )
    shapes = jax.eval_shape(optimizer.init, master)
    # A moment is at its parameter's path, behind the optimizer's own, and
    # has its shape; that also holds inside masked and multi_transform.
    by_path = {
      tuple(map(str, path)): spec
      for (path, _), spec in zip(
        jax.tree.leaves_with_path(master), specs, strict=True
      )
    }

    def partition(path: Any, x: Any) -> P:
      keys = tuple(map(str, path))
      for start in range(len(keys) + 1):
        spec = by_path.get(keys[start:])
        if spec is not None and jnp.shape(x) == spec.stored_shape(level):
          return spec.partition_spec(level)
      return P()

    return shapes, jax.tree.map_with_path(partition, shapes)

  def bytes_per_device(
    self, optimizer: optax.GradientTransformation
  ) -> dict[str, int]:
    """Bytes of state on each device, by part; masters with the optimizer."""
    parts = sharding.bytes_per_device(
      dict(zip(self.names, self.specs, strict=True)),
      self.paro,
      self.mesh,
      trainable=dict(zip(self.names, self.trainable, strict=True)),
      compute_dtype=self.compute_dtype,
      num_moments=0,
    )
    shapes, specs = self.opt_state_specs(optimizer)
    for shape, spec in zip(
      jax.tree.leaves(shapes),
      jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, P)),
      strict=True,
    ):
      local = NamedSharding(self.mesh, spec).shard_shape(shape.shape)
      parts['opt_state'] += math.prod(local) * shape.dtype.itemsize
    return parts


def _leaf_spec(
  name: str,
  shape: tuple[int, ...],
  dtype: np.dtype,
  num_devices: int,
  min_size: int,
  is_stack: bool,
) -> LeafSpec:
  """`leaf_spec`, which splits a stack inside its layers."""
  if not is_stack:
    return sharding.leaf_spec(
      shape, dtype, num_devices=num_devices, min_size=min_size
    )
  if not shape:
    raise ValueError(
      f'Trainer(scanned=...): leaf {name} is a scalar; a stack of layers has'
      ' shape [L, ...].'
    )
  layer = sharding.leaf_spec(
    shape[1:], dtype, num_devices=num_devices, min_size=min_size
  )
  return layer.stacked(shape[0])


def leaf_names(paths: list[Any]) -> list[str]:
  """'mlp.kernel' for each path in a pytree; written out where that repeats."""
  names = [
    jax.tree_util.keystr(path, simple=True, separator='.') for path in paths
  ]
  if len(set(names)) < len(names):
    names = [jax.tree_util.keystr(path) for path in paths]
  return names


def state_shardings(
  layout: Layout,
  optimizer: optax.GradientTransformation,
  tables: SparseTables | None,
) -> TrainState:
  """A TrainState with a NamedSharding in place of each array."""
  mesh = layout.mesh

  def named(specs: PyTree) -> PyTree:
    return jax.tree.map(
      lambda s: NamedSharding(mesh, s),
      specs,
      is_leaf=lambda x: isinstance(x, P),
    )

  _, opt_specs = layout.opt_state_specs(optimizer)
  params = layout.level_specs(layout.paro.params, trained=False)
  master = None
  if layout.compute_dtype is not None:
    specs = layout.level_specs(layout.paro.opt_state, trained=True)
    master = layout.trained_tree(named(specs))
  return TrainState(
    step=NamedSharding(mesh, P()),
    params=jax.tree.unflatten(layout.treedef, named(params)),
    master=master,
    opt_state=named(opt_specs),
    tables={} if tables is None else tables.shardings(),
    rng=NamedSharding(mesh, P()),
  )


def new_state(
  layout: Layout,
  optimizer: optax.GradientTransformation,
  tables: SparseTables | None,
  params: PyTree,
  key: jax.Array,
) -> TrainState:
  """Builds a state from the user's (whole) parameters; call in `jit`."""
  leaves = [jnp.asarray(x) for x in jax.tree.leaves(params)]
  masters = [
    stored(spec, x.astype(spec.dtype), layout.paro.opt_state)
    for spec, x in zip(layout.specs, leaves, strict=True)
  ]
  master = layout.trained_tree(layout.trained(masters))
  kept = [
    stored(spec, x, layout.paro.params).astype(layout.compute_type(spec))
    for spec, x in zip(layout.specs, leaves, strict=True)
  ]
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=jax.tree.unflatten(layout.treedef, kept),
    master=None if layout.compute_dtype is None else master,
    opt_state=optimizer.init(master),
    tables={} if tables is None else tables.init(_tables_key(key)),
    rng=jax.random.key_data(key),
  )


def place_new_state(
  layout: Layout,
  optimizer: optax.GradientTransformation,
  tables: SparseTables | None,
  key: jax.Array,
  init_fn: Callable[[jax.Array], PyTree] | None,
  params: PyTree = None,
) -> TrainState:
  """A new state, each leaf born at its own level.

  Args:
    layout: Layout of the state.
    optimizer: See `Trainer`.
    tables: See `Trainer`.
    key: Random key.
    init_fn: Key -> parameters; None: take `params`.
    params: numpy arrays. They are an argument of the program: as constants a
      large model would be part of its text.
  """

  def make(key: jax.Array, given: PyTree) -> TrainState:
    whole = given if init_fn is None else init_fn(key)
    return new_state(layout, optimizer, tables, whole, key)

  shardings = state_shardings(layout, optimizer, tables)
  return jax.jit(make, out_shardings=shardings)(key, params)


def reset_rows(
  tables: SparseTables, state: TrainState, ids: Mapping[str, np.ndarray]
) -> TrainState:
  """Gives rows of the tables the values and slots that they were born with.

  For ids that a `Vocabulary` has given to another key; the tables are donated.

  Args:
    tables: The Trainer's tables.
    state: State from `Trainer.init`, a step or a restore.
    ids: Table name -> ids [n], the same on every process.
  """
  key = _tables_key(jax.random.wrap_key_data(state.rng))
  new = tables.reset_rows(state.tables, ids, key)
  return dataclasses.replace(state, tables=new)


def _tables_key(key: jax.Array) -> jax.Array:
  return jax.random.fold_in(key, 1)


def stored(spec: LeafSpec, x: jax.Array, level: Level) -> jax.Array:
  """A whole array in the shape in which it is kept at `level`."""
  return x if level is Level.NONE else spec.pad(x)
