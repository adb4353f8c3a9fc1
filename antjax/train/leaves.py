# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The parameters as the step's `shard_map` sees them, leaf by leaf."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from antjax.collectives import transition
from antjax.collectives.choose import Collectives, XLA
from antjax.collectives.layerwise import LayerPiece
from antjax.mesh.mesh import INTER, INTRA
from antjax.mesh.sharding import LeafSpec
from antjax.train.state import Layout


def open_leaves(
  layout: Layout,
  leaves: list[jax.Array],
  how: Collectives = XLA,
  *,
  regather: bool = True,
) -> list[Any]:
  """Whole parameters from pieces; stacks of layers as `LayerPiece`s.

  Call it in `shard_map`, on the leaves of a state's params.
  """
  paro = layout.paro
  opened: list[Any] = []
  for x, spec, is_stack, is_trained in zip(
    leaves, layout.specs, layout.scanned, layout.trainable, strict=True
  ):
    if not is_stack:
      opened.append(transition.gather(x, spec, paro.params, how))
      continue
    slot = empty_accumulator(layout, spec) if is_trained else None
    opened.append(
      LayerPiece(
        transition.to_varying(x),
        None if slot is None else transition.to_varying(slot),
        spec.layer(),
        paro.params,
        paro.grads,
        how,
        not regather,
      )
    )
  return opened


def trained_args(layout: Layout, opened: list[Any]) -> list[jax.Array]:
  """What to differentiate with respect to: arrays, and slots of stacks."""
  return [
    x.slot if isinstance(x, LayerPiece) else x for x in layout.trained(opened)
  ]


def with_trained(
  layout: Layout, opened: list[Any], trained: list[jax.Array]
) -> list[Any]:
  """Puts the arguments of `trained_args` back in their places."""
  back = [
    dataclasses.replace(x, slot=new) if isinstance(x, LayerPiece) else new
    for x, new in zip(layout.trained(opened), trained, strict=True)
  ]
  return layout.with_trained(opened, back)


def empty_accumulator(layout: Layout, spec: LeafSpec) -> jax.Array:
  """This device's zeros to sum gradients in, at least fp32."""
  shape = list(spec.stored_shape(layout.paro.grads))
  if spec.dim is not None:
    mesh = layout.mesh
    pieces = layout.paro.grads.num_pieces(mesh.shape[INTER], mesh.shape[INTRA])
    shape[spec.dim] //= pieces
  return jnp.zeros(shape, jnp.promote_types(spec.dtype, jnp.float32))
