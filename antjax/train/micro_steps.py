# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The part of a host-loop step that a process runs alone.

Micro-batches run on a mesh of the process's own devices, one program call each.
Nothing crosses groups, and no other process is involved. Arrays pass from the
global mesh to this one as single-device shards, without copies.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from antjax.mesh import compiler
from antjax.mesh.manual import manual
from antjax.mesh.mesh import (
  BATCH_AXES,
  INTER,
  num_groups,
  num_positions,
  positions,
)
from antjax.train import gradient
from antjax.train.batches import check_batch, own_copy
from antjax.train.loss import blank, Loss, read_loss
from antjax.train.loss_scale import LossScaleState
from antjax.train.state import PyTree, TrainState
from antjax.train.step_spec import StepSpec

_BATCH = P(BATCH_AXES)
_IDS = (jax.tree_util.DictKey('ids'),)


def local_groups(mesh: Mesh) -> list[int]:
  """Indices of this process's groups.

  Raises:
    ValueError: A group spans several processes.
  """
  grid = positions(mesh)
  owners = [sorted({d.process_index for d in row.flat}) for row in grid]
  for i, processes in enumerate(owners):
    if len(processes) > 1:
      num = sum(d.process_index == processes[0] for d in grid[..., 0].flat)
      raise ValueError(
        f'Trainer.fit(elastic=...): group {i} of {grid.shape[1]}'
        f' devices is spread over processes {processes}; each group must lie'
        ' inside one process, which then does its own number of micro-batches.'
        f' Use make_mesh(intra=...) with a divisor of {num}, the devices of a'
        ' process.'
      )
  return [i for i, p in enumerate(owners) if p == [jax.process_index()]]


class MicroSteps:
  """The part of a step that a process runs alone, on its own devices."""

  def __init__(
    self, spec: StepSpec, groups: Sequence[int], constants: PyTree = None
  ):
    """Takes the step, groups of this process and the Trainer's constants."""
    layout = spec.layout
    whole = layout.mesh
    inter = whole.axis_names.index(INTER)
    devices = whole.devices.take(list(groups), inter)
    self.mesh = Mesh(devices, whole.axis_names, axis_types=whole.axis_types)
    self.num_devices = num_positions(self.mesh)
    self.num_micro_batches = 0  # Number added in this step.
    self.metrics: list[str] | None = None  # Known from the first batch on.
    self._spec = spec
    self._devices = set(devices.ravel())
    self._is_whole = self.mesh == whole
    self._batch = NamedSharding(self.mesh, _BATCH)
    self._whole = NamedSharding(self.mesh, P())
    level = layout.paro.params
    self._pieces = [x.spec.sharding(level, self.mesh) for x in layout.leaves]
    index = np.arange(num_positions(whole), dtype=np.int32)
    index = index.reshape(num_groups(whole), -1)[list(groups)]
    self._device = jax.device_put(index.ravel(), self._batch)
    self._numbers: list[jax.Array] = []  # 0, 1, ... on the devices.
    self._constants = jax.tree.map(
      lambda x: self.local(x, NamedSharding(self.mesh, x.sharding.spec)),
      constants,
    )
    self._add = self._compile_add()
    self._reset = jax.jit(
      lambda carry: jax.tree.map(blank, carry),
      donate_argnums=0,
      keep_unused=True,
      out_shardings=self._batch,
    )
    self._view: PyTree = None
    self._carry: PyTree = None
    self._num_rows = 0  # Maximum number of rows of a micro-batch so far.
    self._all_rows: dict[int, jax.Array] = {}
    self._has_filled = False
    self._has_row_losses: bool | None = None  # Known after tracing.

  def begin(self, state: TrainState, rows: PyTree = None) -> None:
    """Starts the sums of a step at zero.

    The global state must exist until the last micro-batch; `rows` are global
    table rows.
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
      self._carry = self._empty(local_rows, self.metrics or ())
    else:
      self._carry = self._reset(self._carry)

  def place(self, batch: PyTree) -> PyTree:
    """Places a micro-batch on the devices, for `add`."""
    batch, is_row = self.fill(batch)
    return self.put(batch), self.put_rows(is_row)

  def put(self, tree: PyTree) -> PyTree:
    """Splits each leading dim over the devices."""
    return jax.device_put(jax.tree.map(own_copy, tree), self._batch)

  def put_rows(self, is_row: np.ndarray) -> jax.Array:
    """Places the second result of `fill` on the devices."""
    if not is_row.all():
      return self.put(is_row)
    if is_row.size not in self._all_rows:
      self._all_rows[is_row.size] = self.put(is_row)
    return self._all_rows[is_row.size]

  def fill(self, batch: PyTree) -> tuple[PyTree, np.ndarray]:
    """Pads a micro-batch to the rows of earlier ones, for a constant shape.

    Micro-batches are short at the end of the input, and before each wait for
    more. Padding repeats the first row with weight 0, without ids of tables.

    Returns:
      (batch, float32 [rows]: 1 for its own rows, 0 for padding).

    Raises:
      ValueError: The rows do not divide among the devices, and cannot be
        padded, since leading dims differ or losses are not per row.
    """
    sizes = {np.shape(x)[:1] for x in jax.tree.leaves(batch)}
    size = next(iter(sizes))[0] if len(sizes) == 1 and () not in sizes else 0
    full = max(self._num_rows, -(-size // self.num_devices) * self.num_devices)
    is_row = (np.arange(full) < size).astype(np.float32)
    if size == 0 or size == full or self._has_row_losses is False:
      check_batch(batch, self.num_devices, 'local devices')
      self._num_rows = max(self._num_rows, size)
      return batch, np.ones(size or self.num_devices, np.float32)
    if not self._has_filled:
      logging.info(
        'Micro-batches of fewer than %d rows are filled up with weight 0.', full
      )
    self._num_rows, self._has_filled = full, True

    def filled(path: Any, x: Any) -> np.ndarray:
      x = np.asarray(x)
      more = np.repeat(x[:1], full - size, axis=0)
      is_id = self._spec.tables is not None and path[:1] == _IDS
      return np.concatenate([x, np.full_like(more, -1) if is_id else more])

    return jax.tree.map_with_path(filled, batch), is_row

  def add(self, micro: PyTree) -> Any:
    """Dispatches a micro-batch; returns an array that is ready at its end."""
    i = self.num_micro_batches
    while len(self._numbers) <= i:
      number = np.int32(len(self._numbers))
      self._numbers.append(jax.device_put(number, self._whole))
    more = self._view, self._device, micro, self._numbers[i], self._constants
    if self.metrics is None:
      carry, _ = jax.eval_shape(self._add, self._carry, *more)
      self.know_metrics(sorted(carry[2].metrics))
    self._carry, done = self._add(self._carry, *more)
    self.num_micro_batches += 1
    return done

  def know_metrics(self, names: Sequence[str]) -> None:
    """Sets the loss's metrics before the first micro-batch."""
    self.metrics = list(names)
    if names:
      self._carry = self._empty(self._view[1], names)

  def end(self) -> PyTree:
    """The step's sums, whose memory the next `begin` reuses."""
    self._view = None
    return self._carry

  def local(self, x: jax.Array, sharding: NamedSharding) -> jax.Array:
    """This process's part of a global array, on the process's mesh."""
    if self._is_whole:
      return x
    pieces = [s.data for s in x.addressable_shards if s.device in self._devices]
    shape = x.shape
    if sharding.spec == _BATCH:
      rows = shape[0] // num_positions(self._spec.layout.mesh)
      shape = (rows * self.num_devices, *shape[1:])
    return jax.make_array_from_single_device_arrays(shape, sharding, pieces)

  def _loss_fn(self, spec: StepSpec, *args: Any) -> Loss:
    """The user's loss, with weight 0 for padding by `fill`."""
    *front, (batch, is_row), rng = args
    said = read_loss(spec.loss_fn(*front, batch, rng))
    self._has_row_losses = said.losses.shape == is_row.shape
    if self._has_row_losses:
      said = said._replace(weights=said.weights * is_row)
    elif self._has_filled:
      raise ValueError(
        'Trainer.fit(elastic=...): loss_fn returned'
        f' {said.losses.shape[0]} losses'
        f' for {is_row.shape[0]} rows, so a micro-batch of fewer rows than the'
        ' others cannot be filled up. Pad the batch with examples of weight 0.'
      )
    return said

  def _compile_add(self) -> Callable[..., tuple[PyTree, jax.Array]]:
    spec = self._spec
    layout, most = spec.layout, spec.num_micro_batches

    def add(carry, view, device, micro, i, constants):
      loss_fn = functools.partial(self._loss_fn, spec.reading(constants))
      acc, row_acc, sums, _ = carry
      leaves, rows, step, rng, scale = view
      factor = jnp.float32(spec.loss_scale) * (1 if scale is None else scale)
      # Numbered as in the other form; any further ones come after all of them.
      index = jnp.where(
        i < most,
        device[0] * most + i,
        i * num_positions(layout.mesh) + device[0],
      )
      sums_here = jax.tree.map(lambda x: x[0], sums)
      (acc, row_acc, new_sums, left), _ = gradient.add_micro_batch(
        dataclasses.replace(spec, loss_fn=loss_fn),
        gradient.Carry([a[0] for a in acc], row_acc, sums_here, {}),
        leaves,
        rows,
        micro,
        gradient.key_of(rng, step, index),
        factor,
      )
      new_sums = jax.tree.map(lambda x: x[None], new_sums)
      carry = [a[None] for a in acc], row_acc, new_sums, left
      # Not one of the sums, which are donated to the next call.
      return carry, new_sums.loss - sums.loss

    mapped = manual(
      add,
      self.mesh,
      in_specs=(
        _BATCH,
        (layout.param_specs, _BATCH, P(), P(), P()),
        _BATCH,
        _BATCH,
        P(),
        spec.constants,
      ),
      out_specs=(_BATCH, _BATCH),
      check_vma=spec.is_typed,
    )
    return jax.jit(
      mapped,
      donate_argnums=0,
      out_shardings=self._batch,
      compiler_options=compiler.options(self.mesh),
    )

  def _empty(self, rows: PyTree, metrics: Sequence[str] = ()) -> PyTree:
    def empty(rows):
      carry = gradient.empty_carry(self._spec, rows, metrics)
      acc, row_acc, sums, left = carry
      sums = jax.tree.map(lambda x: x[None], sums)
      return [a[None] for a in acc], row_acc, sums, left

    mapped = manual(empty, self.mesh, in_specs=(_BATCH,), out_specs=_BATCH)
    return jax.jit(mapped, out_shardings=self._batch)(rows)


def _same_shapes(a: PyTree, b: PyTree) -> bool:
  shapes_a, shapes_b = (
    [x.shape for x in jax.tree.leaves(tree)] for tree in (a, b)
  )
  return shapes_a == shapes_b
