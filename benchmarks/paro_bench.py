# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""LM training under PaRO codes on a virtual cluster with slow uplinks.

  python -m benchmarks.paro_bench > results.jsonl
  python -m benchmarks.paro_bench --hosts=1,2,4 > scaling.jsonl

prints one JSON line for each code and each peer, and a summary line. Needs root
and Linux (see `benchmarks.cluster`).

Whole optimizer steps are timed: 8 micro-batches, clip of the global norm,
AdamW, all in fp32, with states and batches in place. All codes and peers (see
`benchmarks.paro_steps`) train the same model on the same tokens. They take
turns of one step, after a warm-up step, and medians of the slowest host in each
step are compared. Losses must agree, or the exit status is 1.

The regime is that of the paper ("Rethinking Memory and Communication Costs for
Efficient Data Parallel Training of Large Language Models": 7B parameters, 4
groups of 8 devices, 10 micro-batches, 80 Gbit/s between groups): there, sending
the parameters once over a link between groups takes 1.4 s in 16 bit, and a
micro-batch of 4 x 512 tokens takes about 0.5 s (our estimate: A100s at half
their peak), a ratio near 3. The last line has our ratio, `regime.ratio`, which
depends on the machine; --uplink_mbps changes it.

Keys of a line:
  code                    PaRO code, or the peer's name; NIG:int8 sends
                          gradients in int8 with error feedback
  tokens_per_s            of the whole cluster
  speedup_vs_zero3        over GGG, on the same number of hosts
  speedup_vs_fastest      over the fastest code on this number of hosts whose
                          state and temporary arrays fit into --device_mb
  state_bytes_per_device  parameters and optimizer state (live arrays, measured)
                          and gradient accumulators
  planned_state_bytes_per_device  the planner's figure for the same
  inter_bytes_per_step    sent by a device to other hosts, from the compiled
                          text
  wire_bytes_per_step     the same, counted by the hosts' interfaces, including
                          headers and acknowledgements
  predicted_s             the planner's step, from links timed in the same run
                          and computation timed separately
  efficiency              with several --hosts: step time on the fewest hosts
                          over that on these, at the same work per device

With fewer hosts than the maximum, several sets of them work at once, so that
the same number of processes share this machine's cores in every case.
"""

from collections.abc import Sequence
import dataclasses
import os
import statistics
import sys
from typing import Annotated, Any

import jax
import numpy as np

from antjax.collectives import cost_model, narrow
from antjax.mesh.paro import VALID_CODES
from antjax.plan import planner, step_time
from benchmarks import cluster as cluster_lib
from benchmarks import harness, paro_steps

_NAMES = (
  *VALID_CODES,
  *(f'{c}:{d}' for c in VALID_CODES if c[1] == 'I' for d in narrow.DTYPES),
)
_DEFAULT_CODES = ('GGG', 'NGG', 'NNG', 'III', 'NII', 'NIG', 'IIG', 'IGG', 'NNN')
_SCALING_CODES = ('IIG', 'NIG', 'NGG', 'GGG')
# 128 GPUs over 16, for 7B parameters, as stated by the paper, not measured.
_PAPER_EFFICIENCY = {'IIG': 0.92, 'NIG': 0.84, 'NGG': 0.63, 'GGG': 0.63}
# Fp32 sums in another order, through some optimizer steps.
_LOSS_TOLERANCE = 2e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Flags."""

  codes: Annotated[
    tuple[str, ...], 'PaRO codes, also as NIG:int8; empty: usual ones.'
  ] = ()
  peers: Annotated[tuple[str, ...] | None, 'none: usual ones.'] = None
  hosts: Annotated[tuple[int, ...], 'Hosts; several: scaling.'] = (4,)
  devices_per_host: Annotated[int, 'Devices of each.'] = 2
  uplink_mbps: Annotated[float, 'Uplinks, Mbit/s.'] = 300.0
  device_mb: Annotated[float, 'Memory of a device, MB; 0: all fits.'] = 0.0
  rounds: Annotated[int, 'Timed steps of each code.'] = 3
  collectives: Annotated[str, 'As for Trainer; empty: default.'] = ''
  timeout_s: Annotated[float, 'Ends a run that hangs.'] = 1800.0
  sizes: paro_steps.Sizes = paro_steps.Sizes()

  def cases(self) -> list[tuple[str, int]]:
    """(code or peer, hosts) of each case; exits on invalid flags."""
    is_scaling = len(self.hosts) > 1
    default = _SCALING_CODES if is_scaling else _DEFAULT_CODES
    names = [*(self.codes or default)]
    harness.choose('codes', names, dict.fromkeys(_NAMES))
    if self.peers is not None:
      harness.choose('peers', self.peers, dict.fromkeys(paro_steps.PEERS))
      names += self.peers
    elif not is_scaling:
      names += paro_steps.PEERS
    most = max(self.hosts)
    for n in self.hosts:
      if n < 1 or most % n:
        sys.exit(
          f'--hosts={",".join(map(str, self.hosts))}: {n} does not divide'
          f' {most}; sets of {n} must fill the cluster.'
        )
    cases = [(name, n) for n in sorted(set(self.hosts)) for name in names]
    return [(paro_steps.COMPUTE, 1), *cases]


def kendall_tau(a: Sequence[float], b: Sequence[float]) -> float | None:
  """Kendall's tau-a, 1: the same order, -1: reversed; None without pairs."""
  total = pairs = 0
  for i in range(len(a)):
    for j in range(i):
      product = (a[i] - a[j]) * (b[i] - b[j])
      total += (product > 0) - (product < 0)
      pairs += 1
  return total / pairs if pairs else None


def _row(
  config: Config,
  links: cost_model.Links,
  compute_s: float,
  case: dict[str, Any],
) -> planner.Row | None:
  """The planner's view of a code, with computation and messages in turns."""
  code, sums_dtype = paro_steps.code_of(case['name'])
  if code not in VALID_CODES:
    return None
  num_micro_batches = config.sizes.num_micro_batches
  plan = planner.plan(
    paro_steps.param_shapes(config.sizes),
    paro_steps.optimizer(),
    num_groups=case['num_hosts'],
    group_size=config.devices_per_host,
    links=links,
    num_micro_batches=num_micro_batches,
    compute_s=compute_s / num_micro_batches,
    scanned=paro_steps.is_stack,
    hiding=step_time.NOTHING,
    sums_dtype=sums_dtype,
  )
  return plan.row(code)


def _line(
  config: Config,
  case: dict[str, Any],
  row: planner.Row | None,
) -> dict[str, Any]:
  """The line of one code or peer."""
  step_s = statistics.median(case['seconds'])
  devices = case['num_hosts'] * config.devices_per_host
  line = {
    'code': case['name'],
    'hosts': case['num_hosts'],
    'tokens_per_s': devices * config.sizes.tokens_per_device / step_s,
    'speedup_vs_zero3': None,
    'speedup_vs_fastest': None,
    'step_s': step_s,
    # A peer's accumulators are like its parameters, plus two moments.
    'state_bytes_per_device': case['live_bytes']
    + (row.grads_bytes if row else case['live_bytes'] // 3),
    'live_bytes_per_device': case['live_bytes'],
    'temp_bytes_per_device': case['temp_bytes'],
    'inter_bytes_per_step': round(case['inter_bytes']),
    'wire_bytes_per_step': round(
      statistics.median(case['sent_bytes']) / config.devices_per_host
    ),
    'intra_bytes_per_step': round(case['intra_bytes']),
    'predicted_s': None,
  }
  if row is not None:
    line['planned_state_bytes_per_device'] = row.state_bytes
    line['planned_inter_bytes_per_step'] = round(row.inter_bytes_per_step)
    line['predicted_s'] = row.step_s
  line['seconds'] = case['seconds']
  line['last_loss'] = case['losses'][-1]
  line['compile_s'] = case['compile_s']
  return line


def _fastest(
  config: Config, lines: Sequence[dict[str, Any]], num_hosts: int
) -> dict[str, Any] | None:
  """The line of the fastest fitting code on a number of hosts."""
  fitting = [
    x
    for x in lines
    if x['hosts'] == num_hosts and x['predicted_s'] is not None
    if not config.device_mb
    or x['state_bytes_per_device'] + x['temp_bytes_per_device']
    <= config.device_mb * 1e6
  ]
  return min(fitting, key=lambda x: x['step_s'], default=None)


def _errors(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Relative errors of the predictions, and their rank correlation."""
  took = np.array([x['step_s'] for x in lines])
  predicted = np.array([x['predicted_s'] for x in lines])
  sizes = np.abs(predicted / took - 1)
  return {
    'median': float(np.median(sizes)),
    'p90': float(np.quantile(sizes, 0.9)),
    'spearman': float(np.corrcoef(ranks(took), ranks(predicted))[0, 1])
    if len(lines) > 1
    else None,
  }


def ranks(values: Sequence[float] | np.ndarray) -> list[float]:
  """Place of each value; the mean one among equals."""
  values = np.round(values, 6)
  return [float(np.mean(np.flatnonzero(np.sort(values) == x))) for x in values]


def _summary(
  config: Config,
  lines: Sequence[dict[str, Any]],
  compute_s: float,
  links: cost_model.Links,
  num_hosts: int,
) -> dict[str, Any]:
  """The summary line: orders, the bound, the regime."""
  ours = [x for x in lines if x['predicted_s'] and x['hosts'] == num_hosts]
  best = min(ours, key=lambda x: x['step_s'])
  param_bytes = 4 * sum(
    x.size for x in jax.tree.leaves(paro_steps.param_shapes(config.sizes))
  )
  uplink = config.uplink_mbps * 1e6 / 8
  # Every step must sum the gradients of all hosts.
  least_comm_s = 2 * (num_hosts - 1) / num_hosts * param_bytes / uplink
  micro_s = compute_s / config.sizes.num_micro_batches
  tau = kendall_tau(
    [x['predicted_s'] for x in ours], [x['step_s'] for x in ours]
  )
  return {
    'summary': f'{num_hosts}x{config.devices_per_host}',
    'uplink_mbps': config.uplink_mbps,
    'kendall_tau': tau,
    'best_code': best['code'],
    'best_step_s': best['step_s'],
    # The bound: no step is shorter than its computation, or than the minimum
    # traffic of each uplink; without overlap, than both together.
    'compute_s': compute_s,
    'least_uplink_s': least_comm_s,
    'bound_s': max(compute_s, least_comm_s),
    'bound_without_overlap_s': compute_s + least_comm_s,
    'bound_without_overlap_over_best': (
      (compute_s + least_comm_s) / best['step_s']
    ),
    'compute_over_best': compute_s / best['step_s'],
    'regime': {
      'param_bytes': param_bytes,
      'param_bytes_over_uplink_s': param_bytes / uplink,
      'compute_s_per_micro_batch': micro_s,
      'ratio': param_bytes / uplink / micro_s,
    },
    'errors': _errors(ours),
    'links': dataclasses.asdict(links),
    'collectives': config.collectives or 'default',
    'dtype': 'float32',
    'sizes': dataclasses.asdict(config.sizes),
    'cores': os.cpu_count(),
  }


def _disagreement(cases: Sequence[dict[str, Any]]) -> str | None:
  """Losses that differ by more than rounding, or None."""
  first: dict[int, dict[str, Any]] = {}
  for case in cases:
    if case['name'] == paro_steps.COMPUTE:
      continue
    other = first.setdefault(case['num_hosts'], case)
    for step, (a, b) in enumerate(zip(case['losses'], other['losses'])):
      if not abs(a - b) <= _LOSS_TOLERANCE * abs(b):
        return (
          f'step {step} of {case["name"]} has loss {a}, that of'
          f" {other['name']} {b} (jax issue 40830 may be the cause: gloo's"
          ' reduce-scatter is wrong at times; --collectives=ho_ring does'
          ' without it)'
        )
  return None


def main(config: Config) -> None:
  facts = harness.start()
  order = {
    'cases': config.cases(),
    'sizes': dataclasses.asdict(config.sizes),
    'rounds': config.rounds,
    'collectives': config.collectives,
  }
  # Only shapes are needed here; do not occupy an accelerator.
  jax.config.update('jax_platforms', 'cpu')
  hosts = sorted(set(config.hosts))
  try:
    with cluster_lib.Cluster(
      hosts[-1], config.devices_per_host, config.uplink_mbps
    ) as cluster:
      work = 'benchmarks.paro_steps:time_on_host'
      result = cluster.report(work, order, config.timeout_s)
  except RuntimeError as error:
    sys.exit(f'paro_bench: {error}')
  alone, *cases = result['cases']
  compute_s = statistics.median(alone['seconds'])
  links = cost_model.Links(**result['links'] | {'timings': ()})
  lines = []
  for case in cases:
    row = _row(config, links, compute_s, case)
    lines.append(_line(config, case, row))
  by_case = {(x['code'], x['hosts']): x for x in lines}
  for line in lines:
    zero3 = by_case.get(('GGG', line['hosts']))
    if zero3:
      line['speedup_vs_zero3'] = zero3['step_s'] / line['step_s']
    if fastest := _fastest(config, lines, line['hosts']):
      line['speedup_vs_fastest'] = fastest['step_s'] / line['step_s']
    if len(hosts) > 1:
      fewest = by_case[line['code'], hosts[0]]
      line['efficiency'] = fewest['step_s'] / line['step_s']
      line['paper_efficiency_16_to_128_gpus'] = _PAPER_EFFICIENCY.get(
        line['code']
      )
    harness.emit(line | facts)
  for n in hosts:
    if any(x['predicted_s'] for x in lines if x['hosts'] == n):
      harness.emit(_summary(config, lines, compute_s, links, n) | facts)
  if wrong := _disagreement(cases):
    sys.exit(f'paro_bench: losses disagree: {wrong}.')


if __name__ == '__main__':
  harness.run(main, Config())
