# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Runs a job on this machine as if on several hosts, one process per host.

  python -m launch.local_cluster --hosts=2 --devices_per_host=4 -- \
      launch/train_gmeta.py --flagfile=launch/recipes/quickstart.flags

`--` is followed by the arguments of `python`: a script, or `-m` and a module,
and its flags. Each host gets the address of the coordinator, its index and its
number of devices in environment variables (`worker_env`).

Lines of output are prefixed with the index of their host, `[0] ...`. On a
terminal, those of host 0 have no prefix and its stderr is the terminal, so that
a progress bar works. When a host fails, the others are stopped, and the exit
code is that of the first failed host. The first Ctrl-C is passed on, so that
the job can save; a second one kills. Whatever ends this program, including
`kill -9`, also ends the hosts and their children.

With --elastic the job survives host failures: launch/coordinator.py and one
launch/agent.py per host also run here. If a worker fails, all workers restart
from the last checkpoint; a failed agent or coordinator is restarted. Lines are
prefixed with the rank of the worker. See docs/elastic_jobs.md.

This program only supervises processes and does not need JAX.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os
import signal
import sys
import tempfile
import time
import types
from typing import Annotated

from absl import flags

from antjax import config_values, paths
from antjax.elastic import host_sockets
from antjax.elastic.process_group import (
  describe_exit,
  describe_signal,
  Guard,
  Output,
  ProcessGroup,
)
from antjax.jobs import script, worker_env

flags.disclaim_key_flags()  # They are the script's.

_HERE = '127.0.0.1'
_POLL_S = 0.05
# Hosts whose peer has died wait in a collective and do not hear a SIGTERM.
_GRACE_AFTER_FAILURE_S = 5.0
_ELASTIC = (  # Flags that need --elastic.
  *('min_hosts', 'max_restarts', 'lease_timeout_s', 'progress_timeout_s'),
  *('policy', 'status_port', 'journal'),
)
_RESTART_ENDED = '--restart_ended'
# Not the scripts of launch/, which an installed antjax does not have.
_CONSOLE = ('-m', 'antjax.jobs.console')
_REPLACED = (75, 76)  # What agents say whose hosts are replaced or preempted.


@dataclasses.dataclass
class _Program:
  """One process to run, and to run again where that is right.

  `prefix` begins its lines; `direct` gives it our stderr.
  """

  name: str
  index: int
  command: Sequence[str]
  env: Mapping[str, str]
  prefix: bytes
  direct: bool

  def start(self, guard: Guard, output: Output) -> None:
    command = [sys.executable, *self.command]
    self.process = ProcessGroup(
      *(command, self.env, guard, output),
      prefix=self.prefix,
      direct=self.direct,
    )


def _say(message: str) -> None:
  print(f'local_cluster: {message}', file=sys.stderr, flush=True)


class _Cluster:
  """Runs the hosts to their end and decides who is stopped when.

  Hosts of a `service`, which ends after them, are agents: what was killed is
  started again, and they kill by themselves when asked twice. `folders` are
  removed at the end, whatever way it comes.
  """

  def __init__(
    self,
    grace_s: float,
    service: _Program | None = None,
    folders: Sequence[str] = (),
  ) -> None:
    self._grace_s = grace_s
    self._folders = folders
    self._service = service
    self._received: list[int] = []
    self._stop_signal: int | None = None
    self._kill_at = float('inf')
    self._exit_code = 0

  def _receive(self, number: int, frame: types.FrameType | None) -> None:
    del frame
    self._received.append(number)

  def run(self, hosts: Sequence[_Program]) -> int:
    """Starts the programs; returns the exit code."""
    self._guard = Guard(folders=self._folders)
    self._output = Output(sys.stdout.isatty())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
      signal.signal(number, self._receive)
    if self._service is not None:
      self._service.start(self._guard, self._output)
    running = list(hosts)
    for host in running:
      host.start(self._guard, self._output)
    while running:
      for host in [host for host in running if host.process.has_exited()]:
        self._ended(host, host.process.reap(), running)
      if self._service is not None and self._service.process.has_exited():
        self._service_ended(self._service, running)
      if self._output.closed and self._stop_signal is None:
        self._received.append(signal.SIGTERM)
      self._pass_on(running)
      if time.monotonic() > self._kill_at:
        _say(f'killing hosts {[host.index for host in running]}.')
        self._kill(running)
      time.sleep(_POLL_S if running else 0)
    if self._service is not None:
      self._end_service(self._service.process)
    self._guard.close()
    if self._exit_code == 0 and self._stop_signal is not None:
      return 128 + self._stop_signal  # A stopped job is no finished job.
    return self._exit_code

  def _kill(self, running: Sequence[_Program]) -> None:
    self._kill_at = float('inf')
    for host in running:
      host.process.kill()

  def _is_ending(self) -> bool:
    return self._stop_signal is not None or self._exit_code != 0

  def _ended(self, host: _Program, code: int, running: list[_Program]) -> None:
    if self._service is not None and not self._is_ending():
      if code < 0 or code in _REPLACED:
        _say(f'{host.name} {describe_exit(code)}; starting it again.')
        host.start(self._guard, self._output)
        return
    running.remove(host)
    asked = self._stop_signal
    if code == 0 or self._exit_code or asked in (code - 128, -code):
      return
    self._fail(f'{host.name} {describe_exit(code)}', code, running)

  def _fail(self, how: str, code: int, running: Sequence[_Program]) -> None:
    others = [other.index for other in running]
    self._exit_code = code if code > 0 else 128 - code
    _say(how + (f'; stopping hosts {others}.' if others else '.'))
    for other in running:
      other.process.send(signal.SIGTERM)
    self._kill_at = time.monotonic() + _GRACE_AFTER_FAILURE_S

  def _service_ended(
    self, service: _Program, running: Sequence[_Program]
  ) -> None:
    code = service.process.reap()
    if code < 0:
      _say(f'{service.name} {describe_exit(code)}; starting it again.')
      # What has ended meanwhile has ended: only we are a new start.
      service.command = [
        one for one in service.command if one != _RESTART_ENDED
      ]
      service.start(self._guard, self._output)
      return
    self._service = None
    if self._exit_code == 0:
      self._fail(f'{service.name} {describe_exit(code)}', code or 1, running)

  def _end_service(self, process: ProcessGroup) -> None:
    process.send(signal.SIGTERM)
    end = time.monotonic() + _GRACE_AFTER_FAILURE_S
    while not process.has_exited() and time.monotonic() < end:
      time.sleep(_POLL_S)
    process.reap()

  def _pass_on(self, running: Sequence[_Program]) -> None:
    while self._received:
      number = self._received.pop(0)
      if self._stop_signal is not None:
        if number == signal.SIGINT:
          _say('asked twice; killing the hosts.')
          if self._service is None:
            self._kill(running)
          else:
            self._kill_at = time.monotonic() + _GRACE_AFTER_FAILURE_S
            for host in running:
              host.process.send(signal.SIGINT)
        continue
      if self._exit_code:
        continue  # Being stopped already.
      # A lost terminal is a polite request to end.
      self._stop_signal = (
        signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
      )
      _say(
        f'passing {describe_signal(self._stop_signal)} on; the hosts may save'
        ' and stop.'
        + (' Once more kills them.' if number == signal.SIGINT else '')
      )
      if number != signal.SIGINT:
        self._kill_at = time.monotonic() + self._grace_s
        if self._service is not None:  # Agents keep the limit themselves.
          self._kill_at += 2 * _GRACE_AFTER_FAILURE_S
      for host in running:
        host.process.send(self._stop_signal)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Hosts to play, and with --elastic how the job survives them."""

  hosts: Annotated[int, 'Number of processes to start.'] = 2
  devices_per_host: Annotated[int, 'Virtual CPU devices of each.'] = 4
  platform: Annotated[
    str, 'JAX platform of the processes. Empty: JAX chooses.'
  ] = 'cpu'
  grace_s: Annotated[
    float, 'Seconds to stop after a SIGTERM, before SIGKILL.'
  ] = 30.0
  elastic: Annotated[
    bool,
    'Run the processes under launch/coordinator.py and launch/agent.py. The'
    ' flags below need this.',
  ] = False
  min_hosts: Annotated[
    int, 'Elastic: hosts with which the job continues. 0: all of them.'
  ] = 0
  max_restarts: Annotated[
    int, 'Elastic: maximum number of restarts after faults.'
  ] = 3
  lease_timeout_s: Annotated[
    float, 'Elastic: seconds of silence until a worker counts as lost.'
  ] = 30.0
  progress_timeout_s: Annotated[
    float, 'Elastic: seconds without a step until it counts as lost.'
  ] = 600.0
  policy: Annotated[
    str, 'Elastic: policy for slow workers, see launch/coordinator.py.'
  ] = 'antdt_nd'
  status_port: Annotated[
    int, 'Elastic: loopback port of the status page. 0: a free port.'
  ] = 0
  journal: Annotated[
    str,
    'Elastic: journal of the coordinator. A job with an existing journal'
    ' resumes. Empty: a temporary journal.',
    paths.LOCKED,
  ] = ''

  def __post_init__(self) -> None:
    at_least = {
      **dict.fromkeys(('hosts', 'devices_per_host'), 1),
      **dict.fromkeys(('lease_timeout_s', 'progress_timeout_s'), 0.1),
      **dict.fromkeys(('grace_s', 'min_hosts', 'max_restarts'), 0),
    }
    config_values.check_least(self, at_least)
    if not 0 <= self.status_port <= 65535:
      raise ValueError(f'status_port={self.status_port} must be 0 to 65535.')


def _plain_hosts(config: Config, command: Sequence[str]) -> list[_Program]:
  is_terminal = sys.stdout.isatty()
  coordinator = f'{_HERE}:{host_sockets.free_port(_HERE)}'
  hosts = []
  for host in range(config.hosts):
    env = worker_env.worker_env(
      host,
      hosts=config.hosts,
      devices_per_host=config.devices_per_host,
      coordinator=coordinator,
      platform=config.platform,
      base=os.environ,
    )
    # On a terminal, host 0's progress bar is drawn there by itself.
    direct = is_terminal and host == 0
    prefix = b'' if direct else b'[%d] ' % host
    hosts.append(_Program(f'host {host}', host, command, env, prefix, direct))
  return hosts


def _elastic_programs(
  config: Config, command: Sequence[str], folder: str
) -> tuple[_Program, list[_Program]]:
  """The coordinator and the agents."""
  port = host_sockets.free_port(_HERE)
  env = worker_env.checkout_env(os.environ)
  shared = ('max_restarts', 'policy', 'lease_timeout_s', 'progress_timeout_s')
  coordinator = [
    *(*_CONSOLE, 'coordinator', f'--address={_HERE}', f'--port={port}'),
    f'--journal={config.journal or os.path.join(folder, "journal.db")}',
    f'--min_hosts={config.min_hosts or config.hosts}',
    f'--max_hosts={config.hosts}',
    *(f'--{name}={getattr(config, name)}' for name in shared),
    f'--status_port={config.status_port or host_sockets.free_port(_HERE)}',
    '--node_check=off',  # The hosts are one machine.
    _RESTART_ENDED,
  ]
  cache = os.environ.get('JAX_COMPILATION_CACHE_DIR') or os.path.join(
    folder, 'compilation_cache'
  )
  agents = []
  for host in range(config.hosts):
    agent = [
      *(*_CONSOLE, 'agent', f'--coordinator={_HERE}:{port}', '--job=job'),
      f'--name=host-{host}',
      f'--devices_per_host={config.devices_per_host}',
      f'--platform={config.platform}',
      f'--grace_s={config.grace_s}',
      f'--compilation_cache={cache}',
      *('--', *command),
    ]
    # The agent writes its worker's rank before its lines.
    agents.append(_Program(f'agent {host}', host, agent, env, b'', True))
  return (
    _Program('the coordinator', -1, coordinator, env, b'[coordinator] ', True),
    agents,
  )


def main(config: Config, command: Sequence[str]) -> int:
  """Runs the hosts to their end; returns the exit code."""
  try:
    command = worker_env.found_command(command)
  except ValueError as error:
    _say(f'{error}')
    return 2
  if config.elastic:
    folder = tempfile.mkdtemp(prefix='antjax-cluster-')
    coordinator, agents = _elastic_programs(config, command, folder)
    return _Cluster(config.grace_s, coordinator, [folder]).run(agents)
  given = [f'--{name}' for name in _ELASTIC if flags.FLAGS[name].present]
  if given:
    _say(f'{", ".join(given)}: without --elastic nothing heeds this; add it.')
    return 2
  return _Cluster(config.grace_s).run(_plain_hosts(config, command))


def run() -> None:
  """Parses the flags and runs the script."""
  script.run(main, Config(), takes_command=True)
