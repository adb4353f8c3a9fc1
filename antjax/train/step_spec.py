# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The description of a step, and what it reads of the state."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from antjax.collectives.choose import Collectives, XLA
from antjax.mesh.mesh import BATCH_AXES
from antjax.mesh.paro import Level
from antjax.train.loss_scale import LossScaleState
from antjax.train.open_leaves import comes_late, crosses_early, open_leaves
from antjax.train.sparse_tables import SparseTables
from antjax.train.state import Layout, PyTree, TrainState


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StateView:
  """Parts of the state that a step reads; in `shard_map`, per device."""

  leaves: Any  # Leaves of the parameters.
  tables: PyTree
  step: Any  # Number of steps done so far.
  rng: Any  # Key data of the run.
  factor: Any  # Factor of the differentiated loss.
  residuals: PyTree


@dataclasses.dataclass(frozen=True)
class StepSpec:
  """Description of a step; see `Trainer` for details."""

  layout: Layout  # Layout of the state.
  loss_fn: Callable[..., Any]  # Loss of a micro-batch.
  # Number of micro-batches of a device's batch; in the host-loop form, the
  # number without a plan.
  num_micro_batches: int
  how: Collectives = XLA  # Algorithm of transfers over both mesh axes at once.
  # Constant factor of the differentiated loss, multiplied by that of the
  # optimizer, if any.
  loss_scale: float = 1.0
  # Whether stacked layers are gathered again in the backward pass.
  regather: bool = True
  overlap: bool = False  # Whether stacked layers are gathered one layer ahead.
  # Whether their sums cross groups during the last micro-batch.
  early_sums: bool = False
  # PartitionSpecs of the Trainer's constants, or None.
  constants: PyTree = None
  check_vma: bool = True  # Whether `shard_map` may check varying axes.

  @property
  def tables(self) -> SparseTables | None:
    return self.layout.tables

  @property
  def is_typed(self) -> bool:
    """Whether `shard_map` checks which results are equal on all devices."""
    is_alone = self.layout.mesh.size == 1  # See `varying.is_alone`.
    return self.check_vma and self.how.is_typed and not is_alone

  def view(self, state: TrainState) -> StateView:
    scaling = state.opt_state
    scale = scaling.scale if isinstance(scaling, LossScaleState) else 1
    factor = jnp.float32(self.loss_scale) * scale
    leaves = jax.tree.leaves(state.params)
    return StateView(
      *(leaves, state.tables, state.step, state.rng, factor, state.residuals)
    )

  @property
  def view_specs(self) -> StateView:
    """PartitionSpecs of the result of `view`."""
    layout = self.layout
    tables, kept = layout.table_specs, P(BATCH_AXES)
    return StateView(layout.param_specs, tables, P(), P(), P(), kept)

  @property
  def crosses_early(self) -> bool:
    """Whether sums are sent to other groups during the last micro-batch."""
    return self.early_sums and any(
      crosses_early(self.layout, leaf) for leaf in self.layout.leaves
    )

  @property
  def comes_late(self) -> bool:
    """Whether parameters come back during the first micro-batch."""
    return any(comes_late(self.layout, leaf) for leaf in self.layout.leaves)

  def open_leaves(
    self,
    pieces: list[jax.Array],
    carried: list[jax.Array] | None = None,
    left: PyTree = None,
    levels: list[Level] | None = None,
  ) -> list[Any]:
    """`open_leaves` with the options of this step."""
    return open_leaves(
      self.layout,
      pieces,
      self.how,
      regather=self.regather,
      overlap=self.overlap,
      carried=carried,
      left=left,
      levels=levels,
    )

  def reading(self, constants: PyTree) -> 'StepSpec':
    """A copy whose loss has these constants in its batch; in `shard_map`."""
    loss_fn = reading_constants(self.loss_fn, constants)
    return dataclasses.replace(self, loss_fn=loss_fn)


def reading_constants(
  fn: Callable[..., Any], constants: PyTree
) -> Callable[..., Any]:
  """Wraps a loss_fn or predict_fn, adding `constants` to its batch."""
  if constants is None:
    return fn

  def reading(*args: Any) -> Any:
    *front, batch, rng = args
    return fn(*front, batch | {'constants': constants}, rng)

  return reading
