# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Real training under faults: lost and repeated records, recovery times.

  python -m benchmarks.chaos_bench --kills=200

Hosts (virtual ones, see `benchmarks.cluster`, if this machine supports them;
else processes on loopback) train a small language model on real text, with
async checkpoints every few steps, under launch/agent.py and
launch/coordinator.py. A seeded schedule (`chaos_events`) kills and stops
workers, agents, whole hosts and the coordinator, also during saves, loses
replies, cuts the network, fills disks, damages the journal's log and changes
the clock. It is printed first, and `--events` repeats it. Killed agents and
coordinators are restarted, as by a cluster; everything else is up to antjax.
The data suffice for a few more steps than all faults need.

Afterwards it checks, from the workers' notes (`chaos_lineage`) and from the
final model, which counts independently (`chaos_witness`): each record of each
epoch went into the final model exactly once; the two sources agree on the
counts and on the last step; the coordinator's journal agrees too; the
parameters are bit-equal on all workers; and a job without faults with the same
micro-batches in the same order ends with the same parameters.

The last line is JSON. `kills` counts all faults except lost replies, which are
`dropped_replies`. `recovery_s_median` is from a fault to the end of the first
step of a later generation, for faults that end a generation and are not
followed by another one before; it includes detection of hangs and frozen hosts.
Exit code 1: a check failed.
"""

from collections import Counter
import contextlib
import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Annotated, Any

import numpy as np

from antjax.elastic import writer
from antjax.shards.journal import Journal
from benchmarks import (
  chaos_events,
  chaos_hosts,
  chaos_lineage,
  chaos_storm,
  harness,
  machine,
  text_job,
)
from benchmarks import cluster as cluster_lib
from benchmarks.chaos_lineage import Micro

_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Flags."""

  kills: Annotated[int, 'Blows, lost replies not counted.'] = 200
  hosts: Annotated[int, 'Hosts of the job, at least 2.'] = 3
  spares: Annotated[int, 'Hosts beside them; 0: there may be one less.'] = 1
  seed: Annotated[int, 'Seed of the schedule.'] = 0
  events: Annotated[
    str, 'events.json of an earlier run, to repeat it; empty: by the seed.'
  ] = ''
  steps_per_kill: Annotated[int, 'New steps before a blow, on average.'] = 8
  steps: Annotated[int, 'Steps of data; 0: what the kills need.'] = 0
  virtual_hosts: Annotated[bool | None, 'none: where possible.'] = None
  paro: Annotated[str, 'PaRO code, an elastic one.'] = 'NNG'
  text: Annotated[str, 'Prepared text; made if absent.'] = text_job.DATA
  out: Annotated[str, 'Folder to keep all files in.'] = ''


def check(
  out: pathlib.Path, job: dict[str, Any], num_hosts: int
) -> dict[str, Any]:
  """Evaluates the folder of a finished run."""
  num_keys = job['num_sequences'] * job['num_epochs']
  runs = chaos_lineage.read_runs(out / 'notes')
  ends = [path.name.split('.') for path in (out / 'final').glob('*.json')]
  last = max(int(end[0]) for end in ends)
  finals = {
    path.name.split('.')[1]: json.loads(path.read_text())
    for path in (out / 'final').glob(f'{last}.*.json')
  }
  (arrays,) = (out / 'final').glob(f'{last}.*.npz')
  model = dict(np.load(arrays))
  step = next(iter(finals.values()))['step']
  generations = model['generations'].astype(int)[:step].tolist()
  steps = chaos_lineage.steps_of(runs, generations)
  noted, last_used = chaos_lineage.used(steps, num_keys)
  counted = model['witness.keys'].astype(int)
  differ = chaos_lineage.disagreement(
    {'counts': noted, 'steps': last_used},
    {'counts': counted, 'steps': model['steps'].astype(int)},
  )
  found = {
    'records': num_keys,
    'records_lost': int((noted == 0).sum()),
    'committed_twice': int(np.maximum(noted - 1, 0).sum()),
    'lost_in_model': int((counted == 0).sum()),
    'twice_in_model': int(np.maximum(counted - 1, 0).sum()),
    'notes_and_model_differ': differ,
    'workers_equal': len({one['digest'] for one in finals.values()}) == 1
    and len(finals)
    == next(r.num_workers for r in runs if r.generation == last),
    'final_step': step,
    'workers_in_steps': sorted({len(step) for step in steps}),
    'generations_in_model': len(set(generations)),
    'steps_done_again': sum(
      len({s for run in runs if run.generation == g for s in run.steps})
      for g in {run.generation for run in runs}
    )
    - step,
    **_books(out),
  }
  replayed = _replay(out, job, num_hosts, steps, generations)
  differences = {
    name: float(np.max(np.abs(model[name] - replayed[name]), initial=0))
    for name in model
  }
  found['final_difference'] = max(differences.values())
  found['bit_equal'] = all(
    model[name].tobytes() == replayed[name].tobytes() for name in model
  )
  return found


def _books(out: pathlib.Path) -> dict[str, Any]:
  """Final state of the coordinator's journal."""
  with Journal(out / 'journal.db') as journal:
    job = writer.load(journal).job(chaos_storm.JOB)
  counts: Counter[str] = Counter()
  for ledger in job.data_sets.values():
    counts.update(ledger.counts())
  return {
    'generations': job.generation,
    'is_success': job.is_success,
    'shards_not_done': sum(n for name, n in counts.items() if name != 'done'),
  }


def _replay(
  out: pathlib.Path,
  job: dict[str, Any],
  num_hosts: int,
  steps: list[list[list[Micro]]],
  generations: list[int],
) -> dict[str, np.ndarray]:
  """Final arrays of a fault-free job that repeats the steps."""
  folder = out / 'replay'
  folder.mkdir()
  file = folder / 'steps.json'
  file.write_text(json.dumps({'steps': steps, 'generations': generations}))
  again = job | {'out': str(folder), 'replay': str(file)}
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'launch.local_cluster', f'--hosts={num_hosts}'),
      *('--devices_per_host=1', '--', '-m', text_job.WORKER, json.dumps(again)),
    ],
    cwd=machine.ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    raise RuntimeError(f'the undisturbed run failed:\n{done.stderr[-3000:]}')
  (arrays,) = (folder / 'final').glob('*.npz')
  return dict(np.load(arrays))


def failures(line: dict[str, Any], num_kills: int) -> list[str]:
  """Failed checks of a result."""
  wanted = {
    'kills': num_kills,
    'records_lost': 0,
    'committed_twice': 0,
    'lost_in_model': 0,
    'twice_in_model': 0,
    'notes_and_model_differ': '',
    'workers_equal': True,
    'is_success': True,
    'shards_not_done': 0,
  }
  # Other numbers of workers round sums differently.
  if line['workers_in_steps'] == [line['hosts']]:
    wanted['bit_equal'] = True
  wrong = [
    f'{name}: {line[name]}, needed: {value}'
    for name, value in wanted.items()
    if line[name] != value
  ]
  if not line['final_difference'] <= _TOLERANCE:
    wrong.append(
      f'final_difference: {line["final_difference"]}, needed: at most'
      f' {_TOLERANCE}'
    )
  return wrong


def make_job(
  config: Config, out: pathlib.Path, num_steps: int
) -> dict[str, Any]:
  """The worker's job, with data for a number of steps of all hosts."""
  data = text_job.prepared(config.text)
  one = text_job.Job(data=data, out=str(out), num_sequences=0)
  available = len(text_job.all_sequences(one))
  needed = num_steps * config.hosts * one.num_micro_batches * one.rows
  num_epochs = -(-needed // available)
  return vars(one) | {
    'paro': config.paro,
    'num_epochs': num_epochs,
    'num_sequences': -(-needed // num_epochs),
  }


def run(config: Config, out: pathlib.Path) -> tuple[dict[str, Any], list[str]]:
  """Runs everything; returns the result and its failed checks."""
  began = time.monotonic()

  def say(message: str) -> None:
    print(f'[{time.monotonic() - began:7.1f} s] {message}', file=sys.stderr)

  events = chaos_events.schedule(
    config.seed, config.kills, config.hosts, config.steps_per_kill
  )
  if config.events:
    noted = json.loads(pathlib.Path(config.events).read_text())
    events = [chaos_events.Event(**one) for one in noted]
  noted = [vars(event) for event in events]
  (out / 'events.json').write_text(json.dumps(noted, indent=0))
  say(f'seed {config.seed}; the events, in {out}/events.json for --events:')
  for event in events:
    say(f'  {event}')
  num_steps = config.steps or chaos_events.num_steps(events)
  job = make_job(config, out, num_steps)
  is_virtual = config.virtual_hosts
  if is_virtual is None:
    is_virtual = cluster_lib.missing() is None
  with contextlib.ExitStack() as stack:
    cluster = None
    if is_virtual:
      num_hosts = config.hosts + config.spares + 1
      cluster = stack.enter_context(cluster_lib.Cluster(num_hosts, 1))
    storm = chaos_storm.Storm(
      stack.enter_context(chaos_hosts.Hosts(cluster)),
      job,
      events,
      num_workers=config.hosts,
      num_spares=config.spares,
      say=say,
    )
    storm.run()
  say('all agents have ended; repeating the run without faults.')
  ran_s = time.monotonic() - began
  found = check(out, job, config.hosts)
  kinds = Counter(one['kind'] for one in storm.struck)
  num_drops = kinds.pop('drop', 0)
  recoveries = chaos_events.recoveries(storm.struck, storm.progress)
  line = {
    'kills': sum(kinds.values()),
    **found,
    'recovery_s_median': _median([x for xs in recoveries.values() for x in xs]),
    'recovery_s_by_kind': {k: _median(v) for k, v in recoveries.items()},
    'coordinator_back_s': _median(storm.coordinator_back_s),
    'kills_by_kind': dict(kinds),
    'drops_asked': num_drops,
    'dropped_replies': storm.num_dropped,
    'saves_torn': storm.num_torn,
    'hosts': config.hosts,
    'spares': config.spares,
    'virtual_hosts': is_virtual,
    'seed': config.seed,
    'paro': config.paro,
    'run_s': round(ran_s, 1),
  }
  num_kills = sum(event.kind != 'drop' for event in events)
  return line, failures(line, num_kills)


def _median(values: list[float]) -> float | None:
  return round(statistics.median(values), 2) if values else None


def main(config: Config) -> int:
  facts = harness.start()
  with contextlib.ExitStack() as stack:
    out = config.out or stack.enter_context(
      tempfile.TemporaryDirectory(prefix='chaos-')
    )
    path = pathlib.Path(out).absolute()
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()):
      sys.exit(f'--out={out} must be empty.')
    try:
      line, wrong = run(config, path)
    except (RuntimeError, ValueError) as error:
      print(f'chaos_bench: {error}', file=sys.stderr)
      log = path / 'log.txt'
      if log.exists():
        print('\n'.join(log.read_text().splitlines()[-60:]), file=sys.stderr)
      return 1
  harness.emit(line | facts)
  for text in wrong:
    print(f'chaos_bench: {text}', file=sys.stderr)
  return int(bool(wrong))


if __name__ == '__main__':
  harness.run(main, Config())
