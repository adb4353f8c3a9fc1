# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""`--paro=auto`: the code that the planner finds best for a job."""

import functools
from typing import Any

from absl import logging
import jax
from jax.sharding import Mesh
import optax

from antjax.collectives import cost_model, measure
from antjax.mesh import mesh as mesh_lib
from antjax.mesh.gather import gather_json
from antjax.mesh.paro import PaRO
from antjax.plan import planner


@functools.cache
def links_of(mesh: Mesh, links_file: str = '') -> cost_model.Links:
  """Speeds of a mesh's links: from a file, or timed now by all processes."""
  if links_file:
    return cost_model.load(links_file)
  if mesh.size > 1:
    return measure.measure(mesh)
  return cost_model.Links(1e9, 1e9)  # Nothing moves.


def memory_of_device() -> int | None:
  """Bytes of memory of a device; None if it does not say."""
  return (jax.local_devices()[0].memory_stats() or {}).get('bytes_limit')


def choose_paro(
  code: str,
  params: Any,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  *,
  links_file: str = '',
  num_micro_batches: int = 1,
  compute_s: float = 0.0,
  device_bytes: int | None = None,
  **options: Any,
) -> PaRO:
  """A code as given, or the planner's for 'auto'; the same on all processes.

  Logs why. All processes call it, before the devices are used for anything
  else: without a file it times their links.

  Args:
    code: PaRO code or 'auto'.
    params: Tree of arrays or ShapeDtypeStructs.
    optimizer: As for `Trainer`.
    mesh: The job's.
    links_file: Link speeds written by `launch/plan.py --measure`; empty:
      measure them now.
    num_micro_batches: Number of micro-batches of a step.
    compute_s: Seconds that a device computes on a micro-batch; 0 where nobody
      knows, and then communication alone decides.
    device_bytes: Memory of a device; None takes what the device says.
    **options: Options of `planner.plan`.

  Raises:
    ValueError: No such code, or none fits into the devices.
  """
  if code != 'auto':
    return PaRO.from_code(code)
  links = links_of(mesh, links_file)
  if device_bytes is None:
    device_bytes = memory_of_device()
  plan = planner.plan(
    params,
    optimizer,
    num_groups=mesh_lib.num_groups(mesh),
    group_size=mesh_lib.group_size(mesh),
    links=links,
    num_micro_batches=num_micro_batches,
    compute_s=compute_s,
    device_bytes=device_bytes,
    overlap=jax.default_backend() != 'cpu',
    **options,
  )
  # Devices may state a little more or less memory: process 0 decides for all.
  chosen, reason, fits = gather_json(
    [plan.best.code, plan.reason, plan.best.fits]
  )[0]
  if not fits:
    raise ValueError(f'paro=auto: {reason}')
  logging.info('paro=auto: %s', reason)
  return PaRO.from_code(chosen)
