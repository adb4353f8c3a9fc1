# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Lowers a training step for absent devices, from shapes only."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from antjax.mesh.mesh import BATCH_AXES
from antjax.train import step as step_lib
from antjax.train.state import Layout, PyTree
from antjax.train.step_spec import StepSpec


def lower_step(
  layout: Layout,
  loss_fn: Callable[..., Any],
  params: PyTree,
  batch: PyTree,
  *,
  num_micro_batches: int,
  constants: PyTree = None,
  **options: Any,
) -> Any:
  """Lowers the step that a Trainer with these settings would run.

  Args:
    layout: Layout on a mesh whose devices need not be attached, e.g. from
      `jax.experimental.topologies`.
    loss_fn: Loss function, as for `Trainer`.
    params: Parameters as a tree of ShapeDtypeStructs or arrays.
    batch: Global batch of ShapeDtypeStructs or arrays; leading dims are
      multiples of devices x micro-batches. With tables in the layout,
      batch['ids'] must be arrays, whose rows are routed.
    num_micro_batches: Number of micro-batches per step.
    constants: Constants of the Trainer, ShapeDtypeStructs with shardings.
    **options: Further fields of `StepSpec`: loss_scale, regather ...

  Returns:
    A `jax.stages.Lowered`; its `compile()` allocates nothing on devices.
  """
  mesh: Mesh = layout.mesh
  key = jax.eval_shape(lambda: jax.random.key(0))
  shapes = jax.eval_shape(layout.new_state, params, key)
  state = jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding
    ),
    shapes,
    layout.shardings(),
  )
  rows = NamedSharding(mesh, P(BATCH_AXES))
  routing: PyTree = {}
  if layout.tables is not None:
    ids, routing = layout.tables.prepare(batch['ids'], mesh.size)
    batch = batch | {'ids': ids}

  def split(shape: tuple[int, ...], dtype: Any) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=rows)

  flags = [split((mesh.size,), jnp.float32) for _ in range(3)]
  inputs = step_lib.StepInput(
    batch=jax.tree.map(lambda x: split(x.shape, x.dtype), batch),
    routing=jax.tree.map(lambda x: split(x.shape, x.dtype), routing),
    num_micro_batches=None,
    is_valid=flags[0],
    is_stopping=flags[1],
    num_examples=flags[2],
    constants=constants,
  )
  specs = jax.tree.map(lambda x: x.sharding.spec, constants)
  step: Any = step_lib.make_step(
    StepSpec(layout, loss_fn, num_micro_batches, constants=specs, **options)
  )
  return step.lower(state, inputs)
