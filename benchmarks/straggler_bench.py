# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What stragglers cost under several policies, on virtual hosts.

  python -m benchmarks.straggler_bench > results.jsonl

Four hosts of a virtual cluster train a small language model on real text (two
epochs of the same sequences in every run) under launch/agent.py, a fifth one
runs launch/coordinator.py. Slow hosts are slow by their CPU quota: what they
compute takes longer, nothing sleeps. Needs Linux and root (see
`benchmarks.cluster`).

Scenarios: `none`, `x2_one_of_4`, `x4_one_of_4`, `x10_one_of_4` (from the first
step to the end), `classes_1_2` (two hosts half as fast, as older hardware),
`transient_x4` (one host, a quarter of the time), `rotating_x4` (another host
every few seconds). Policies: `bsp` (equal parts for all), `drop_slowest` (a
deadline; the slowest do less), `lb_bsp`, `antdt_nd`, `antdt_dd`.

One JSON line a run: `job_s` is the time of rank 0 from the end of the second
step, when all have compiled, to the end of the last one; `speedup_vs_bsp`
compares with `bsp` of the same scenario; `share_of_ideal` is the time that all
workers' speeds added would take (from `bsp` of `none`) over `job_s`.
`records_lost` and `records_repeated` are counted from what the workers wrote
down.
"""

from collections import Counter
from collections.abc import Sequence
import dataclasses
import json
import pathlib
import secrets
import statistics
import sys
import tempfile
import threading
import time
from typing import Any

from absl import app, flags

from benchmarks import cluster as cluster_lib
from benchmarks import harness, straggler_worker, text_job, virtual_network

HOSTS = 4
POLICIES = {  # As in the lines, and as launch/coordinator.py has them.
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
_PORT = 8476
_REPLACE = 75  # Exit code of an agent whose host is to be replaced.

_SCENARIOS = flags.DEFINE_multi_enum(
  'scenario', list(SCENARIOS), list(SCENARIOS), 'Scenarios to run.'
)
_POLICIES = flags.DEFINE_multi_enum(
  'policy', list(POLICIES), list(POLICIES), 'Policies to run.'
)
_STEPS = flags.DEFINE_integer(
  'straggler_steps', 150, 'Steps of the job with equal parts.', 8
)
_CPU = flags.DEFINE_float('cpu_share', 0.4, 'Cores of a host that is not slow.')
_REPEATS = flags.DEFINE_integer('straggler_repeats', 1, 'Runs of each.', 1)
_DATA = flags.DEFINE_string(
  'text',
  'data/shakespeare',
  'Folder of launch/prepare_text.py; made if absent.',
)


def ideal_s(
  bsp_none_s: float, slowness: Sequence[float], share: float = 1.0
) -> float:
  """The time if all speeds added up, for a share of the time that slow."""
  speed = statistics.mean(1 / s for s in slowness)
  return bsp_none_s / (share * speed + 1 - share)


def make_job(data: str, out: str, num_steps: int) -> text_job.Job:
  """The job of a worker, for so many steps with equal parts."""
  job = text_job.Job(
    data=data,
    out=out,
    num_sequences=0,
    num_epochs=2,
    paro='NNN',
    seq_len=64,
    rows=4,
    num_micro_batches=16,
    dim=64,
    num_layers=2,
    shard_size=8,
    checkpoint_every=20,
  )
  size = num_steps * HOSTS * job.num_micro_batches * job.rows // job.num_epochs
  return dataclasses.replace(job, num_sequences=size)


def count_records(folder: pathlib.Path, num_records: int) -> tuple[int, int]:
  """(lost, repeated) records of all epochs, from the workers' own notes."""
  used: Counter[int] = Counter()
  for path in folder.glob('records.*.txt'):
    used.update(int(word) for word in path.read_text().split())
  lost = sum(key not in used for key in range(num_records))
  return lost, sum(count - 1 for count in used.values())


class _Run:
  """One job in one scenario."""

  def __init__(self, scenario: str, policy: str, job: text_job.Job):
    self.scenario, self.policy, self.job = scenario, policy, job
    self.steps: list[dict[str, Any]] = []
    self._started = threading.Event()
    self._ended = threading.Event()
    self._failure: Exception | None = None  # Of the thread that slows hosts.
    self._moved: set[int] = set()  # Places that another host has taken.

  def run(self) -> None:
    out = pathlib.Path(self.job.out)
    tokens = out / 'tokens'
    lines = [
      f'{role} {secrets.token_hex(16)}\n'
      for role in ('worker', 'agent', 'operator')
    ]
    tokens.write_text(''.join(lines))
    tokens.chmod(0o600)
    with cluster_lib.Cluster(HOSTS + 1, 1) as cluster:
      address = virtual_network.address(HOSTS)
      coordinator = cluster.start(
        HOSTS,
        [
          *(sys.executable, '-m', 'launch.coordinator'),
          f'--address={address}',
          f'--port={_PORT}',
          f'--journal={out}/journal.db',
          f'--token_file={tokens}',
          '--insecure',
          f'--policy={POLICIES[self.policy]}',
          f'--min_hosts={HOSTS}',
          f'--max_hosts={HOSTS}',
          *_QUICK,
        ],
      )
      for host in range(HOSTS):
        cluster.set_cpu_share(host, None)  # To start and compile.

      def start_agent(host: int, name: str) -> cluster_lib.Process:
        return cluster.start(
          host,
          [
            *(sys.executable, '-m', 'launch.agent'),
            f'--coordinator={address}:{_PORT}',
            f'--name={name}',
            '--devices_per_host=1',
            '--platform=cpu',
            f'--token_file={tokens}',
            f'--compilation_cache={out.parent}/cache',
            '--',
            '-m',
            'benchmarks.straggler_worker',
            json.dumps(vars(self.job)),
          ],
          on_line=self._line,
        )

      agents = {h: start_agent(h, f'host{h}') for h in range(HOSTS)}
      shaper = threading.Thread(target=self._shape, args=(cluster,))
      shaper.start()
      codes: list[int] = []
      try:
        while agents:
          for host, agent in list(agents.items()):
            code = agent.poll()
            if code == _REPLACE:
              # As a cluster does: its place is taken by a host that is not
              # slow, here the same one without its small quota.
              agent.join()
              self._moved.add(host)
              cluster.set_cpu_share(host, _CPU.value)
              agents[host] = start_agent(host, f'host{host}-next')
            elif code is not None:
              codes.append(code)
              last = agents.pop(host)
              last.join()
          time.sleep(0.1)
      finally:
        self._ended.set()
        self._started.set()
        shaper.join()
        coordinator.kill()
        coordinator.join()
      if self._failure is not None:
        raise self._failure
      if any(codes):
        log = '\n'.join(last.log[-20:] + coordinator.log[-20:])
        raise RuntimeError(f'agents ended with {codes}:\n{log}')

  def _line(self, host: int, line: str) -> None:
    del host
    _, mark, rest = line.partition(straggler_worker.MARK)
    if mark:
      self.steps.append(json.loads(rest))
      if self.steps[-1]['step'] == 2:
        self._started.set()

  def _shape(self, cluster: cluster_lib.Cluster) -> None:
    """Gives hosts their shares once all have compiled."""
    try:
      self._slow_down(cluster)
    except Exception as error:  # Raised where the run ends.
      self._failure = error

  def _slow_down(self, cluster: cluster_lib.Cluster) -> None:
    self._started.wait()
    slowness = SCENARIOS[self.scenario]

    def slow(victims: Sequence[float]) -> None:
      for host, factor in enumerate(victims):
        if host not in self._moved:
          cluster.set_cpu_share(host, _CPU.value / factor)

    if self.scenario == 'transient_x4':
      slow([1] * HOSTS)
      # A quarter of the time, as often as it takes.
      while not self._ended.wait(6.0):
        slow(slowness)
        self._ended.wait(2.0)
        slow([1] * HOSTS)
    elif self.scenario == 'rotating_x4':
      turn = 0
      while not self._ended.is_set():
        slow([4 if host == turn % HOSTS else 1 for host in range(HOSTS)])
        turn += 1
        self._ended.wait(5.0)
    else:
      slow(slowness)


# Jobs here take a minute, not days.
_QUICK = (
  '--short_window_s=2',
  '--long_window_s=20',
  '--decide_every_s=0.5',
  '--min_steps=2',
  '--restart_cooldown_s=30',
  '--settle_s=5',
  '--restart_cost_s=15',
)


def main(argv: Sequence[str]) -> int:
  facts = harness.start(argv)
  cluster_lib.exit_on_signals()
  if (reason := cluster_lib.missing()) is not None:
    print(f'straggler_bench: {reason}', file=sys.stderr)
    return 1
  data = text_job.prepared(_DATA.value)
  bsp: dict[str, float] = {}
  with tempfile.TemporaryDirectory(prefix='straggler-') as folder:
    for scenario in _SCENARIOS.value:
      for policy in _POLICIES.value:
        found = []
        for turn in range(_REPEATS.value):
          out = pathlib.Path(folder) / f'{scenario}-{policy}-{turn}'
          out.mkdir()
          job = make_job(data, str(out), _STEPS.value)
          run = _Run(scenario, policy, job)
          start = time.monotonic()
          run.run()
          lost, repeated = count_records(out, job.num_keys)
          found.append(
            {
              'job_s': run.steps[-1]['now'] - run.steps[1]['now'],
              'wall_s': time.monotonic() - start,
              'num_steps': len(run.steps),
              'records_lost': lost,
              'records_repeated': repeated,
              'final_loss': run.steps[-1]['loss'],
            }
          )
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
        line = {
          k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()
        }
        harness.emit(line | facts)
  return 0


if __name__ == '__main__':
  app.run(main)
