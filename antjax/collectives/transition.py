# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Moves arrays between PaRO levels. Pure functions, called in `shard_map`.

Every function takes this device's piece and the array's `LeafSpec`; arrays are
padded to the split dim's `padded_size` at levels intra and global and have
their true shape at level none. Cost per device for an array of V bytes with n
groups of m devices: a step along `intra` moves V (m-1)/m, one along `inter`
V (n-1)/(n m); an all-reduce moves twice that.

Transfers over both axes at once use the algorithm of `how`. By default these
are two phases of XLA's own collectives, ordered so that a device sends only its
m-th part of the array to other groups. Transfers along one axis use XLA's own,
but for gradient sums of groups with a narrow `how.sums_dtype`.
"""

from collections.abc import Callable, Sequence
import math
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from antjax.collectives import blocks, narrow
from antjax.collectives.choose import Collectives, XLA
from antjax.collectives.varying import is_alone
from antjax.collectives.varying import to_varying as to_varying
from antjax.collectives.varying import varying_axes as varying_axes
from antjax.mesh.mesh import INTER, INTRA
from antjax.mesh.paro import Level
from antjax.mesh.sharding import LeafSpec


def gather(
  x: jax.Array, spec: LeafSpec, level: Level, how: Collectives = XLA
) -> jax.Array:
  """Gathers pieces at `level` to the whole unpadded array, marked varying."""
  if spec.dim is not None and level is not Level.NONE:
    if level is Level.GLOBAL and how.algorithm != 'xla':
      x = how.all_gather(x, spec.dim)
    else:
      if level is Level.GLOBAL:
        x = lax.all_gather(x, INTER, axis=spec.dim, tiled=True)
      x = lax.all_gather(x, INTRA, axis=spec.dim, tiled=True)
    x = spec.unpad(x)
  return spec.constrain(to_varying(x))


def reduce_addend(
  g: jax.Array, spec: LeafSpec, level: Level, how: Collectives = XLA
) -> jax.Array:
  """Turns a device's whole gradient into an addend of an accumulator.

  At level none the accumulator is the device's own sum and nothing moves; at
  level intra it is the group's sum, at level global the sum over all devices,
  and each device keeps its piece.
  """
  if spec.dim is None or level is Level.NONE:
    return g
  if level is Level.GLOBAL:
    return _scatter_all(spec.pad(g), spec, how)
  return narrowly_reduce_addend(g, spec, how, None)[0]


def narrowly_reduce_addend(
  g: jax.Array, spec: LeafSpec, how: Collectives, residual: Any
) -> tuple[jax.Array, Any]:
  """`reduce_addend` at level intra, and the new residual, see `narrow`."""
  g = spec.pad(g)
  if how.sums_dtype is None:
    return _scatter(g, spec, INTRA), residual
  return narrow.scatter_sum(g, INTRA, _dim(spec), how.sums_dtype, residual)


def sync(
  acc: jax.Array,
  spec: LeafSpec,
  level: Level,
  target: Level,
  how: Collectives = XLA,
) -> jax.Array:
  """Sums accumulators at `level` over all devices, to pieces at `target`."""
  if spec.dim is None:
    return how.all_reduce(acc)
  if level is Level.NONE:
    if target is Level.GLOBAL:
      return _scatter_all(spec.pad(acc), spec, how)
    if target is Level.NONE and how.algorithm != 'xla':
      return how.all_reduce(acc)
    acc = _scatter(spec.pad(acc), spec, INTRA)
  if level is Level.GLOBAL:
    return acc
  if target is not Level.NONE:
    return narrowly_sync(acc, spec, target, how, (None, None))[0]
  return _spread(lax.psum(acc, INTER), spec, INTRA)


def narrowly_sync(
  acc: jax.Array, spec: LeafSpec, target: Level, how: Collectives, residual: Any
) -> tuple[jax.Array, Any]:
  """`sync` from level intra to a finer one, and the new pair of residuals."""
  dtype, dim = how.sums_dtype, _dim(spec)
  if target is Level.INTRA:
    if dtype is None:
      return lax.psum(acc, INTER), residual
    return narrow.all_reduce(acc, INTER, dim, dtype, residual)
  if dtype is None:
    return _scatter(acc, spec, INTER), residual
  total, left = narrow.scatter_sum(acc, INTER, dim, dtype, residual[0])
  return total, (left, None)


def coarsen(
  x: jax.Array,
  spec: LeafSpec,
  level: Level,
  target: Level,
  how: Collectives = XLA,
) -> jax.Array:
  """Brings equal copies of an array from `level` to the coarser `target`."""
  if spec.dim is None or level is target:
    return x
  crosses_both = level is Level.GLOBAL and target is Level.NONE
  if crosses_both and how.algorithm != 'xla':
    return spec.unpad(how.all_gather(x, spec.dim))
  if level is Level.GLOBAL:
    x = _spread(x, spec, INTER)
  return x if target is Level.INTRA else _spread(x, spec, INTRA)


def sync_all(
  accs: Sequence[jax.Array],
  specs: Sequence[LeafSpec],
  level: Level,
  target: Level,
  how: Collectives = XLA,
) -> list[jax.Array]:
  """`sync` of many arrays, in messages of `how.bucket_bytes`.

  Whole leaves, small by nature, always share a message.
  """
  return _in_messages(sync, accs, specs, level, target, how)


def coarsen_all(
  xs: Sequence[jax.Array],
  specs: Sequence[LeafSpec],
  level: Level,
  target: Level,
  how: Collectives = XLA,
) -> list[jax.Array]:
  """`coarsen` of many arrays, in messages of `how.bucket_bytes`."""
  if level is target:
    return list(xs)
  return _in_messages(coarsen, xs, specs, level, target, how)


def _in_messages(
  fn: Callable[..., jax.Array],
  leaves: Sequence[jax.Array],
  specs: Sequence[LeafSpec],
  level: Level,
  target: Level,
  how: Collectives,
) -> list[jax.Array]:
  """Applies `fn` to leaves packed into few messages; one result per leaf."""
  results = list(leaves)
  if is_alone(*leaves):
    return results

  def move(x: jax.Array, spec: LeafSpec) -> jax.Array:
    return fn(x, spec, level, target, how)

  whole = [i for i, spec in enumerate(specs) if spec.dim is None]
  if whole and fn is sync:  # When coarsening they are equal already.
    # In the order of the leaves: the order of a set differs between processes.
    for kind in dict.fromkeys(leaves[i].dtype for i in whole):
      members = [i for i in whole if leaves[i].dtype == kind]
      packed = pack([to_varying(leaves[i]) for i in members])
      summed = move(packed, LeafSpec(packed.shape, packed.dtype, None))
      shapes = [leaves[i].shape for i in members]
      for i, x in zip(members, unpack(summed, shapes), strict=True):
        results[i] = x
  split = [i for i, spec in enumerate(specs) if spec.dim is not None]
  num_devices = lax.axis_size(INTER) * lax.axis_size(INTRA)
  pieces = level.num_pieces(lax.axis_size(INTER), lax.axis_size(INTRA))
  padded = [
    specs[i].pad(leaves[i]) if level is Level.NONE else leaves[i] for i in split
  ]
  for message in deal(padded, how.bucket_bytes // pieces):
    members = [split[k] for k in message]
    if len(members) == 1:
      (i,) = members
      results[i] = move(leaves[i], specs[i])
      continue
    # Columns of one matrix with a row per device. Row b holds block b of every
    # leaf, so the pieces of the matrix are those of the leaves at every level.
    tables = [
      blocks.split(
        padded[k], _dim(specs[split[k]]), num_devices // pieces, 'transition'
      )
      for k in message
    ]
    matrix = _side_by_side(tables)
    widths = [table.shape[1] for table in tables]
    spec = LeafSpec((num_devices, sum(widths)), matrix.dtype, 0, num_devices)
    moved = lax.split(move(matrix, spec), widths, axis=1)
    for i, table in zip(members, moved, strict=True):
      dim = _dim(specs[i])
      block = list(specs[i].stored_shape(Level.GLOBAL))
      block[dim] //= num_devices
      x = blocks.join(table, block, dim)
      results[i] = specs[i].unpad(x) if target is Level.NONE else x
  return results


def _side_by_side(tables: Sequence[jax.Array]) -> jax.Array:
  """Concatenates matrices along columns, written piece by piece."""
  width = sum(table.shape[1] for table in tables)
  whole = jnp.zeros((tables[0].shape[0], width), tables[0].dtype)
  if varying := tuple(varying_axes(*tables)):
    whole = lax.pcast(whole, varying, to='varying')
  at = 0
  for table in tables:
    whole = lax.dynamic_update_slice(whole, table, (0, at))
    at += table.shape[1]
  return whole


def _dim(spec: LeafSpec) -> int:
  assert spec.dim is not None
  return spec.dim


def _scatter_all(x: jax.Array, spec: LeafSpec, how: Collectives) -> jax.Array:
  """A reduce-scatter over both axes."""
  if how.algorithm != 'xla':
    return how.reduce_scatter(x, _dim(spec))
  return _scatter(_scatter(x, spec, INTRA), spec, INTER)


def _scatter(x: jax.Array, spec: LeafSpec, axis: str) -> jax.Array:
  return blocks.scatter_sum(x, axis, _dim(spec))


def _spread(x: jax.Array, spec: LeafSpec, axis: str) -> jax.Array:
  """All-gathers along `axis`; whole arrays come back unpadded."""
  x = lax.all_gather(x, axis, axis=_dim(spec), tiled=True, to='invarying')
  return spec.unpad(x) if axis == INTRA else x


# Packs many small arrays into few flat messages: each collective costs a
# latency, and eight gradients in one message cost one, not eight.


def deal(leaves: Sequence[jax.Array], max_bytes: int) -> list[list[int]]:
  """Assigns positions of `leaves` to messages of at most `max_bytes`.

  A larger leaf is a message by itself. A message's leaves have one dtype and
  vary over the same mesh axes.
  """
  messages: list[list[int]] = []
  open_: dict[object, tuple[int, list[int]]] = {}  # By kind: bytes, positions.
  for i, leaf in enumerate(leaves):
    kind = jnp.dtype(leaf.dtype), varying_axes(leaf)
    num_bytes = math.prod(leaf.shape) * kind[0].itemsize
    filled, message = open_.get(kind, (0, []))
    if not message or filled + num_bytes > max_bytes:
      filled, message = 0, []
      messages.append(message)
    message.append(i)
    open_[kind] = filled + num_bytes, message
  return messages


def pack(leaves: Sequence[jax.Array]) -> jax.Array:
  """Lays arrays of one dtype end to end, as one vector.

  Written piece by piece into place: XLA:CPU fuses a concatenate and its
  operands into one loop, which took up to twelve times longer in some runs.
  """
  flat = jnp.zeros(sum(x.size for x in leaves), leaves[0].dtype)
  if varying := tuple(varying_axes(*leaves)):
    flat = lax.pcast(flat, varying, to='varying')
  at = 0
  for x in leaves:
    flat = lax.dynamic_update_slice(flat, x.reshape(-1), (at,))
    at += x.size
  return flat


def unpack(
  flat: jax.Array, shapes: Sequence[tuple[int, ...]]
) -> list[jax.Array]:
  """Undoes `pack`, given the shapes of its arrays."""
  sizes = [math.prod(shape) for shape in shapes]
  pieces = lax.split(flat, sizes)
  return [x.reshape(s) for x, s in zip(pieces, shapes, strict=True)]
