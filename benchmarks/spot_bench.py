# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Jobs on spot hosts that come and go as in a recorded market.

  python -m benchmarks.spot_bench --traces=DIR > results.jsonl

DIR has `spot_*.json`: the number of instances held of those requested, every
`gap_seconds` (skypilot-org/spot-traces). The newest host is lost first. Ways to
run a job on them:

  notice   antjax as is: a notice before a loss, after which all workers save
           and the others continue; new hosts join
  kill     the same without a notice: the work since the last checkpoint is
           repeated
  fixed    all requested hosts or none: it waits until all are held, and resumes
           from the last checkpoint; `fixed_half`: half of them

`simulated`: the coordinator's own rendezvous decides on the whole trace, with
simulated agents and workers. A host does a unit of work per second while all
workers of its generation run. `real`: a part of the trace, faster and with
fewer hosts, by launch/agent.py on this machine; notices come from a metadata
service on loopback. Here work is records in committed steps; a host can do a
step of its records every 0.3 s, which is mostly waiting.

One JSON line per case. `goodput`: committed work over the possible work of the
hosts held all the time.
"""

import contextlib
import dataclasses
import json
import math
import pathlib
import statistics
import sys
import tempfile
import time
from typing import Annotated, Any

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.jobs import Jobs
from antjax.elastic.rendezvous import Rendezvous
from antjax.elastic.rendezvous_room import RendezvousConfig
from benchmarks import harness, spot_hosts, text_job

_TICK_S, _LONG_TICK_S = 5.0, 60.0
_HOLD_SHARE = 0.2  # Share of a save that blocks training; the rest overlaps.
_JOB = 'spot'
_Beat = pb.AgentBeatRequest
_Reply = pb.AgentBeatReply


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Flags."""

  traces: Annotated[str, 'Folder with spot_*.json.']
  asked: Annotated[int, 'Hosts that the traces asked for.'] = 16
  start_s: Annotated[
    tuple[float, ...], 'Simulated: seconds from a start to the first step.'
  ] = (30.0, 90.0, 300.0)
  save_s: Annotated[float, 'Simulated: seconds of a checkpoint.'] = 10.0
  notice_s: Annotated[float, 'Simulated: seconds from a notice on.'] = 120.0
  real_hosts: Annotated[int, 'Hosts of the real job; 0: none.'] = 4
  real_gap_s: Annotated[float, 'Seconds of a row of the trace there.'] = 40.0
  real_rows: Annotated[int, 'Rows of the stretch.'] = 5
  trace: Annotated[tuple[str, ...], 'Traces; empty: all in the folder.'] = ()
  way: Annotated[tuple[str, ...], 'Ways to run a job; empty: all.'] = ()
  text: Annotated[str, 'Prepared text; made if absent.'] = text_job.DATA


@dataclasses.dataclass(frozen=True)
class Way:
  """A way to run a job on spot hosts."""

  has_notice: bool
  least: float  # Minimum number of hosts, as a share of those requested.
  most: float


WAYS = {
  'notice': Way(True, 0.0, 1.0),
  'kill': Way(False, 0.0, 1.0),
  'fixed': Way(False, 1.0, 1.0),
  'fixed_half': Way(False, 0.5, 0.5),
}


def load(path: pathlib.Path) -> tuple[list[int], float]:
  """Returns the number of hosts held in each row, and a row's seconds."""
  trace = json.loads(path.read_text())
  return [int(n) for n in trace['data']], float(
    trace['metadata']['gap_seconds']
  )


@dataclasses.dataclass
class _Toy:
  """A simulated agent and its worker."""

  name: str
  incarnation: int
  status: int = _Beat.IDLE
  generation: int = 0
  since: float = 0.0  # Start of the worker.
  exit_at: float = math.inf  # End of its save.
  is_leaving: bool = False

  def beat(self) -> pb.AgentBeatRequest:
    return _Beat(
      head=pb.Head(job=_JOB, client=self.name, incarnation=self.incarnation),
      address='10.0.0.1',
      free_port=0 if self.is_leaving else 7000,
      status=self.status,
      generation=self.generation,
      exit_code=143 if self.status == _Beat.EXITED else 0,
    )


class Simulation:
  """A job on the hosts of a trace."""

  def __init__(
    self,
    held: list[int],
    gap_s: float,
    way: Way,
    *,
    asked: int,
    start_s: float,
    save_s: float,
    notice_s: float,
  ):
    """Takes a trace, a way and the times of a job."""
    self._held, self._gap_s, self._way = held, gap_s, way
    self._start_s, self._save_s, self._notice_s = start_s, save_s, notice_s
    self._num_hosts_wanted = (
      max(1, round(asked * way.least)),
      round(asked * way.most),
    )
    self._rendezvous = Rendezvous(
      RendezvousConfig(
        min_hosts=self._num_hosts_wanted[0],
        max_hosts=self._num_hosts_wanted[1],
        max_restarts=1_000_000,
        agent_timeout_s=3 * _TICK_S,
        stop_grace_s=60.0 + save_s,
      )
    )
    self._jobs = Jobs()
    self._hosts: list[_Toy] = []
    self._num_hosts = 0
    self._done = self._committed = self._saved_at = 0.0
    self.num_generations = 0
    self.repeated = 0.0

  def run(self) -> float:
    """Returns the committed work, in seconds of a host."""
    end_s = len(self._held) * self._gap_s
    now = 0.0
    while now < end_s:
      tick_s = self._tick_s(now)
      now += tick_s
      self._come_and_go(now)
      job = self._jobs.job(_JOB)
      for host in self._hosts:
        self._obey(host, self._rendezvous.beat(host.beat(), job, now), now)
      for message in self._rendezvous.decide(job, now):
        if isinstance(message, pb.EndGeneration):
          self._end()
        self._jobs.apply(message, now)
        if isinstance(message, pb.StartGeneration):
          self.num_generations += 1
      self._work(now, tick_s)
    return self._committed

  def _tick_s(self, now: float) -> float:
    """Seconds to the next tick: more while nothing can happen."""
    soon = now + self._notice_s + _LONG_TICK_S
    rows = {min(len(self._held) - 1, int(t / self._gap_s)) for t in (now, soon)}
    if len({self._held[row] for row in range(min(rows), max(rows) + 1)}) > 1:
      return _TICK_S
    if any(host.is_leaving for host in self._hosts):
      return _TICK_S
    members = self._members()
    least, most = self._num_hosts_wanted
    if members:
      is_up = all(
        now - one.since >= self._start_s and one.exit_at == math.inf
        for one in members
      )
      is_steady = is_up and len(members) in (most, len(self._hosts))
    else:
      is_idle = all(host.status == _Beat.IDLE for host in self._hosts)
      is_steady = is_idle and len(self._hosts) < least
    return _LONG_TICK_S if is_steady else _TICK_S

  def _come_and_go(self, now: float) -> None:
    rows = len(self._held)
    wanted = self._held[min(rows - 1, int(now / self._gap_s))]
    ahead = self._held[min(rows - 1, int((now + self._notice_s) / self._gap_s))]
    while len(self._hosts) > wanted:
      self._hosts.pop()
    while len(self._hosts) < wanted:
      self._num_hosts += 1
      number = len(self._hosts)
      self._hosts.append(_Toy(f'host-{number}', self._num_hosts))
    if self._way.has_notice:
      for host in self._hosts[min(ahead, wanted) :]:
        host.is_leaving = True

  def _members(self) -> list[_Toy]:
    """All members of the running generation, if they run."""
    job = self._jobs.job(_JOB)
    by_name = {host.name: host for host in self._hosts}
    members = [by_name.get(name) for name in job.members]
    if job.phase != 'running' or not members:
      return []
    running = [
      one
      for one in members
      if one is not None
      and one.status == _Beat.RUNNING
      and one.generation == job.generation
    ]
    return running if len(running) == len(members) else []

  def _obey(self, host: _Toy, reply: pb.AgentBeatReply, now: float) -> None:
    if reply.command == _Reply.RUN:
      host.status, host.since = _Beat.RUNNING, now
      host.generation, host.exit_at = reply.assignment.generation, math.inf
    elif reply.command == _Reply.KILL:
      host.status = _Beat.IDLE
    elif reply.command == _Reply.STOP and host.exit_at == math.inf:
      host.exit_at = now + self._save_s

  def _work(self, now: float, tick_s: float) -> None:
    """Does a tick of work, and saves if due."""
    members = self._members()
    if any(one.is_leaving for one in members):
      # One worker gets a notice, and all agree to stop after this step.
      for one in members:
        one.exit_at = min(one.exit_at, now + self._save_s)
    if members and all(now >= one.exit_at for one in members):
      self._committed = self._done
    for host in self._hosts:
      if host.status == _Beat.RUNNING and now >= host.exit_at:
        host.status = _Beat.EXITED
        if host.is_leaving:
          host.status = _Beat.IDLE
    is_up = members and all(
      now - one.since >= self._start_s and one.exit_at == math.inf
      for one in members
    )
    if not is_up:
      self._saved_at = now
      return
    self._done += len(members) * tick_s
    hold_s = _HOLD_SHARE * self._save_s
    mtbf_s = self._jobs.job(_JOB).mtbf_s or 6 * 3600.0
    # As in antjax/elastic/pulse.py.
    every_s = max(20.0, math.sqrt(2 * hold_s * mtbf_s))
    while now - self._saved_at >= every_s:
      self._saved_at += every_s
      self._done -= len(members) * hold_s
      self._committed = self._done - len(members) * (now - self._saved_at)

  def _end(self) -> None:
    self.repeated += max(0.0, self._done - self._committed)
    self._done = self._committed


def simulated(
  held: list[int], gap_s: float, way: Way, **times: Any
) -> dict[str, Any]:
  """Returns the line of a simulated case."""
  simulation = Simulation(held, gap_s, way, **times)
  committed = simulation.run()
  return {
    'goodput': committed / (sum(held) * gap_s),
    'goodput_of_asked': committed / (times['asked'] * len(held) * gap_s),
    'num_generations': simulation.num_generations,
    'repeated_share': simulation.repeated / max(1.0, committed),
    'mean_held': statistics.fmean(held),
  }


def stretch(
  held: list[int], num_rows: int, asked: int, hosts: int
) -> list[int]:
  """The rows with the most changes and always a host, for fewer hosts."""
  scaled = [round(n * hosts / asked) for n in held]

  def changes(first: int) -> int:
    part = scaled[first : first + num_rows]
    return sum(a != b for a, b in zip(part, part[1:])) if min(part) else -1

  first = max(range(len(scaled) - num_rows + 1), key=changes)
  return scaled[first : first + num_rows]


def _run_real(
  config: Config,
  paths: list[pathlib.Path],
  ways: list[str],
  facts: dict[str, Any],
) -> None:
  hosts = config.real_hosts
  with tempfile.TemporaryDirectory(prefix='spot-') as folder:
    for number, path in enumerate(paths):
      rows = stretch(load(path)[0], config.real_rows, config.asked, hosts)
      for name in ways:
        began = time.monotonic()
        found = spot_hosts.run(
          pathlib.Path(folder) / f'{number}.{name}',
          rows,
          config.real_gap_s,
          max(1, round(hosts * WAYS[name].least)),
          max(1, round(hosts * WAYS[name].most)),
          WAYS[name].has_notice,
          config.text,
        )
        most = spot_hosts.RECORDS_A_HOST_S * sum(rows) * config.real_gap_s
        harness.emit(
          {
            'kind': 'real',
            'trace': path.stem,
            'way': name,
            'rows': rows,
            'goodput': found['records'] / most,
            **found,
            'wall_s': time.monotonic() - began,
          }
          | facts
        )


def main(config: Config) -> int:
  paths = sorted(pathlib.Path(config.traces).glob('spot_*.json'))
  if not paths:
    print(f'spot_bench: no spot_*.json in {config.traces}', file=sys.stderr)
    return 1
  paths = harness.choose('trace', config.trace, {p.stem: p for p in paths})
  ways = harness.choose('way', config.way, {name: name for name in WAYS})
  facts = harness.start()
  for path in paths:
    held, gap_s = load(path)
    for start_s in config.start_s:
      for name in ways:
        times = {
          'asked': config.asked,
          'start_s': start_s,
          'save_s': config.save_s,
          'notice_s': config.notice_s,
        }
        case = {'kind': 'simulated', 'trace': path.stem, 'way': name}
        line = simulated(held, gap_s, WAYS[name], **times)
        harness.emit(case | line | times | facts)
  if config.real_hosts:
    with contextlib.suppress(KeyboardInterrupt):
      _run_real(config, paths, ways, facts)
  return 0


if __name__ == '__main__':
  harness.run(main, Config(traces=''))
