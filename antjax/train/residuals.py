# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Residuals of gradients that are sent in int8, as a part of the state.

See `antjax.collectives.narrow`. They are in units of the summed gradient, which
a loss scale does not multiply. The groups' own sums have residuals of a whole
gradient on each device: that is the price of error feedback there.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from antjax.collectives import narrow
from antjax.mesh.mesh import BATCH_AXES, num_positions
from antjax.mesh.paro import Level, PaRO
from antjax.mesh.sharding import LeafSpec

PyTree = Any
INSIDE, BETWEEN, BACK = 'inside', 'between', 'back'


def shapes(
  specs: Sequence[LeafSpec], paro: PaRO, mesh: Mesh, sums_dtype: str | None
) -> PyTree:
  """Shapes [devices, ...], dtypes and shardings, for each trained leaf.

  'inside' is what a device left out of addends to its group's sums, 'between'
  of its part of that sum to those of other groups, and 'back', if the optimizer
  is at level I, of the sum that it returns to them. None for leaves that are
  not sharded. Empty if `sums_dtype` has no residuals.
  """
  if not narrow.has_residual(sums_dtype):
    return {}
  levels = {INSIDE: Level.NONE, BETWEEN: Level.INTRA}
  if paro.opt_state is Level.INTRA:
    levels[BACK] = Level.GLOBAL
  split = NamedSharding(mesh, P(BATCH_AXES))

  def shape(spec: LeafSpec, level: Level) -> jax.ShapeDtypeStruct | None:
    if spec.dim is None:
      return None
    # The sent addends are padded, also where they are whole.
    local = list(spec.piece_shape(level, mesh))
    if level is Level.NONE:
      local[spec.dim] = spec.padded_size
    dtype = jnp.promote_types(spec.dtype, jnp.float32)
    local = [num_positions(mesh), *local]
    return jax.ShapeDtypeStruct(tuple(local), dtype, sharding=split)

  return {
    name: [shape(spec, level) for spec in specs]
    for name, level in levels.items()
  }


def zeros(like: PyTree) -> PyTree:
  """Residuals of a new state; call in `jit`."""
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)


def on_device(residuals: PyTree, factor: jax.Array) -> PyTree:
  """A device's residuals, of gradients of a loss times `factor`."""
  return jax.tree.map(lambda x: x[0] * factor, residuals)


def off_device(residuals: PyTree, factor: jax.Array) -> PyTree:
  """The inverse of `on_device`."""
  return jax.tree.map(lambda x: (x / factor)[None], residuals)


def sync(
  send: Callable[[int, Any], tuple[jax.Array, Any]],
  residuals: PyTree,
  indices: Sequence[int],
) -> tuple[list[jax.Array], PyTree]:
  """Sends the sums of some leaves, with their pairs of residuals.

  `send` takes a leaf's index and (between, back), and returns its sum and new
  ones.
  """
  found = []
  new = {name: list(each) for name, each in residuals.items()}
  for i in indices:
    back = new[BACK][i] if BACK in new else None
    total, (new[BETWEEN][i], back) = send(i, (new[BETWEEN][i], back))
    if BACK in new:
      new[BACK][i] = back
    found.append(total)
  return found, new
