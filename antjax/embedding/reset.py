# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes rows of a table new again, with their optimizer slots."""

import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
import numpy as np

from antjax.embedding.layout import new_rows, Stack, TableSpec


def reset_rows(
  mesh: Mesh,
  stack: Stack,
  spec: TableSpec,
  old: dict[str, Any],
  ids: np.ndarray,
  key: jax.Array,
) -> dict[str, Any]:
  """A stack's table and slots with some rows at their initial values.

  O(n D), in place: `old` is donated.

  Args:
    mesh: The mesh.
    stack: The stack that holds the table.
    spec: The table.
    old: 'table' and 'slots' of the stack.
    ids: int [n], rows of the table, the same on every process.
    key: With which the tables were made.
  """
  # Padded to a power of two: few shapes, so few compilations.
  padded = np.full(1 << max(len(ids) - 1, 0).bit_length(), -1, np.int32)
  padded[: len(ids)] = ids
  return _reset_rows(mesh, stack, spec, old, padded, key)


@functools.partial(
  jax.jit, static_argnames=('mesh', 'stack', 'spec'), donate_argnames='old'
)
def _reset_rows(mesh, stack, spec, old, ids, key):
  rows = new_rows(spec, key, ids)
  slots = stack.optimizer.init(ids.shape[0], stack.dim)
  new = {'table': rows, 'slots': slots}

  def local(old, new, ids):
    owner = lax.axis_index(stack.axes) if stack.axes else 0
    is_mine = (ids >= 0) & (ids % stack.num_owners == owner)
    row = stack.offset(spec.name) + ids // stack.num_owners
    row = jnp.where(is_mine, row, stack.rows_per_device)
    return jax.tree.map(lambda x, y: x.at[row].set(y, mode='drop'), old, new)

  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(stack.partition_spec, P(), P()),
    out_specs=stack.partition_spec,
  )(old, new, ids)
