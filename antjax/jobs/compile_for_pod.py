# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Compiles a training step for TPUs or GPUs without having any.

  python -m launch.compile_for_pod --topology=v5e:4x4 --num_slices=4 \
    --paro=IIG --model=llama-7b
  python -m launch.compile_for_pod --topology=h100:4x8 --paro=NIG --model=gmeta

Runs on any machine with the compiler (`pip install antjax[pod]`, or
`antjax[pod_gpu]` for GPUs), before you rent a pod. It prints the memory per
device, each kind of collective with its frequency (per micro-batch or per step)
and network (ICI or NVLink inside a group, DCN or a fabric between groups), and
whether it matches the PaRO code. The exit code is 1 if it does not match, or
the step does not fit into memory.
"""

from collections.abc import Mapping
import dataclasses
import json
import pathlib
import sys
import time
from typing import Annotated, Any

from absl import logging
import jax
from jax.sharding import Mesh
import optax

from antjax.collectives import choose
from antjax.collectives.cost_model import Cluster
from antjax.jobs import plan_models, pod_models
from antjax.lm import attention as attention_lib
from antjax.mesh import mesh as mesh_lib
from antjax.mesh.paro import PaRO
from antjax.plan import (
  ahead,
  census,
  event_model,
  plan_check,
  planner,
  pod_target,
  step_time,
)
from antjax.plan.moves import moves
from antjax.plan.pod_target import Target
from antjax.report import terminal
from antjax.train.state import Layout

_EFFICIENCY = 0.5  # Share of the published peak that computation reaches.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(plan_models.StepConfig):
  """A step, and the pod to compile it for."""

  topology: Annotated[
    str,
    f'Device type, {", ".join(pod_target.NAMES)}, and count: chips of a TPU'
    ' slice, as in v5e:4x4, or hosts x GPUs, as in h100:4x8.',
  ] = 'v5e:4x4'
  num_slices: Annotated[
    int | None,
    'Number of TPU slices connected by the slow network, or of gb200 racks.'
    ' none: 2 slices or 1 rack.',
  ] = None
  intra: Annotated[
    int | None,
    'Number of devices in a PaRO group. none: those of a slice or a GPU host.',
  ] = None
  paro: Annotated[
    str, 'PaRO code: levels of parameters, gradients and optimizer state.'
  ] = 'IIG'
  model: Annotated[
    str,
    f'Model: one of {", ".join(plan_models.PRESETS)}; a job,'
    f' {", ".join(pod_models.JOBS)}, with its defaults; or'
    ' package.module:function, see antjax/jobs/plan_models.py.',
  ] = 'smollm2-135m'
  num_micro_batches: Annotated[int, 'Number of micro-batches per step.'] = 4
  overlap: Annotated[
    bool, 'Gather stacked layers one ahead, as `Trainer` does on such devices.'
  ] = True
  out: Annotated[
    str, 'Folder for report.json and the compiled text. Empty: none.'
  ] = ''

  def __post_init__(self) -> None:
    super().__post_init__()
    PaRO.from_code(self.paro)
    if (self.early_sums or self.late_params) and not self.overlap:
      raise ValueError('early_sums and late_params need overlap.')
    if self.num_slices is not None and self.num_slices < 1:
      raise ValueError('num_slices must be at least 1.')
    self.target  # noqa: B018 - Refuses what is none.

  @property
  def target(self) -> Target:
    return Target.of(self.topology, self.num_slices)


def load(config: Config, mesh: Mesh) -> plan_models.PlanModel:
  """The model of a config.

  Raises:
    ValueError: No such model, or one that cannot be compiled.
  """
  if config.model in pod_models.JOBS:
    return pod_models.JOBS[config.model](mesh)
  model = plan_models.load(config.model)
  if model.loss_fn is None or model.batch_fn is None:
    raise ValueError(
      f'model={config.model}: to compile, the PlanModel needs loss_fn and'
      ' batch_fn.'
    )
  return model


def _kernels_of(target: Target) -> str:
  """The platform whose attention is compiled."""
  if not target.is_gpu:
    return 'tpu'
  if pod_target.is_installed('nvidia.cudnn'):
    return 'gpu'
  logging.info(
    "Attention is compiled without cuDNN's kernel: it takes the wheel"
    ' nvidia-cudnn-cu13 (antjax[pod_gpu]).'
  )
  return 'cpu'


def compile_step(
  config: Config,
) -> tuple[plan_models.PlanModel, Layout, Any]:
  """(model, layout, compiled step); nothing is allocated.

  Raises:
    ValueError: The model cannot be compiled, or the slices hold no such groups.
  """
  target = config.target
  size = config.intra or target.group_size
  mesh = mesh_lib.make_mesh(intra=size, devices=target.devices())
  model, layout, lowered = lower_step(config, mesh)
  # There is no card to tune kernels on.
  options = {'xla_gpu_autotune_level': '0'} if target.is_gpu else None
  return model, layout, lowered.compile(compiler_options=options)


def lower_step(
  config: Config, mesh: Mesh
) -> tuple[plan_models.PlanModel, Layout, Any]:
  """(model, layout, lowered step) for a mesh; nothing is compiled."""
  model = load(config, mesh)
  narrow = choose.sums_dtype_of(config.sums_dtype)
  how = choose.for_mesh('xla', mesh, sums_dtype=narrow)
  is_mixed = config.compute_dtype != 'float32'
  layout = Layout.of(
    model.params,
    mesh,
    PaRO.from_code(config.paro),
    optax.adamw(1e-4),
    tables=model.tables,
    trainable=model.trainable,
    scanned=model.scanned,
    mutable=model.mutable,
    compute_dtype=config.compute_dtype if is_mixed else None,
    sums_dtype=narrow,
    late_params=config.late_params,
    min_shard_size=config.min_shard_size,
  )
  rows = config.sequences * config.num_micro_batches * mesh.size
  assert model.loss_fn is not None and model.batch_fn is not None
  with attention_lib.compiled_for(_kernels_of(config.target)):
    lowered = ahead.lower_step(
      layout,
      model.loss_fn,
      model.params,
      model.batch_fn(rows, config.seq_len),
      num_micro_batches=config.num_micro_batches,
      how=choose.for_code(how, mesh, layout.paro),
      constants=model.constants,
      regather=config.regather,
      overlap=config.overlap,
      early_sums=config.early_sums,
      check_vma=attention_lib.check_vma(mesh),
    )
  return model, layout, lowered


def report(config: Config) -> dict[str, Any]:
  """Compiles and compares.

  Returns:
    {'equals_plan', 'fits', 'lines', 'memory_bytes', ...}, JSON-able.
  """
  target = config.target
  pod_models.prepare(target)
  start = time.perf_counter()
  try:
    model, layout, compiled = compile_step(config)
  except jax.errors.JaxRuntimeError as error:
    text = ' '.join(str(error).split())
    if 'RESOURCE_EXHAUSTED' not in text:
      raise
    raise RuntimeError(
      f'{config.paro} does not fit on {target.name}: {text[:400]}'
    ) from error
  seconds = time.perf_counter() - start
  mesh = layout.mesh
  text = compiled.as_text()
  program = census.program(text, mesh.shape)
  found = program.read()
  lines = plan_check.compare(
    layout,
    found,
    num_micro_batches=config.num_micro_batches,
    regather=config.regather,
    has_exchange=model.constants is not None,
  )
  stats = compiled.memory_analysis()
  memory = {
    'arguments': stats.argument_size_in_bytes,
    # The state is donated: its new values replace the old ones in place.
    'new_outputs': stats.output_size_in_bytes - stats.alias_size_in_bytes,
    'temporaries': stats.temp_size_in_bytes,
    'code': stats.generated_code_size_in_bytes,
  }
  memory['total'] = sum(memory.values())
  groups, size = mesh_lib.num_groups(mesh), mesh_lib.group_size(mesh)
  cluster = Cluster(target.links(size), groups, size)
  parts = layout.bytes_per_device()
  rows = {} if model.tables is None else model.tables.bytes_per_device()
  activations = 0
  if model.activation_fn is not None:
    activations = model.activation_fn(
      config.sequences, config.seq_len, config.compute_dtype
    )
  exposed = plan_check.exposure(found)
  result = {
    'paro': config.paro,
    'target': target.name,
    'networks': target.networks(mesh.devices),
    'mesh': [groups, size],
    'model': config.model,
    'seconds_to_compile': round(seconds, 1),
    'memory_bytes': memory,
    'planned_state_bytes': parts['params']
    + parts['opt_state']
    + sum(rows.values()),
    'planned_peak_bytes': sum(parts.values())
    + sum(rows.values())
    + planner.transient_bytes(layout, config.regather)
    + activations,
    'device_bytes': target.device_bytes,
    'fits': memory['total'] <= target.device_bytes,
    'exposure': {
      axis: dataclasses.asdict(x) | {'share': x.share}
      for axis, x in exposed.items()
    },
    'predicted': _predicted(config, model, layout, exposed, cluster),
    'timeline': dataclasses.asdict(
      event_model.run(program, cluster, target.rates(_EFFICIENCY))
    ),
    'lines': [dataclasses.asdict(line) for line in lines],
    'is_elastic': layout.paro.is_elastic,
    'crosses_groups_in_loop': plan_check.crosses_groups_in_loop(lines),
    # With several groups in a slice libtpu takes `inter` apart by networks.
    'is_comparable': target.is_gpu or groups in (1, target.num_slices),
    'equals_plan': all(line.is_equal for line in lines),
  }
  if config.out:
    folder = pathlib.Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'report.json').write_text(json.dumps(result, indent=2) + '\n')
    (folder / f'step_{config.paro}.hlo.txt').write_text(text)
  return result


def _predicted(
  config: Config,
  model: plan_models.PlanModel,
  layout: Layout,
  exposed: Mapping[str, plan_check.Exposure],
  cluster: Cluster,
) -> dict[str, float] | None:
  """The planner's seconds by its own schedule; None without operations."""
  if model.flops_fn is None:
    return None
  flops = model.flops_fn(config.sequences, config.seq_len)
  time = step_time.predict(
    moves(layout, regather=config.regather),
    cluster,
    num_micro_batches=config.num_micro_batches,
    compute_s=config.num_micro_batches
    * flops
    / config.target.rates(_EFFICIENCY).flops_per_s,
    hiding=step_time.Scheduled({k: x.share for k, x in exposed.items()}),
  )
  return dataclasses.asdict(time) | {'step_s': time.step_s}


def show(result: dict[str, Any]) -> None:
  """Prints the report."""
  groups, size = result['mesh']
  terminal.show(
    f'{result["model"]} as {result["paro"]} on {result["target"]}:'
    f' {groups} groups of {size}, compiled in'
    f' {result["seconds_to_compile"]} s.'
  )
  memory = result['memory_bytes']
  line = ', '.join(f'{k.replace("_", " ")} {_mb(v)}' for k, v in memory.items())
  fits = 'fits' if result['fits'] else 'DOES NOT FIT'
  line += f', of {_mb(result["device_bytes"])}: {fits}'
  terminal.show(f'Memory of a device: {line}.')
  terminal.show(
    f'Planned: {_mb(result["planned_state_bytes"])} of state,'
    f' {_mb(result["planned_peak_bytes"])} at the peak with activations as'
    ' estimated.'
  )
  names = (
    *('collective', 'network', 'axis', 'place', 'as planned'),
    *('planned elements', 'compiled', 'MB sent a device'),
  )
  rows = [
    (
      item['kind'],
      result['networks'].get(item['axis'], '') if item['num_found'] else '-',
      item['axis'],
      'each micro-batch' if item['in_loop'] else 'once a step',
      ('yes' if item['is_equal'] else 'NO')
      + (f': {item["note"]}' if item['note'] else ''),
      f'{item["planned"]:,}',
      f'{item["found"]:,}',
      f'{item["found_bytes"] / 1e6:,.2f}',
    )
    for item in result['lines']
  ]
  terminal.show_table('Collectives', names, rows, num_left=5)
  exposed = [
    f'{x["share"]:.0%} of {_mb(x["sent_bytes"])} over'
    f' {result["networks"][axis]} ({axis})'
    for axis, x in result['exposure'].items()
  ]
  terminal.show(
    'Waited for with no product in flight, by the schedule of a step:'
    f' {", ".join(exposed)}.'
  )
  time, planned = result['timeline'], result['predicted']
  by_plan = ''
  if planned:
    by_plan = f'; by the planner, from these shares, {planned["step_s"]:.3g} s'
  terminal.show(
    'Predicted from published rates, not measured:'
    f' {sum(time.values()):.3g} s a step by its text, of which'
    f' {time["waiting_s"]:.3g} s wait for collectives{by_plan}.'
  )
  if not result['is_comparable']:
    terminal.show(
      'Groups are smaller than slices: the compiler splits collectives between'
      ' groups over both networks, so amounts differ from the plan.'
    )
  if result['is_elastic']:
    crosses = result['crosses_groups_in_loop']
    how = 'something LEAVES its' if crosses else 'nothing leaves a'
    terminal.show(f'Elastic code: in the micro-batch loop {how} group.')
  how = 'equals' if result['equals_plan'] else 'DIFFERS from'
  terminal.show(f'The compiled step {how} the plan.')


def _mb(num_bytes: float) -> str:
  return f'{num_bytes / 1e6:,.1f} MB'


def main(config: Config) -> None:
  result = report(config)
  show(result)
  is_wrong = result['is_comparable'] and not result['equals_plan']
  crosses = result['is_elastic'] and result['crosses_groups_in_loop']
  if is_wrong or crosses or not result['fits']:
    sys.exit(1)
