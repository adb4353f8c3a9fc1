# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows of a table by index, and the transpose: sums of rows by index.

The gradient of a gather is a scatter-add. With repeated indices, jaxlib 0.10.2
to 0.11.0 compiles it for GPUs to a compare-and-swap loop that is hundreds of
times slower (jax issue 38806, openxla/xla issue 46225). There we sort the rows
by index and sum segments instead. Other backends run the plain scatter.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

# Shape suffixes: N = indices, V = rows of the table, D = width.


@jax.custom_vjp
def take_rows(table_VD: jax.Array, index: jax.Array) -> jax.Array:
  """Rows [..., D] of a table; zeros for an index of V or more."""
  return jnp.asarray(table_VD).at[index].get(mode='fill', fill_value=0)


def _take_forward(table_VD, index):
  # An empty array carries V, which may be symbolic in an export.
  shape_V0 = jnp.zeros((table_VD.shape[0], 0), jnp.bool_)
  return take_rows(table_VD, index), (index, shape_V0)


def _take_backward(kept, cotangent):
  index, shape_V0 = kept
  rows_ND = cotangent.reshape(-1, cotangent.shape[-1])
  return add_rows(shape_V0.shape[0], rows_ND, index.reshape(-1)), None


take_rows.defvjp(_take_forward, _take_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def add_rows(
  num_rows: int, rows_ND: jax.Array, index_N: jax.Array
) -> jax.Array:
  """Sums [V, D] of the rows of each index; indices of V or more are ignored.

  Indices are not negative.
  """
  return lax.platform_dependent(
    rows_ND,
    index_N,
    cuda=functools.partial(_add_segments, num_rows),
    rocm=functools.partial(_add_segments, num_rows),
    default=functools.partial(_scatter, num_rows),
  )


def _add_forward(num_rows, rows_ND, index_N):
  return add_rows(num_rows, rows_ND, index_N), index_N


def _add_backward(num_rows, index_N, cotangent_VD):
  del num_rows
  return take_rows(cotangent_VD, index_N), None


add_rows.defvjp(_add_forward, _add_backward)


def pick(x: jax.Array, index: jax.Array) -> jax.Array:
  """One entry of each row, x[i, index[i]]; its gradient has distinct indices.

  From [..., K, *rest] to [..., *rest], for indices from 0 to K - 1.
  """
  rest = x.shape[index.ndim + 1 :]
  flat = x.reshape(-1, x.shape[index.ndim], *rest)
  rows = jnp.arange(len(flat), dtype=jnp.int32)
  found = flat.at[rows, index.reshape(-1)].get(unique_indices=True)
  return found.reshape(*index.shape, *rest)


def _scatter(num_rows, rows_ND, index_N):
  zeros_VD = jnp.zeros((num_rows, rows_ND.shape[1]), rows_ND.dtype)
  return zeros_VD.at[index_N].add(rows_ND, mode='drop')


def _add_segments(num_rows, rows_ND, index_N):
  """Like `_scatter`, by a sort and log2(N) passes over the rows."""
  size = index_N.size
  order_N = jnp.asarray(np.arange(size, dtype=np.int32))
  index_N, origin_N = lax.sort((index_N, order_N), num_keys=1)
  sums_ND = rows_ND.at[origin_N].get(unique_indices=True)
  # Each pass doubles the number of rows of its index that a row sums.
  shift = 1
  while shift < size:
    is_same = jnp.pad(index_N[shift:] == index_N[:-shift], (shift, 0))
    before_ND = jnp.pad(sums_ND[:-shift], ((shift, 0), (0, 0)))
    sums_ND = sums_ND + jnp.where(is_same[:, None], before_ND, 0)
    shift *= 2
  is_last = jnp.pad(index_N[1:] != index_N[:-1], (0, 1), constant_values=True)
  # Out-of-range targets stay distinct, as `unique_indices` promises.
  target_N = jnp.where(
    is_last & (index_N < num_rows), index_N, num_rows + order_N
  )
  zeros_VD = jnp.zeros((num_rows, rows_ND.shape[1]), rows_ND.dtype)
  return zeros_VD.at[target_N].set(sums_ND, mode='drop', unique_indices=True)


def num_below(ids: jax.Array, bounds: jax.Array) -> jax.Array:
  """Number of the sorted `ids` [N] that are less than each bound, int32.

  This is `jnp.searchsorted`, replaced by a binary search where JAX 0.10.2
  cannot trace it: in `shard_map` with other axes automatic.
  """
  if not jax.sharding.get_abstract_mesh().auto_axes:
    return jnp.searchsorted(ids, bounds).astype(jnp.int32)
  num = jnp.zeros_like(bounds, jnp.int32)
  for bit in reversed(range(ids.size.bit_length())):
    upto = num + (1 << bit)
    last = ids[jnp.minimum(upto, ids.size) - 1]
    num = jnp.where((upto <= ids.size) & (last < bounds), upto, num)
  return num
