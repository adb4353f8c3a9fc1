# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Mesh axes over which a value differs, as tracked by `shard_map`."""

import jax
from jax import lax

from antjax.mesh.mesh import INTER, INTRA


def to_varying(x: jax.Array) -> jax.Array:
  """Marks `x` as differing between devices on both axes; moves nothing.

  Differentiating a copy that is not so marked puts an all-reduce of its
  gradient where the gradient is formed: inside the micro-batch loop, where
  groups with unequal trip counts would deadlock.
  """
  missing = tuple(a for a in (INTER, INTRA) if a not in varying_axes(x))
  return lax.pcast(x, missing, to='varying') if missing else x


def alike(*arrays: jax.Array) -> tuple[jax.Array, ...]:
  """Marks each array as differing on all axes on which any of them differs.

  For `jax.custom_vjp`, whose gradients must have the arguments' types.
  """
  axes = varying_axes(*arrays)

  def marked(x: jax.Array) -> jax.Array:
    missing = tuple(axes - varying_axes(x))
    return lax.pcast(x, missing, to='varying') if missing else x

  return tuple(map(marked, arrays))


def is_alone(*arrays: jax.Array) -> bool:
  """Whether one device holds everything, so that collectives move nothing.

  XLA:CPU copies the operand of a one-device collective. Only without types: a
  typed result must come from a collective.
  """
  size = lax.axis_size(INTER) * lax.axis_size(INTRA)
  return size == 1 and not varying_axes(*arrays)


def psum(x: jax.Array) -> jax.Array:
  """`lax.psum` over all devices."""
  return x if is_alone(x) else lax.psum(x, (INTER, INTRA))


def pmax(x: jax.Array) -> jax.Array:
  """`lax.pmax` over all devices."""
  return x if is_alone(x) else lax.pmax(x, (INTER, INTRA))


def varying_axes(*arrays: jax.Array) -> frozenset[str]:
  """Mesh axes over which any of these differs; empty outside `shard_map`."""
  types = [jax.typeof(x).manual_axis_type for x in arrays]
  return frozenset().union(*(t.varying for t in types))
