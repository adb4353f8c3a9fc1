# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sums along one mesh axis whose addends are sent in fewer bytes.

bfloat16 rounds addends to nearest. int8 has one fp32 scale per block of at most
256 elements, and error feedback (Seide et al., Interspeech 2014; Karimireddy et
al., arXiv 1901.09847): what rounding leaves out of an addend is its residual,
and is added to the next one, so that nothing is lost, only delayed. Sums are
formed in fp32 by the device that keeps them, as in ZeRO++ (arXiv 2306.10209),
so an addend is rounded once. Functions to call in `shard_map`.
"""

import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from antjax.collectives import blocks

DTYPES = ('bfloat16', 'int8')  # Names of the dtypes of `dtype` below.
_BLOCK = 256  # Maximum number of int8 elements that share a scale.
_SCALE_BYTES = 4


def has_residual(dtype: Any) -> bool:
  """Whether addends sent as `dtype` have residuals."""
  return dtype is not None and jnp.dtype(dtype) == jnp.int8


def scatter_sum(
  x: jax.Array, axis: str, dim: int, dtype: Any, residual: Any = None
) -> tuple[jax.Array, Any]:
  """`psum_scatter` along one mesh axis, tiled.

  Args:
    x: Addends [..., d, ...] in fp32; the size of `axis` divides d.
    axis: Mesh axis.
    dim: Dim to scatter.
    dtype: bfloat16 or int8.
    residual: For int8, what earlier calls left out, in the shape of `x`.

  Returns:
    (this device's piece of the sum, new residual).
  """
  num = lax.axis_size(axis)
  if num == 1:
    return x, residual
  if not has_residual(dtype):
    wire = blocks.exchange(blocks.to_wire(x, dtype), axis, dim)
    return jnp.sum(blocks.from_wire(wire, x.dtype, dtype), dim), residual
  rows = blocks.split(x + residual, dim, num, 'narrow.scatter_sum')
  sent = _to_bytes(rows)
  read = functools.partial(_from_bytes, size=rows.shape[1])
  left = (rows - read(sent)).reshape(num, 1, -1)
  piece = list(x.shape)
  piece[dim] //= num
  total = jnp.sum(read(lax.all_to_all(sent, axis, 0, 0, tiled=True)), 0)
  return total.reshape(piece), blocks.join(left, piece, dim)


def all_reduce(
  x: jax.Array, axis: str, dim: int, dtype: Any, residual: Any = (None, None)
) -> tuple[jax.Array, Any]:
  """`psum` along one mesh axis: `scatter_sum`, and a gather of rounded sums.

  For int8 the second residual has the shape of a piece: what the device left
  out of its part of the sum.
  """
  num = lax.axis_size(axis)
  if num == 1:
    return x, residual
  mine, left = scatter_sum(x, axis, dim, dtype, residual[0])
  if not has_residual(dtype):
    wire = _spread(blocks.to_wire(mine, dtype), axis, dim)
    return blocks.from_wire(wire, x.dtype, dtype), residual
  rows = (mine + residual[1]).reshape(1, -1)
  sent = _to_bytes(rows)
  read = functools.partial(_from_bytes, size=rows.shape[1])
  whole = read(_spread(sent, axis, 0)).reshape(num, 1, -1)
  more = (rows - read(sent)).reshape(mine.shape)
  return blocks.join(whole, mine.shape, dim), (left, more)


def num_bytes(num_elements: int, dtype: Any) -> int:
  """Bytes in which `num_elements` of a row to one device are sent."""
  if not has_residual(dtype):
    return num_elements * jnp.dtype(dtype).itemsize
  num_blocks, size = _blocks(num_elements)
  return num_blocks * (size + _SCALE_BYTES)


def _spread(x: jax.Array, axis: str, dim: int) -> jax.Array:
  return lax.all_gather(x, axis, axis=dim, tiled=True, to='invarying')


def _blocks(size: int) -> tuple[int, int]:
  """(number of blocks, elements of each), with little padding."""
  num = -(-size // _BLOCK)
  return num, -(-size // num)


def _to_bytes(rows: jax.Array) -> jax.Array:
  """fp32 [n, size] -> int8 [n, blocks, elements and scale]."""
  num, each = _blocks(rows.shape[1])
  padded = jnp.pad(rows, ((0, 0), (0, num * each - rows.shape[1])))
  padded = padded.reshape(-1, num, each)
  scale = jnp.max(jnp.abs(padded), axis=2, keepdims=True) / 127
  values = jnp.round(padded / jnp.where(scale > 0, scale, 1))
  bits = lax.bitcast_convert_type(scale, jnp.int8).reshape(-1, num, 4)
  return jnp.concatenate([values.astype(jnp.int8), bits], axis=2)


def _from_bytes(sent: jax.Array, size: int) -> jax.Array:
  """Undoes `_to_bytes`, up to the rounding."""
  values, bits = sent[..., :-_SCALE_BYTES], sent[..., -_SCALE_BYTES:]
  scale = lax.bitcast_convert_type(bits, jnp.float32)[..., None]
  flat = (values.astype(jnp.float32) * scale).reshape(sent.shape[0], -1)
  return flat[:, :size]
