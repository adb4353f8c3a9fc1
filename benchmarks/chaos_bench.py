# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Real training under fire: what is lost, what counts twice, how long it takes.

  python -m benchmarks.chaos_bench --kills=200

Hosts (virtual ones, see `benchmarks.cluster`, where this machine can; else
processes on loopback) train a small language model on real text, with async
checkpoints every few steps, under launch/agent.py and launch/coordinator.py.
A seeded schedule (`chaos_events`) kills and stops workers, agents, whole hosts
and the coordinator, also in the midst of saves, and loses replies. Killed
agents and coordinators are started again, as a cluster would; all else is up to
antjax. Data last for some steps more than all that needs.

Afterwards it checks, from the workers' own notes (`chaos_lineage`) and from the
final model, which has counted for itself (`chaos_witness`): each record of each
epoch went into the final model exactly once; the two agree step by step; the
coordinator's books say so too; the parameters are bit-equal on all workers; and
a job without any fault that is fed the same micro-batches in the same order
ends with the same parameters.

The last line is JSON. `kills` counts SIGKILLs and SIGSTOPs; `dropped_replies`
come on top. `recovery_s_median` is from the blow to the end of the first step
after it, of blows that end a generation and were not followed by another one
first; hangs and frozen hosts have to be found out. Exit code 1: a check failed.
"""

from collections import Counter
from collections.abc import Callable, Sequence
import contextlib
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app, flags
import numpy as np
import psutil

from antjax.elastic import agent, writer
from antjax.elastic.process_group import Guard
from antjax.input.journal import Journal
from benchmarks import (
  chaos_events,
  chaos_job,
  chaos_lineage,
  chaos_proxy,
  virtual_network,
)
from benchmarks import cluster as cluster_lib
from benchmarks.chaos_events import Event


_ROOT = pathlib.Path(__file__).resolve().parents[1]
_WORKER = 'benchmarks.chaos_worker'
_JOB = 'job'
_POLL_S = 0.01
_STALL_S = 180.0  # Without a step; then something is wrong.
_SAVE_TRIES = 6
_TEMPORARY = '.orbax-checkpoint-tmp'
# A test takes seconds, not hours: silence is found out soon, and the restart
# budget is no limit here. A worker that compiles makes no step for a while.
COORDINATOR_FLAGS = (
  '--policy=benchmarks.chaos_events:shuffle_work',
  '--decide_every_s=1',
  '--min_steps=2',
  '--lease_timeout_s=8',
  '--progress_timeout_s=45',
  '--max_restarts=1000000',
  '--agent_timeout_s=4',
  '--join_wait_s=1',
  '--restart_backoff_s=0',
  '--grow_after_s=1',
)


class _Hosts:
  """Where processes run: virtual hosts, or all on loopback."""

  def __init__(self, num_hosts: int, cluster: cluster_lib.Cluster | None):
    self._cluster = cluster
    self._guard = Guard()  # Ends what is on loopback when we vanish.
    self._num_hosts = num_hosts
    self._ports = (agent.free_port('127.0.0.1'), agent.free_port('127.0.0.1'))

  def coordinator(self) -> tuple[str, str]:
    """address:port of the proxy, and of the coordinator behind it."""
    if self._cluster is None:
      return f'127.0.0.1:{self._ports[0]}', f'127.0.0.1:{self._ports[1]}'
    address = virtual_network.address(self._num_hosts)
    return f'{address}:8476', '127.0.0.1:8477'

  def start(
    self, host: int, argv: Sequence[str], on_line: Callable[[int, str], None]
  ) -> cluster_lib.Process:
    env = {'PYTHONUNBUFFERED': '1', 'PYTHONPATH': str(_ROOT)}
    argv = [sys.executable, *argv]
    if self._cluster is not None:
      return self._cluster.start(host, argv, env, on_line)
    env = {**os.environ, **env}
    process = cluster_lib.Process(host, argv, env, on_line)
    self._guard.add(process.pid)
    return process


class Storm:
  """One job, and what befalls it."""

  def __init__(
    self,
    hosts: _Hosts,
    job: dict[str, Any],
    events: Sequence[Event],
    num_hosts: int,
    say: Callable[[str], None],
  ):
    """Starts nothing yet."""
    self._hosts, self._job, self._say = hosts, job, say
    self._out = pathlib.Path(job['out'])
    self._events = list(events)
    self._num_hosts = num_hosts
    self._agents: dict[int, cluster_lib.Process] = {}
    self._frozen: dict[int, tuple[float, int, list[psutil.Process]]] = {}
    self._hung: list[tuple[float, psutil.Process]] = []
    self._unlocked_at: dict[int, float] = {}  # Host -> start of a new agent.
    self._generation = 0  # The newest that an agent spoke of.
    self._progress: list[dict[str, Any]] = []
    self._progress_file = self._out / 'progress.jsonl'
    self._offset = 0
    self._last_step = 0
    self._whole_bytes = 0  # Of a checkpoint.
    self.struck: list[dict[str, Any]] = []
    self.num_dropped = 0
    self.coordinator_back_s: list[float] = []
    self._coordinator_killed_at = 0.0

  # --- Processes. ---

  def run(self) -> None:
    """Runs the job to its end.

    Raises:
      RuntimeError: It stood still, or an agent ended as it should not.
    """
    self._progress_file.touch()
    try:
      self._start_coordinator()
      proxy, target = self._hosts.coordinator()
      self._proxy = self._hosts.start(
        self._num_hosts,
        [
          *('-m', 'benchmarks.chaos_proxy', f'--listen={proxy}'),
          *(f'--target={target}', '--mark=train'),
        ],
        self._on_line,
      )
      for host in range(self._num_hosts):
        self._start_agent(host)
      self._watch()
    finally:
      self._thaw(everything=True)
      for process in [*self._agents.values(), self._proxy, self._coordinator]:
        process.kill()
        process.join()

  def _start_coordinator(self) -> None:
    address, _, port = self._hosts.coordinator()[1].rpartition(':')
    self._coordinator = self._hosts.start(
      self._num_hosts,
      [
        *('-m', 'launch.coordinator', f'--address={address}', f'--port={port}'),
        f'--journal={self._out}/journal.db',
        f'--min_hosts={max(1, self._num_hosts - 1)}',
        f'--max_hosts={self._num_hosts}',
        *COORDINATOR_FLAGS,
      ],
      self._on_line,
    )

  def _start_agent(self, host: int) -> None:
    self._agents[host] = self._hosts.start(
      host,
      [
        *(
          '-m',
          'launch.agent',
          f'--coordinator={self._hosts.coordinator()[0]}',
        ),
        *(f'--job={_JOB}', f'--name=host{host}', '--devices_per_host=1'),
        f'--compilation_cache={self._out}/cache',
        *('--platform=cpu', '--', '-m', _WORKER, json.dumps(self._job)),
      ],
      self._on_line,
    )

  def _on_line(self, host: int, line: str) -> None:
    """Sees a line of any process; in a thread of its own."""
    if line == chaos_proxy.CUT:
      self.num_dropped += 1
    elif line.startswith('coordinator: ') and self._coordinator_killed_at:
      now = time.monotonic()
      self.coordinator_back_s.append(now - self._coordinator_killed_at)
    elif ': generation ' in line and line.startswith('agent '):
      number = line.split(': generation ')[1].split(':')[0]
      self._generation = max(self._generation, int(number))
    with (self._out / 'log.txt').open('a') as file:
      file.write(f'{time.time():.3f} [{host}] {line}\n')

  def _worker(self, host: int) -> psutil.Process | None:
    """The worker on a host, if one runs."""
    return next(
      (one for one in self._children(host) if _WORKER in one.cmdline()), None
    )

  def _children(self, host: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
      found = psutil.Process(self._agents[host].pid).children()
      return [one for one in found if one.cmdline()]
    return []

  # --- The loop. ---

  def _watch(self) -> None:
    """Strikes when it is time, and repairs, until all agents have ended."""
    waiting = list(self._events)
    ready_at: float | None = None
    mark = 0  # Steps at the last blow.
    moved_at = time.monotonic()
    while True:
      now = time.monotonic()
      if self._read_progress():
        moved_at = now
      self._repair(now)
      if self._is_over(bool(waiting)):
        return
      if now - moved_at > _STALL_S:
        raise RuntimeError(f'no step for {_STALL_S:.0f} s.')
      if waiting and self._last_step >= mark + waiting[0].after_steps:
        ready_at = ready_at or now + waiting[0].delay_s
        if now >= ready_at and self._strike(waiting[0]):
          waiting.pop(0)
          ready_at, mark = None, self._last_step
          if not waiting:
            (self._out / 'over').touch()
      time.sleep(_POLL_S)

  def _read_progress(self) -> bool:
    """Reads what rank 0 of the generations has noted; whether it got on."""
    with self._progress_file.open() as file:
      file.seek(self._offset)
      text = file.read()
    end = text.rfind('\n') + 1
    self._offset += len(text[:end].encode())
    before = self._last_step
    for line in text[:end].splitlines():
      self._progress.append(json.loads(line))
      self._last_step = max(self._last_step, self._progress[-1]['step'])
    return bool(end) and self._last_step > before

  def _repair(self, now: float) -> None:
    """Starts what a cluster would start again, and thaws hosts."""
    if self._coordinator.poll() is not None:
      if self._coordinator.poll() != -signal.SIGKILL:
        raise RuntimeError(
          f'the coordinator ended by itself, code {self._coordinator.poll()}.'
        )
      self._coordinator.join()
      self._start_coordinator()
    for host, at in list(self._unlocked_at.items()):
      if now >= at:
        del self._unlocked_at[host]
        self._agents[host].join()
        self._start_agent(host)
    self._thaw()
    for at, process in list(self._hung):
      if not process.is_running():
        self._hung.remove((at, process))
      elif now - at > 2 * 45:
        raise RuntimeError(f'worker {process.pid} hangs and nobody cares.')

  def _is_over(self, is_waiting: bool) -> bool:
    """Whether all agents have ended, as they should."""
    codes = {
      host: agent.poll()
      for host, agent in self._agents.items()
      if host not in self._unlocked_at
    }
    bad = {host: code for host, code in codes.items() if code}
    if bad:
      raise RuntimeError(f'agents ended by themselves, codes {bad}.')
    if len(codes) == self._num_hosts and all(c == 0 for c in codes.values()):
      if is_waiting:
        self._say('the data ended before all events had struck.')
      return True
    return False

  # --- Blows. ---

  def _strike(self, event: Event) -> bool:
    """Deals an event out; False: its victim is not there at present."""
    if event.kind == 'drop':
      number = signal.SIGUSR1 if event.share < 0.5 else signal.SIGUSR2
      for _ in range(event.count):
        os.kill(self._proxy.pid, number)
        time.sleep(_POLL_S)  # Signals of a kind do not queue up.
    elif event.kind == 'coordinator':
      self._coordinator_killed_at = time.monotonic()
      os.kill(self._coordinator.pid, signal.SIGKILL)
    else:
      # Most of the hosts always live.
      host = event.host
      while host in self._frozen or host in self._unlocked_at:
        host = (host + 1) % self._num_hosts
        if host == event.host:
          return False
      if not self._strike_host(event, host):
        return False
      event = Event(**vars(event) | {'host': host})
    self.struck.append(
      {
        **vars(event),
        'step': self._last_step,
        'generation': self._generation,
        'now': time.time(),
      }
    )
    self._say(
      f'{len(self.struck)}: {event.kind} of host {event.host} at step'
      f' {self._last_step}, generation {self._generation}'
    )
    return True

  def _strike_host(self, event: Event, host: int) -> bool:
    try:
      if event.kind == 'agent':
        os.kill(self._agents[host].pid, signal.SIGKILL)
        self._unlocked_at[host] = time.monotonic() + event.share / 2
        return True
      if self._frozen and event.kind == 'freeze':
        return False
      worker = self._worker(host)
      if worker is None:
        return False
      if event.kind == 'save' and not self._wait_for_save(event.share):
        return False
      if event.kind == 'hang':
        worker.suspend()
        self._hung.append((time.monotonic(), worker))
      elif event.kind == 'freeze':
        processes = [psutil.Process(self._agents[host].pid)]
        processes += self._children(host)
        for process in processes:
          process.suspend()
        self._frozen[host] = (time.monotonic(), self._generation, processes)
      else:
        worker.kill()
    except (psutil.Error, ProcessLookupError):
      return False  # It has just ended.
    return True

  def _wait_for_save(self, share: float) -> bool:
    """Returns when a checkpoint's unfinished folder has its share of bytes."""
    folder = self._out / 'checkpoints'
    if not self._whole_bytes:
      done = [p for p in folder.glob('[0-9]*') if _TEMPORARY not in p.name]
      self._whole_bytes = max(map(_num_bytes, done), default=0)
    seen: set[str] = set()
    end = time.monotonic() + 20
    while time.monotonic() < end:
      for name in _names(folder):
        if _TEMPORARY not in name:
          continue
        seen.add(name)
        # Rather some save than none.
        is_late = len(seen) > _SAVE_TRIES
        if is_late or (_num_bytes(folder / name) >= share * self._whole_bytes):
          return True
      time.sleep(0.0005)
      if len(seen) % 2:
        self._read_progress()
    return False

  def _thaw(self, everything: bool = False) -> None:
    """Wakes frozen hosts once the others have gone on without them."""
    for host, (at, generation, processes) in list(self._frozen.items()):
      has_gone_on = any(
        line['generation'] > generation for line in self._progress[-5:]
      )
      if everything or has_gone_on or time.monotonic() > at + 30:
        del self._frozen[host]
        for process in processes:
          with contextlib.suppress(psutil.Error):
            process.resume()
        if not everything:
          self._say(f'host {host} goes on where it was.')

  # --- What came of it. ---

  def recoveries(self) -> dict[str, list[float]]:
    """Seconds from a blow to the first step of a later generation, by kind."""
    found: dict[str, list[float]] = {}
    ending = [one for one in self.struck if one['kind'] in chaos_events.ENDING]
    for one, following in zip(ending, [*ending[1:], None]):
      step = next(
        (
          line
          for line in self._progress
          if line['generation'] > one['generation'] and line['now'] > one['now']
        ),
        None,
      )
      if step and (following is None or following['now'] > step['now']):
        seconds = step['now'] - one['now']
        found.setdefault(one['kind'], []).append(seconds)
    return found


def _names(folder: pathlib.Path) -> list[str]:
  try:
    return os.listdir(folder)
  except OSError:
    return []


def _num_bytes(folder: pathlib.Path) -> int:
  """Bytes of the files in a folder that may be changing."""
  total = 0
  for parent, _, files in os.walk(folder):
    for name in files:
      with contextlib.suppress(OSError):
        total += os.stat(os.path.join(parent, name)).st_size
  return total


# --- Checks. ---


def check(
  out: pathlib.Path, job: dict[str, Any], num_hosts: int
) -> dict[str, Any]:
  """Returns what is found in the folder of a run that has ended.

  Raises:
    ValueError: The notes do not hang together.
  """
  num_keys = job['num_sequences'] * job['num_epochs']
  runs = []
  for path in sorted((out / 'notes').iterdir()):
    if (
      run := chaos_lineage.read_run(path.read_text().splitlines())
    ) is not None:
      runs.append(run)
  ends = [path.name.split('.') for path in (out / 'final').glob('*.json')]
  last = max(int(end[0]) for end in ends)
  finals = {
    path.name.split('.')[1]: json.loads(path.read_text())
    for path in (out / 'final').glob(f'{last}.*.json')
  }
  (arrays,) = (out / 'final').glob(f'{last}.*.npz')
  model = dict(np.load(arrays))
  step = next(iter(finals.values()))['step']
  owner = chaos_lineage.lineage(runs, last, step)
  steps = chaos_lineage.steps_of(runs, owner)
  lost, twice = chaos_lineage.count(steps, num_keys)
  counts = model['witness.keys'].astype(int)
  witness = {
    'counts': counts.tolist(),
    'steps': model['steps'].astype(int).tolist(),
    'generations': model['generations'].astype(int).tolist(),
  }
  found = {
    'records': num_keys,
    'records_lost': lost,
    'committed_twice': twice,
    'lost_in_model': int((counts == 0).sum()),
    'twice_in_model': int(np.maximum(counts - 1, 0).sum()),
    'notes_and_model_differ': chaos_lineage.disagreement(steps, owner, witness),
    'workers_equal': len({one['digest'] for one in finals.values()}) == 1,
    'final_step': step,
    'generations_in_model': len(set(owner.values())),
    'steps_done_again': sum(
      len({s for run in runs if run.generation == g for s in run.steps})
      for g in {run.generation for run in runs}
    )
    - step,
    **_books(out),
  }
  replayed = _replay(out, job, num_hosts, steps, owner)
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
  """What the coordinator's journal says in the end."""
  with Journal(out / 'journal.db') as journal:
    job = writer.load(journal).job(_JOB)
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
  steps: list[dict[str, list[list[int]]]],
  owner: dict[int, int],
) -> dict[str, np.ndarray]:
  """Final arrays of a job without faults that repeats the steps."""
  folder = out / 'replay'
  folder.mkdir()
  file = folder / 'steps.json'
  noted = {
    'workers': [f'host{host}' for host in range(num_hosts)],
    'steps': steps,
    'generations': [owner[step] for step in sorted(owner)],
  }
  file.write_text(json.dumps(noted))
  again = job | {'out': str(folder), 'replay': str(file)}
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'launch.local_cluster', f'--hosts={num_hosts}'),
      *('--devices_per_host=1', '--', '-m', _WORKER, json.dumps(again)),
    ],
    cwd=_ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    raise RuntimeError(f'the undisturbed run failed:\n{done.stderr[-3000:]}')
  (arrays,) = (folder / 'final').glob('*.npz')
  return dict(np.load(arrays))


def failures(line: dict[str, Any], num_kills: int) -> list[str]:
  """What is wrong with a result."""
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
    'bit_equal': True,
  }
  return [
    f'{name}: {line[name]}, needed: {value}'
    for name, value in wanted.items()
    if line[name] != value
  ]


def _define_flags() -> None:
  flags.DEFINE_integer('kills', 200, 'Kills and stops.', lower_bound=1)
  flags.DEFINE_integer('hosts', 3, 'Hosts of the job.', lower_bound=2)
  flags.DEFINE_integer('seed', 0, 'Of the schedule.')
  flags.DEFINE_integer(
    'steps_per_kill', 8, 'New steps before a blow, on average.', lower_bound=1
  )
  flags.DEFINE_integer(
    'steps', 0, 'Steps that the data suffice for; 0: what the kills need.'
  )
  flags.DEFINE_bool(
    'virtual_hosts', None, 'Needs root; by default where it is possible.'
  )
  flags.DEFINE_string('paro', 'NNG', 'PaRO code, an elastic one.')
  flags.DEFINE_string(
    'text',
    'data/shakespeare',
    'Folder of launch/prepare_text.py; made if absent.',
  )
  flags.DEFINE_string('out', '', 'Folder to keep all files in.')


def make_job(out: pathlib.Path, data: str, num_steps: int) -> dict[str, Any]:
  """The worker's job: data for so many steps of all hosts."""
  values = flags.FLAGS
  one = chaos_job.Job(data=os.path.abspath(data), out=str(out), num_sequences=0)
  available = len(chaos_job.all_sequences(one))
  needed = num_steps * values.hosts * one.num_micro_batches * one.rows
  num_epochs = -(-needed // available)
  job = vars(one) | {
    'paro': values.paro,
    'num_epochs': num_epochs,
    'num_sequences': -(-needed // num_epochs),
  }
  return job


def run(out: pathlib.Path) -> tuple[dict[str, Any], list[str]]:
  """Runs all; returns the result and what is wrong with it."""
  values = flags.FLAGS
  began = time.monotonic()

  def say(message: str) -> None:
    print(f'[{time.monotonic() - began:7.1f} s] {message}', file=sys.stderr)

  if not (pathlib.Path(values.text) / 'dataset.json').exists():
    prepare = [sys.executable, '-m', 'launch.prepare_text']
    subprocess.run(
      [*prepare, f'--out={values.text}'], check=True, stdout=sys.stderr
    )
  events = chaos_events.schedule(
    values.seed, values.kills, values.hosts, values.steps_per_kill
  )
  num_steps = values.steps or chaos_events.num_steps(events)
  job = make_job(out, values.text, num_steps)
  is_virtual = values.virtual_hosts
  if is_virtual is None:
    is_virtual = cluster_lib.missing() is None
  with contextlib.ExitStack() as stack:
    cluster = None
    if is_virtual:
      cluster = stack.enter_context(cluster_lib.Cluster(values.hosts + 1, 1))
    hosts = _Hosts(values.hosts, cluster)
    storm = Storm(hosts, job, events, values.hosts, say)
    storm.run()
  say('all agents have ended; repeating the run without faults.')
  ran_s = time.monotonic() - began
  found = check(out, job, values.hosts)
  kinds = Counter(one['kind'] for one in storm.struck)
  num_drops = kinds.pop('drop', 0)
  recoveries = storm.recoveries()
  line = {
    'kills': sum(kinds.values()),
    **found,
    'recovery_s_median': _median([x for xs in recoveries.values() for x in xs]),
    'recovery_s_by_kind': {k: _median(v) for k, v in recoveries.items()},
    'coordinator_back_s': _median(storm.coordinator_back_s),
    'kills_by_kind': dict(kinds),
    'drops_asked': num_drops,
    'dropped_replies': storm.num_dropped,
    'hosts': values.hosts,
    'virtual_hosts': is_virtual,
    'seed': values.seed,
    'paro': values.paro,
    'run_s': round(ran_s, 1),
  }
  return line, failures(line, values.kills)


def _median(values: list[float]) -> float | None:
  return round(statistics.median(values), 2) if values else None


def main(argv: Sequence[str]) -> int:
  if len(argv) > 1:
    raise app.UsageError(f'got {argv[1:]}; chaos_bench takes flags only.')
  cluster_lib.exit_on_signals()
  with contextlib.ExitStack() as stack:
    out = flags.FLAGS.out or stack.enter_context(
      tempfile.TemporaryDirectory(prefix='chaos-')
    )
    path = pathlib.Path(out).absolute()
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()):
      raise app.UsageError(f'--out={out} must be empty.')
    try:
      line, wrong = run(path)
    except (RuntimeError, ValueError) as error:
      print(f'chaos_bench: {error}', file=sys.stderr)
      log = path / 'log.txt'
      if log.exists():
        print('\n'.join(log.read_text().splitlines()[-60:]), file=sys.stderr)
      return 1
  print(json.dumps(line), flush=True)
  for text in wrong:
    print(f'chaos_bench: {text}', file=sys.stderr)
  return 1 if wrong else 0


if __name__ == '__main__':
  _define_flags()
  app.run(main)
