# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""LM training under PaRO codes on a virtual cluster with slow uplinks.

  python -m benchmarks.paro_bench > results.jsonl
  python -m benchmarks.paro_bench --hosts=1,2,4 > scaling.jsonl

prints one JSON line for each code and for each peer, and a last one about all.
Needs root and Linux (see `benchmarks.cluster`).

The clock sees whole optimizer steps: 8 micro-batches, clip of the global norm,
AdamW, fp32 throughout, states and batches in place. All codes and the peers
(see `benchmarks.paro_peers`) train the same model on the same tokens; they take
one step each in turn, after one to warm up, and medians count, of the slowest
host in each step. Losses must agree, or the exit status is 1.

The regime is that of the paper ("Rethinking Memory and Communication Costs for
Efficient Data Parallel Training of Large Language Models": 7B parameters, 4
groups of 8 devices, 10 micro-batches, 80 Gbit/s between groups): there, sending
the parameters once over a link between groups takes 1.4 s in 16 bit, and a
micro-batch of 4 x 512 tokens computes for about 0.5 s (our estimate: A100s at
half their peak), a ratio near 3. The last line has ours, `regime.ratio`, which
depends on the machine: --uplink_mbps moves it.

Keys of a line:
  code                    PaRO code, or the peer's name
  tokens_per_s            of the whole cluster
  speedup_vs_zero3        over GGG, on as many hosts
  state_bytes_per_device  parameters and optimizer state (live arrays, measured)
                          and gradient accumulators
  planned_state_bytes_per_device  the planner's figure for the same
  inter_bytes_per_step    that a device sends to other hosts, from the compiled
                          text
  wire_bytes_per_step     the same as the hosts' interfaces counted it, headers
                          and acknowledgements included
  predicted_s             the planner's step, from links timed in the same run
                          and the computation timed alone
  efficiency              with several --hosts: step time on the fewest over
                          that on these, at the same work a device

On fewer hosts than the most, several sets of them work at once, so that as many
processes share this machine's cores in every case.
"""

from collections.abc import Sequence
import dataclasses
import os
import statistics
import sys
from typing import Any

from absl import app, flags
import jax

from antjax.collectives import cost_model
from antjax.mesh.paro import VALID_CODES
from antjax.plan import planner
from benchmarks import cluster as cluster_lib
from benchmarks import harness, paro_peers, paro_problem, paro_worker

_CODES = flags.DEFINE_list(
  'codes',
  [],
  'PaRO codes; empty: GGG NGG NNG III NII NIG IIG IGG NNN, with several'
  ' --hosts IIG NIG NGG GGG.',
)
_PEERS = flags.DEFINE_list(
  'peers',
  None,
  f'Any of {", ".join(paro_peers.PEERS)}; default: both; with several --hosts'
  ' none.',
)
_HOSTS = flags.DEFINE_list('hosts', ['4'], 'Hosts; several: scaling.')
_DEVICES = flags.DEFINE_integer('devices_per_host', 2, 'Devices of each.', 1)
_UPLINK_MBPS = flags.DEFINE_float('uplink_mbps', 300.0, 'Uplinks, Mbit/s.', 1)
_ROUNDS = flags.DEFINE_integer('rounds', 3, 'Timed steps of each code.', 1)
_COLLECTIVES = flags.DEFINE_string(
  'collectives', '', "Trainer(collectives=...); empty: the Trainer's default."
)
_TIMEOUT_S = flags.DEFINE_float('timeout_s', 1800.0, 'Ends a run that hangs.')
for _field in dataclasses.fields(paro_problem.Sizes):
  flags.DEFINE_integer(
    _field.name, _field.default, 'See benchmarks/paro_problem.py.', 1
  )

_DEFAULT_CODES = ('GGG', 'NGG', 'NNG', 'III', 'NII', 'NIG', 'IIG', 'IGG', 'NNN')
_SCALING_CODES = ('IIG', 'NIG', 'NGG', 'GGG')
# Of 128 GPUs over 16, 7B parameters; the paper's words, not our measurement.
_PAPER_EFFICIENCY = {'IIG': 0.92, 'NIG': 0.84, 'NGG': 0.63, 'GGG': 0.63}
_LINK_BYTES = (1 << 16, 1 << 19, 1 << 22)
# fp32 sums in another order, through some optimizer steps.
_LOSS_TOLERANCE = 2e-3


def kendall_tau(a: Sequence[float], b: Sequence[float]) -> float | None:
  """Agreement of two orders, 1: the same, -1: reversed; ties count as none.

  Args:
    a: Values.
    b: As many values.

  Returns:
    (concordant - discordant) / pairs, Kendall's tau-a; None without a pair.
  """
  total = pairs = 0
  for i in range(len(a)):
    for j in range(i):
      product = (a[i] - a[j]) * (b[i] - b[j])
      total += (product > 0) - (product < 0)
      pairs += 1
  return total / pairs if pairs else None


def _plan(
  sizes: paro_problem.Sizes,
  links: cost_model.Links,
  compute_s: float,
  num_hosts: int,
) -> planner.ParoPlan:
  """The planner's view of the job; computation and messages take turns."""
  return planner.plan(
    paro_problem.param_shapes(sizes),
    paro_problem.optimizer(),
    num_groups=num_hosts,
    group_size=_DEVICES.value,
    links=links,
    num_micro_batches=sizes.num_micro_batches,
    compute_s=compute_s / sizes.num_micro_batches,
    scanned=paro_problem.is_stack,
    overlap=False,
  )


def _line(case: dict[str, Any], row: planner.Row | None, sizes) -> dict:
  """The line of one code or peer."""
  step_s = statistics.median(case['seconds'])
  devices = case['num_hosts'] * _DEVICES.value
  line = {
    'code': case['name'],
    'hosts': case['num_hosts'],
    'tokens_per_s': round(devices * sizes.tokens_per_device / step_s, 1),
    'speedup_vs_zero3': None,
    'step_s': round(step_s, 4),
    # A peer's accumulators are like its parameters; two moments beside them.
    'state_bytes_per_device': case['live_bytes']
    + (row.grads_bytes if row else case['live_bytes'] // 3),
    'live_bytes_per_device': case['live_bytes'],
    'temp_bytes_per_device': case['temp_bytes'],
    'inter_bytes_per_step': round(case['inter_bytes']),
    'wire_bytes_per_step': round(
      statistics.median(case['sent_bytes']) / _DEVICES.value
    ),
    'intra_bytes_per_step': round(case['intra_bytes']),
    'predicted_s': None,
  }
  if row is not None:
    line['planned_state_bytes_per_device'] = row.state_bytes
    line['planned_inter_bytes_per_step'] = round(row.inter_bytes_per_step)
    line['predicted_s'] = round(row.step_s, 4)
  line['seconds'] = [round(s, 4) for s in case['seconds']]
  line['last_loss'] = round(case['losses'][-1], 5)
  line['compile_s'] = round(case['compile_s'], 1)
  return line


def _summary(lines, compute_s, links, sizes, num_hosts) -> dict[str, Any]:
  """The last line: orders, the bound, the regime."""
  ours = [x for x in lines if x['predicted_s'] and x['hosts'] == num_hosts]
  best = min(ours, key=lambda x: x['step_s'])
  param_bytes = 4 * sum(
    x.size for x in jax.tree.leaves(paro_problem.param_shapes(sizes))
  )
  uplink = _UPLINK_MBPS.value * 1e6 / 8
  # Every step must add up the gradients of all hosts.
  least_comm_s = 2 * (num_hosts - 1) / num_hosts * param_bytes / uplink
  micro_s = compute_s / sizes.num_micro_batches
  tau = kendall_tau(
    [x['predicted_s'] for x in ours], [x['step_s'] for x in ours]
  )
  return {
    'summary': f'{num_hosts}x{_DEVICES.value}',
    'uplink_mbps': _UPLINK_MBPS.value,
    'kendall_tau': None if tau is None else round(tau, 3),
    'best_code': best['code'],
    'best_step_s': best['step_s'],
    # The bound: no step is shorter than its computation, nor than the least
    # that each uplink must carry; without overlap, than both together.
    'compute_s': round(compute_s, 4),
    'least_uplink_s': round(least_comm_s, 4),
    'bound_s': round(max(compute_s, least_comm_s), 4),
    'bound_without_overlap_s': round(compute_s + least_comm_s, 4),
    'bound_without_overlap_over_best': round(
      (compute_s + least_comm_s) / best['step_s'], 3
    ),
    'compute_over_best': round(compute_s / best['step_s'], 3),
    'regime': {
      'param_bytes': param_bytes,
      'param_bytes_over_uplink_s': round(param_bytes / uplink, 4),
      'compute_s_per_micro_batch': round(micro_s, 4),
      'ratio': round(param_bytes / uplink / micro_s, 2),
    },
    'links': dataclasses.asdict(links),
    'collectives': _COLLECTIVES.value or 'default',
    'dtype': 'float32',
    'sizes': dataclasses.asdict(sizes),
    'cores': os.cpu_count(),
  }


def _disagreement(cases: Sequence[dict[str, Any]]) -> str | None:
  """Says which losses differ by more than rounding, or None."""
  first: dict[int, dict[str, Any]] = {}
  for case in cases:
    if case['name'] == paro_worker.COMPUTE:
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


def _job(hosts: Sequence[int], sizes: paro_problem.Sizes) -> paro_worker.Job:
  is_scaling = len(hosts) > 1
  codes = _CODES.value or (_SCALING_CODES if is_scaling else _DEFAULT_CODES)
  peers = _PEERS.value
  if peers is None:
    peers = [] if is_scaling else list(paro_peers.PEERS)
  for code in codes:
    if code not in VALID_CODES:
      sys.exit(f'--codes={code}: use some of {" ".join(VALID_CODES)}.')
  for peer in peers:
    if peer not in paro_peers.PEERS:
      sys.exit(f'--peers={peer}: use some of {" ".join(paro_peers.PEERS)}.')
  for n in hosts:
    if n < 1:
      sys.exit(
        f'--hosts={",".join(map(str, hosts))}: hosts must be at least 1.'
      )
    if max(hosts) % n:
      sys.exit(
        f'--hosts={",".join(map(str, hosts))}: {n} does not divide'
        f' {max(hosts)}; sets of {n} must fill the cluster.'
      )
  cases = [(paro_worker.COMPUTE, 1)]
  cases += [(name, n) for n in hosts for name in (*codes, *peers)]
  return paro_worker.Job(
    cases, sizes, _ROUNDS.value, _COLLECTIVES.value, _LINK_BYTES
  )


def main(argv: Sequence[str]) -> None:
  facts = harness.start(argv)
  try:
    hosts = sorted({int(n) for n in _HOSTS.value})
  except ValueError:
    sys.exit(f'--hosts={",".join(_HOSTS.value)}: numbers are needed.')
  sizes = paro_problem.Sizes(
    **{
      f.name: flags.FLAGS[f.name].value
      for f in dataclasses.fields(paro_problem.Sizes)
    }
  )
  job = _job(hosts, sizes)
  cluster_lib.exit_on_signals()
  # Only shapes are looked at here; no accelerator is to be taken.
  jax.config.update('jax_platforms', 'cpu')
  try:
    with cluster_lib.Cluster(
      max(hosts), _DEVICES.value, _UPLINK_MBPS.value
    ) as cluster:
      result = cluster_lib.report(
        cluster, paro_worker.__name__, job.to_json(), _TIMEOUT_S.value
      )
  except RuntimeError as error:
    sys.exit(f'paro_bench: {error}')
  alone, *cases = result['cases']
  compute_s = statistics.median(alone['seconds'])
  samples = [cost_model.Sample(**sample) for sample in result['samples']]
  links = cost_model.fit(samples)
  plans = {n: _plan(sizes, links, compute_s, n) for n in hosts}
  lines = [
    _line(
      case,
      plans[case['num_hosts']].row(case['name'])
      if case['name'] in VALID_CODES
      else None,
      sizes,
    )
    for case in cases
  ]
  by_case = {(x['code'], x['hosts']): x for x in lines}
  for line in lines:
    zero3 = by_case.get(('GGG', line['hosts']))
    if zero3:
      line['speedup_vs_zero3'] = round(zero3['step_s'] / line['step_s'], 3)
    if len(hosts) > 1:
      fewest = by_case[line['code'], hosts[0]]
      line['efficiency'] = round(fewest['step_s'] / line['step_s'], 3)
      line['paper_efficiency_16_to_128_gpus'] = _PAPER_EFFICIENCY.get(
        line['code']
      )
    harness.emit(line | facts)
  for n in hosts:
    if any(x['predicted_s'] for x in lines if x['hosts'] == n):
      harness.emit(_summary(lines, compute_s, links, sizes, n) | facts)
  wrong = _disagreement(cases)
  if wrong:
    sys.exit(f'paro_bench: losses disagree: {wrong}.')


if __name__ == '__main__':
  app.run(main)
