# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Meta-learning with sharded tables on a virtual cluster.

  python -m benchmarks.gmeta_bench                  # weak scaling
  python -m benchmarks.gmeta_bench --mode=ablation  # what each idea is worth
  python -m benchmarks.gmeta_bench --mode=rows      # cost against table size

prints one JSON line a case. Needs root and Linux (see `benchmarks.cluster`),
but for --mode=rows.

The clock sees whole steps of a Trainer from the ids in memory on: distinct ids,
rows fetched, second-order MAML, gradients pushed, optimizers. Cases take one
step each in turn after two to warm up; medians of the slowest host count. Work
a device is the same in all cases.

Modes:
  scaling   levels global and intra on 1, 2 and 4 hosts and several link speeds:
            `efficiency` is the rate a host over that on one host
  ablation  `full`, every id sent instead of the distinct ones (no_dedup),
            support and query looked up apart (two_exchanges; a row of both then
            takes two optimizer steps), gradients summed at one device instead
            of an all-reduce (central_gather), tables not donated (no_donation),
            rows and gradients rounded to bf16 on the wire (bf16_rows);
            `slowdown` is over `full`
  rows      10^5, 10^6 and 10^7 rows on one host: `over_smallest`
"""

from collections.abc import Sequence
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from typing import Any

from absl import app, flags
import jax

from antjax.collectives import cost_model
from antjax.embedding import planner
from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import RowWiseAdagrad
from antjax.mesh.paro import Level
from benchmarks import cluster as cluster_lib
from benchmarks import gmeta_problem, harness

_MODE = flags.DEFINE_enum(
  'mode', 'scaling', ['scaling', 'ablation', 'rows'], 'What to compare.'
)
_HOSTS = flags.DEFINE_list(
  'hosts', ['1', '2', '4'], 'Hosts of the scaling; the most in an ablation.'
)
_DEVICES = flags.DEFINE_integer('devices_per_host', 2, 'Devices of each.', 1)
_UPLINKS = flags.DEFINE_list('uplinks_mbps', ['100', '400'], 'Rates, Mbit/s.')
_LEVELS = flags.DEFINE_list('levels', ['global', 'intra'], 'Table levels.')
_ROWS = flags.DEFINE_list(
  'rows', ['100000', '1000000', '10000000'], 'Rows of all tables, by mode.'
)
_ROUNDS = flags.DEFINE_integer('rounds', 7, 'Timed steps of each case.', 1)
_NUM_TASKS = flags.DEFINE_integer('num_tasks', 32, 'Tasks of a device.', 1)
_WORKER = 'benchmarks.gmeta_worker'
# Fields of a case that differ between cases of a mode.
_SHOWN = ('variant', 'level', 'num_hosts', 'num_rows')
_TIMEOUT_S = flags.DEFINE_float('timeout_s', 1800.0, 'Ends a run that hangs.')


def _numbers(flag: flags.FlagHolder) -> list[int]:
  try:
    return [int(float(x)) for x in flag.value]
  except ValueError:
    sys.exit(f'--{flag.name}={",".join(flag.value)}: numbers are needed.')


def _run(
  cases: Sequence[gmeta_problem.Case], num_hosts: int, uplink: float | None
) -> list[dict[str, Any]]:
  """Runs cases on a cluster, or without an uplink on this host alone."""
  fields = [dataclasses.asdict(case) for case in cases]
  order = json.dumps({'cases': fields, 'rounds': _ROUNDS.value})
  if uplink is not None:
    with cluster_lib.Cluster(num_hosts, _DEVICES.value, uplink) as cluster:
      found = cluster_lib.report(cluster, _WORKER, order, _TIMEOUT_S.value)
    return found['cases']
  one_thread = '--xla_cpu_multi_thread_eigen=false'
  devices = f'--xla_force_host_platform_device_count={_DEVICES.value}'
  env = {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': f'{devices} {one_thread}'}
  done = subprocess.run(
    [sys.executable, '-m', _WORKER, order],
    env=os.environ | env,
    stdout=subprocess.PIPE,
    text=True,
    check=False,
    timeout=_TIMEOUT_S.value,
  )
  if done.returncode:
    sys.exit('gmeta_bench: the worker failed; its output is above.')
  return cluster_lib.last_json(done.stdout)['cases']


def _line(result: dict[str, Any], uplink: float | None) -> dict[str, Any]:
  """What every mode says of a case."""
  fields = {f.name for f in dataclasses.fields(gmeta_problem.Case)}
  case = gmeta_problem.Case(**{k: result[k] for k in fields})
  step_s = statistics.median(result['seconds'])
  rate = case.examples_per_device * _DEVICES.value / step_s
  return {
    'case': {name: result[name] for name in _SHOWN},
    'uplink_mbps': uplink,
    'step_s': round(step_s, 5),
    'examples_per_s_per_host': round(rate),
    'inter_bytes_per_step': round(result['inter_bytes']),
    'wire_bytes_per_step': round(
      statistics.median(result['sent_bytes']) / _DEVICES.value
    ),
    'planned_inter_bytes_per_step': round(_planned_bytes(case)),
    'seconds': [round(s, 5) for s in result['seconds']],
    'last_loss': round(result['losses'][-1], 6),
  }


def _planned_bytes(case: gmeta_problem.Case) -> float:
  """Bytes to other hosts: the table planner's, and the dense all-reduce."""
  rows = case.num_rows // case.num_features
  batch = case.batch(0)
  counts = planner.count_distinct(
    [batch['ids']], {f: f for f in case.features}, 1
  )
  cluster = cost_model.Cluster(
    cost_model.Links(1e9, 1e9), case.num_hosts, _DEVICES.value
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
  # Each device of a host sums its part with those of the other hosts.
  share = 2 * (case.num_hosts - 1) / case.num_hosts / _DEVICES.value
  return tables + share * dense


def _compare(lines: list[dict[str, Any]]) -> None:
  """Adds to lines of one uplink how each compares with its reference."""
  for line in lines:
    case = line['case']
    for other in lines:
      base = other['case']
      ratio = line['step_s'] / other['step_s']
      if _MODE.value == 'rows' and base['num_rows'] == min(_numbers(_ROWS)):
        line['over_smallest'] = round(ratio, 3)
      elif _MODE.value == 'ablation' and base['variant'] == 'full':
        line['slowdown'] = round(ratio, 3)
      elif _MODE.value == 'scaling' and base['level'] == case['level']:
        if base['num_hosts'] == min(_numbers(_HOSTS)):
          line['efficiency'] = round(1 / ratio, 3)


def main(argv: Sequence[str]) -> None:
  facts = harness.start(argv)
  hosts = _numbers(_HOSTS)
  if any(max(hosts) % n for n in hosts):
    sys.exit(f'--hosts={",".join(_HOSTS.value)}: each must divide the most.')

  def make(**fields: Any) -> gmeta_problem.Case:
    return gmeta_problem.Case(num_tasks=_NUM_TASKS.value, **fields)

  uplinks: list[float | None] = [float(x) for x in _numbers(_UPLINKS)]
  if _MODE.value == 'rows':
    cases, uplinks = [make(num_rows=n) for n in _numbers(_ROWS)], [None]
  elif _MODE.value == 'ablation':
    cases = [
      make(variant=v, num_hosts=max(hosts)) for v in gmeta_problem.VARIANTS
    ]
  else:
    cases = [make(level=v, num_hosts=n) for v in _LEVELS.value for n in hosts]
  cluster_lib.exit_on_signals()
  jax.config.update('jax_platforms', 'cpu')  # No accelerator is to be taken.
  for uplink in uplinks:
    try:
      results = _run(cases, max(hosts), uplink)
    except RuntimeError as error:
      sys.exit(f'gmeta_bench: {error}')
    lines = [_line(result, uplink) for result in results]
    _compare(lines)
    for line in lines:
      harness.emit(line | facts)


if __name__ == '__main__':
  app.run(main)
