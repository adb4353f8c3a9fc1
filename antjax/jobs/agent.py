# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Supervises one host of an elastic job: runs its worker, and runs it again.

  python -m launch.agent --coordinator=10.0.0.1:8476 --job=ctr -- \
    launch/train_gmeta.py --flagfile=launch/recipes/quickstart.flags

Start it once on each host, beside one `launch/coordinator.py`. After `--` comes
what follows `python` on a command line. When a worker dies or hangs, or a host
goes away, the coordinator ends the generation: all agents kill their workers
and start the next one, on the hosts that are there, from the last committed
checkpoint.

SIGTERM means that this host goes away: the worker may save for --grace_s
seconds. Ctrl-C does the same without a limit; a second one kills. Whatever ends
the agent, `kill -9` included, ends its worker.

Exit codes: 0 the job succeeded; 1 it failed; 75 this host is to be replaced;
128 + signal after a signal.

Needs no JAX itself: it only minds processes.
"""

from collections.abc import Sequence
import os
import signal
import socket
import sys
import tempfile

from absl import app, flags

from antjax.elastic import agent as agent_lib
from antjax.elastic import host_sockets, security
from antjax.elastic.client import CoordinatorClient
from antjax.elastic.process_group import Guard, Output
from antjax.jobs import worker_env

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


def _define_flags() -> None:
  flags.DEFINE_string(
    'coordinator', None, 'host:port of launch/coordinator.py.', required=True
  )
  flags.DEFINE_string('job', 'job', 'Name of the job there.')
  flags.DEFINE_string(
    'name',
    socket.gethostname(),
    'Name of this host in the job, its own there; ranks follow the names.',
  )
  flags.DEFINE_integer(
    'min_hosts',
    0,
    'The job starts with so many hosts, the same flag on each of them; 0: as'
    ' launch/coordinator.py says for all jobs.',
    lower_bound=0,
  )
  flags.DEFINE_integer(
    'max_hosts',
    0,
    'With --min_hosts: the job takes no more; 0: no limit.',
    lower_bound=0,
  )
  flags.DEFINE_integer(
    'devices_per_host',
    0,
    'Virtual CPU devices of the worker; 0 leaves the devices to JAX.',
    lower_bound=0,
  )
  flags.DEFINE_string(
    'platform', '', "JAX platform of the worker; '' leaves it to JAX."
  )
  flags.DEFINE_string(
    'token_file',
    '',
    'File with the lines `agent <token>` and `worker <token>`; empty: the'
    ' coordinator wants none.',
  )
  flags.DEFINE_string(
    'tls_dir', '', 'Folder with ca.pem, cert.pem and key.pem; empty: no TLS.'
  )
  flags.DEFINE_string(
    'address',
    '',
    'Where the other hosts reach this one; empty: its address on the way to the'
    ' coordinator.',
  )
  flags.DEFINE_string(
    'compilation_cache',
    '',
    "Folder of compiled programs, for quick restarts; best one that all hosts'"
    ' share, since JAX writes it on rank 0. Empty: a folder of this agent.',
  )
  flags.DEFINE_float(
    'grace_s',
    30.0,
    'Seconds that the worker has to save after a SIGTERM, before SIGKILL.',
    lower_bound=0.0,
  )


def main(argv: Sequence[str]) -> int:
  values = flags.FLAGS

  def say(message: str) -> None:
    print(f'agent {values.name}: {message}', file=sys.stderr, flush=True)

  command = list(argv[1:])
  if problem := worker_env.command_problem(command):
    say(problem)
    return 2
  if values.max_hosts and not 0 < values.min_hosts <= values.max_hosts:
    say(
      f'--max_hosts={values.max_hosts} needs a --min_hosts from 1 to'
      f' {values.max_hosts}; got {values.min_hosts}.'
    )
    return 2
  try:
    address = values.address or own_address(values.coordinator)
    host_sockets.free_port(address)
    token = (
      security.read_token(values.token_file, 'agent')
      if values.token_file
      else ''
    )
    client = CoordinatorClient(
      values.coordinator,
      job=values.job,
      client=values.name,
      token=token,
      tls_dir=values.tls_dir,
    )
    held = host_sockets.hold_name(f'{values.job}/{values.name}/{address}')
  except (OSError, RuntimeError, ValueError) as error:
    say(f'{error}')
    return 2
  folder = tempfile.mkdtemp(prefix='antjax-cache-')
  guard = Guard(keep=[held.fileno()], folders=[folder])
  with client:
    supervisor = agent_lib.Supervisor(
      client,
      command,
      worker_env=lambda assignment: worker_env.agent_env(
        assignment,
        coordinator=values.coordinator,
        job=values.job,
        name=values.name,
        devices_per_host=values.devices_per_host,
        platform=values.platform,
        token_file=os.path.abspath(values.token_file)
        if values.token_file
        else '',
        tls_dir=os.path.abspath(values.tls_dir) if values.tls_dir else '',
        compilation_cache=values.compilation_cache or folder,
        base=os.environ,
      ),
      address=address,
      output=Output(),
      guard=guard,
      say=say,
      grace_s=values.grace_s,
      is_direct=sys.stderr.isatty(),
      min_hosts=values.min_hosts,
      max_hosts=values.max_hosts,
    )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
      signal.signal(number, lambda number, _: supervisor.signal(number))
    code = supervisor.run()
  guard.close()
  held.close()
  return code


def run() -> None:
  """Parses the flags and runs the script."""
  _define_flags()
  sys.modules['__main__'].__doc__ = __doc__  # What --help shows.
  app.run(main)
