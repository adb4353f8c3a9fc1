# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of antjax.elastic.agent: toy workers, and a coordinator in memory."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from antjax.elastic import agent as agent_lib
from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import host_sockets, process_group, rendezvous_room
from antjax.elastic import jobs as jobs_lib
from antjax.elastic import rendezvous as rendezvous_lib
from antjax.elastic.client import CoordinatorGoneError, StaleError
from tests.elastic.jobs_test import Worker

_DEADLINE_S = 30.0
_PRELUDE = (
  'import os, signal, subprocess, sys, time\n'
  "rank, generation = int(os.environ['RANK']), int(os.environ['GENERATION'])\n"
  "here = os.environ['HERE']\n"
  'def note(name, text=None):\n'
  "  path = os.path.join(here, f'{name}.{rank}.{generation}')\n"
  "  with open(path + '.tmp', 'w') as file:\n"
  '    file.write(text or str(os.getpid()))\n'
  "  os.rename(path + '.tmp', path)\n"
)


class _Coordinator:
  """Jobs and rendezvous, called directly."""

  def __init__(self, **config) -> None:
    config = {'join_wait_s': 0.0, 'agent_timeout_s': 5.0, **config}
    self.jobs = jobs_lib.Jobs()
    self.rendezvous = rendezvous_lib.Rendezvous(
      rendezvous_room.RendezvousConfig(**config)
    )
    self.is_down = False
    self.error: Exception | None = None
    self.hung: set[str] = set()
    self.beats: list[pb.AgentBeatRequest] = []
    self._lock = threading.Lock()

  @property
  def job(self):
    return self.jobs.job('job')

  def operate(self, action: str, target: str = '') -> None:
    Worker(self.jobs, 'operator', job='job').operate(action, target=target)

  def beat(self, name: str, incarnation: int, request, give_up_s: float):
    if self.is_down:
      time.sleep(0.02)
      raise CoordinatorGoneError('AgentBeat: it did not answer.')
    if self.error is not None:
      raise self.error
    request.head.job, request.head.client = 'job', name
    request.head.incarnation = incarnation
    with self._lock:
      now = time.time()
      self.beats.append(request)
      reply = self.rendezvous.beat(request, self.job, now)
      for message in self.rendezvous.decide(self.job, now, self.hung):
        self.jobs.apply(message, now)
      return reply


class _Agent(threading.Thread):
  """A supervisor in a thread."""

  def __init__(self, coordinator, name, code, folder, guard, **options) -> None:
    super().__init__(daemon=True)
    self.said: list[str] = []
    self.code: int | None = None
    self._options = dict(options)
    incarnation = id(self)

    class Caller:
      def call(self, method, request, *, give_up_s):
        assert method == 'AgentBeat' and give_up_s
        return coordinator.beat(name, incarnation, request, give_up_s)

    self.supervisor = agent_lib.Supervisor(
      Caller(),
      ['-c', _PRELUDE + code],
      worker_env=lambda assignment: {
        **os.environ,
        'RANK': str(assignment.rank),
        'GENERATION': str(assignment.generation),
        'HERE': str(folder),
      },
      address='127.0.0.1',
      output=process_group.Output(),
      guard=guard,
      say=self.said.append,
      beat_s=0.05,
      **options,
    )
    self.start()

  def run(self) -> None:
    self.code = self.supervisor.run()

  def end(self) -> int:
    self.join(_DEADLINE_S)
    assert self.code is not None, self.said
    return self.code


@pytest.fixture
def guard():
  guard = process_group.Guard()
  yield guard
  guard.close()


@pytest.fixture
def start(tmp_path, guard):
  """Starts agents named a, b, ...; ends what a test leaves."""
  agents = []

  def run(coordinator, code, count=1, **options):
    new = [
      _Agent(coordinator, 'abc'[i], code, tmp_path, guard, **options)
      for i in range(count)
    ]
    agents.extend(new)
    return new

  yield run
  for agent in agents:
    agent.supervisor.signal(signal.SIGINT)
    agent.supervisor.signal(signal.SIGINT)
    agent.join(_DEADLINE_S)


def _wait_for(condition, what: str = 'it') -> None:
  end = time.monotonic() + _DEADLINE_S
  while not condition():
    assert time.monotonic() < end, f'waited in vain for {what}'
    time.sleep(0.01)


def _read(folder: pathlib.Path, name: str) -> str:
  path = folder / name
  _wait_for(path.exists, name)
  return path.read_text()


def _is_alive(pid: int) -> bool:
  try:
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except FileNotFoundError:
    return False
  return stat.rsplit(')', 1)[1].split()[0] != 'Z'


def test_a_job_runs_to_its_end(start, capfd):
  coordinator = _Coordinator(min_hosts=2, max_hosts=2)
  agents = start(coordinator, 'print("hello", generation)', 2)
  assert [agent.end() for agent in agents] == [0, 0]
  assert coordinator.job.is_success
  lines = sorted(capfd.readouterr().out.splitlines())
  assert lines == ['[0] hello 1', '[1] hello 1']
  assert 'leaving: all workers finished.' in agents[0].said
  ports = [beat.free_port for beat in coordinator.beats]
  # They said good-bye.
  assert ports[-1] == 0 and ports[0] > 0
  left = coordinator.beats[-1]
  assert (left.status, left.generation) == (pb.AgentBeatRequest.IDLE, 1)


def test_a_death_starts_all_again(start, tmp_path, capfd):
  coordinator = _Coordinator(min_hosts=2, max_hosts=2)
  code = (
    'note("pid")\n'
    'if generation > 1: sys.exit(0)\n'
    'if rank == 1:\n'
    '  print("the last word")\n'
    '  os.kill(os.getpid(), 9)\n'
    'signal.signal(signal.SIGTERM, signal.SIG_IGN)\n'
    'time.sleep(600)\n'
  )
  agents = start(coordinator, code, 2)
  assert [agent.end() for agent in agents] == [0, 0]
  job = coordinator.job
  assert job.generation == 2 and job.restarts_used == 1
  assert job.history[0].reason == 'b: its worker died of signal 9 (SIGKILL)'
  assert not _is_alive(int(_read(tmp_path, 'pid.0.1')))
  assert 'the worker died of signal 9 (SIGKILL).' in agents[1].said
  (exited,) = {
    beat.log_tail for beat in coordinator.beats if beat.exit_code == -9
  }
  assert exited == 'the last word'


def test_what_a_worker_has_started_dies_with_it(start, tmp_path):
  coordinator = _Coordinator(max_hosts=1)
  code = (
    'if generation > 1: sys.exit(0)\n'
    "child = subprocess.Popen(['sleep', '600'])\n"
    'note("child", str(child.pid))\n'
    'sys.exit(3)\n'
  )
  (agent,) = start(coordinator, code)
  assert agent.end() == 0
  child = int(_read(tmp_path, 'child.0.1'))
  _wait_for(lambda: not _is_alive(child), 'the end of the child')


def test_a_hung_worker_is_killed_and_started_again(start, tmp_path):
  coordinator = _Coordinator(min_hosts=2, max_hosts=2)
  code = (
    'note("pid")\n'
    'if generation > 1: sys.exit(0)\n'
    'os.kill(os.getpid(), signal.SIGSTOP)\n'
  )
  agents = start(coordinator, code, 2)
  pids = [int(_read(tmp_path, f'pid.{rank}.1')) for rank in (0, 1)]
  coordinator.hung = {'a'}
  _wait_for(lambda: coordinator.job.restarts_used)
  coordinator.hung = set()
  assert [agent.end() for agent in agents] == [0, 0]
  assert not any(map(_is_alive, pids))


def test_a_job_that_always_fails_ends_with_its_cause(start):
  coordinator = _Coordinator(max_hosts=1, max_restarts=1)
  (agent,) = start(coordinator, 'print("no such table")\nsys.exit(5)')
  assert agent.end() == 1
  assert 'its worker exited with code 5' in agent.said[-1]
  assert 'no such table' in agent.said[-1]
  assert coordinator.job.generation == 2


_SAVES = (
  'def save(number, frame):\n'
  '  note("saved")\n'
  '  sys.exit(128 + number)\n'
  'signal.signal(signal.SIGTERM, save)\n'
  'signal.signal(signal.SIGINT, save)\n'
  'if generation > 1: sys.exit(0)\n'
  'note("up")\n'
  'while True: time.sleep(0.02)\n'
)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_host_that_goes_away_saves(start, tmp_path, number):
  coordinator = _Coordinator(min_hosts=1, max_hosts=2, stop_grace_s=0.3)
  (agent,) = start(coordinator, _SAVES)
  _read(tmp_path, 'up.0.1')
  agent.supervisor.signal(number)
  assert agent.end() == 128 + number
  assert (tmp_path / 'saved.0.1').exists()
  _wait_for(lambda: coordinator.job.phase == 'waiting' or _poke(coordinator))
  assert coordinator.job.restarts_used == 0


def _poke(coordinator: _Coordinator) -> None:
  now = time.time()
  for message in coordinator.rendezvous.decide(coordinator.job, now):
    coordinator.jobs.apply(message, now)


def test_an_idle_host_that_goes_away_just_leaves(start):
  coordinator = _Coordinator(min_hosts=2)
  (agent,) = start(coordinator, 'pass')
  _wait_for(lambda: coordinator.beats)
  agent.supervisor.signal(signal.SIGTERM)
  assert agent.end() == 143
  assert coordinator.beats[-1].free_port == 0


def test_a_preempted_host_saves_and_another_one_is_welcome(start, tmp_path):
  coordinator = _Coordinator(max_hosts=1)
  (agent,) = start(coordinator, _SAVES)
  _read(tmp_path, 'up.0.1')
  agent.supervisor.preempt('of the price')
  agent.supervisor.signal(signal.SIGTERM)  # The machine shuts down, too.
  assert agent.end() == rendezvous_lib.EXIT_PREEMPTED
  assert (tmp_path / 'saved.0.1').exists()
  assert 'this host is preempted: of the price.' in agent.said
  _poke(coordinator)
  assert coordinator.job.restarts_used == 0


def test_a_worker_that_does_not_save_in_time_is_killed(start, tmp_path):
  coordinator = _Coordinator(max_hosts=1)
  code = (
    'signal.signal(signal.SIGTERM, signal.SIG_IGN)\n'
    'note("up")\n'
    'time.sleep(600)\n'
  )
  (agent,) = start(coordinator, code, grace_s=0.1)
  pid = int(_read(tmp_path, 'up.0.1'))
  agent.supervisor.signal(signal.SIGTERM)
  assert agent.end() == 137
  assert not _is_alive(pid)
  assert any('killing it' in text for text in agent.said)


def test_a_second_interrupt_kills(start, tmp_path):
  coordinator = _Coordinator(max_hosts=1)
  code = (
    'signal.signal(signal.SIGINT, lambda *_: note("heard"))\n'
    'note("up")\n'
    'while True: time.sleep(0.02)\n'
  )
  (agent,) = start(coordinator, code)
  pid = int(_read(tmp_path, 'up.0.1'))
  agent.supervisor.signal(signal.SIGINT)
  _read(tmp_path, 'heard.0.1')
  assert _is_alive(pid)
  agent.supervisor.signal(signal.SIGINT)
  assert agent.end() == 137
  assert not _is_alive(pid)


def test_all_save_when_the_job_is_asked_to_stop(start, tmp_path):
  coordinator = _Coordinator(min_hosts=2, max_hosts=2)
  agents = start(coordinator, _SAVES, 2)
  for rank in (0, 1):
    _read(tmp_path, f'up.{rank}.1')
  coordinator.operate('stop')
  assert [agent.end() for agent in agents] == [1, 1]
  assert coordinator.job.phase == 'ended'
  for rank in (0, 1):
    assert (tmp_path / f'saved.{rank}.1').exists()


def test_a_replaced_host_leaves_with_its_own_code(start, tmp_path):
  coordinator = _Coordinator(min_hosts=1, max_hosts=2, join_wait_s=0.3)
  agents = start(coordinator, _SAVES, 2)
  for rank in (0, 1):
    _read(tmp_path, f'up.{rank}.1')
  coordinator.operate('replace', 'b')
  assert agents[1].end() == rendezvous_lib.EXIT_REPLACED
  assert agents[0].end() == 0  # Generation 2 ran without it.
  assert coordinator.job.generation == 2


def test_a_coordinator_that_is_away_stops_nobody(start, tmp_path):
  coordinator = _Coordinator(max_hosts=1)
  code = (
    'note("up")\n'
    "while not os.path.exists(os.path.join(here, 'go')): time.sleep(0.02)\n"
    'note("done")\n'
  )
  (agent,) = start(coordinator, code)
  pid = int(_read(tmp_path, 'up.0.1'))
  coordinator.is_down = True
  time.sleep(0.2)
  assert _is_alive(pid)
  (tmp_path / 'go').touch()
  _read(tmp_path, 'done.0.1')
  coordinator.is_down = False
  assert agent.end() == 0
  assert coordinator.job.is_success and coordinator.job.generation == 1


def test_without_a_coordinator_it_gives_up_at_last(start, tmp_path):
  coordinator = _Coordinator(max_hosts=1)
  alive = tmp_path / 'alive'
  (agent,) = start(coordinator, _SAVES, give_up_s=0.5, alive_file=str(alive))
  _read(tmp_path, 'up.0.1')
  pid = agent.supervisor.worker_pid
  assert alive.exists()
  coordinator.is_down = True
  assert agent.end() == 75
  assert 'give_up_s is over' in agent.said[-1]
  assert not _is_alive(pid)


@pytest.mark.parametrize(
  'error',
  [
    PermissionError('AgentBeat: wants another token'),
    StaleError('AgentBeat: fenced off'),
    ValueError('AgentBeat: no name'),
    KeyError('a bug'),
  ],
)
def test_a_refusal_ends_it_with_the_reason(start, error):
  coordinator = _Coordinator()
  coordinator.error = error
  (agent,) = start(coordinator, 'pass')
  assert agent.end() == 1
  assert str(error) in agent.said[-1]


def test_an_answer_to_what_is_no_longer_so_is_ignored(start, tmp_path):
  coordinator = _Coordinator(max_hosts=1)
  (agent,) = start(coordinator, _SAVES)
  pid = int(_read(tmp_path, 'up.0.1'))
  late = pb.AgentBeatRequest(status=pb.AgentBeatRequest.RUNNING, generation=0)
  kill = pb.AgentBeatReply(command=pb.AgentBeatReply.KILL)
  agent.supervisor._events.put(lambda: agent.supervisor._on_reply(late, kill))
  run = pb.AgentBeatReply(command=pb.AgentBeatReply.RUN)
  run.assignment.generation = 9
  late = pb.AgentBeatRequest(status=pb.AgentBeatRequest.IDLE, generation=0)
  agent.supervisor._events.put(lambda: agent.supervisor._on_reply(late, run))
  _wait_for(agent.supervisor._events.empty)
  count = len(coordinator.beats)
  _wait_for(lambda: len(coordinator.beats) > count + 2)
  assert agent.supervisor.worker_pid == pid and _is_alive(pid)


def test_beats_carry_what_the_monitor_wants(start):
  coordinator = _Coordinator(min_hosts=2)
  start(coordinator, 'pass')
  _wait_for(lambda: coordinator.beats)
  resources = coordinator.beats[0].resources
  assert 0 <= resources.cpu_share <= 1 and resources.memory_bytes > 1 << 20
  assert coordinator.beats[0].address == '127.0.0.1'


def test_a_name_is_held_until_the_guard_has_done_its_work(tmp_path):
  key = f'job/a/{tmp_path}'
  code = (
    'import os, signal, subprocess, sys\n'
    'from antjax.elastic import host_sockets, process_group\n'
    f'held = host_sockets.hold_name({key!r})\n'
    'guard = process_group.Guard(keep=[held.fileno()])\n'
    "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
    'guard.add(child.pid)\n'
    'print(child.pid, flush=True)\n'
    'os.kill(os.getpid(), signal.SIGKILL)\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], stdout=subprocess.PIPE, timeout=60
  )
  assert done.returncode == -9
  with host_sockets.hold_name(key):
    assert not _is_alive(int(done.stdout))
    with pytest.raises(RuntimeError, match=f'an agent {re.escape(key)} runs'):
      host_sockets.hold_name(key, wait_s=0.2)
  host_sockets.hold_name(key, wait_s=0.0).close()


def test_free_port_is_of_the_address():
  port = host_sockets.free_port('127.0.0.1')
  with socket.socket() as server:
    server.bind(('127.0.0.1', port))
  with pytest.raises(RuntimeError, match='address=192.0.2.1 is none of this'):
    host_sockets.free_port('192.0.2.1')  # Nobody's.
