# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Arrays as rows of equal blocks, and transfers of blocks between devices.

The rings work on a matrix [num_blocks, block_size]; block j n + i belongs to
device (group i, lane j) of n groups of m lanes, as everywhere in antjax.
"""

from collections.abc import Sequence
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from antjax.collectives.varying import to_varying
from antjax.mesh.mesh import INTER, INTRA


def dim_of(x: jax.Array, dim: int, where: str) -> int:
  """A nonnegative dim of an array; as in `lax`, -1 is the last one.

  Raises:
    ValueError: There is no such dim; names the caller `where`.
  """
  if not -x.ndim <= dim < x.ndim:
    raise ValueError(
      f'{where}: dim={dim} of an array of shape {x.shape}; needed is'
      f' {-x.ndim} to {x.ndim - 1}.'
      if x.ndim
      else f'{where}: a scalar has no dim; reshape it to [1].'
    )
  return dim % x.ndim


def addend(x: jax.Array) -> jax.Array:
  """An array to be summed, marked varying; bools count as int32, as in lax."""
  return to_varying(x.astype(jnp.int32) if x.dtype == jnp.bool_ else x)


def split(x: jax.Array, dim: int, num_blocks: int, where: str) -> jax.Array:
  """Cuts [..., d, ...] along `dim` into blocks [num_blocks, size / num_blocks].

  Raises:
    ValueError: `num_blocks` does not divide d; names the caller `where`.
  """
  if x.shape[dim] % num_blocks:
    raise ValueError(
      f'{where}: dim {dim} of shape {x.shape} does not divide among '
      f'{num_blocks} devices; pad it to '
      f'{-(-x.shape[dim] // num_blocks) * num_blocks}, as LeafSpec.pad does.'
    )
  shape, size = x.shape, x.size
  part = shape[dim] // num_blocks
  x = x.reshape(*shape[:dim], num_blocks, part, *shape[dim + 1 :])
  return jnp.moveaxis(x, dim, 0).reshape(num_blocks, size // num_blocks)


def join(blocks: jax.Array, shape: Sequence[int], dim: int) -> jax.Array:
  """Lays blocks, each an array of `shape`, end to end along `dim`."""
  num = blocks.shape[0]
  x = jnp.moveaxis(blocks.reshape(num, *shape), 0, dim)
  return x.reshape(*shape[:dim], num * shape[dim], *shape[dim + 1 :])


def flatten(x: jax.Array, num_blocks: int) -> jax.Array:
  """Reshapes to [num_blocks, ceil(size / num_blocks)], zero-padded."""
  size = -(-x.size // num_blocks) * num_blocks
  flat = x.reshape(-1)
  if size != x.size:
    flat = jnp.pad(flat, (0, size - x.size))
  return flat.reshape(num_blocks, size // num_blocks)


def unflatten(blocks: jax.Array, shape: Sequence[int]) -> jax.Array:
  """Undoes `flatten`."""
  flat = blocks.reshape(-1)
  size = math.prod(shape)
  if size != flat.size:
    flat = lax.slice(flat, (0,), (size,))
  return flat.reshape(shape)


def read(blocks: jax.Array, row: jax.Array | int) -> jax.Array:
  """Row `row` of [num, size], as [size]."""
  return lax.dynamic_index_in_dim(blocks, row, keepdims=False)


def write(
  blocks: jax.Array, row: jax.Array | int, block: jax.Array
) -> jax.Array:
  """`blocks` with row `row` replaced."""
  return lax.dynamic_update_index_in_dim(blocks, block, row, 0)


def empty(num_blocks: int, like: jax.Array) -> jax.Array:
  """Zeros [num_blocks, size] to be filled with blocks like `like` [size]."""
  return to_varying(jnp.zeros((num_blocks, like.size), like.dtype))


def to_wire(x: jax.Array, payload_dtype: Any) -> jax.Array:
  """Rounds floating-point `x` to `payload_dtype`, bitcast to integers.

  Integers, since XLA would widen bf16 or round only after the transfer.
  """
  if not narrows(x.dtype, payload_dtype):
    return x
  bits = jnp.dtype(payload_dtype).itemsize * 8
  return lax.bitcast_convert_type(
    x.astype(payload_dtype), jnp.dtype(f'uint{bits}')
  )


def from_wire(x: jax.Array, dtype: Any, payload_dtype: Any) -> jax.Array:
  """Undoes `to_wire`, up to the rounding."""
  if not narrows(dtype, payload_dtype):
    return x
  return lax.bitcast_convert_type(x, jnp.dtype(payload_dtype)).astype(dtype)


def narrows(dtype: Any, payload_dtype: Any) -> bool:
  """Whether arrays of `dtype` are rounded to `payload_dtype` on the wire."""
  return (
    payload_dtype is not None
    and jnp.issubdtype(dtype, jnp.floating)
    and jnp.dtype(payload_dtype).itemsize < jnp.dtype(dtype).itemsize
  )


def rounded(x: jax.Array, payload_dtype: Any) -> jax.Array:
  """`x` as its receivers see it; the sender must use the same values."""
  return from_wire(to_wire(x, payload_dtype), x.dtype, payload_dtype)


def summing_dtype(dtype: Any) -> Any:
  """Dtype of sums: fp32 for narrow floats, the dtype itself for others."""
  if jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize < 4:
    return jnp.dtype(jnp.float32)
  return jnp.dtype(dtype)


def permute(
  x: jax.Array,
  axis: str | tuple[str, ...],
  size: int,
  payload_dtype: Any = None,
) -> jax.Array:
  """Sends `x` to the next device of the ring along `axis`."""
  pairs = [(k, (k + 1) % size) for k in range(size)]
  moved = lax.ppermute(to_wire(x, payload_dtype), axis, pairs)
  return from_wire(moved, x.dtype, payload_dtype)


def scatter_sum(x: jax.Array, axis: str, dim: int) -> jax.Array:
  """`lax.psum_scatter` along one mesh axis, tiled; correct on every backend.

  XLA:CPU's own sometimes gives wrong sums across processes (jax issue 40830,
  reproduced here). There the addends are exchanged and summed, which sends the
  same number of bytes.
  """
  if jax.process_count() == 1 or jax.default_backend() != 'cpu':
    return lax.psum_scatter(x, axis, scatter_dimension=dim, tiled=True)
  parts = exchange(x, axis, dim)
  return jnp.sum(parts, dim, dtype=x.dtype)


def exchange(x: jax.Array, axis: str, dim: int) -> jax.Array:
  """All devices' addends to this device's part, [..., size, d / size, ...]."""
  parts = x.reshape(
    *x.shape[:dim],
    lax.axis_size(axis),
    x.shape[dim] // lax.axis_size(axis),
    *x.shape[dim + 1 :],
  )
  return lax.all_to_all(parts, axis, dim, dim, tiled=True)


def grid() -> tuple[int, int, jax.Array, jax.Array]:
  """(groups, lanes, this device's group, its lane); inside `shard_map`."""
  n, m = lax.axis_size(INTER), lax.axis_size(INTRA)
  return n, m, lax.axis_index(INTER), lax.axis_index(INTRA)


def wire_dtype(whole: jax.Array, payload_dtype: Any) -> Any:
  """Dtype in which the wider sums of an array are sent: by default its own."""
  if jnp.issubdtype(whole.dtype, jnp.floating) and payload_dtype is None:
    return whole.dtype
  return payload_dtype
