# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The training state and its static description."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
import sys
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax

from antjax.mesh import sharding
from antjax.mesh.mesh import num_positions
from antjax.mesh.paro import Level, PaRO
from antjax.mesh.sharding import LeafSpec
from antjax.train import residuals
from antjax.train.sparse_tables import SparseTables

PyTree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Everything that a step changes, as a pytree.

  Attributes:
    step: int32 scalar, number of steps done, including those of weight 0.
    params: The user's tree at `Layout.param_levels`, in compute dtype. Sharded
      leaves are padded: read them with `Trainer.params`.
    master: In mixed precision, copies of the trained leaves, at least fp32, at
      the level of the optimizer; else None. Frozen leaves have none.
    opt_state: Optax state, with moments at the level of the optimizer.
    tables: State of the embedding tables, or an empty dict.
    rng: uint32 key data. A step folds in `step` and never changes it.
    residuals: What rounding has left out of sent gradients, see
      `residuals.shapes`; empty without error feedback.
  """

  step: jax.Array | Any  # Any: a tree of shardings has the same class.
  params: PyTree
  master: PyTree
  opt_state: PyTree
  tables: PyTree
  rng: jax.Array | Any
  residuals: PyTree


@dataclasses.dataclass(frozen=True)
class Leaf:
  """One array of the user's tree."""

  name: str  # Path in the tree, such as 'mlp.kernel'.
  spec: LeafSpec  # How it is split; the dtype is that of the master.
  is_trained: bool  # Whether it has a gradient and optimizer state.
  is_stack: bool  # Whether it is a stack of layers, gathered one by one.
  is_mutable: bool = False  # Whether the loss gives its new values.
  compute_dtype: Any = None  # Dtype in the step, if floating; None: its own.

  @property
  def kept_type(self) -> np.dtype:
    """Dtype at the parameters' level."""
    own, dtype = self.spec.dtype, self.compute_dtype
    is_kept = dtype is None or not jnp.issubdtype(own, jnp.floating)
    return own if is_kept else np.dtype(dtype)


@dataclasses.dataclass(frozen=True)
class Layout:
  """Static description of a model's state on a mesh.

  A tree's leaves with None for frozen ones is "the trained tree".
  """

  mesh: Mesh  # The mesh.
  paro: PaRO  # Levels of parameters, gradients, optimizer state.
  treedef: Any  # Structure of the user's parameter tree.
  leaves: tuple[Leaf, ...]  # Its leaves, in order.
  optimizer: optax.GradientTransformation  # Optax transform.
  tables: SparseTables | None = None  # Embedding tables, if any.
  compute_dtype: Any = None  # That of `Trainer`; None: leaves keep their own.
  sums_dtype: str | None = None  # That of `Collectives`.
  # Whether a step leaves trained leaves at the optimizer's level, and the next
  # one brings them to the parameters'.
  late_params: bool = False

  @classmethod
  def of(
    cls,
    params: PyTree,
    mesh: Mesh,
    paro: PaRO,
    optimizer: optax.GradientTransformation,
    *,
    tables: SparseTables | None = None,
    trainable: Callable[[str], bool] | None = None,
    scanned: Callable[[str], bool] | None = None,
    mutable: Callable[[str], bool] | None = None,
    compute_dtype: Any = None,
    sums_dtype: str | None = None,
    late_params: bool = False,
    min_shard_size: int = 1024,
    auto_specs: Callable[[str], P | None] | None = None,
  ) -> 'Layout':
    """Describes a tree of arrays or ShapeDtypeStructs; logs unsharded leaves.

    For the arguments see `Trainer`. Leaves that have no elements, or are not
    floating point (which is logged), are never trained.

    Raises:
      ValueError: No leaf is trained, a scalar is selected as a stack, or a
        trained leaf is complex.
    """
    by_path, treedef = jax.tree.flatten_with_path(params)
    if not by_path:
      raise ValueError(
        'Trainer.init: params has no leaf. A model needs dense parameters'
        ' beside its tables; a bias will do.'
      )
    leaves = []
    for name, x in named_leaves(by_path):
      if jnp.issubdtype(jnp.result_type(x), jax.dtypes.extended):
        raise ValueError(
          f'Trainer.init: leaf {name} is a random key, which is no parameter;'
          ' keep it out of params (nnx: nnx.split(model, nnx.Param, ...)).'
        )
      dtype = np.dtype(jnp.result_type(x))
      is_mutable = mutable is not None and bool(mutable(name))
      is_number = bool(jnp.issubdtype(dtype, jnp.inexact))
      is_trained = (
        not is_mutable
        and is_number
        and 0 not in jnp.shape(x)  # Optimizers divide by sizes.
        and (trainable is None or bool(trainable(name)))
      )
      if not (is_mutable or is_number or trainable):
        logging.warning('Leaf %s is %s: it is not trained.', name, dtype.name)
      if is_trained and jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(
          f'Trainer.init: leaf {name} is {dtype.name}, and complex leaves are'
          ' not trained: keep real and imaginary part as two leaves, or freeze'
          ' it with trainable.'
        )
      if compute_dtype is not None and is_trained:  # Masters are at least fp32.
        dtype = np.dtype(jnp.promote_types(dtype, jnp.float32))
      shape = jnp.shape(x)
      is_stack = scanned is not None and bool(scanned(name))
      if is_stack and (is_mutable or not shape):
        raise ValueError(
          f'Trainer(scanned=...): leaf {name} is a scalar, or mutable; a stack'
          ' of layers has shape [L, ...] and is trained or frozen.'
        )
      auto = (auto_specs and auto_specs(name)) or P()
      sharding.check_auto(auto, shape, mesh, name)
      spec = sharding.leaf_spec(  # A stack is split inside its layers.
        shape[1:] if is_stack else shape,
        dtype,
        num_devices=num_positions(mesh),
        # New values are summed over all devices and not sharded.
        min_size=sys.maxsize if is_mutable else min_shard_size,
        auto=P(*auto[1:]) if is_stack else auto,
      )
      spec = spec.stacked(shape[0]) if is_stack else spec
      own = compute_dtype
      if callable(own) and not isinstance(own, type):  # jnp.bfloat16 is a type.
        own = own(name)
      flags = is_trained, is_stack, is_mutable
      leaves.append(Leaf(name, spec, *flags, None if is_mutable else own))
    if not any(leaf.is_trained for leaf in leaves):
      raise ValueError(
        'Trainer(trainable=...): no leaf is left to train. The leaves are: '
        f'{", ".join(leaf.name for leaf in leaves)}.'
      )
    if paro.code != 'NNN':
      sharding.log_whole_leaves({leaf.name: leaf.spec for leaf in leaves})
    is_late = late_params and paro.params_come_back
    more = tables, compute_dtype, sums_dtype, is_late
    return cls(mesh, paro, treedef, tuple(leaves), optimizer, *more)

  @functools.cached_property
  def trained_specs(self) -> list[LeafSpec]:
    return [leaf.spec for leaf in self.leaves if leaf.is_trained]

  def trained(self, values: list[Any]) -> list[Any]:
    """Selects the values of trained leaves from those of all leaves."""
    pairs = zip(values, self.leaves, strict=True)
    return [x for x, leaf in pairs if leaf.is_trained]

  def with_trained(self, values: list[Any], trained: list[Any]) -> list[Any]:
    """Values of all leaves, with the given ones for trained leaves."""
    it = iter(trained)
    pairs = zip(values, self.leaves, strict=True)
    return [next(it) if leaf.is_trained else x for x, leaf in pairs]

  def trained_tree(self, trained: list[Any]) -> PyTree:
    """The user's tree with None in place of frozen leaves."""
    leaves = self.with_trained([None] * len(self.leaves), trained)
    return jax.tree.unflatten(self.treedef, leaves)

  @property
  def param_levels(self) -> list[Level]:
    """Levels of all leaves of `TrainState.params`."""
    paro = self.paro
    trained = paro.opt_state if self.late_params else paro.params
    return [trained if x.is_trained else paro.params for x in self.leaves]

  @property
  def param_specs(self) -> list[P]:
    """PartitionSpecs of all leaves of `TrainState.params`."""
    pairs = zip(self.leaves, self.param_levels, strict=True)
    return [leaf.spec.partition_spec(level) for leaf, level in pairs]

  @property
  def master_specs(self) -> list[P]:
    """PartitionSpecs of the trained leaves, at the optimizer's level."""
    level = self.paro.opt_state
    return [spec.partition_spec(level) for spec in self.trained_specs]

  @property
  def master_shardings(self) -> list[NamedSharding]:
    """Shardings of the trained leaves, at the optimizer's level."""
    level = self.paro.opt_state
    return [spec.sharding(level, self.mesh) for spec in self.trained_specs]

  @property
  def table_specs(self) -> PyTree:
    """PartitionSpecs of the tables' state."""
    return {} if self.tables is None else self.tables.partition_specs()

  @functools.cached_property
  def _opt_state(self) -> tuple[PyTree, list[LeafSpec | None]]:
    """Optax state of whole masters, and the master that each leaf is like.

    A moment has its parameter's shape, and its path ends with the parameter's
    path; that also holds inside masked and multi_transform.
    """
    specs = self.trained_specs
    master = self.trained_tree(
      [jax.ShapeDtypeStruct(s.shape, s.dtype) for s in specs]
    )
    by_path = {
      tuple(map(str, path)): spec
      for (path, _), spec in zip(
        jax.tree.leaves_with_path(master), specs, strict=True
      )
    }

    def like(path: Any, x: Any) -> LeafSpec | None:
      keys = tuple(map(str, path))
      for start in range(len(keys) + 1):
        spec = by_path.get(keys[start:])
        if spec is not None and jnp.shape(x) == spec.shape:
          return spec
      return None

    shapes = jax.eval_shape(self.optimizer.init, master)
    return shapes, [like(*x) for x in jax.tree.leaves_with_path(shapes)]

  def map_moments(
    self, fn: Callable[[LeafSpec, Any], Any], opt_state: PyTree
  ) -> PyTree:
    """Applies `fn` to the leaves of an optax state that are like a master."""
    leaves, treedef = jax.tree.flatten(opt_state)
    likes = self._opt_state[1]
    return jax.tree.unflatten(
      treedef,
      [
        x if spec is None else fn(spec, x)
        for spec, x in zip(likes, leaves, strict=True)
      ],
    )

  def opt_state_shapes(self) -> PyTree:
    """Shapes, dtypes and shardings of the stored optax state."""
    shapes, likes = self._opt_state
    level, whole = self.paro.opt_state, NamedSharding(self.mesh, P())

    def kept(x: Any, spec: LeafSpec | None) -> jax.ShapeDtypeStruct:
      shape = x.shape if spec is None else spec.stored_shape(level)
      sharding = whole if spec is None else spec.sharding(level, self.mesh)
      return jax.ShapeDtypeStruct(shape, x.dtype, sharding=sharding)

    leaves, treedef = jax.tree.flatten(shapes)
    return jax.tree.unflatten(treedef, map(kept, leaves, likes))

  def bytes_per_device(self) -> dict[str, int]:
    """Bytes of dense state on each device; masters with the optimizer."""
    paro, mesh = self.paro, self.mesh
    total = {'params': 0, 'grads': 0, 'opt_state': 0}
    for leaf, level in zip(self.leaves, self.param_levels, strict=True):
      kept = dataclasses.replace(leaf.spec, dtype=leaf.kept_type)
      total['params'] += kept.bytes_per_device(level, mesh)
      if leaf.is_trained:
        f32 = dataclasses.replace(leaf.spec, dtype=np.dtype(np.float32))
        total['grads'] += f32.bytes_per_device(paro.grads, mesh)
      if leaf.is_trained and self.compute_dtype is not None:
        total['opt_state'] += leaf.spec.bytes_per_device(paro.opt_state, mesh)
    left = self.residual_shapes()
    if left:
      total['residuals'] = 0
    for x in jax.tree.leaves(self.opt_state_shapes()):
      local = x.sharding.shard_shape(x.shape)
      total['opt_state'] += math.prod(local) * x.dtype.itemsize
    for x in jax.tree.leaves(left):
      total['residuals'] += math.prod(x.shape[1:]) * x.dtype.itemsize
    return total

  def residual_shapes(self) -> PyTree:
    """Shapes, dtypes and shardings of `TrainState.residuals`."""
    return residuals.shapes(
      self.trained_specs, self.paro, self.mesh, self.sums_dtype
    )

  def shardings(self) -> TrainState:
    """A TrainState with a NamedSharding in place of each array."""
    whole = NamedSharding(self.mesh, P())
    pairs = zip(self.leaves, self.param_levels, strict=True)
    params = [leaf.spec.sharding(level, self.mesh) for leaf, level in pairs]
    master = None
    if self.compute_dtype is not None:
      master = self.trained_tree(self.master_shardings)
    return TrainState(
      step=whole,
      params=jax.tree.unflatten(self.treedef, params),
      master=master,
      opt_state=jax.tree.map(lambda x: x.sharding, self.opt_state_shapes()),
      tables={} if self.tables is None else self.tables.shardings(),
      rng=whole,
      residuals=jax.tree.map(lambda x: x.sharding, self.residual_shapes()),
    )

  def new_state(self, params: PyTree, key: jax.Array) -> TrainState:
    """Creates the state from the user's (whole) parameters; call in `jit`."""
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(params)]
    specs = [leaf.spec for leaf in self.leaves]
    level = self.paro.opt_state
    masters = self.trained(
      [x.astype(spec.dtype) for spec, x in zip(specs, leaves, strict=True)]
    )
    master = self.trained_tree(
      [
        spec.stored(x, level)
        for spec, x in zip(self.trained_specs, masters, strict=True)
      ]
    )
    at = zip(self.leaves, self.param_levels, leaves, strict=True)
    kept = [
      leaf.spec.stored(x, to).astype(leaf.kept_type) for leaf, to, x in at
    ]
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=jax.tree.unflatten(self.treedef, kept),
      master=None if self.compute_dtype is None else master,
      opt_state=self.map_moments(
        lambda spec, x: spec.stored(x, level),
        self.optimizer.init(self.trained_tree(masters)),
      ),
      tables={} if self.tables is None else self.tables.init(tables_key(key)),
      rng=jax.random.key_data(key),
      residuals=residuals.zeros(self.residual_shapes()),
    )


def named_leaves(by_path: list[tuple[Any, Any]]) -> list[tuple[str, Any]]:
  """('mlp.kernel', leaf) pairs from `jax.tree.leaves_with_path`.

  If such names repeat, full paths are used.
  """
  paths = [path for path, _ in by_path]
  names = [
    jax.tree_util.keystr(path, simple=True, separator='.') for path in paths
  ]
  if len(set(names)) < len(names):
    names = [jax.tree_util.keystr(path) for path in paths]
  return [(n, x) for n, (_, x) in zip(names, by_path, strict=True)]


def reset_rows(
  tables: SparseTables, state: TrainState, ids: Mapping[str, np.ndarray]
) -> TrainState:
  """Resets rows of the tables, and their slots, to their initial values.

  Takes ids [n] by table, equal everywhere; the tables are donated.
  """
  key = tables_key(jax.random.wrap_key_data(state.rng))
  new = tables.reset_rows(state.tables, ids, key)
  return dataclasses.replace(state, tables=new)


def tables_key(key: jax.Array) -> jax.Array:
  """The key that initializes the tables."""
  return jax.random.fold_in(key, 1)
