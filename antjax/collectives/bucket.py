# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Many small arrays as few flat messages, so that each link waits less often.

A collective costs a latency before its first byte: eight gradients in one
message cost one, not eight.
"""

from collections.abc import Sequence
import math

import jax
from jax import lax
import jax.numpy as jnp

from antjax.collectives.varying import varying_axes


def plan(leaves: Sequence[jax.Array], max_bytes: int) -> list[list[int]]:
  """Deals positions of `leaves`, in order, to messages of at most `max_bytes`.

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

  Written piece by piece into place: XLA:CPU makes one loop of a concatenate
  and all that feeds it, which takes up to twelve times longer on some runs.
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
