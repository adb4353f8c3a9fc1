# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Whole parameters from a device's pieces, and their accumulators."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from antjax.collectives import transition
from antjax.collectives.choose import Collectives, XLA
from antjax.collectives.layer_piece import LayerPiece
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
  levels: list[Level] | None = None,
) -> list[Any]:
  """Whole parameters from a state's params; stacks as `LayerPiece`s.

  Call it in `shard_map`. `carried` are a step's accumulators before its last
  micro-batch, during which the sums cross groups; `left` the residuals of
  `Carry`. `levels`, in a step, are those of the pieces: stacks at a finer one
  than the parameters' are brought to that by the forward pass.
  """
  paro = layout.paro
  is_step = levels is not None
  opened: list[Any] = []
  sums = iter(carried or ())
  left = left or {}
  trained = iter(zip(*(left[name] for name in (INSIDE, BETWEEN) if left)))
  levels = levels or layout.param_levels
  for x, leaf, at in zip(pieces, layout.leaves, levels, strict=True):
    before = next(sums) if carried and leaf.is_trained else None
    inside, between = (
      next(trained) if left and leaf.is_trained else (None, None)
    )
    if not leaf.is_stack:
      opened.append(transition.gather(x, leaf.spec, at, how))
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
    piece = LayerPiece(
      to_varying(x),
      slot,
      leaf.spec.layer(),
      at,
      paro.grads,
      how,
      not regather,
      overlap,
      before,
      paro.opt_state,
    )
    if is_step and at is not paro.params:
      home = jnp.zeros(leaf.spec.piece_shape(paro.params, layout.mesh), x.dtype)
      home = to_varying(leaf.spec.constrain(home))
      piece = dataclasses.replace(piece, home=home, home_level=paro.params)
    opened.append(piece)
  return opened


def bring_back(
  layout: Layout,
  pieces: list[jax.Array],
  how: Collectives,
  *,
  keep_stacks: bool = False,
) -> tuple[list[jax.Array], list[Level]]:
  """A device's pieces of a state's params, at the level of the parameters.

  Call it in `shard_map`. `keep_stacks` leaves those for the forward pass.

  Returns:
    (pieces, their levels).
  """
  paro = layout.paro
  levels = [
    at if keep_stacks and comes_late(layout, leaf) else paro.params
    for leaf, at in zip(layout.leaves, layout.param_levels, strict=True)
  ]
  pieces, back = list(pieces), list[int]()
  for i, (level, at) in enumerate(zip(levels, layout.param_levels)):
    if level is not at:
      back.append(i)
  arrived = transition.coarsen_all(
    [pieces[i] for i in back],
    [layout.leaves[i].spec for i in back],
    paro.opt_state,
    paro.params,
    how,
  )
  for i, x in zip(back, arrived, strict=True):
    pieces[i] = x
  return pieces, levels


def comes_late(layout: Layout, leaf: Leaf) -> bool:
  """Whether a leaf can be brought back layer by layer."""
  return layout.late_params and _is_deep(leaf)


def _is_deep(leaf: Leaf) -> bool:
  return (
    leaf.is_stack
    and leaf.is_trained
    and leaf.spec.dim is not None
    and leaf.spec.shape[0] >= _LEAST_LAYERS
  )


def crosses_early(layout: Layout, leaf: Leaf) -> bool:
  """Whether a leaf's sums can be sent to other groups layer by layer."""
  return layout.paro.sums_cross_early and _is_deep(leaf)


def empty_accumulator(
  layout: Layout, spec: LeafSpec, level: Level | None = None
) -> jax.Array:
  """This device's zeros for gradient sums, at least fp32."""
  level = layout.paro.grads if level is None else level
  shape = spec.piece_shape(level, layout.mesh)
  zeros = jnp.zeros(shape, jnp.promote_types(spec.dtype, jnp.float32))
  return spec.constrain(zeros)
