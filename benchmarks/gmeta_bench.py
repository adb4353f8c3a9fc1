# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Meta-learning with sharded tables on a virtual cluster.

  python -m benchmarks.gmeta_bench                  # weak scaling
  python -m benchmarks.gmeta_bench --mode=ablation  # what each idea is worth
  python -m benchmarks.gmeta_bench --mode=rows      # cost against table size

prints one JSON line per case. Needs root and Linux (see `benchmarks.cluster`),
except for --mode=rows.

Whole steps of a Trainer are timed, from ids in memory: distinct ids, fetch of
rows, second-order MAML, push of gradients, optimizers. Cases take turns of one
step, after two warm-up steps; medians of the slowest host count. Work per
device is the same in all cases.

Modes:
  scaling   levels global and intra on 1, 2 and 4 hosts and several link speeds:
            `efficiency` is the rate per host relative to one host
  ablation  `full`, every id sent instead of the distinct ones (no_dedup),
            support and query looked up separately (two_exchanges; a row of both
            then takes two optimizer steps), gradients summed at one device
            instead of an all-reduce (central_gather), tables not donated
            (no_donation), rows and gradients rounded to bf16 when sent
            (bf16_rows); `slowdown` is relative to `full`
  rows      10^5, 10^6 and 10^7 rows on one host: `over_smallest`
"""

from collections.abc import Sequence
import dataclasses
import os
import statistics
import subprocess
import sys
from typing import Annotated, Any, Literal

import jax

from antjax.collectives import cost_model
from antjax.embedding import planner
from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import RowWiseAdagrad
from antjax.mesh.paro import Level
from benchmarks import cluster as cluster_lib
from benchmarks import gmeta_problem, harness

_WORK = 'benchmarks.gmeta_problem:time_on_host'
# Fields that differ between the cases of a mode.
_Mode = Literal['scaling', 'ablation', 'rows']
_SHOWN = ('variant', 'level', 'num_hosts', 'num_rows')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Flags."""

  mode: Annotated[_Mode, 'What to compare.'] = 'scaling'
  hosts: Annotated[tuple[int, ...], 'The most in an ablation.'] = (1, 2, 4)
  devices_per_host: Annotated[int, 'Devices of each.'] = 2
  uplinks_mbps: Annotated[tuple[float, ...], 'Rates, Mbit/s.'] = (100.0, 400.0)
  levels: Annotated[tuple[str, ...], 'Table levels.'] = ('global', 'intra')
  rows: Annotated[tuple[float, ...], 'Table rows.'] = (1e5, 1e6, 1e7)
  rounds: Annotated[int, 'Timed steps of each case.'] = 7
  num_tasks: Annotated[int, 'Tasks of a device.'] = 32
  timeout_s: Annotated[float, 'Ends a run that hangs.'] = 1800.0

  def cases(self) -> list[gmeta_problem.Case]:
    """Cases of the mode; the first of a kind is the baseline."""
    most = max(self.hosts)
    if self.mode == 'rows':
      kinds = [{'num_rows': int(n)} for n in sorted(self.rows)]
    elif self.mode == 'ablation':
      kinds = [
        {'variant': v, 'num_hosts': most} for v in gmeta_problem.VARIANTS
      ]
    else:
      kinds = [
        {'level': level, 'num_hosts': n}
        for level in self.levels
        for n in sorted(self.hosts)
      ]
    return [
      gmeta_problem.Case(num_tasks=self.num_tasks, **kind) for kind in kinds
    ]


def _run(
  config: Config, cases: Sequence[gmeta_problem.Case], uplink: float | None
) -> list[dict[str, Any]]:
  """Runs cases on a cluster, or, without uplinks, only on this host."""
  fields = [dataclasses.asdict(case) for case in cases]
  order = {'cases': fields, 'rounds': config.rounds}
  devices = config.devices_per_host
  if uplink is not None:
    with cluster_lib.Cluster(max(config.hosts), devices, uplink) as cluster:
      return cluster.report(_WORK, order, config.timeout_s)['cases']
  one_thread = '--xla_cpu_multi_thread_eigen=false'
  count = f'--xla_force_host_platform_device_count={devices}'
  env = {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': f'{count} {one_thread}'}
  done = subprocess.run(
    cluster_lib.host_command(_WORK, order),
    env=os.environ | env,
    stdout=subprocess.PIPE,
    text=True,
    check=False,
    timeout=config.timeout_s,
  )
  if done.returncode:
    sys.exit('gmeta_bench: the worker failed; its output is above.')
  return cluster_lib.last_json(done.stdout)['cases']


def _line(
  case: gmeta_problem.Case,
  result: dict[str, Any],
  uplink: float | None,
  num_devices: int,
) -> dict[str, Any]:
  """Common figures of a case in all modes."""
  step_s = statistics.median(result['seconds'])
  sent = statistics.median(result['sent_bytes'])
  return {
    'case': {name: result[name] for name in _SHOWN},
    'uplink_mbps': uplink,
    'step_s': step_s,
    'examples_per_s_per_host': round(case.num_examples * num_devices / step_s),
    'inter_bytes_per_step': round(result['inter_bytes']),
    'wire_bytes_per_step': round(sent / num_devices),
    'planned_inter_bytes_per_step': round(_planned_bytes(case, num_devices)),
    'seconds': result['seconds'],
    'last_loss': result['losses'][-1],
  }


def _planned_bytes(case: gmeta_problem.Case, num_devices: int) -> float:
  """Bytes to other hosts, by the table planner and for the dense all-reduce."""
  rows = case.num_rows // case.num_features
  batch = case.batch(0)
  counts = planner.count_distinct(
    [batch['ids']], {f: f for f in case.features}, 1
  )
  cluster = cost_model.Cluster(
    cost_model.Links(1e9, 1e9), case.num_hosts, num_devices
  )
  tables = sum(
    planner.placement(
      TableSpec(name, rows, case.embedding_dim, optimizer=RowWiseAdagrad()),
      Level[case.level.upper()],
      count,
      cluster,
    ).inter_bytes
    for name, count in counts.items()
  )
  widths = (case.num_features * case.embedding_dim, *case.widths)
  dense = sum(4 * (i + 1) * o for i, o in zip(widths, widths[1:]))
  # Each device sums its part with those of the other hosts.
  share = 2 * (case.num_hosts - 1) / case.num_hosts / num_devices
  return tables + share * dense


def main(config: Config) -> None:
  facts = harness.start()
  if any(max(config.hosts) % n for n in config.hosts):
    text = ','.join(map(str, config.hosts))
    sys.exit(f'--hosts={text}: each must divide the most.')
  jax.config.update('jax_platforms', 'cpu')  # Do not occupy an accelerator.
  key = {
    'rows': 'over_smallest',
    'ablation': 'slowdown',
    'scaling': 'efficiency',
  }[config.mode]
  cases = config.cases()
  for uplink in config.uplinks_mbps if config.mode != 'rows' else [None]:
    try:
      results = _run(config, cases, uplink)
    except RuntimeError as error:
      sys.exit(f'gmeta_bench: {error}')
    first: dict[str, float] = {}  # Level -> seconds of the baseline.
    for case, result in zip(cases, results, strict=True):
      line = _line(case, result, uplink, config.devices_per_host)
      ratio = line['step_s'] / first.setdefault(case.level, line['step_s'])
      line[key] = 1 / ratio if key == 'efficiency' else ratio
      harness.emit(line | facts)


if __name__ == '__main__':
  harness.run(main, Config())
