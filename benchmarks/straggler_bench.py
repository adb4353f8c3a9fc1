# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Cost of stragglers under several policies, on virtual hosts.

  python -m benchmarks.straggler_bench > results.jsonl

Four hosts of a virtual cluster train a small language model on real text (two
epochs of the same sequences in every run) under launch/agent.py; a fifth one
runs launch/coordinator.py. Slow hosts have a smaller CPU quota: their
computation takes longer, nothing sleeps. Needs Linux and root (see
`benchmarks.cluster`).

Scenarios: `none`, `x2_one_of_4`, `x4_one_of_4`, `x10_one_of_4` (from the first
step to the end), `classes_1_2` (two hosts half as fast, as older hardware),
`transient_x4` (one host, for a quarter of the time), `rotating_x4` (another
host every few seconds). Policies: `bsp` (equal parts), `drop_slowest` (a
deadline; the slowest do less), `lb_bsp`, `antdt_nd`, `antdt_dd`.

One JSON line per run: `job_s` is the time of rank 0 from the end of the second
step, when all have compiled, to the end of the last one; `speedup_vs_bsp`
compares with `bsp` of the same scenario; `share_of_ideal` is the time at the
summed speeds of all workers (from `bsp` of `none`) over `job_s`. `records_lost`
and `records_repeated` are counted from the workers' notes.
"""

from collections import Counter
from collections.abc import Callable, Sequence
import dataclasses
import functools
import json
import pathlib
import secrets
import statistics
import sys
import tempfile
import time
from typing import Annotated, Any

from benchmarks import cluster as cluster_lib
from benchmarks import harness, text_job, virtual_network

HOSTS = 4
CHECKPOINT_EVERY = 20  # Steps.
POLICIES = {  # Name in the lines -> name in launch/coordinator.py.
  'bsp': 'static',
  'drop_slowest': 'drop_slowest',
  'lb_bsp': 'lb_bsp',
  'antdt_nd': 'antdt_nd',
  'antdt_dd': 'antdt_dd',
}
# Slowness of each host while the scenario lasts.
SCENARIOS: dict[str, tuple[float, ...]] = {
  'none': (1, 1, 1, 1),
  'x2_one_of_4': (1, 1, 1, 2),
  'x4_one_of_4': (1, 1, 1, 4),
  'x10_one_of_4': (1, 1, 1, 10),
  'classes_1_2': (1, 1, 2, 2),
  'transient_x4': (1, 1, 1, 4),
  'rotating_x4': (1, 1, 1, 4),
}
_ADDRESS = f'{virtual_network.address(HOSTS)}:8476'
_REPLACE = 75  # Exit code of an agent whose host should be replaced.
# Jobs take a minute here, not days.
_COORDINATOR_FLAGS = (
  '--short_window_s=2',
  '--long_window_s=20',
  '--decide_every_s=0.5',
  '--min_steps=2',
  '--restart_cooldown_s=30',
  '--settle_s=5',
  '--restart_cost_s=15',
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Flags."""

  scenario: Annotated[tuple[str, ...], 'Scenarios to run; empty: all.'] = ()
  policy: Annotated[tuple[str, ...], 'Policies to run; empty: all.'] = ()
  straggler_steps: Annotated[int, 'Steps of the job with equal parts.'] = 150
  straggler_repeats: Annotated[int, 'Runs of each.'] = 1
  cpu_share: Annotated[float, 'Cores of a host that is not slow.'] = 0.4
  text: Annotated[str, 'Prepared text; made if absent.'] = text_job.DATA


def ideal_s(
  bsp_none_s: float, slowness: Sequence[float], share: float = 1.0
) -> float:
  """Time at the sum of all speeds, if slow for a share of the time."""
  speed = statistics.mean(1 / s for s in slowness)
  return bsp_none_s / (share * speed + 1 - share)


def make_job(data: str, out: str, num_steps: int) -> text_job.Job:
  """The job of a worker, for a number of steps with equal parts."""
  job = text_job.Job(
    data=data,
    out=out,
    num_sequences=0,
    num_epochs=2,
    has_witness=False,
    paro='NNN',
    seq_len=64,
    rows=4,
    num_micro_batches=16,
    dim=64,
    num_layers=2,
    shard_size=8,
    checkpoint_every=CHECKPOINT_EVERY,
    checkpoint_every_s=1e6,  # Not at other steps in each run.
    step_s=0.0,
  )
  size = num_steps * HOSTS * job.num_micro_batches * job.rows // job.num_epochs
  return dataclasses.replace(job, num_sequences=size)


def count_records(folder: pathlib.Path, num_records: int) -> tuple[int, int]:
  """(lost, repeated) records of all epochs, from the workers' notes."""
  used: Counter[int] = Counter()
  for path in (folder / 'notes').iterdir():
    for line in path.read_text().splitlines():
      used.update(json.loads(line).get('keys', ()))
  lost = sum(key not in used for key in range(num_records))
  return lost, sum(count - 1 for count in used.values())


def slowness_at(scenario: str, elapsed_s: float) -> tuple[float, ...]:
  """Slowness of each host at a time after all have compiled."""
  if scenario == 'transient_x4':  # A quarter of the time, repeatedly.
    return SCENARIOS['none' if elapsed_s % 8 < 6 else scenario]
  if scenario == 'rotating_x4':
    slow = int(elapsed_s // 5) % HOSTS
    return tuple(4 if host == slow else 1 for host in range(HOSTS))
  return SCENARIOS[scenario]


def steps_of(out: pathlib.Path) -> list[dict[str, Any]]:
  """Reports of rank 0 about each step so far."""
  path = out / 'progress.jsonl'
  lines = path.read_text().splitlines(True) if path.exists() else []
  return [json.loads(line) for line in lines if line.endswith('\n')]


def _start_coordinator(
  cluster: cluster_lib.Cluster,
  out: pathlib.Path,
  policy: str,
  flags: Sequence[str],
) -> cluster_lib.Process:
  tokens = out / 'tokens'
  tokens.touch(0o600)
  roles = ('worker', 'agent', 'operator')
  tokens.write_text(
    ''.join(f'{role} {secrets.token_hex(16)}\n' for role in roles)
  )
  address, _, port = _ADDRESS.partition(':')
  return cluster.start(
    HOSTS,
    [
      *(sys.executable, '-m', 'launch.coordinator', '--insecure'),
      '--node_check=off',
      *(f'--address={address}', f'--port={port}', f'--token_file={tokens}'),
      *(f'--journal={out}/journal.db', f'--policy={policy}'),
      *(f'--min_hosts={HOSTS}', f'--max_hosts={HOSTS}', *flags),
    ],
  )


def _start_agent(
  cluster: cluster_lib.Cluster, job: text_job.Job, host: int, suffix: str = ''
) -> cluster_lib.Process:
  out = pathlib.Path(job.out)
  return cluster.start(
    host,
    [
      *(sys.executable, '-m', 'launch.agent', f'--coordinator={_ADDRESS}'),
      *(f'--name=host{host}{suffix}', f'--token_file={out}/tokens'),
      *('--devices_per_host=1', '--platform=cpu'),
      f'--compilation_cache={out.parent}/cache',
      *('--', '-m', text_job.WORKER, json.dumps(vars(job))),
    ],
  )


def run_job(
  slowness_at: Callable[[float], Sequence[float]],
  policy: str,
  job: text_job.Job,
  cpu_share: float,
  flags: Sequence[str] = (),
) -> None:
  """Runs one job to its end.

  Args:
    slowness_at: Slowness of each host at a number of seconds after all have
      compiled.
    policy: Policy of the coordinator.
    job: Work of a host.
    cpu_share: Cores of a host at slowness 1.
    flags: Further flags of the coordinator.

  Raises:
    RuntimeError: An agent failed.
  """
  out = pathlib.Path(job.out)
  with cluster_lib.Cluster(HOSTS + 1, 1) as cluster:
    flags = (*_COORDINATOR_FLAGS, *flags)
    coordinator = _start_coordinator(cluster, out, policy, flags)
    for host in range(HOSTS):
      cluster.set_cpu_share(host, None)  # For start and compilation.
    agents = {host: _start_agent(cluster, job, host) for host in range(HOSTS)}
    started_at: float | None = None
    shares: dict[int, float] = {}
    moved: set[int] = set()  # Places of replaced hosts.
    while agents:
      if started_at is None and len(steps_of(out)) > 1:
        started_at = time.monotonic()
      if started_at is not None:
        slowness = slowness_at(time.monotonic() - started_at)
        for host, factor in enumerate(slowness):
          share = cpu_share / (1 if host in moved else factor)
          if shares.get(host) != share:
            shares[host] = share
            cluster.set_cpu_share(host, share)
      for host, agent in list(agents.items()):
        if (code := agent.poll()) is None:
          continue
        agent.join()
        del agents[host]
        if code == _REPLACE:
          # As in a cluster, a healthy host replaces it: here the same one
          # without its small quota.
          moved.add(host)
          agents[host] = _start_agent(cluster, job, host, '-next')
        elif code:
          log = '\n'.join(agent.log[-20:] + coordinator.log[-20:])
          raise RuntimeError(f'agent {host} ended with code {code}:\n{log}')
      time.sleep(0.1)


def _measure(
  scenario: str, policy: str, job: text_job.Job, cpu_share: float
) -> dict[str, Any]:
  """Runs a job; returns the content of its line."""
  start = time.monotonic()
  run_job(
    functools.partial(slowness_at, scenario), POLICIES[policy], job, cpu_share
  )
  out = pathlib.Path(job.out)
  lost, repeated = count_records(out, job.num_keys)
  steps = steps_of(out)
  return {
    'job_s': steps[-1]['now'] - steps[1]['now'],
    'wall_s': time.monotonic() - start,
    'num_steps': len(steps),
    'records_lost': lost,
    'records_repeated': repeated,
    'final_loss': steps[-1]['loss'],
  }


def main(config: Config) -> int:
  scenarios = harness.choose(
    'scenario', config.scenario, {name: name for name in SCENARIOS}
  )
  policies = harness.choose(
    'policy', config.policy, {name: name for name in POLICIES}
  )
  facts = harness.start()
  if (reason := cluster_lib.missing()) is not None:
    print(f'straggler_bench: {reason}', file=sys.stderr)
    return 1
  data = text_job.prepared(config.text)
  bsp: dict[str, float] = {}
  with tempfile.TemporaryDirectory(prefix='straggler-') as folder:
    for scenario in scenarios:
      for policy in policies:
        found = []
        for turn in range(config.straggler_repeats):
          out = pathlib.Path(folder) / f'{scenario}-{policy}-{turn}'
          out.mkdir()
          job = make_job(data, str(out), config.straggler_steps)
          found.append(_measure(scenario, policy, job, config.cpu_share))
        found.sort(key=lambda line: line['job_s'])
        line = {'scenario': scenario, 'policy': policy} | found[len(found) // 2]
        if policy == 'bsp':
          bsp[scenario] = line['job_s']
        if scenario in bsp:
          line['speedup_vs_bsp'] = bsp[scenario] / line['job_s']
        if 'none' in bsp:
          share = 0.25 if scenario == 'transient_x4' else 1.0
          best = ideal_s(bsp['none'], SCENARIOS[scenario], share)
          line['share_of_ideal'] = best / line['job_s']
        harness.emit(line | facts)
  return 0


if __name__ == '__main__':
  harness.run(main, Config())
