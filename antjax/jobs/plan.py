# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Predicts the best PaRO code for a model and a cluster, from shapes alone.

  python -m launch.plan --model=llama-65b --inter=4 --intra=8 \
    --intra_gbps=2000 --uplink_gbps=640 --device_gb=80 --device_tflops=312

Prints all 14 codes with memory, bytes moved and predicted step time, marks
those that do not fit, picks one and gives the reason. `--measure` measures the
links of the available devices (under launch/local_cluster.py, of all processes)
and stores them for `--links`. Writes plan.json, frontier.png and report.html to
the run folder.
"""

import dataclasses
import functools
import math
import pathlib
from typing import Annotated, Literal

import jax
import optax
import rich.console
import rich.table

from antjax import paths
from antjax.collectives import choose, cost_model, measure
from antjax.collectives.cost_model import Links
from antjax.jobs import job as job_lib
from antjax.jobs import plan_models
from antjax.mesh import mesh as mesh_lib
from antjax.plan import plan_report, planner, pod_target
from antjax.plan.planner import ParoPlan
from antjax.plan.step_time import Hiding

_OPTIMIZERS = {
  'adamw': functools.partial(optax.adamw, 1e-4),
  'sgd': functools.partial(optax.sgd, 1e-2),
  'momentum': functools.partial(optax.sgd, 1e-2, momentum=0.9),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(job_lib.JobConfig, plan_models.StepConfig):
  """A model, a cluster and how it is trained."""

  run_dir: Annotated[
    str,
    'Folder for links.json, plan.json, frontier.png and report.html.',
    paths.Takes(),
  ] = 'runs/plan'
  inter: Annotated[
    int | None, 'Number of groups. none: as many as the available devices form.'
  ] = None
  model: Annotated[
    str,
    f'Model: {", ".join(plan_models.PRESETS)}, or package.module:function, see'
    ' antjax/jobs/plan_models.py. Empty: only measure.',
  ] = 'llama-7b'
  lora_rank: Annotated[
    int, 'Rank of adapters, if only these are trained. 0: train all.'
  ] = 0
  optimizer: Annotated[
    Literal['adamw', 'sgd', 'momentum'], 'Optimizer whose state is counted.'
  ] = 'adamw'
  measure: Annotated[
    bool, 'Measure the links of the devices; use them for nothing else.'
  ] = False
  links: Annotated[
    str, 'File written by an earlier --measure. Empty: use the flags below.'
  ] = ''
  intra_gbps: Annotated[
    float, 'Bandwidth of a device inside its group, in Gbit/s one way.'
  ] = 2000.0
  uplink_gbps: Annotated[
    float, 'Total bandwidth from a group to other groups, in Gbit/s one way.'
  ] = 100.0
  device_inter_gbps: Annotated[
    float, 'Maximum from one device to other groups, Gbit/s. 0: no cap.'
  ] = 0.0
  intra_latency_us: Annotated[float, 'Latency inside a group, in us.'] = 5.0
  inter_latency_us: Annotated[float, 'Latency between groups, in us.'] = 20.0
  compute_s: Annotated[
    float | None,
    'Compute seconds per micro-batch. none: from the two flags below.',
  ] = None
  device_tflops: Annotated[float, 'Peak TFLOP/s of a device.'] = 312.0
  efficiency: Annotated[
    float, 'Share of the peak that computation reaches without communication.'
  ] = 0.5
  device_gb: Annotated[
    float, 'Memory of a device in GB (1e9 bytes). 0: no limit.'
  ] = 80.0
  activation_gb: Annotated[
    float | None, 'Peak activations of a micro-batch, GB. none: an estimate.'
  ] = None
  device: Annotated[
    str,
    'Device type, which sets how much communication is hidden by computation:'
    f' {", ".join(pod_target.NAMES)} or cpu. Others count as h100.',
  ] = 'h100'
  overlap: Annotated[
    bool, 'Overlap communication with computation. XLA on CPU does not.'
  ] = True
  elastic_only: Annotated[
    bool, 'Only codes whose groups may run unequal micro-batches.'
  ] = False

  def __post_init__(self) -> None:
    job_lib.JobConfig.__post_init__(self)
    plan_models.StepConfig.__post_init__(self)
    names = ('lora_rank', 'device_gb', 'compute_s', 'activation_gb')
    self.check_least({'inter': 1, **dict.fromkeys(names, 0)})
    if not self.model and not self.measure:
      raise ValueError(
        'model is empty, so there is nothing to plan; name one, or give'
        ' --measure to time links only.'
      )
    if self.inter is not None and self.intra is None:
      raise ValueError(f'inter={self.inter} needs intra, the size of a group.')
    if not 0 < self.device_tflops < math.inf:
      raise ValueError(f'device_tflops={self.device_tflops} must be positive.')
    if not 0 < self.efficiency <= 1:
      raise ValueError(f'efficiency={self.efficiency} must be in (0, 1].')

  def check_inputs(self) -> None:
    if jax.device_count() == 1:
      raise ValueError(
        'a plan is for many devices, and here is one. Say which are meant: the'
        ' groups (hosts, or slices) as --inter and the devices of each as'
        ' --intra, e.g. --model=llama-7b --inter=4 --intra=8 --uplink_gbps=640'
        ' --device_gb=80; or start it on the devices themselves.'
      )


def links_of(config: Config) -> Links:
  """Link speeds from the file, else from the flags."""
  if config.links:
    return cost_model.load(config.links)
  return Links(
    intra_bytes_per_s=config.intra_gbps * 1e9 / 8,
    uplink_bytes_per_s=config.uplink_gbps * 1e9 / 8,
    intra_latency_s=config.intra_latency_us * 1e-6,
    inter_latency_s=config.inter_latency_us * 1e-6,
    device_inter_bytes_per_s=config.device_inter_gbps * 1e9 / 8 or None,
  )


def make_plan(
  config: Config, links: Links, num_groups: int, group_size: int
) -> ParoPlan:
  """Plans a model; nothing is allocated.

  Raises:
    ValueError: No such model, or nothing says how long it computes.
  """
  model = plan_models.load(config.model, config.lora_rank)
  is_mixed = config.compute_dtype != 'float32'
  compute_s = config.compute_s
  if compute_s is None:
    if model.flops_fn is None:
      raise ValueError(
        f'model={config.model} does not tell its operations'
        ' (PlanModel.flops_fn); give compute_s, the seconds a device computes'
        ' on a micro-batch.'
      )
    flops = model.flops_fn(config.sequences, config.seq_len)
    compute_s = flops / (config.device_tflops * 1e12 * config.efficiency)
  activations = int((config.activation_gb or 0) * 1e9)
  if config.activation_gb is None and model.activation_fn is not None:
    activations = model.activation_fn(
      config.sequences, config.seq_len, config.compute_dtype
    )
  return planner.plan(
    model.params,
    _OPTIMIZERS[config.optimizer](),
    num_groups=num_groups,
    group_size=group_size,
    links=links,
    num_micro_batches=config.num_micro_batches,
    compute_s=compute_s,
    activation_bytes=activations,
    device_bytes=int(config.device_gb * 1e9) or None,
    trainable=model.trainable,
    scanned=model.scanned,
    compute_dtype=config.compute_dtype if is_mixed else None,
    regather=config.regather,
    late_params=config.late_params,
    min_shard_size=config.min_shard_size,
    hiding=Hiding.of(
      config.device,
      overlap=config.overlap,
      early_sums=config.early_sums,
      late_params=config.late_params,
    ),
    sums_dtype=choose.sums_dtype_of(config.sums_dtype),
    elastic_only=config.elastic_only,
  )


def table(plan: ParoPlan, title: str) -> rich.table.Table:
  """All codes, the pick marked."""
  result = rich.table.Table('code', 'known as', title=title)
  for name in (
    *('state GB', 'peak GB', 'intra MB/mb', 'inter MB/mb', 'intra MB/step'),
    *('inter MB/step', 'comm s', 'exposed s', 'predicted step s'),
  ):
    result.add_column(name, justify='right')
  result.add_column('elastic')
  result.add_column('')
  for row in plan.rows:
    is_best = row is plan.best
    memory = row.state_bytes, row.peak_bytes
    sent = (
      *(row.intra_bytes, row.inter_bytes),
      *(row.intra_bytes_per_step, row.inter_bytes_per_step),
    )
    result.add_row(
      row.code,
      plan_report.KNOWN_AS.get(row.code, ''),
      *(f'{x / 1e9:,.2f}' for x in memory),
      *(f'{x / 1e6:,.1f}' for x in sent),
      f'{row.comm_s:.4g}',
      f'{row.exposed_s:.4g}',
      f'{row.step_s:.4g}',
      'yes' if row.is_elastic else '',
      'does not fit' if not row.fits else '<- pick' if is_best else '',
      style='bold' if is_best else 'dim' if not row.fits else None,
    )
  return result


def main(config: Config) -> None:
  """Measures if asked, plans, prints and writes."""
  job = None
  if config.measure or config.inter is None:
    job = job_lib.start(config)
  is_main = job is None or job.is_main
  console = rich.console.Console(width=176)
  if config.measure:
    assert job is not None
    links = measure.measure(job.mesh)
    path = pathlib.Path(config.links or job.run_dir / 'links.json')
    if is_main:
      path.parent.mkdir(parents=True, exist_ok=True)
      cost_model.save(links, path)
      console.print(f'Measured on {jax.device_count()} devices: {_say(links)}')
      console.print(f'--links={path} reads it again.')
  else:
    links = links_of(config)
  if not config.model or not is_main:
    return
  num_groups, group_size = config.inter, config.intra
  if num_groups is None or group_size is None:
    assert job is not None
    num_groups = mesh_lib.num_groups(job.mesh)
    group_size = mesh_lib.group_size(job.mesh)
  plan = make_plan(config, links, num_groups, group_size)
  facts = {
    'model': config.model,
    'LoRA rank': config.lora_rank,
    'groups': f'{num_groups} x {group_size}',
    'micro-batches': config.num_micro_batches,
    'tokens in each': config.sequences * config.seq_len,
    'computation': f'{plan.best.compute_s:.3g} s a step',
    'links': _say(links),
  }
  title = f'{config.model} on {num_groups} groups of {group_size} devices'
  console.print(table(plan, title))
  console.print(
    'MB/mb: sent by a device at each micro-batch; /step: in a step. Times are'
    ' predicted: exposed communication, which no computation hides, +'
    ' max(computation, the rest).'
  )
  console.print(plan.reason)
  files = plan_report.write(plan, config.run_dir, facts)
  console.print(f'Written: {", ".join(str(p) for p in files.values())}')


def _say(links: Links) -> str:
  text = (
    f'{links.intra_bytes_per_s * 8e-9:.3g} Gbit/s inside a group,'
    f' {links.uplink_bytes_per_s * 8e-9:.3g} Gbit/s on its uplink,'
    f' latencies {links.intra_latency_s * 1e6:.3g} and'
    f' {links.inter_latency_s * 1e6:.3g} us'
  )
  if links.device_inter_bytes_per_s is not None:
    cap = links.device_inter_bytes_per_s * 8e-9
    text += f', at most {cap:.3g} Gbit/s a device'
  return text
