# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Policies on the stragglers of real jobs, by replay of recorded times.

  python -m benchmarks.trace_bench --traces=DIR > results.jsonl

DIR has `pai_job_*.csv`: times of each worker's mini-batches over the iterations
of a production job, in any unit (Alibaba's cluster-trace-gpu-v2020, folder
mini-batch-time; columns `worker`, `time`, `batch_time_norm`). A worker's
slowness is its time over the median of all times in the file. A row of the file
is a step with equal parts, so the trace follows completed work, and every
policy runs all of it. Rows with missing workers are left out.

`simulated`: the whole trace in `benchmarks.straggler_sim`, with any number of
workers; copies of the trace's workers start at other rows. A step with equal
parts at slowness 1 takes a second. `real`: some rows and workers in a job on
virtual hosts (see `benchmarks.straggler_bench`) whose CPU quotas follow the
trace, and, as `simulated_hosts`, the same in the simulator. Its times are from
jobs of equal hosts just before (`Measured`): of a micro-batch, of the rest of a
step, of a checkpoint, and of what agent and heartbeats take of a quota.

One JSON line per case: `share_of_ideal` is the time at the summed speeds of all
workers over `job_s`. `antdt_nd` may replace hosts, `*_in_place` and all others
may not. A trace does not tell the speed of another host: here it is the job's
low median at that time, as assumed by the policy.
"""

from collections.abc import Callable, Sequence
import csv
import dataclasses
import pathlib
import statistics
import sys
import tempfile
import time
from typing import Annotated, Any

import numpy as np

from antjax.elastic import policy
from antjax.elastic.controller import ControllerConfig
from antjax.elastic.windows import MonitorConfig
from benchmarks import cluster as cluster_lib
from benchmarks import (
  harness,
  straggler_bench,
  straggler_scenarios,
  straggler_sim,
  text_job,
)

# Name in the lines -> (policy, maximum number of restarts).
POLICIES = {
  'static': ('static', 0),
  'drop_slowest': ('drop_slowest', 0),
  'lb_bsp': ('lb_bsp', 0),
  'antdt_dd': ('antdt_dd', 0),
  'antdt_nd_in_place': ('antdt_nd', 0),
  'antdt_nd': ('antdt_nd', 3),
}
_SHIFT = 37  # Shift in rows between copies of a worker.
_FLAT_STEPS = 25  # Number of steps of jobs without slowness.
_SLOW, _SLOW_STEPS = 10.0, 6  # Slowness of all hosts in another job.
_WARM_STEPS = 2  # Steps before the measured ones.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Flags."""

  traces: Annotated[str, 'Folder with pai_job_*.csv.']
  trace: Annotated[tuple[str, ...], 'Traces; empty: all in the folder.'] = ()
  policy: Annotated[tuple[str, ...], 'Policies to run; empty: all.'] = ()
  simulated_workers: Annotated[
    tuple[int, ...], 'Numbers of workers in the simulator; 0: none.'
  ] = (10, 100, 1000)
  micro_batches: Annotated[int, 'Micro-batches of a worker in a step.'] = 16
  real_rows: Annotated[int, 'Rows for the real job; 0: no such job.'] = 60
  cpu_share: Annotated[float, 'Cores of a host at slowness 1.'] = 0.4
  text: Annotated[str, 'Prepared text; made if absent.'] = text_job.DATA


def load(path: pathlib.Path) -> tuple[np.ndarray, int]:
  """Returns slowness [rows, workers], and the number of rows left out.

  Raises:
    ValueError: A column is missing, or no row has all workers.
  """
  times: dict[int, dict[str, float]] = {}
  with path.open(newline='') as file:
    reader = csv.DictReader(file)
    names = {'worker', 'time', 'batch_time_norm'}
    if missing := names - set(reader.fieldnames or ()):
      raise ValueError(f'{path}: no column {", ".join(sorted(missing))}')
    for row in reader:
      each = times.setdefault(int(float(row['time'])), {})
      each[row['worker']] = float(row['batch_time_norm'])
  workers = sorted({name for row in times.values() for name in row}, key=int)
  whole = [row for _, row in sorted(times.items()) if len(row) == len(workers)]
  if not whole:
    raise ValueError(f'{path}: no time has all of its {len(workers)} workers')
  table = np.array([[row[name] for name in workers] for row in whole])
  return table / np.median(table), len(times) - len(whole)


def scenario_of(
  name: str, slowness: np.ndarray, num_workers: int, num_micro_batches: int
) -> straggler_scenarios.Scenario:
  """A job with a number of workers that follows a trace row by row."""
  rows, width = slowness.shape

  def at(worker: int, share: float) -> float:
    row = min(rows - 1, int(share * rows)) + worker // width * _SHIFT
    return float(slowness[row % rows, worker % width])

  middle = np.sort(slowness, axis=1)[:, (width - 1) // 2]
  return straggler_scenarios.Scenario(
    name,
    at,
    device_kinds=('cpu',) * num_workers,
    num_micro_batches=num_micro_batches,
    num_steps=rows,
    s_per_micro_batch=1 / num_micro_batches,
    noise=0.0,  # The trace has its own noise.
    by_work=True,
    new_host=lambda share: float(middle[min(rows - 1, int(share * rows))]),
  )


def _simulated(
  scenario: straggler_scenarios.Scenario, name: str, **configs: Any
) -> dict[str, Any]:
  function, restarts = POLICIES[name]
  config = configs.pop('controller', ControllerConfig())
  run = straggler_sim.simulate(
    scenario,
    policy.BUILT_IN[function],
    controller=dataclasses.replace(config, max_policy_restarts=restarts),
    **configs,
  )
  return {
    'job_s': run.job_s,
    'share_of_ideal': run.share_of_ideal,
    'num_steps': run.num_steps,
    'num_restarts': run.num_generations - 1,
    'num_actions': len(run.decisions),
  }


@dataclasses.dataclass(frozen=True)
class Measured:
  """Times of jobs whose hosts are all equal, in seconds."""

  each_s: float  # Of a micro-batch at slowness 1.
  rest_s: float  # Of the rest of a step.
  save_s: float  # By which a checkpoint lengthens the next step.
  # Cores of a host that are used whether it computes or not.
  background: float

  @classmethod
  def of(
    cls,
    few: Sequence[float],
    many: Sequence[float],
    slow: Sequence[float],
    micro_batches: tuple[int, int],
    cpu_share: float,
  ) -> 'Measured':
    """From the times of steps of three jobs.

    Args:
      few: Steps with few micro-batches.
      many: Steps with many of them; one follows a checkpoint.
      slow: The same at slowness `_SLOW`.
      micro_batches: Numbers of micro-batches in `few` and `many`.
      cpu_share: Cores of a host at slowness 1.
    """
    least, most = micro_batches
    of_few, of_many, of_slow = map(statistics.median, (few, many, slow))
    each_s = (of_many - of_few) / (most - least)
    # A host computes with what the background leaves of its quota.
    ratio = max(_SLOW, of_slow / of_many)
    saved = _saves_after(len(many))[0]
    return cls(
      each_s,
      max(0.0, of_many - most * each_s),
      max(0.0, many[saved] - of_many),
      cpu_share * (ratio / _SLOW - 1) / (ratio - 1),
    )

  def slowness(self, by_quota: np.ndarray, cpu_share: float) -> np.ndarray:
    """How slow hosts are that have so much less of a quota."""
    left = cpu_share / by_quota - self.background
    return (cpu_share - self.background) / left


def _saves_after(num_steps: int) -> range:
  """Checkpoints of the job, counted from the first measured step."""
  every = straggler_bench.CHECKPOINT_EVERY
  return range(every - _WARM_STEPS, num_steps, every)


class _Real:
  """The job on virtual hosts."""

  def __init__(self, config: Config, folder: str):
    self._config, self._folder, self._num_runs = config, folder, 0
    self._data = text_job.prepared(config.text)
    numbers = (4, config.micro_batches)
    few, many = (self._times(1.0, _FLAT_STEPS, number) for number in numbers)
    slow = self._times(_SLOW, _SLOW_STEPS, config.micro_batches)
    self.measured = Measured.of(few, many, slow, numbers, config.cpu_share)

  def _times(
    self, slowness: float, num_steps: int, num_micro_batches: int
  ) -> list[float]:
    """Seconds of each step of a job whose hosts are equally slow."""
    table = np.full((1, straggler_bench.HOSTS), slowness)
    steps = self._run(
      table, 'static', num_steps + _WARM_STEPS, num_micro_batches
    )
    times = [step['now'] for step in steps[_WARM_STEPS - 1 :]]
    return [b - a for a, b in zip(times, times[1:])]

  def _run(
    self,
    slowness: np.ndarray,
    policy_name: str,
    num_steps: int,
    num_micro_batches: int,
  ) -> list[dict[str, Any]]:
    self._num_runs += 1
    out = pathlib.Path(self._folder) / str(self._num_runs)
    out.mkdir()
    job = dataclasses.replace(
      straggler_bench.make_job(self._data, str(out), num_steps),
      num_micro_batches=num_micro_batches,
    )
    records = num_steps * straggler_bench.HOSTS * num_micro_batches * job.rows
    job = dataclasses.replace(job, num_sequences=records // job.num_epochs)

    def at(steps: Sequence[dict[str, Any]]) -> Sequence[float]:
      done = sum(step['weight'] for step in steps[_WARM_STEPS:])
      left = job.num_keys - sum(step['weight'] for step in steps[:_WARM_STEPS])
      row = min(len(slowness) - 1, int(done / left * len(slowness)))
      return slowness[row].tolist()

    straggler_bench.run_job(
      lambda elapsed_s: at(straggler_bench.steps_of(out)),
      policy_name,
      job,
      self._config.cpu_share,
      ('--max_policy_restarts=0',),
    )
    lost, repeated = straggler_bench.count_records(out, job.num_keys)
    if lost or repeated:
      raise RuntimeError(f'{lost} records lost, {repeated} repeated')
    return straggler_bench.steps_of(out)

  def lines(
    self, name: str, slowness: np.ndarray, policy_name: str
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    """Lines of a policy on hosts and in the simulator."""
    function, _ = POLICIES[policy_name]
    num = self._config.micro_batches
    start = time.monotonic()
    steps = self._run(slowness, function, len(slowness) + _WARM_STEPS, num)
    measured = self.measured
    slower = measured.slowness(slowness, self._config.cpu_share)
    hosts = dataclasses.replace(
      scenario_of(name, slower, slowness.shape[1], num),
      s_per_micro_batch=measured.each_s,
      overhead_s=0.0,
      own_overhead_s=measured.rest_s,
      saves_after=_saves_after(2 * len(slowness)),
      save_s=measured.save_s,
      report_s=1.0,  # As for real workers.
      noise=0.05,
    )
    played = _simulated(
      hosts,
      policy_name,
      monitor=MonitorConfig(short_s=2.0, long_s=20.0, min_steps=2),
      controller=ControllerConfig(period_s=0.5, min_samples=2, settle_s=5.0),
    )
    job_s = steps[-1]['now'] - steps[_WARM_STEPS - 1]['now']
    real = {
      'job_s': job_s,
      'share_of_ideal': played['share_of_ideal'] * played['job_s'] / job_s,
      'num_steps': len(steps) - _WARM_STEPS,
      'wall_s': time.monotonic() - start,
      'simulated_over_real': played['job_s'] / job_s,
      'measured': dataclasses.asdict(measured),
    }
    return real, played


def hosts_part(slowness: np.ndarray, num_rows: int) -> np.ndarray:
  """The middle rows, for workers spread over those of the trace."""
  rows, width = slowness.shape
  first = max(0, (rows - num_rows) // 2)
  picked = np.linspace(0, width - 1, straggler_bench.HOSTS).round().astype(int)
  part = slowness[first : first + num_rows, picked]
  return part / part.min()  # The fastest has the full CPU share.


class _Table:
  """Emits lines with the speed-up over static and LB-BSP in the same case."""

  def __init__(self, facts: dict[str, Any]):
    self._facts = facts
    self._seen: dict[tuple[Any, ...], float] = {}

  def emit(self, kind: str, case: dict[str, Any], line: dict[str, Any]) -> None:
    key = (kind, case['trace'], case['num_workers'])
    self._seen[*key, case['policy']] = line['job_s']
    for other in ('static', 'lb_bsp'):
      if (seconds := self._seen.get((*key, other))) is not None:
        line[f'speedup_vs_{other}'] = seconds / line['job_s']
    harness.emit({'kind': kind} | case | line | self._facts)


def _simulate_all(
  config: Config, traces: dict[str, np.ndarray], names: list[str], table: _Table
) -> None:
  for num_workers in filter(None, config.simulated_workers):
    for trace, slowness in traces.items():
      for name in names:
        scenario = scenario_of(
          trace, slowness, num_workers, config.micro_batches
        )
        case = {'trace': trace, 'policy': name, 'num_workers': num_workers}
        table.emit('simulated', case, _simulated(scenario, name))


def _run_all(
  config: Config, traces: dict[str, np.ndarray], names: list[str], table: _Table
) -> None:
  with tempfile.TemporaryDirectory(prefix='trace-') as folder:
    real = _Real(config, folder)
    for trace, slowness in traces.items():
      part = hosts_part(slowness, config.real_rows)
      for name in names:
        if POLICIES[name][1]:
          continue  # There are no other hosts.
        case = {'trace': trace, 'policy': name, 'num_workers': part.shape[1]}
        on_hosts, played = real.lines(trace, part, name)
        table.emit('simulated_hosts', case, played)
        table.emit('real', case, on_hosts)


def main(config: Config) -> int:
  paths = {
    path.stem: path
    for path in sorted(pathlib.Path(config.traces).glob('pai_job_*.csv'))
  }
  if not paths:
    print(f'trace_bench: no pai_job_*.csv in {config.traces}', file=sys.stderr)
    return 1
  chosen: Callable[..., Any] = harness.choose
  names = chosen('policy', config.policy, {name: name for name in POLICIES})
  traces = {}
  for path in chosen('trace', config.trace, paths):
    traces[path.stem], left_out = load(path)
    if left_out:
      print(f'{path.name}: {left_out} rows lack a worker', file=sys.stderr)
  table = _Table(harness.start())
  _simulate_all(config, traces, names, table)
  if config.real_rows:
    if (reason := cluster_lib.missing()) is not None:
      print(f'trace_bench: {reason}', file=sys.stderr)
      return 1
    _run_all(config, traces, names, table)
  return 0


if __name__ == '__main__':
  harness.run(main, Config(traces=''))
