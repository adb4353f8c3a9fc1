# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""All collectives of a step for its parameters, derived from the layout.

The counterpart of the census, which reads them from compiled text.
"""

from collections.abc import Iterator
import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from antjax.collectives import narrow
from antjax.collectives.cost_model import Op
from antjax.mesh.mesh import INTER, INTRA, other_axes
from antjax.mesh.paro import Level
from antjax.mesh.sharding import LeafSpec
from antjax.plan import census
from antjax.train.state import Layout, Leaf

_OPS: dict[str, Op] = {
  census.ALL_GATHER: 'all_gather',
  census.REDUCE_SCATTER: 'reduce_scatter',
  census.ALL_REDUCE: 'all_reduce',
  census.ALL_TO_ALL: 'reduce_scatter',  # Sends as much.
}


@dataclasses.dataclass(frozen=True)
class Move:
  """Collectives for one leaf."""

  kind: str  # HLO opcode, as in `census.Collective`.
  axis: str  # 'intra', 'inter' or 'both'.
  in_loop: bool  # Whether per micro-batch, or once at the step's end.
  # Elements of the larger side on one device, including padding, summed over
  # all messages.
  num_elements: int
  dtype: np.dtype  # Dtype when sent.
  name: str  # Name of the leaf.
  # Number of collectives: one per layer for a stack in the loop.
  num_messages: int = 1
  num_layers: int = 0  # Layers of the stack; 0 for other leaves.

  @property
  def op(self) -> Op:
    return _OPS[self.kind]

  @property
  def num_bytes(self) -> int:
    return self.num_elements * self.dtype.itemsize

  def intra_bytes(self, mesh: Any) -> float:
    """Bytes that a device sends inside its group; over both, in two phases."""
    m = mesh.shape[INTRA]
    share = 0 if self.axis == INTER else (m - 1) / m
    return self._factor() * share * self.num_bytes

  def inter_bytes(self, mesh: Any) -> float:
    """Bytes that a device sends to other groups."""
    n, m = mesh.shape[INTER], mesh.shape[INTRA]
    share = 0 if self.axis == INTRA else (n - 1) / n
    if self.axis == 'both':
      share /= m
    return self._factor() * share * self.num_bytes

  def _factor(self) -> int:
    return 2 if self.kind == census.ALL_REDUCE else 1


def moves(layout: Layout, *, regather: bool = True) -> list[Move]:
  """All collectives for leaves in a step with this layout.

  Omits scalars (losses, weights, the gradient's norm) and collectives of
  optimizers that are not elementwise. For `regather` see `Trainer`. A
  micro-batch runs a stack of layers once.

  Raises:
    ValueError: The mesh has other axes, which the compiler handles.
  """
  if others := other_axes(layout.mesh):
    raise ValueError(
      f'plan.moves: no plan covers the automatic axes {others} of the mesh.'
      ' Plan inter and intra alone; census.collectives counts what there is.'
    )
  n, m = layout.mesh.shape[INTER], layout.mesh.shape[INTRA]
  sizes = {INTER: n, INTRA: m, 'both': n * m}
  found = []
  for leaf in layout.leaves:
    spec = leaf.spec
    times = 2 if leaf.is_stack and regather else 1
    num_layers = spec.shape[0] if leaf.is_stack else 1
    for kind, axis, in_loop, is_grad in _of_leaf(layout, leaf):
      if sizes[axis] == 1:
        continue
      # The larger side: whole, or a lane's part for a move over inter.
      level = Level.NONE if axis != INTER else Level.INTRA
      num = _padded(spec) // level.num_pieces(n, m)
      dtype = leaf.kept_type
      if is_grad:
        dtype = _grad_dtype(spec)
      if is_grad and layout.sums_dtype is not None and spec.dim is not None:
        dtype = np.dtype(layout.sums_dtype)
        rows = sizes[axis] * (num_layers if in_loop else 1)
        sent = rows * narrow.num_bytes(num // rows, dtype)
        num = sent // dtype.itemsize  # Scales counted.
      repeats = times if in_loop and not is_grad else 1
      found.append(
        Move(
          kind,
          axis,
          in_loop,
          num * repeats,
          dtype,
          leaf.name,
          repeats * (num_layers if in_loop else 1),
          num_layers if leaf.is_stack else 0,
        )
      )
  return found


def _of_leaf(
  layout: Layout, leaf: Leaf
) -> Iterator[tuple[str, str, bool, bool]]:
  """(kind, axis, in the loop, of the gradient) for one leaf, in order."""
  gather, scatter = census.ALL_GATHER, census.REDUCE_SCATTER
  is_narrow = layout.sums_dtype is not None
  if is_narrow:  # Summed by the receiver, see `narrow`.
    scatter = census.ALL_TO_ALL
  paro = layout.paro
  if leaf.spec.dim is None:
    if leaf.is_trained:
      yield census.ALL_REDUCE, 'both', False, True
    return
  # Parameters for computation.
  if paro.params is Level.GLOBAL:
    yield gather, INTER, True, False
  if paro.params >= Level.INTRA:
    yield gather, INTRA, True, False
  if not leaf.is_trained:
    return
  # Gradient of a micro-batch, to its level.
  if paro.grads >= Level.INTRA:
    yield scatter, INTRA, True, True
  if paro.grads is Level.GLOBAL:
    yield scatter, INTER, True, True
  # Sums, to the optimizer's level.
  if paro.grads is Level.NONE:
    yield scatter, INTRA, False, True
  if paro.opt_state is Level.GLOBAL:
    if paro.grads < Level.GLOBAL:
      yield scatter, INTER, False, True
  else:
    if is_narrow:
      yield scatter, INTER, False, True
      yield gather, INTER, False, True
    else:
      yield census.ALL_REDUCE, INTER, False, True
    if paro.opt_state is Level.NONE:
      yield gather, INTRA, False, True
  # Updated parameters, to their level.
  if paro.params < paro.opt_state:
    if paro.opt_state is Level.GLOBAL:
      yield gather, INTER, False, False
    if paro.params is Level.NONE:
      yield gather, INTRA, False, False


def _padded(spec: LeafSpec) -> int:
  return math.prod(spec.stored_shape(Level.GLOBAL))


def _grad_dtype(spec: LeafSpec) -> np.dtype:
  return np.dtype(jnp.promote_types(spec.dtype, jnp.float32))
