# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows times the matrix of their own group.

A product with the matrices of all G groups side by side, of which each row
keeps its part, is G times the work that is needed. Where rows lie sorted by
group they are cut into n blocks: a block is multiplied by the matrix of its
first row's group, and once more for each group that begins inside of it. These
are n + G - 1 products of a block, of fixed shapes whatever the groups' sizes.
`jax.lax.ragged_dot` asks for the same, but XLA:CPU multiplies by all groups.
"""

from collections.abc import Iterator, Sequence
import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from antjax.collectives import varying

# Shape suffixes: B = rows, G = groups, I = input width, O = output width, R =
# rows of a block, P = pieces: n blocks and G - 1 beginnings of groups.

_MAX_BLOCKS = 32  # Each is a product, three with the gradients.
_MIN_ROWS = 64  # Of a block; smaller products run slowly.


def product(
  x_BI: jax.Array, kernel_IGO: jax.Array, group_B: jax.Array
) -> jax.Array:
  """x_b W_g with the row's own W_g, [B, O].

  Args:
    x_BI: Rows.
    kernel_IGO: The groups' matrices.
    group_B: int32, each from 0 to G - 1. Rows in any order are right, rows
      sorted by group are fast.
  """
  return _differentiable(*varying.alike(x_BI, kernel_IGO, group_B))


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
  """Blocks n that divide B; 0 where all matrices cost less than n + G - 1."""
  most = min(_MAX_BLOCKS, max(8, 3 * num_groups + 1), num_rows // _MIN_ROWS)
  for n in range(most, 1, -1):
    if num_rows % n == 0:
      return n if 4 * (n + num_groups - 1) < 3 * n * num_groups else 0
  return 0


def _is_sorted(group_B: jax.Array) -> jax.Array:
  return jnp.all(group_B[1:] >= group_B[:-1])


def own(parts: Sequence[jax.Array], group_B: jax.Array) -> jax.Array:
  """Each row's own of G arrays [B, O], without a gather or a scatter."""
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


def _pieces(
  num_blocks: int, group_B: jax.Array, num_groups: int
) -> Iterator[tuple[jax.Array, jax.Array, jax.Array]]:
  """(first row of a block, group, which of its rows [R] to multiply)."""
  size = len(group_B) // num_blocks

  def piece(start, group, *, is_first):
    group_R = lax.dynamic_slice_in_dim(group_B, start, size)
    mine_R = group_R == group
    return start, group, mine_R if is_first else mine_R & (group_R[0] != group)

  for start in range(0, len(group_B), size):
    yield piece(jnp.int32(start), group_B[start], is_first=True)
  for group in range(1, num_groups):
    begin = jnp.sum(group_B < group, dtype=jnp.int32)
    block = jnp.minimum(begin // size, num_blocks - 1)
    yield piece(block * size, jnp.int32(group), is_first=False)


def _product_by_blocks(num_blocks, x_BI, kernel_IGO, group_B):
  y_BO = jnp.zeros_like(x_BI, shape=(len(x_BI), kernel_IGO.shape[2]))
  for start, group, mine_R in _pieces(num_blocks, group_B, kernel_IGO.shape[1]):
    x_RI = lax.dynamic_slice_in_dim(x_BI, start, len(mine_R))
    kernel_IO = lax.dynamic_index_in_dim(kernel_IGO, group, 1, keepdims=False)
    before_RO = lax.dynamic_slice_in_dim(y_BO, start, len(mine_R))
    y_RO = jnp.where(mine_R[:, None], x_RI @ kernel_IO, before_RO)
    y_BO = lax.dynamic_update_slice_in_dim(y_BO, y_RO, start, 0)
  return y_BO


def _dkernel_by_blocks(num_blocks, num_groups, x_BI, dy_BO, group_B):
  groups, found = [], []
  for start, group, mine_R in _pieces(num_blocks, group_B, num_groups):
    x_RI = lax.dynamic_slice_in_dim(x_BI, start, len(mine_R))
    dy_RO = lax.dynamic_slice_in_dim(dy_BO, start, len(mine_R))
    found.append(x_RI.T @ jnp.where(mine_R[:, None], dy_RO, 0))
    groups.append(group)
  mine_PG = jax.nn.one_hot(jnp.stack(groups), num_groups, dtype=x_BI.dtype)
  dkernel_PIO = jnp.stack(found)
  # Exact: on some backends the default rounds what it multiplies.
  return jnp.einsum(
    'pg,pio->igo', mine_PG, dkernel_PIO, precision=lax.Precision.HIGHEST
  )
