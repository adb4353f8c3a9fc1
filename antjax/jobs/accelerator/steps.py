# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A timed step of each job, beside what the planner predicts of it."""

import dataclasses
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax

from antjax.collectives.cost_model import Links
from antjax.jobs import plan_models, pod_models
from antjax.jobs import trainer as trainer_lib
from antjax.jobs.plan_models import PlanModel
from antjax.lm import attention
from antjax.mesh import mesh as mesh_lib
from antjax.plan import planner
from antjax.train.trainer import Trainer

_EFFICIENCY = 0.5  # Share of a large product's speed that a model reaches.


@dataclasses.dataclass(frozen=True)
class Shape:
  """How much a step of a job works off."""

  rows: int  # In a device's micro-batch.
  length: int = 1  # Tokens of a row.
  unit: str = 'examples'

  @property
  def units(self) -> int:
    """Of a device's micro-batch."""
    return self.rows * (self.length if self.unit == 'tokens' else 1)


# On accelerators, and where cores play devices.
REAL = {
  'lm': Shape(4, 2048, 'tokens'),
  'gmeta': Shape(64, unit='tasks'),
  'clicks': Shape(4096),
  'bahe': Shape(128),
  'llm_rec': Shape(4, 2048, 'tokens'),
}
TINY = {
  'lm': Shape(1, 64, 'tokens'),
  'gmeta': Shape(2, unit='tasks'),
  'clicks': Shape(8),
  'bahe': Shape(1),
  'llm_rec': Shape(1, 64, 'tokens'),
}
NUM_ROWS = {'real': 1_000_000, 'tiny': 2_000}
MICRO_BATCHES = 2


def model_of(job: str, mesh: Mesh, shape: Shape, num_rows: int) -> PlanModel:
  """The model of a job; `lm` is the preset tiny."""
  if job == 'lm':
    return plan_models.load('tiny')
  return pod_models.JOBS[job](mesh, pod_models.MadeUpData(num_rows, shape.rows))


def run(
  job: str,
  mesh: Mesh,
  shape: Shape,
  *,
  num_rows: int,
  code: str,
  num_steps: int,
  links: Links | None,
) -> dict[str, Any]:
  """Compiles a job's step, runs it, and returns its line of the results.

  `num_rows` are those of the largest table; `num_steps` are timed, behind one
  to warm up. Without the speeds of links there is no prediction.
  """
  model = model_of(job, mesh, shape, num_rows)
  assert model.init_fn and model.loss_fn and model.batch_fn
  is_cpu = mesh.devices.flat[0].platform == 'cpu'
  dtype = 'float32' if is_cpu else 'bfloat16'
  options: dict[str, Any] = {
    'trainable': model.trainable,
    'scanned': model.scanned,
    'compute_dtype': None if is_cpu else dtype,
  }
  trainer = Trainer(
    model.loss_fn,
    optax.adamw(1e-4),
    mesh=mesh,
    paro=code,
    tables=model.tables,
    mutable=model.mutable,
    constants=jax.tree.map(_random, model.constants),
    num_micro_batches=MICRO_BATCHES,
    check_vma=model.scanned is None or attention.check_vma(mesh),
    **options,
  )
  state = trainer.init(model.init_fn)
  rows = shape.rows * MICRO_BATCHES * len(mesh.local_devices)
  batch = jax.tree.map(_values, model.batch_fn(rows, shape.length))
  inputs = trainer.step_inputs(batch)
  start = time.perf_counter()
  step: Any = trainer.compiled_step()
  compiled = step.lower(state, inputs).compile()
  compile_s = time.perf_counter() - start
  seconds: list[float] = []
  loss = float('nan')
  for _ in range(num_steps + 1):
    inputs = trainer.step_inputs(batch)
    start = time.perf_counter()
    state, metrics = compiled(state, inputs)
    loss = float(metrics['loss'])
    jax.block_until_ready(state)
    seconds.append(time.perf_counter() - start)
  step_s = statistics.median(seconds[1:])
  if not np.isfinite(loss):
    raise RuntimeError(
      f'{job}: the loss is {loss} after {num_steps + 1} steps.'
    )
  units = shape.units * MICRO_BATCHES * mesh.size
  predicted_s = _predicted_s(model, mesh, shape, dtype, code, links, options)
  analysis = compiled.memory_analysis()
  device = mesh.local_devices[0]
  return {
    'job': job,
    'paro': code,
    'dtype': dtype,
    'rows': shape.rows,
    'length': shape.length,
    'num_micro_batches': MICRO_BATCHES,
    'step_s': step_s,
    'seconds': seconds[1:],
    'unit': shape.unit,
    'units_per_s': units / step_s,
    'predicted_s': predicted_s,
    'measured_over_predicted': predicted_s and step_s / predicted_s,
    'compile_s': compile_s,
    'loss': loss,
    # Of the process until now: no device forgets its peak.
    'peak_bytes': (device.memory_stats() or {}).get('peak_bytes_in_use'),
    'compiled_bytes': analysis
    and analysis.argument_size_in_bytes + analysis.temp_size_in_bytes,
  }


def _predicted_s(
  model: PlanModel,
  mesh: Mesh,
  shape: Shape,
  dtype: str,
  code: str,
  links: Links | None,
  options: dict[str, Any],
) -> float | None:
  """The planner's step: operations at half of a large product's speed.

  None where the model does not tell its operations, or the links are not known.
  """
  if mesh.size == 1:
    links = Links(1e9, 1e9)  # Nothing moves.
  if model.flops_fn is None or links is None:
    return None
  peak = trainer_lib.matmul_flops(jnp.dtype(dtype))
  flops = model.flops_fn(shape.rows, shape.length)
  return (
    planner.plan(
      model.params,
      optax.adamw(1e-4),
      num_groups=mesh_lib.num_groups(mesh),
      group_size=mesh_lib.group_size(mesh),
      links=links,
      num_micro_batches=MICRO_BATCHES,
      compute_s=flops / (_EFFICIENCY * peak),
      hiding=trainer_lib.hiding_of(mesh),
      **options,
    )
    .row(code)
    .step_s
  )


def _values(x: Any) -> Any:
  """Tokens, where a model gives shapes alone."""
  if not isinstance(x, jax.ShapeDtypeStruct):
    return x
  rng = np.random.default_rng(0)
  return rng.integers(0, 4096, x.shape).astype(x.dtype)


def _random(x: jax.ShapeDtypeStruct) -> jax.Array:
  make = jax.jit(
    lambda: 0.02 * jax.random.normal(jax.random.key(0), x.shape, x.dtype),
    out_shardings=x.sharding,
  )
  return make()
