# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Supervises one host of an elastic job: starts and restarts its worker.

  python -m launch.agent --coordinator=10.0.0.1:8476 --job=ctr -- \
    launch/train_gmeta.py --flagfile=launch/recipes/quickstart.flags

Start one agent on each host, and one `launch/coordinator.py` per job. `--` is
followed by the arguments of `python`. When a worker fails or hangs, or a host
leaves, the coordinator ends the generation: all agents kill their workers and
start the next generation on the available hosts, from the last committed
checkpoint.

SIGTERM means that this host leaves: the worker has --grace_s seconds to save.
Ctrl-C does the same without a limit; a second one kills. Whatever ends the
agent, including `kill -9`, also ends its worker.

Exit codes: 0 the job succeeded; 1 it failed; 75 this host is to be replaced, or
no coordinator came back within --give_up_s; 76 it is preempted, by a notice of
its cloud (--preemption), and another is welcome; 128 + signal after a signal.

The agent only supervises processes and does not need JAX.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os
import shutil
import signal
import socket
import sys
import tempfile
from typing import Annotated

from absl import flags

from antjax import config_values
from antjax.elastic import agent as agent_lib
from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import host_sockets, preemption, rotation, security
from antjax.elastic.client import CoordinatorClient
from antjax.elastic.host_check import HostCheck
from antjax.elastic.process_group import Guard, Output
from antjax.jobs import script, worker_env

flags.disclaim_key_flags()  # They are the script's.


def own_address(coordinator: str) -> str:
  """Returns this host's address on the way to the coordinator.

  Raises:
    ValueError: `coordinator` is no host:port.
    OSError: Its host is not known.
  """
  host, separator, port = coordinator.rpartition(':')
  is_port = port.isdecimal() and 0 < int(port) <= 65535
  if not separator or not is_port:
    raise ValueError(
      f'--coordinator={coordinator} must be host:port, such as 10.0.0.1:8476.'
    )
  family, *_, target = socket.getaddrinfo(
    host.strip('[]'), int(port), type=socket.SOCK_DGRAM
  )[0]
  with socket.socket(family, socket.SOCK_DGRAM) as probe:
    probe.connect(target)  # Sends nothing: it only chooses the way.
    return str(probe.getsockname()[0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Which job this host works for, and how."""

  coordinator: Annotated[str, 'Address of the coordinator, host:port.'] = ''
  job: Annotated[str, 'Name of the job at the coordinator.'] = 'job'
  name: Annotated[
    str,
    'Name of this host, unique in the job. Ranks follow the order of names.'
    ' Empty: the hostname.',
  ] = ''
  min_hosts: Annotated[
    int,
    'Number of hosts needed to start the job; pass the same value on every'
    " host. 0: the coordinator's setting.",
  ] = 0
  max_hosts: Annotated[
    int, 'With --min_hosts: maximum number of hosts of the job. 0: no limit.'
  ] = 0
  devices_per_host: Annotated[
    int, 'Virtual CPU devices of the worker. 0: JAX chooses the devices.'
  ] = 0
  platform: Annotated[
    str, 'JAX platform of the worker. Empty: JAX chooses.'
  ] = ''
  token_file: Annotated[
    str,
    'File with lines `agent <token> [job]` and `worker <token> [job]`. Workers'
    ' receive only the second token. Empty: no tokens.',
  ] = ''
  tls_dir: Annotated[
    str, 'Folder with ca.pem, cert.pem, key.pem: mutual TLS. Empty: no TLS.'
  ] = ''
  address: Annotated[
    str,
    'Address at which other hosts reach this host. Empty: its address on the'
    ' route to the coordinator.',
  ] = ''
  compilation_cache: Annotated[
    str,
    'Folder of compiled programs, for fast restarts. Share it between all'
    ' hosts, because JAX writes it only on rank 0. Empty:'
    ' JAX_COMPILATION_CACHE_DIR, or a folder of this agent.',
  ] = ''
  give_up_s: Annotated[
    float,
    'Seconds that this host and its worker wait for an unreachable coordinator'
    ' before the agent exits with code 75. 0: wait forever, with a warning.',
  ] = 0.0
  alive_file: Annotated[
    str, 'File to touch every few seconds, for a liveness probe. Empty: none.'
  ] = ''
  check_folder: Annotated[
    str,
    'Folder whose disk is measured if the coordinator checks hosts'
    " (--node_check). Empty: the worker's --run_dir, if it has one.",
  ] = ''
  preemption: Annotated[
    str,
    'Cloud whose metadata server announces preemptions, gce or ec2. The worker'
    ' then saves as after SIGTERM. Empty: react to signals only.',
  ] = ''
  metadata_address: Annotated[
    str, 'With --preemption: host:port of it. Empty: 169.254.169.254:80.'
  ] = ''
  grace_s: Annotated[
    float,
    'Seconds that the worker has to save after SIGTERM or a preemption notice,'
    ' before SIGKILL.',
  ] = 30.0

  def __post_init__(self) -> None:
    if self.preemption and self.preemption not in preemption.KINDS:
      raise ValueError(
        f'preemption={self.preemption} must be gce, ec2 or empty.'
      )
    names = 'min_hosts max_hosts devices_per_host give_up_s grace_s'
    config_values.check_least(self, dict.fromkeys(names.split(), 0))


def worker_environment(
  config: Config,
  name: str,
  assignment: pb.Assignment,
  compilation_cache: str,
  base: Mapping[str, str],
  token_file: str = '',
) -> dict[str, str]:
  """The environment of a worker: what JAX and antjax/jobs/job.py read.

  `token_file` has the worker's token only, not the agent's.
  """
  tls_dir = os.path.abspath(config.tls_dir) if config.tls_dir else ''
  own = {
    'ANTJAX_COORDINATOR': config.coordinator,
    'ANTJAX_JOB': config.job,
    'ANTJAX_WORKER': name,
    'ANTJAX_GENERATION': str(assignment.generation),
    'ANTJAX_TOKEN_FILE': token_file,
    'ANTJAX_TLS_DIR': tls_dir,
    'PYTHONFAULTHANDLER': '1',  # A worker that hangs shows its stacks.
    'ANTJAX_GIVE_UP_S': str(config.give_up_s or 'inf'),
    'JAX_COMPILATION_CACHE_DIR': compilation_cache,
    # A restart is to compile nothing, however short it took.
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
  return worker_env.worker_env(
    assignment.rank,
    hosts=assignment.num_hosts,
    devices_per_host=config.devices_per_host,
    coordinator=assignment.jax_coordinator,
    platform=config.platform,
    base={**base, **own},
  )


def check_program(
  config: Config, command: Sequence[str], compilation_cache: str
) -> tuple[list[str], dict[str, str]]:
  """The program that checks this host before `command` runs, with its env."""
  folders = [config.check_folder] + [
    one.removeprefix('--run_dir=')
    for one in command
    if one.startswith('--run_dir=')
  ]
  folder = next(filter(None, folders), '')
  env = worker_env.worker_env(
    0,
    hosts=1,
    devices_per_host=config.devices_per_host,
    coordinator='',
    platform=config.platform,
    base={
      **os.environ,
      'JAX_COMPILATION_CACHE_DIR': compilation_cache,
      'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
    },
  )
  program = [sys.executable, '-m', 'antjax.jobs.node_check']
  return [*program, f'--folder={folder}'], env


class _Tokens:
  """The agent's token; a file of its own has the worker's.

  Both are those of `--token_file` as it is now.
  """

  def __init__(self, config: Config, folder: str):
    self.path = os.path.join(folder, 'worker-token')
    self._file, self._job = config.token_file, config.job
    self._token = rotation.Rotating(self._read, [config.token_file])

  def __call__(self) -> str:
    return self._token()

  def _read(self) -> str:
    token = security.read_token(self._file, 'agent', self._job)
    worker = security.read_token(self._file, 'worker', self._job)
    new = f'{self.path}.new'
    with open(os.open(new, os.O_WRONLY | os.O_CREAT, 0o600), 'w') as file:
      file.write(f'worker {worker} {self._job}\n')
    os.replace(new, self.path)
    return token


def main(config: Config, command: Sequence[str]) -> int:
  """Supervises the worker to its end; returns the exit code."""
  name = config.name or socket.gethostname()

  def say(message: str) -> None:
    print(f'agent {name}: {message}', file=sys.stderr, flush=True)

  folder = tempfile.mkdtemp(prefix='antjax-agent-')
  try:
    command = worker_env.found_command(command)
    if config.max_hosts and not 0 < config.min_hosts <= config.max_hosts:
      raise ValueError(
        f'--max_hosts={config.max_hosts} needs a --min_hosts from 1 to'
        f' {config.max_hosts}; got {config.min_hosts}.'
      )
    address = config.address or own_address(config.coordinator)
    host_sockets.free_port(address)
    tokens = _Tokens(config, folder) if config.token_file else None
    client = CoordinatorClient(
      config.coordinator,
      job=config.job,
      client=name,
      token=tokens or '',
      tls_dir=config.tls_dir,
    )
    held = host_sockets.hold_name(f'{config.job}/{name}/{address}')
  except (OSError, RuntimeError, ValueError) as error:
    say(f'{error}')
    shutil.rmtree(folder, ignore_errors=True)
    return 2
  guard = Guard(keep=[held.fileno()], folders=[folder])
  cache = (
    config.compilation_cache
    or os.environ.get('JAX_COMPILATION_CACHE_DIR')
    or folder
  )
  program, check_env = check_program(config, command, cache)
  with client:
    supervisor = agent_lib.Supervisor(
      client,
      command,
      worker_env=lambda assignment: worker_environment(
        config,
        name,
        assignment,
        cache,
        os.environ,
        tokens.path if tokens else '',
      ),
      address=address,
      output=Output(),
      guard=guard,
      say=say,
      grace_s=config.grace_s,
      give_up_s=config.give_up_s or float('inf'),
      alive_file=config.alive_file,
      check=HostCheck(program, check_env, guard, address, say=say),
      is_direct=sys.stderr.isatty(),
      min_hosts=config.min_hosts,
      max_hosts=config.max_hosts,
    )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
      signal.signal(number, lambda number, _: supervisor.signal(number))
    if config.preemption:
      preemption.PreemptionWatch(
        config.preemption, config.metadata_address, supervisor.preempt, say
      )
    code = supervisor.run()
  guard.close()
  held.close()
  return code


def run() -> None:
  """Parses the flags and runs the script."""
  script.run(main, Config(), takes_command=True)
