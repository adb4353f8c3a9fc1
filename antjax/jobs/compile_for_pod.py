# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Compiles a training step for TPU slices that are not there.

  python -m launch.compile_for_pod --topology=v5e:4x4 --num_slices=4 \
    --paro=IIG --model=llama-7b

runs on any machine with libtpu (`pip install antjax[pod]`) and prints what the
compiler says before a pod is rented: the memory of a device, each kind of
collective with its place (every micro-batch or once a step) and the network it
uses (ICI inside a slice, DCN between slices), and whether that is what the PaRO
code should move. Ends with exit code 1 where it is not, or does not fit.
"""

import dataclasses
import importlib.util
import json
import os
import pathlib
import sys
import time
from typing import Annotated, Any

import jax
from jax.experimental import topologies
import optax
import rich.console
import rich.table

from antjax.jobs import plan_models
from antjax.lm import attention
from antjax.mesh import mesh as mesh_lib
from antjax.mesh.paro import PaRO
from antjax.plan import ahead, census, plan_check, planner
from antjax.train.state import Layout

# HBM of a chip, as the makers state it.
_HBM_GIB = {'v4': 32, 'v5e': 16, 'v5p': 95, 'v6e': 32}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(plan_models.StepConfig):
  """A step, and the slices to compile it for."""

  topology: Annotated[str, 'One slice: generation and shape, e.g. v5e:4x4.'] = (
    'v5e:4x4'
  )
  num_slices: Annotated[int, 'Slices, joined by the slow network.'] = 2
  intra: Annotated[
    int | None, 'Devices in a PaRO group. none: those of a slice.'
  ] = None
  paro: Annotated[
    str, 'PaRO code: levels of parameters, gradients, optimizer state.'
  ] = 'IIG'
  model: Annotated[
    str,
    f'One of {", ".join(plan_models.PRESETS)}, or package.module:function; see'
    ' antjax/jobs/plan_models.py.',
  ] = 'smollm2-135m'
  num_micro_batches: Annotated[int, 'Micro-batches of a step.'] = 4
  out: Annotated[
    str, 'Folder for report.json and the compiled text. Empty: neither.'
  ] = ''

  def __post_init__(self) -> None:
    super().__post_init__()
    PaRO.from_code(self.paro)
    if self.num_slices < 1:
      raise ValueError('num_slices must be at least 1.')


def prepare() -> None:
  """Makes JAX compile for TPU without looking for one; before any array.

  Raises:
    RuntimeError: There is no libtpu.
  """
  if importlib.util.find_spec('libtpu') is None:
    raise RuntimeError(
      'compile_for_pod needs the TPU compiler, which is not installed: pip'
      ' install libtpu (or antjax[pod]); no TPU is needed.'
    )
  # libtpu looks for a TPU machine's metadata otherwise, for minutes.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-4')
  # It only compiles here: another process may do so too.
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  jax.config.update('jax_platforms', 'cpu')


def devices(topology: str, num_slices: int) -> list[Any]:
  """The devices of slices that need not exist.

  Raises:
    RuntimeError: libtpu does not load.
    ValueError: libtpu knows no such topology.
  """
  # A v4 chip is one device as jobs run on it, and two by libtpu's default.
  generation = topology.split(':')[0]
  options = {'chip_config_name': 'megacore'} if generation == 'v4' else {}
  try:
    description = topologies.get_topology_desc(
      platform='tpu', topology_name=topology, num_slices=num_slices, **options
    )
  except Exception as error:  # XLA's own, of several kinds.
    _check_libtpu()
    raise ValueError(
      f'topology={topology!r}, num_slices={num_slices}: libtpu knows no such'
      f' slices ({" ".join(str(error).split())[:200]}); e.g. v5e:4x4, v4:2x2x1,'
      ' v5p:2x2x2, v6e:4x4.'
    ) from error
  return list(description.devices)


def _check_libtpu() -> None:
  """Raises RuntimeError where libtpu cannot even describe a single host."""
  try:
    topologies.get_topology_desc(platform='tpu', topology_name='v5e:2x2')
  except Exception as error:
    raise RuntimeError(
      'libtpu is installed but does not load:'
      f' {" ".join(str(error).split())[:300]}. Another process may hold it, or'
      ' its version may not go with this jaxlib: pip install -U jax libtpu.'
    ) from error


def compile_step(
  config: Config, model: plan_models.PlanModel
) -> tuple[Layout, Any]:
  """(layout, compiled step); nothing is allocated.

  Raises:
    ValueError: The model cannot be compiled, or the slices hold no such groups.
  """
  if model.loss_fn is None or model.batch_fn is None:
    raise ValueError(
      f'model={config.model}: to compile, the PlanModel needs loss_fn and'
      ' batch_fn.'
    )
  chips = devices(config.topology, config.num_slices)
  mesh = mesh_lib.make_mesh(
    intra=config.intra or len(chips) // config.num_slices, devices=chips
  )
  is_mixed = config.compute_dtype != 'float32'
  layout = Layout.of(
    model.params,
    mesh,
    PaRO.from_code(config.paro),
    optax.adamw(1e-4),
    trainable=model.trainable,
    scanned=model.scanned,
    compute_dtype=config.compute_dtype if is_mixed else None,
    min_shard_size=config.min_shard_size,
  )
  rows = config.sequences * config.num_micro_batches * mesh.size
  lowered = ahead.lower_step(
    layout,
    model.loss_fn,
    model.params,
    model.batch_fn(rows, config.seq_len),
    num_micro_batches=config.num_micro_batches,
    regather=config.regather,
    check_vma=attention.check_vma(mesh),
  )
  return layout, lowered.compile()


def report(config: Config) -> dict[str, Any]:
  """Compiles and compares.

  Returns:
    {'equals_plan', 'fits', 'lines', 'memory_bytes', ...}, JSON-able.
  """
  prepare()
  model = plan_models.load(config.model, attention='splash')
  start = time.perf_counter()
  try:
    layout, compiled = compile_step(config, model)
  except jax.errors.JaxRuntimeError as error:
    text = ' '.join(str(error).split())
    if 'RESOURCE_EXHAUSTED' not in text:
      raise
    raise RuntimeError(
      f'{config.paro} does not fit on {config.topology}: {text[:400]}'
    ) from error
  seconds = time.perf_counter() - start
  mesh = layout.mesh
  text = compiled.as_text()
  lines = plan_check.compare(
    layout,
    census.collectives(text, mesh.shape),
    num_micro_batches=config.num_micro_batches,
    regather=config.regather,
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
  hbm = _HBM_GIB.get(config.topology.split(':')[0], 0) * 2**30
  groups = mesh_lib.num_groups(mesh)
  parts = layout.bytes_per_device()
  activations = 0
  if model.activation_fn is not None:
    activations = model.activation_fn(
      config.sequences, config.seq_len, config.compute_dtype
    )
  result = {
    'paro': config.paro,
    'topology': config.topology,
    'num_slices': config.num_slices,
    'mesh': [groups, mesh_lib.group_size(mesh)],
    'model': config.model,
    'seconds_to_compile': round(seconds, 1),
    'memory_bytes': memory,
    'planned_state_bytes': parts['params'] + parts['opt_state'],
    'planned_peak_bytes': sum(parts.values())
    + planner.transient_bytes(layout, config.regather)
    + activations,
    'device_bytes': hbm or None,
    'fits': not hbm or memory['total'] <= hbm,
    'lines': [dataclasses.asdict(line) for line in lines],
    'is_elastic': layout.paro.is_elastic,
    'crosses_groups_in_loop': plan_check.crosses_groups_in_loop(lines),
    # With several groups in a slice XLA takes `inter` apart by networks.
    'is_comparable': groups in (1, config.num_slices),
    'equals_plan': all(line.is_equal for line in lines),
  }
  if config.out:
    folder = pathlib.Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'report.json').write_text(json.dumps(result, indent=2) + '\n')
    (folder / f'step_{config.paro}.hlo.txt').write_text(text)
  return result


def show(result: dict[str, Any], console: rich.console.Console) -> None:
  """Prints the report."""
  groups, size = result['mesh']
  console.print(
    f'{result["model"]} as {result["paro"]} on {result["num_slices"]} x'
    f' {result["topology"]}: {groups} groups of {size}, compiled in'
    f' {result["seconds_to_compile"]} s.'
  )
  memory = result['memory_bytes']
  line = ', '.join(f'{k.replace("_", " ")} {_mb(v)}' for k, v in memory.items())
  limit = result['device_bytes']
  if limit:
    line += f', of {_mb(limit)}: {"fits" if result["fits"] else "DOES NOT FIT"}'
  console.print(f'Memory of a device: {line}.')
  console.print(
    f'Planned: {_mb(result["planned_state_bytes"])} of state,'
    f' {_mb(result["planned_peak_bytes"])} at the peak with activations as'
    ' estimated.'
  )
  table = rich.table.Table(
    *('collective', 'network', 'axis', 'place'), title='Collectives'
  )
  for name in ('planned elements', 'compiled', 'MB sent a device'):
    table.add_column(name, justify='right')
  table.add_column('as planned')
  for item in result['lines']:
    network = 'DCN' if item['is_dcn'] else 'ICI'
    table.add_row(
      item['kind'],
      network if item['num_found'] else '-',
      item['axis'],
      'each micro-batch' if item['in_loop'] else 'once a step',
      f'{item["planned"]:,}',
      f'{item["found"]:,}',
      f'{item["found_bytes"] / 1e6:,.2f}',
      ('yes' if item['is_equal'] else 'NO')
      + (f': {item["note"]}' if item['note'] else ''),
    )
  console.print(table)
  if not result['is_comparable']:
    console.print(
      'Groups are smaller than slices: the compiler splits collectives between'
      ' groups over both networks, so amounts differ from the plan.'
    )
  if result['is_elastic']:
    crosses = result['crosses_groups_in_loop']
    how = (
      'something LEAVES its group.' if crosses else 'nothing leaves a group.'
    )
    console.print(f'Elastic code: in the micro-batch loop {how}')
  how = 'equals' if result['equals_plan'] else 'DIFFERS from'
  console.print(f'The compiled step {how} the plan.')


def _mb(num_bytes: float) -> str:
  return f'{num_bytes / 1e6:,.1f} MB'


def main(config: Config) -> None:
  result = report(config)
  show(result, rich.console.Console(width=150))
  is_wrong = result['is_comparable'] and not result['equals_plan']
  crosses = result['is_elastic'] and result['crosses_groups_in_loop']
  if is_wrong or crosses or not result['fits']:
    sys.exit(1)
