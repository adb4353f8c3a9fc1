# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs a job of `benchmarks.chaos_bench` and injects its events."""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import time
from typing import Any

import psutil

from benchmarks import chaos_blows, chaos_proxy, text_job
from benchmarks import cluster as cluster_lib
from benchmarks.chaos_events import Event
from benchmarks.chaos_hosts import Hosts, Saves, step_of

JOB = 'job'
_POLL_S = 0.01
_STALL_S = 400.0  # Time without a step that counts as an error.
_MAX_IN_VAIN = 25  # Maximum number of generations without a step.
_FROZEN_S = 60.0  # Maximum.
_CUT_S = 10.0  # Maximum.
_HEAD_START_S = 1.0  # A worker wakes up before its agent.
_PROGRESS_TIMEOUT_S = 120.0
# A test takes minutes, not days: silence is detected soon, and the restart
# budget is unlimited. A compiling worker makes no step for a while.
_COORDINATOR_FLAGS = (
  '--policy=benchmarks.chaos_events:shuffle_work',
  '--decide_every_s=1',
  '--min_steps=2',
  '--lease_timeout_s=6',
  f'--progress_timeout_s={_PROGRESS_TIMEOUT_S}',
  '--max_restarts=1000000',
  '--agent_timeout_s=4',
  '--join_wait_s=1',
  '--restart_backoff_s=0',
  '--grow_after_s=1',
  '--node_check=off',
)


@dataclasses.dataclass
class _Frozen:
  """A suspended host."""

  at: float  # Time of suspension.
  generation: int
  processes: list[psutil.Process]  # The worker last.
  saves: dict[str, int]  # Its unfinished checkpoints, with inodes.
  wakes_at: float = float('inf')


class Storm:
  """A job and its faults.

  Attributes:
    struck: Events, with `step`, `generation` and `now` of the run.
    progress: Lines of the workers, one per completed step.
    num_torn: Number of kills that left an unfinished checkpoint folder.
    coordinator_back_s: Seconds from each kill of a coordinator until it serves.
  """

  def __init__(
    self,
    hosts: Hosts,
    job: dict[str, Any],
    events: Sequence[Event],
    *,
    num_workers: int,
    num_spares: int,
    say: Callable[[str], None],
  ):
    """Starts nothing yet; spare hosts replace lost ones."""
    self._hosts, self._job, self._say = hosts, job, say
    self._out = pathlib.Path(job['out'])
    self._saves = Saves(self._out / 'checkpoints')
    self._events = list(events)
    self._num_workers, self._num_spares = num_workers, num_spares
    self._num_hosts = num_workers + num_spares
    self._running: list[cluster_lib.Process] = []
    self._agents: dict[int, cluster_lib.Process] = {}
    self._coordinator: cluster_lib.Process | None = None
    self._proxy: cluster_lib.Process | None = None
    self._dead_until: dict[int, float] = {}  # Host -> start of a new agent.
    self._frozen: dict[int, _Frozen] = {}
    self._first = -1  # Host of rank 0.
    self._hung: list[tuple[float, psutil.Process]] = []
    self._generation = 0  # The newest one reported by an agent.
    self.progress: list[dict[str, Any]] = []
    self._offset = 0
    self._last_step = 0
    self._killed_at = 0.0  # Time of the coordinator's kill.
    self._clock_s = 0.0  # Offset of its clock.
    self._cut_until = 0.0  # Time until which the proxy is suspended.
    self.struck: list[dict[str, Any]] = []
    self.num_dropped = self.num_torn = 0
    self.coordinator_back_s: list[float] = []

  def run(self) -> None:
    """Runs the job to its end."""
    (self._out / 'progress.jsonl').touch()
    try:
      self._start_coordinator()
      self._proxy = self._start(
        self._num_hosts,
        *('-m', 'benchmarks.chaos_proxy', self._hosts.proxy),
        *(self._hosts.coordinator, 'train'),
      )
      for host in range(self._num_hosts):
        self._start_agent(host)
      self._watch()
    finally:
      self._thaw(everything=True)
      self._mend_cut(float('inf'))
      for process in self._running:
        process.kill()
        process.join()

  # --- Processes. ---

  def _start(self, host: int, *argv: str) -> cluster_lib.Process:
    process = self._hosts.start(host, argv, self._on_line)
    self._running = [p for p in self._running if p.poll() is None]
    self._running.append(process)
    return process

  def _start_coordinator(self) -> None:
    address, _, port = self._hosts.coordinator.rpartition(':')
    least = self._num_workers - (not self._num_spares)
    self._coordinator = self._start(
      self._num_hosts,
      *('-m', 'benchmarks.chaos_blows', f'{self._clock_s}'),
      *('launch.coordinator', f'--address={address}', f'--port={port}'),
      *(f'--journal={self._out}/journal.db', f'--min_hosts={max(1, least)}'),
      *(f'--max_hosts={self._num_workers}', *_COORDINATOR_FLAGS),
    )

  def _start_agent(self, host: int) -> None:
    self._agents[host] = self._start(
      host,
      *('-m', 'launch.agent', f'--coordinator={self._hosts.proxy}'),
      *(f'--job={JOB}', f'--name=host{host}', '--devices_per_host=1'),
      f'--compilation_cache={self._out}/cache',
      *('--platform=cpu', '--', '-m', text_job.WORKER, json.dumps(self._job)),
    )

  def _on_line(self, host: int, line: str) -> None:
    """Handles a line of any process, in a separate thread."""
    if line == chaos_proxy.CUT:
      self.num_dropped += 1
    elif line.startswith('coordinator: ') and self._killed_at:
      self.coordinator_back_s.append(time.monotonic() - self._killed_at)
    elif line.startswith('agent ') and ': generation ' in line:
      number, rank = line.split(': generation ')[1].split(': rank ')
      self._generation = max(self._generation, int(number))
      if rank.startswith('0 '):
        self._first = host
    with (self._out / 'log.txt').open('a') as file:
      file.write(f'{time.time():.3f} [{host}] {line}\n')

  def _children(self, host: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
      return list(psutil.Process(self._agents[host].pid).children())
    return []

  def _worker(self, host: int) -> psutil.Process | None:
    """The worker on a host, if one runs."""
    for child in self._children(host):
      with contextlib.suppress(psutil.Error):
        if text_job.WORKER in child.cmdline():
          return child
    return None

  # --- The loop. ---

  def _watch(self) -> None:
    """Injects due events, and repairs, until all agents have ended."""
    waiting = list(self._events)
    ready_at: float | None = None
    mark = 0  # Steps at the last event.
    moved_at, last = time.monotonic(), 0  # Time and generation of a step.
    while True:
      now = time.monotonic()
      if self._read_progress():
        moved_at, last = now, self._generation
      self._repair(now)
      if self._has_ended():
        if waiting:
          self._say(f'the data ended before {len(waiting)} events.')
        return
      if now - moved_at > _STALL_S:
        raise RuntimeError(f'no step for {_STALL_S:.0f} s.')
      if self._generation > last + _MAX_IN_VAIN:
        raise RuntimeError(f'{_MAX_IN_VAIN} generations without a step.')
      if waiting and self._last_step >= mark + waiting[0].after_steps:
        ready_at = ready_at or now + waiting[0].delay_s
        if now >= ready_at and self._strike(waiting[0]):
          waiting.pop(0)
          ready_at, mark = None, self._last_step
          if not waiting:
            (self._out / text_job.OVER).touch()
      time.sleep(_POLL_S)

  def _read_progress(self) -> bool:
    """Reads the notes of rank 0; whether it made progress."""
    with (self._out / 'progress.jsonl').open('rb') as file:
      file.seek(self._offset)
      data = file.read()
    lines = data[: data.rfind(b'\n') + 1]
    self._offset += len(lines)
    before = self._last_step
    for line in lines.splitlines():
      self.progress.append(json.loads(line))
      self._last_step = max(self._last_step, self.progress[-1]['step'])
    return self._last_step > before

  def _repair(self, now: float) -> None:
    """Restarts processes as a cluster would, and resumes hosts."""
    assert self._coordinator is not None
    if (code := self._coordinator.poll()) is not None:
      if code != -signal.SIGKILL:
        raise RuntimeError(f'the coordinator ended by itself, code {code}.')
      self._start_coordinator()
    for host, at in list(self._dead_until.items()):
      if now >= at and self._agents[host].poll() is not None:
        del self._dead_until[host]
        self._start_agent(host)
    self._thaw()
    self._mend_cut(now)
    for at, process in list(self._hung):
      if not process.is_running():
        self._hung.remove((at, process))
      elif now - at > 2 * _PROGRESS_TIMEOUT_S:
        raise RuntimeError(f'worker {process.pid} hangs, and nobody cares.')

  def _has_ended(self) -> bool:
    """Whether all agents have ended, with the expected codes."""
    codes = [
      process.poll()
      for host, process in self._agents.items()
      if host not in self._dead_until
    ]
    if bad := [code for code in codes if code]:
      raise RuntimeError(f'agents ended by themselves, codes {bad}.')
    return codes == [0] * self._num_hosts

  # --- Events. ---

  def _strike(self, event: Event) -> bool:
    """Injects an event; False: its target does not exist at present."""
    assert self._proxy is not None and self._coordinator is not None
    if event.kind == 'drop':
      number = signal.SIGUSR1 if event.share < 0.5 else signal.SIGUSR2
      for _ in range(event.count):
        os.kill(self._proxy.pid, number)
        time.sleep(_POLL_S)  # Signals of a kind do not queue up.
    elif event.kind == 'cut':
      os.kill(self._proxy.pid, signal.SIGSTOP)
      self._cut_until = time.monotonic() + _CUT_S * event.share
    elif event.kind in ('coordinator', 'wal', 'clock'):
      self._kill_coordinator(event)
    else:
      try:
        host = self._strike_host(event)
      except (psutil.Error, ProcessLookupError):
        return False  # It has just ended.
      if host is None:
        return False
      event = Event(**vars(event) | {'host': host})
    where = {'step': self._last_step, 'generation': self._generation}
    self.struck.append(vars(event) | where | {'now': time.time()})
    self._say(
      f'{len(self.struck)}: {event.kind}, host {event.host}, step'
      f' {self._last_step}, generation {self._generation}'
    )
    return True

  def _kill_coordinator(self, event: Event) -> None:
    """Kills it, and changes its environment for the restart."""
    assert self._coordinator is not None
    self._killed_at = time.monotonic()
    with contextlib.suppress(ProcessLookupError):
      os.kill(self._coordinator.pid, signal.SIGKILL)
    if event.kind == 'clock':
      self._clock_s = chaos_blows.clock_offset_s(event.share)
      self._say(f'its clock is off by {self._clock_s:.0f} s.')
    elif event.kind == 'wal':
      while self._coordinator.poll() is None:
        time.sleep(_POLL_S)
      done = chaos_blows.damage_wal(self._out / 'journal.db', event.share)
      self._say(f'the log of the journal: {done}.')

  def _mend_cut(self, now: float) -> None:
    """Ends a cut of the network when its time is over."""
    if self._proxy is not None and 0 < self._cut_until < now:
      with contextlib.suppress(ProcessLookupError):
        os.kill(self._proxy.pid, signal.SIGCONT)
      self._cut_until = 0.0

  def _strike_host(self, event: Event) -> int | None:
    """Hits a working host; returns it, or None."""
    awake = [
      host
      for host in range(self._num_hosts)
      if host not in self._frozen and host not in self._dead_until
    ]
    workers = {h: one for h in awake if (one := self._worker(h)) is not None}
    hosts = list(workers)
    if event.kind == 'agent' and not hosts:
      hosts = awake
    if not hosts or (event.kind == 'freeze' and self._frozen):
      return None
    host = hosts[event.host % len(hosts)]
    is_in_save = event.kind == 'save'
    if event.kind == 'freeze' and event.share < 0.5:
      host, is_in_save = self._first, True
    if host not in hosts or (
      is_in_save and not self._saves.wait_for(2 * event.share % 1)
    ):
      return None
    now = time.monotonic()
    if event.kind == 'agent':
      os.kill(self._agents[host].pid, signal.SIGKILL)
      self._dead_until[host] = now + event.share / 2
    elif event.kind == 'disk':
      chaos_blows.fill_disk(workers[host])
    elif event.kind == 'error':
      (self._out / f'{text_job.RAISE}.host{host}').touch()
    elif event.kind == 'hang':
      workers[host].suspend()
      self._hung.append((now, workers[host]))
    elif event.kind == 'freeze':
      workers[host].suspend()  # At once, before the save ends.
      saves = self._saves.unfinished() if is_in_save else {}
      processes = [psutil.Process(self._agents[host].pid)]
      processes += self._children(host)
      for process in processes:
        process.suspend()
      self._frozen[host] = _Frozen(now, self._generation, processes, saves)
    elif event.kind == 'save':
      workers[host].kill()
      workers[host].wait()
      self.num_torn += bool(self._saves.unfinished())
    else:
      workers[host].kill()
    return host

  def _thaw(self, everything: bool = False) -> None:
    """Resumes frozen hosts once the others have continued without them."""
    now = time.monotonic()
    for host, frozen in list(self._frozen.items()):
      if now < frozen.wakes_at < float('inf') and not everything:
        continue
      if frozen.wakes_at == float('inf') and not everything:
        if self._has_gone_on(frozen) or now > frozen.at + _FROZEN_S:
          _resume(frozen.processes[-1:])
          frozen.wakes_at = now + _HEAD_START_S
          in_save = ', in the same save' if frozen.saves else ''
          self._say(f'host {host} wakes up{in_save}.')
        continue
      del self._frozen[host]
      _resume(frozen.processes)

  def _has_gone_on(self, frozen: _Frozen) -> bool:
    late = [
      line for line in self.progress if line['generation'] > frozen.generation
    ]
    if not late or not frozen.saves:
      return bool(late)
    now = self._saves.unfinished()
    # Another folder of the same name is from successors.
    return late[-1]['step'] > max(
      step_of(name) for name in frozen.saves
    ) or any(
      now.get(name, inode) != inode for name, inode in frozen.saves.items()
    )


def _resume(processes: Sequence[psutil.Process]) -> None:
  for process in processes:
    with contextlib.suppress(psutil.Error):
      process.resume()
