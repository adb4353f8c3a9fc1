# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The host-loop form of the PaRO step, for the elastic codes.

A process runs as many micro-batches as it likes, one program call each, on a
mesh of its own devices: nothing crosses groups and no other process need know.
One global program ends the step. In between the host is free to look at the
clock, at the input, or at a plan. Arrays go from one mesh to the other by their
single-device pieces, without copies.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from antjax.mesh.mesh import BATCH_AXES, INTER, INTRA
from antjax.mesh.paro import ELASTIC_CODES
from antjax.train import gradient
from antjax.train.batches import check_batch, join_ids
from antjax.train.gradient import StepSpec
from antjax.train.loss_scale import LossScaleState
from antjax.train.state import PyTree, TrainState
from antjax.train.step import jit_step, make_update, Metrics

_BATCH = P(BATCH_AXES)
# What each process says in a step, to be summed.
FLAGS = (
  'num_valid',
  'is_stopping',
  'num_examples',
  'num_micro_batches',
  'may_get_more',
)
_NUM_COLUMNS = len(FLAGS) + 1


def local_groups(mesh: Mesh) -> list[int]:
  """Indices of this process's groups.

  Raises:
    ValueError: A group is spread over several processes.
  """
  owners = [sorted({d.process_index for d in row}) for row in mesh.devices]
  for i, processes in enumerate(owners):
    if len(processes) > 1:
      num = sum(d.process_index == processes[0] for d in mesh.devices.ravel())
      raise ValueError(
        f'Trainer.fit(elastic=...): group {i} of {mesh.devices.shape[1]}'
        f' devices is spread over processes {processes}; each group must lie'
        ' inside one process, which then does its own number of micro-batches.'
        f' Use make_mesh(intra=...) with a divisor of {num}, the devices of a'
        ' process.'
      )
  return [i for i, p in enumerate(owners) if p == [jax.process_index()]]


class MicroSteps:
  """The part of a step that a process does alone, on its own devices."""

  def __init__(self, spec: StepSpec, groups: Sequence[int]):
    """Compiles nothing yet.

    Args:
      spec: Of the step.
      groups: Indices of this process's groups.
    """
    layout = spec.layout
    devices = layout.mesh.devices[list(groups)]
    self.mesh = Mesh(
      devices, layout.mesh.axis_names, axis_types=(AxisType.Auto,) * 2
    )
    self.num_devices = devices.size
    self.num_micro_batches = 0  # Added in this step.
    self._spec = spec
    self._devices = set(devices.ravel())
    self._is_whole = self.mesh == layout.mesh
    self._batch = NamedSharding(self.mesh, _BATCH)
    self._whole = NamedSharding(self.mesh, P())
    self._pieces = [
      NamedSharding(self.mesh, p)
      for p in layout.level_specs(layout.paro.params, trained=False)
    ]
    index = np.arange(layout.mesh.size, dtype=np.int32)
    index = index.reshape(layout.mesh.devices.shape)[list(groups)]
    self._device = jax.device_put(index.ravel(), self._batch)
    self._numbers: list[jax.Array] = []  # 0, 1, ... on the devices.
    self._add = self._compile_add()
    self._reset = jax.jit(
      lambda carry: jax.tree.map(jnp.zeros_like, carry),
      donate_argnums=0,
      keep_unused=True,
      out_shardings=self._batch,
    )
    self._view: PyTree = None
    self._carry: PyTree = None

  def begin(self, state: TrainState, rows: PyTree = None) -> None:
    """Starts a step's sums at zero.

    Args:
      state: The global state; it must stay until the last micro-batch.
      rows: Global table rows from `ElasticStep.fetch`.
    """
    scaling = state.opt_state
    scale = scaling.scale if isinstance(scaling, LossScaleState) else None
    local_rows = jax.tree.map(lambda x: self.local(x, self._batch), rows or {})
    leaves = [
      self.local(x, sharding)
      for x, sharding in zip(
        jax.tree.leaves(state.params), self._pieces, strict=True
      )
    ]
    small = [
      None if x is None else self.local(x, self._whole)
      for x in (state.step, state.rng, scale)
    ]
    self._view = (leaves, local_rows, *small)
    self.num_micro_batches = 0
    if self._carry is None or not _same_shapes(self._carry[1], local_rows):
      self._carry = self._empty(local_rows)
    else:
      self._carry = self._reset(self._carry)

  def place(self, batch: PyTree) -> PyTree:
    """Puts a micro-batch on the devices; each leading dim is split."""
    check_batch(batch, self.num_devices, 'local devices')
    return jax.device_put(batch, self._batch)

  def add(self, micro: PyTree) -> Any:
    """Dispatches a micro-batch; returns what is ready when it is done."""
    i = self.num_micro_batches
    while len(self._numbers) <= i:
      number = np.int32(len(self._numbers))
      self._numbers.append(jax.device_put(number, self._whole))
    self._carry, done = self._add(
      self._carry, self._view, self._device, micro, self._numbers[i]
    )
    self.num_micro_batches += 1
    return done

  def end(self) -> PyTree:
    """The step's sums; the next `begin` uses their memory again."""
    self._view = None
    return self._carry

  def local(self, x: jax.Array, sharding: NamedSharding) -> jax.Array:
    """This process's part of a global array, on its mesh."""
    if self._is_whole:
      return x
    pieces = [s.data for s in x.addressable_shards if s.device in self._devices]
    shape = x.shape
    if sharding.spec == _BATCH:
      rows = shape[0] // self._spec.layout.mesh.size * self.num_devices
      shape = (rows, *shape[1:])
    return jax.make_array_from_single_device_arrays(shape, sharding, pieces)

  def _compile_add(self) -> Callable[..., tuple[PyTree, jax.Array]]:
    spec = self._spec
    layout, most = spec.layout, spec.num_micro_batches

    def add(carry, view, device, micro, i):
      acc, row_acc, loss, weight = carry
      leaves, rows, step, rng, scale = view
      factor = jnp.float32(spec.loss_scale) * (1 if scale is None else scale)
      # Numbers as in the other form; those beyond it come after all of them.
      index = jnp.where(
        i < most, device[0] * most + i, i * layout.mesh.size + device[0]
      )
      acc, row_acc, new_loss, new_weight = gradient.add_micro_batch(
        spec,
        ([a[0] for a in acc], row_acc, loss[0], weight[0]),
        leaves,
        rows,
        micro,
        gradient.key_of(rng, step, index),
        factor,
      )
      carry = [a[None] for a in acc], row_acc, new_loss[None], new_weight[None]
      # Not one of the sums: they are donated to the next call.
      return carry, new_loss[None] - loss

    pieces = layout.level_specs(layout.paro.params, trained=False)
    mapped = jax.shard_map(
      add,
      mesh=self.mesh,
      in_specs=(_BATCH, (pieces, _BATCH, P(), P(), P()), _BATCH, _BATCH, P()),
      out_specs=(_BATCH, _BATCH),
      check_vma=spec.how.is_typed,
    )
    return jax.jit(mapped, donate_argnums=0)

  def _empty(self, rows: PyTree) -> PyTree:
    def empty(rows):
      acc, row_acc, loss, weight = gradient.empty_carry(self._spec, rows)
      return [a[None] for a in acc], row_acc, loss[None], weight[None]

    mapped = jax.shard_map(
      empty, mesh=self.mesh, in_specs=(_BATCH,), out_specs=_BATCH
    )
    return jax.jit(mapped)(rows)


class ElasticStep:
  """A whole step: each process's micro-batches, and the program that ends it.

  `begin`, any number of `local.add(local.place(batch))`, then `finish` on all
  processes. With tables all micro-batches must be known first: `route` them,
  `begin` with their rows, then `local.add` each.
  """

  def __init__(
    self, spec: StepSpec, parts: Sequence[Sequence[int]] | None = None
  ):
    """Compiles nothing yet.

    Args:
      spec: Of the step.
      parts: Groups of each part that does its own number of micro-batches in
        this process; by default one part, of all groups of the process.

    Raises:
      ValueError: Another code, or a group over several processes.
    """
    layout = spec.layout
    if not layout.paro.is_elastic:
      raise ValueError(
        f'Trainer.fit(elastic=...): code {layout.paro.code} communicates'
        ' between groups inside the micro-batch loop, so all groups must do'
        f' the same number. Elastic codes are {" ".join(ELASTIC_CODES)}.'
      )
    self.parts = [
      MicroSteps(spec, groups)
      for groups in ([local_groups(layout.mesh)] if parts is None else parts)
    ]
    self.local = self.parts[0]
    self._spec = spec
    self._batch = NamedSharding(layout.mesh, _BATCH)
    self._routed: tuple[PyTree, PyTree] = ({}, {})  # Routing, rounds.
    self._scales: dict[float, jax.Array] = {}
    self._finish = self._compile_finish()
    if spec.tables is not None:
      self._fetch = jax.jit(
        jax.shard_map(
          spec.tables.fetch,
          mesh=layout.mesh,
          in_specs=(spec.tables.partition_specs(), _BATCH),
          out_specs=(_BATCH, P()),
        )
      )

  def route(
    self,
    state: TrainState,
    batches: Sequence[Sequence[PyTree]],
    ids_like: PyTree,
    most: int,
  ) -> list[list[PyTree]]:
    """With tables: brings the rows of all micro-batches; begins the step.

    A collective call.

    Args:
      state: The state.
      batches: Micro-batches of each part.
      ids_like: Arrays of the shape of a micro-batch's ids, as on all processes.
      most: Micro-batches to make room for, equal on all processes.

    Returns:
      The micro-batches of each part, placed.
    """
    tables = self._spec.tables
    assert tables is not None
    placed, routing = [], []
    for part, micros in zip(self.parts, batches, strict=True):
      num = part.num_devices
      for batch in micros:
        check_batch(batch, num, 'local devices')
      joined, split = join_ids([b['ids'] for b in micros], ids_like, num, most)
      indices, routes = tables.prepare(joined, num)
      placed.append(
        [
          part.place(b | {'ids': ids})
          for b, ids in zip(micros, split(indices), strict=True)
        ]
      )
      routing.append(part.place(routes))
    joined_routing = self._join(routing)
    rows, rounds = self._fetch(state.tables, joined_routing)
    self._routed = joined_routing, rounds
    self.begin(state, rows)
    jax.block_until_ready(rows)  # Not to be taken for computation.
    return placed

  def begin(self, state: TrainState, rows: PyTree = None) -> None:
    """Starts a step at `state`, which `finish` then takes."""
    for part in self.parts:
      part.begin(state, rows)

  def finish(
    self,
    state: TrainState,
    *flags: Mapping[str, float],
    lr_scale: float = 1.0,
  ) -> tuple[TrainState, Metrics]:
    """Ends the step on all processes; a collective call.

    Args:
      state: That `begin` got; it is donated.
      *flags: Of each part: the names in `FLAGS`, and `plan`, a number of its
        newest plan; 0 by default.
      lr_scale: Factor of the updates, equal on all processes.

    Returns:
      (state, metrics) as of `make_step`, with the sums of `flags` and `plans`:
      the least number of a plan, and minus the greatest.
    """
    carries, columns = [], []
    for part, named in zip(self.parts, flags, strict=True):
      carries.append(part.end())
      said = np.zeros((part.num_devices, _NUM_COLUMNS), np.float32)
      said[0, : len(FLAGS)] = [named.get(name, 0) for name in FLAGS]
      said[0, FLAGS.index('num_micro_batches')] = part.num_micro_batches
      said[:, -1] = named.get('plan', 0)
      columns.append(part.place(said))
    return self._finish(
      state,
      self._join(carries),
      self._join(columns),
      *self._routed,
      self._scale(lr_scale),
    )

  def _scale(self, lr_scale: float) -> jax.Array:
    if lr_scale not in self._scales:
      value = np.float32(lr_scale)
      self._scales = {
        lr_scale: jax.make_array_from_callback(
          (), NamedSharding(self._spec.layout.mesh, P()), lambda _: value
        )
      }
    return self._scales[lr_scale]

  def _join(self, parts: list[PyTree]) -> PyTree:
    """Global arrays of all processes' parts, split by their leading dim."""
    size = self._spec.layout.mesh.size
    if len(parts) == 1 and self.local.num_devices == size:
      return parts[0]

    def join(*xs: jax.Array) -> jax.Array:
      rows = xs[0].shape[0] // self.local.num_devices * size
      pieces = [s.data for x in xs for s in x.addressable_shards]
      return jax.make_array_from_single_device_arrays(
        (rows, *xs[0].shape[1:]), self._batch, pieces
      )

    return jax.tree.map(join, *parts)

  def _compile_finish(self) -> Callable[..., tuple[TrainState, Metrics]]:
    spec, tables = self._spec, self._spec.tables
    layout = spec.layout
    table_partition = {} if tables is None else tables.partition_specs()

    def sync(carry, table_state, said, routing, rounds, step, factor, lr_scale):
      acc, row_acc, loss, weight = carry
      grads, table_state, sums = gradient.sync(
        spec,
        ([a[0] for a in acc], row_acc, loss[0], weight[0]),
        table_state,
        routing,
        rounds,
        step,
        factor,
        {name: said[0, i] for i, name in enumerate(FLAGS)},
        lr_scale,
      )
      plan = said[0, -1]
      sums['plans'] = lax.pmin(jnp.stack([plan, -plan]), (INTER, INTRA))
      return grads, table_state, sums

    mapped = jax.shard_map(
      sync,
      mesh=layout.mesh,
      in_specs=(_BATCH, table_partition, _BATCH, _BATCH, P(), P(), P(), P()),
      out_specs=(
        layout.level_specs(layout.paro.opt_state, trained=True),
        table_partition,
        P(),
      ),
      check_vma=spec.how.is_typed,
    )
    update = make_update(spec)

    def finish(
      state: TrainState,
      carry: PyTree,
      said: jax.Array,
      routing: PyTree,
      rounds: PyTree,
      lr_scale: jax.Array,
    ) -> tuple[TrainState, Metrics]:
      grads, new_tables, sums = mapped(
        carry,
        state.tables,
        said,
        routing,
        rounds,
        state.step,
        spec.factor(state.opt_state),
        lr_scale,
      )
      new_state, metrics = update(state, grads, new_tables, sums, lr_scale)
      more = {'num_micro_batches', 'may_get_more', 'plans'}
      return new_state, metrics | {name: sums[name] for name in more}

    return jit_step(spec, finish)


def _same_shapes(a: PyTree, b: PyTree) -> bool:
  shapes_a, shapes_b = (
    [x.shape for x in jax.tree.leaves(tree)] for tree in (a, b)
  )
  return shapes_a == shapes_b
