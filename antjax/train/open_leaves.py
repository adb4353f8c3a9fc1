# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Whole parameters from a device's pieces, and their accumulators."""

from typing import Any

import jax
import jax.numpy as jnp

from antjax.collectives import transition
from antjax.collectives.choose import Collectives, XLA
from antjax.collectives.layerwise import LayerPiece
from antjax.collectives.varying import to_varying
from antjax.mesh.paro import Level
from antjax.mesh.sharding import LeafSpec
from antjax.train.residuals import BETWEEN, INSIDE
from antjax.train.state import Layout, Leaf, PyTree

_LEAST_LAYERS = 4  # Least depth of a stack sent to groups layer by layer.


def open_leaves(
  layout: Layout,
  pieces: list[jax.Array],
  how: Collectives = XLA,
  *,
  regather: bool = True,
  overlap: bool = False,
  carried: list[jax.Array] | None = None,
  left: PyTree = None,
) -> list[Any]:
  """Whole parameters from a state's params; stacks as `LayerPiece`s.

  Call it in `shard_map`. `carried` are a step's accumulators before its last
  micro-batch, during which the sums cross groups; `left` the residuals of
  `Carry`.
  """
  paro = layout.paro
  opened: list[Any] = []
  sums = iter(carried or ())
  left = left or {}
  trained = iter(zip(*(left[name] for name in (INSIDE, BETWEEN) if left)))
  for x, leaf in zip(pieces, layout.leaves, strict=True):
    before = next(sums) if carried and leaf.is_trained else None
    inside, between = (
      next(trained) if left and leaf.is_trained else (None, None)
    )
    if not leaf.is_stack:
      opened.append(transition.gather(x, leaf.spec, paro.params, how))
      continue
    slot: Any = None
    if leaf.is_trained:
      level = paro.grads
      if not (carried and crosses_early(layout, leaf)):
        before = None
      else:
        level = paro.opt_state
      slot = to_varying(empty_accumulator(layout, leaf.spec, level))
      if inside is not None:
        slot = (slot, inside, *([] if before is None else [between]))
    opened.append(
      LayerPiece(
        to_varying(x),
        slot,
        leaf.spec.layer(),
        paro.params,
        paro.grads,
        how,
        not regather,
        overlap,
        before,
        paro.opt_state,
      )
    )
  return opened


def crosses_early(layout: Layout, leaf: Leaf) -> bool:
  """Whether a leaf's sums can be sent to other groups layer by layer."""
  return (
    leaf.is_stack
    and leaf.is_trained
    and leaf.spec.dim is not None
    and leaf.spec.shape[0] >= _LEAST_LAYERS
    and layout.paro.sums_cross_early
  )


def empty_accumulator(
  layout: Layout, spec: LeafSpec, level: Level | None = None
) -> jax.Array:
  """This device's zeros for gradient sums, at least fp32."""
  level = layout.paro.grads if level is None else level
  shape = spec.piece_shape(level, layout.mesh)
  zeros = jnp.zeros(shape, jnp.promote_types(spec.dtype, jnp.float32))
  return spec.constrain(zeros)
