# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Products of rows with the matrix of their own group.

Multiplying every row by the matrices of all G groups and keeping its own part
is G times the necessary work. Rows that are sorted by group are cut into n
blocks instead. A block is multiplied by the matrix of its first row's group,
and once more for each group that begins inside it. These are n + G - 1 block
products, of fixed shapes whatever the sizes of groups: (n + G - 1) / n times
the work, 1.25 for 3 to 5 groups and 1.6 for 20. Few rows (under 128) form no
blocks. `jax.lax.ragged_dot` expresses the same, but XLA:CPU multiplies by all
groups.
"""

from collections.abc import Sequence
import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from antjax.collectives import varying

# Shape suffixes: B = rows, G = groups, I = input width, O = output width, R =
# rows of a block, P = pieces: n blocks and G - 1 group starts.

_MAX_BLOCKS = 32
_MIN_ROWS = 64  # Per block; smaller products run slowly.
# Up to this many pieces are unrolled, which takes a fifth less time and
# compiles in twice the time; more run in a loop.
_MAX_UNROLLED = 20


def product(
  x_BI: jax.Array, kernel_IGO: jax.Array, group_B: jax.Array
) -> jax.Array:
  """x_b W_g with the W_g of each row's group, [B, O].

  Forward-mode derivatives (`jax.jvp`) exist for its gradient but not for
  itself.

  Args:
    x_BI: Rows: all of them, or in `shard_map` a device's.
    kernel_IGO: Matrices of the groups.
    group_B: int32, from 0 to G - 1, in any order; fast if sorted by group.
  """
  dtype = jnp.result_type(x_BI, kernel_IGO)
  return _differentiable(
    *varying.alike(x_BI.astype(dtype), kernel_IGO.astype(dtype), group_B)
  )


@jax.custom_vjp
def _differentiable(x_BI, kernel_IGO, group_B):
  return _product(x_BI, kernel_IGO, group_B)


def _product(x_BI, kernel_IGO, group_B):
  num_blocks = blocks(len(x_BI), kernel_IGO.shape[1])
  by_blocks = functools.partial(_product_by_blocks, num_blocks)
  args = x_BI, kernel_IGO, group_B
  if not num_blocks:
    return _product_with_all(*args)
  return lax.cond(_is_sorted(group_B), by_blocks, _product_with_all, *args)


def _dkernel(x_BI, dy_BO, group_B, num_groups):
  num_blocks = blocks(len(x_BI), num_groups)
  by_blocks = functools.partial(_dkernel_by_blocks, num_blocks, num_groups)
  with_all = functools.partial(_dkernel_with_all, num_groups)
  args = x_BI, dy_BO, group_B
  if not num_blocks:
    return with_all(*args)
  return lax.cond(_is_sorted(group_B), by_blocks, with_all, *args)


def _forward(x_BI, kernel_IGO, group_B):
  saved = x_BI, kernel_IGO, group_B
  return _product(*saved), saved


def _backward(saved, dy_BO):
  x_BI, kernel_IGO, group_B = saved
  return (
    _product(dy_BO, kernel_IGO.transpose(2, 1, 0), group_B),
    _dkernel(x_BI, dy_BO, group_B, kernel_IGO.shape[1]),
    np.zeros(group_B.shape, jax.dtypes.float0),
  )


_differentiable.defvjp(_forward, _backward)


def blocks(num_rows: int, num_groups: int) -> int:
  """Blocks n that divide B; 0 if all matrices cost less than n + G - 1."""
  most = min(_MAX_BLOCKS, max(8, 3 * num_groups + 1), num_rows // _MIN_ROWS)
  for n in range(most, 1, -1):
    if num_rows % n == 0:
      return n if 4 * (n + num_groups - 1) < 3 * n * num_groups else 0
  return 0


def _is_sorted(group_B: jax.Array) -> jax.Array:
  return jnp.all(group_B[1:] >= group_B[:-1])


def own(parts: Sequence[jax.Array], group_B: jax.Array) -> jax.Array:
  """Selects each row from its own of G arrays [B, O], without a gather."""
  chosen_BO = parts[0]
  for g, part_BO in enumerate(parts[1:], start=1):
    chosen_BO = jnp.where((group_B == g)[:, None], part_BO, chosen_BO)
  return chosen_BO


def _product_with_all(x_BI, kernel_IGO, group_B):
  size_in, num_groups, size_out = kernel_IGO.shape
  y = x_BI @ kernel_IGO.reshape(size_in, num_groups * size_out)
  return own(jnp.split(y, num_groups, axis=1), group_B)


def _dkernel_with_all(num_groups, x_BI, dy_BO, group_B):
  mine_BG = group_B[:, None] == jnp.arange(num_groups)[None]
  dy_BGO = jnp.where(mine_BG[:, :, None], dy_BO[:, None], 0)
  dkernel = x_BI.T @ dy_BGO.reshape(len(dy_BO), -1)
  return dkernel.reshape(x_BI.shape[1], num_groups, -1)


class _Pieces(NamedTuple):
  """Products to compute.

  Attributes:
    start_P: int32, first row of each piece's block.
    group_P: int32, group of each piece's matrix.
    mine_PR: bool, rows of the block that keep the product.
  """

  start_P: jax.Array
  group_P: jax.Array
  mine_PR: jax.Array


def _pieces(num_blocks: int, num_groups: int, group_B: jax.Array) -> _Pieces:
  """Blocks, then group starts, which may coincide with a block's start."""
  size = len(group_B) // num_blocks
  group_NR = group_B.reshape(num_blocks, size)
  later_G = jnp.arange(1, num_groups, dtype=jnp.int32)
  is_before_GB = group_B[None] < later_G[:, None]
  begin_G = jnp.sum(is_before_GB, axis=1, dtype=jnp.int32)
  block_G = jnp.minimum(begin_G // size, num_blocks - 1)
  block_P = jnp.concatenate([jnp.arange(num_blocks, dtype=jnp.int32), block_G])
  group_P = jnp.concatenate([group_NR[:, 0], later_G])
  group_PR = group_NR[block_P]
  is_block_P = jnp.arange(len(block_P)) < num_blocks
  is_new_P = is_block_P | (group_PR[:, 0] != group_P)
  mine_PR = (group_PR == group_P[:, None]) & is_new_P[:, None]
  return _Pieces(block_P * size, group_P, mine_PR)


def _unroll(pieces: _Pieces) -> bool:
  return len(pieces.start_P) <= _MAX_UNROLLED


def _product_by_blocks(num_blocks, x_BI, kernel_IGO, group_B):
  pieces = _pieces(num_blocks, kernel_IGO.shape[1], group_B)
  size = len(x_BI) // num_blocks

  def multiply(y_BO, piece):
    start, group, mine_R = piece
    x_RI = lax.dynamic_slice_in_dim(x_BI, start, size)
    kernel_IO = lax.dynamic_index_in_dim(kernel_IGO, group, 1, keepdims=False)
    before_RO = lax.dynamic_slice_in_dim(y_BO, start, size)
    y_RO = jnp.where(mine_R[:, None], x_RI @ kernel_IO, before_RO)
    return lax.dynamic_update_slice_in_dim(y_BO, y_RO, start, 0), None

  y_BO = jnp.zeros_like(x_BI, shape=(len(x_BI), kernel_IGO.shape[2]))
  y_BO, _, _ = varying.alike(y_BO, x_BI, kernel_IGO)
  return lax.scan(multiply, y_BO, pieces, unroll=_unroll(pieces))[0]


def _dkernel_by_blocks(num_blocks, num_groups, x_BI, dy_BO, group_B):
  pieces = _pieces(num_blocks, num_groups, group_B)
  size = len(x_BI) // num_blocks
  dtype = jnp.promote_types(x_BI.dtype, jnp.float32)  # Dtype of the sums.

  def multiply(dkernel_GIO, piece):
    start, group, mine_R = piece
    x_RI = lax.dynamic_slice_in_dim(x_BI, start, size)
    dy_RO = lax.dynamic_slice_in_dim(dy_BO, start, size)
    dy_RO = jnp.where(mine_R[:, None], dy_RO, 0)
    found_IO = jnp.dot(x_RI.T, dy_RO, preferred_element_type=dtype)
    found_IO += lax.dynamic_index_in_dim(dkernel_GIO, group, keepdims=False)
    sums_GIO = lax.dynamic_update_index_in_dim(dkernel_GIO, found_IO, group, 0)
    return sums_GIO, None

  shape = num_groups, x_BI.shape[1], dy_BO.shape[1]
  dkernel_GIO, _ = varying.alike(jnp.zeros(shape, dtype), x_BI)
  sums_GIO, _ = lax.scan(multiply, dkernel_GIO, pieces, unroll=_unroll(pieces))
  return sums_GIO.transpose(1, 0, 2).astype(x_BI.dtype)
