# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Moves one array between PaRO levels. Pure functions, called in `shard_map`.

Every function takes this device's piece and the array's `LeafSpec`; arrays are
padded to the split dim's `padded_size` at levels intra and global and have
their true shape at level none. Cost per device for an array of V bytes with n
groups of m devices: a step along `intra` moves V (m-1)/m, one along `inter`
V (n-1)/(n m); an all-reduce moves twice that.
"""

import jax
from jax import lax

from antjax.mesh.mesh import INTER, INTRA
from antjax.mesh.paro import Level
from antjax.mesh.sharding import LeafSpec


def to_varying(x: jax.Array) -> jax.Array:
  """Marks `x` as differing between devices on both axes; moves nothing.

  Differentiating a copy that is not so marked puts an all-reduce of its
  gradient wherever the gradient is formed, that is inside the micro-batch
  loop, where groups with unequal trip counts would wait for ever.
  """
  missing = tuple(a for a in (INTER, INTRA) if a not in varying_axes(x))
  return lax.pcast(x, missing, to='varying') if missing else x


def varying_axes(*arrays: jax.Array) -> frozenset[str]:
  """Mesh axes over which any of these differs; empty outside `shard_map`."""
  types = [jax.typeof(x).manual_axis_type for x in arrays]
  return frozenset().union(*(t.varying for t in types))


def gather(x: jax.Array, spec: LeafSpec, level: Level) -> jax.Array:
  """Makes the whole, unpadded array from pieces at `level`, marked varying."""
  if spec.dim is not None:
    if level is Level.GLOBAL:
      x = lax.all_gather(x, INTER, axis=spec.dim, tiled=True)
    if level >= Level.INTRA:
      x = lax.all_gather(x, INTRA, axis=spec.dim, tiled=True)
    x = spec.unpad(x)
  return to_varying(x)


def reduce_addend(g: jax.Array, spec: LeafSpec, level: Level) -> jax.Array:
  """Turns a device's whole gradient into an addend of an accumulator.

  At level none the accumulator is the device's own sum and nothing moves; at
  level intra it is the group's sum, at level global the sum over all devices,
  and each device keeps its piece.
  """
  if spec.dim is None or level is Level.NONE:
    return g
  g = _scatter(spec.pad(g), spec, INTRA)
  return g if level is Level.INTRA else _scatter(g, spec, INTER)


def sync(
  acc: jax.Array, spec: LeafSpec, level: Level, target: Level
) -> jax.Array:
  """Sums accumulators kept at `level` over all devices; pieces at `target`.

  Two phases, inside the groups first, so that a device sends only its m-th
  part of the array to other groups.
  """
  if spec.dim is None:
    return lax.psum(acc, (INTER, INTRA))
  if level is Level.NONE:
    acc = _scatter(spec.pad(acc), spec, INTRA)
  if target is Level.GLOBAL:
    return acc if level is Level.GLOBAL else _scatter(acc, spec, INTER)
  acc = lax.psum(acc, INTER)
  return acc if target is Level.INTRA else _spread(acc, spec, INTRA)


def coarsen(
  x: jax.Array, spec: LeafSpec, level: Level, target: Level
) -> jax.Array:
  """Brings equal copies of an array from `level` to the coarser `target`."""
  if spec.dim is None or level is target:
    return x
  if level is Level.GLOBAL:
    x = _spread(x, spec, INTER)
  return x if target is Level.INTRA else _spread(x, spec, INTRA)


def _scatter(x: jax.Array, spec: LeafSpec, axis: str) -> jax.Array:
  return lax.psum_scatter(x, axis, scatter_dimension=spec.dim, tiled=True)


def _spread(x: jax.Array, spec: LeafSpec, axis: str) -> jax.Array:
  """All-gathers along `axis`; whole arrays come back unpadded."""
  x = lax.all_gather(x, axis, axis=spec.dim, tiled=True, to='invarying')
  return spec.unpad(x) if axis == INTRA else x
