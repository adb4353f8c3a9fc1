# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Runs a job on this machine as if on several hosts: one process a host.

  python -m launch.local_cluster --hosts=2 --devices_per_host=4 -- \
      launch/train_gmeta.py --flagfile=launch/recipes/quickstart.flags

After `--` comes what follows `python` on a command line: a script, or `-m` and
a module, and its flags. Each host gets the address of the coordinator, its
index and its number of devices by environment variables (`worker_env`).

Lines of output carry their host's index, `[0] ...`. On a terminal, host 0's
carry none and its stderr is the terminal, so that a progress bar works. When a
host dies the others are stopped, and the exit code is that of the first one
that failed. The first Ctrl-C is passed on, so that the job can save; a second
one kills. Whatever ends this program, `kill -9` included, ends the hosts and
what they started.

Start-up needs no JAX here: this program only minds processes.
"""

from collections.abc import Mapping, Sequence
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import types

from absl import app, flags

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_POLL_S = 0.05
# Hosts whose peer has died wait in a collective and do not hear a SIGTERM.
_GRACE_AFTER_FAILURE_S = 5.0


def worker_env(
  host: int,
  *,
  hosts: int,
  devices_per_host: int,
  port: int,
  platform: str,
  base: Mapping[str, str],
) -> dict[str, str]:
  """Returns the environment of one host's process.

  Args:
    host: Index of the host, from 0.
    hosts: Number of hosts.
    devices_per_host: Virtual CPU devices of each.
    port: Free loopback port for JAX's coordinator, which host 0 runs.
    platform: JAX platform, such as 'cpu'; '' leaves it to JAX.
    base: Environment to start from.
  """
  address = f'127.0.0.1:{port}'
  env = dict(base)
  # Read by jax.distributed.initialize, and by launch/common.py:
  env['JAX_COORDINATOR_ADDRESS'] = address
  # Loopback only; JAX's default binds all addresses and needs IPv6.
  env['JAX_COORDINATOR_BIND_ADDRESS'] = address
  env['JAX_NUM_PROCESSES'] = str(hosts)
  env['JAX_PROCESS_ID'] = str(host)
  env['JAX_NUM_CPU_DEVICES'] = str(devices_per_host)
  # An inherited device count would win over JAX_NUM_CPU_DEVICES.
  xla_flags = re.sub(
    r'--xla_force_host_platform_device_count=\d+', '', env.get('XLA_FLAGS', '')
  ).split()
  if platform:
    env['JAX_PLATFORMS'] = platform
  terminate = '--xla_cpu_collective_call_terminate_timeout_seconds'
  if not any(flag.startswith(terminate) for flag in xla_flags):
    # All devices share this machine's cores: one may be late by far.
    xla_flags.append(f'{terminate}=300')
  env['XLA_FLAGS'] = ' '.join(xla_flags)
  # A script in a folder finds `launch` and `antjax` without installation.
  paths = [str(_ROOT), *filter(None, [env.get('PYTHONPATH')])]
  env['PYTHONPATH'] = os.pathsep.join(paths)
  env['PYTHONUNBUFFERED'] = '1'
  return env


def free_port() -> int:
  """Returns a loopback port that nobody uses now."""
  with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
    probe.bind(('127.0.0.1', 0))
    return int(probe.getsockname()[1])


# Gloo announces each connection of each group of devices, on stdout.
_NOISE = re.compile(rb'\[Gloo\] Rank \d+ is connected to \d+ peer ranks')


class _Guard:
  """A small process that kills the hosts' process groups if we vanish.

  It sleeps on a pipe whose other end only we hold: the kernel closes that end
  whatever way we die.
  """

  def __init__(self) -> None:
    read_end, self._write_end = os.pipe()
    self._pid = os.fork()  # There are no threads yet.
    if self._pid == 0:
      os.close(self._write_end)
      self._watch(read_end)
    os.close(read_end)

  def _watch(self, read_end: int) -> None:
    try:
      os.setsid()  # What kills our group must not kill the guard.
      for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
      null = os.open(os.devnull, os.O_RDWR)
      for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
      groups: set[int] = set()
      with os.fdopen(read_end) as lines:
        for line in lines:
          action, pid = line[0], int(line[1:])
          (groups.add if action == '+' else groups.discard)(pid)
      for group in groups:
        _kill_group(group)
    finally:
      os._exit(0)

  def add(self, pid: int) -> None:
    os.write(self._write_end, b'+%d\n' % pid)

  def remove(self, pid: int) -> None:
    os.write(self._write_end, b'-%d\n' % pid)

  def close(self) -> None:
    os.close(self._write_end)
    os.waitpid(self._pid, 0)


def _kill_group(group: int) -> None:
  try:
    os.killpg(group, signal.SIGKILL)
  except ProcessLookupError:
    pass


class _Output:
  """Prints lines of several hosts, each with its host's index."""

  def __init__(self, terminal: bool) -> None:
    self._lock = threading.Lock()
    # Wipes host 0's progress bar off the line; the bar draws itself again.
    self._before = b'\r\x1b[K' if terminal else b''
    self.closed = False

  def pump(self, pipe: int, prefix: bytes) -> None:
    """Copies a host's pipe until its end; runs in a thread."""
    rest = b''
    while chunk := os.read(pipe, 1 << 16):
      # A carriage return ends a line too: what is no terminal cannot go back.
      *lines, rest = re.split(rb'\r\n|\n|\r(?!$)', rest + chunk)
      self._write(prefix, lines)
    self._write(prefix, [rest])
    os.close(pipe)

  def _write(self, prefix: bytes, lines: Sequence[bytes]) -> None:
    text = b''.join(
      self._before + prefix + line + b'\n'
      for line in lines
      if line.strip() and not _NOISE.match(line)
    )
    with self._lock:
      if self.closed:
        return
      try:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
      except (BrokenPipeError, ValueError):
        self.closed = True


class _Host:
  """The process of one host, leader of its own process group."""

  def __init__(
    self,
    index: int,
    command: Sequence[str],
    env: Mapping[str, str],
    output: _Output,
    direct: bool,
  ) -> None:
    self.index = index
    # An own session: a terminal's Ctrl-C reaches only us, and we pass it on.
    self._process = subprocess.Popen(
      [sys.executable, *command],
      env=env,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      # On a terminal, host 0's progress bar is drawn there by itself.
      stderr=None if direct else subprocess.STDOUT,
      start_new_session=True,
    )
    self.pid = self._process.pid
    assert self._process.stdout is not None
    pipe = os.dup(self._process.stdout.fileno())
    self._process.stdout.close()
    prefix = b'' if direct else b'[%d] ' % index
    self._thread = threading.Thread(
      target=output.pump, args=(pipe, prefix), daemon=True
    )

  def start_output(self) -> None:
    self._thread.start()

  def has_exited(self) -> bool:
    # Without reaping, so that the group's number stays ours.
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, self.pid, options) is not None

  def send(self, number: int) -> None:
    """Signals the process alone: its helpers are its own business."""
    os.kill(self.pid, number)

  def kill(self) -> None:
    _kill_group(self.pid)

  def reap(self) -> int:
    """Ends what the process left behind; returns its code, < 0: a signal."""
    self.kill()
    code = self._process.wait()
    self._thread.join(timeout=_GRACE_AFTER_FAILURE_S)
    return code


def _name(number: int) -> str:
  return f'signal {number} ({signal.Signals(number).name})'


def _say(message: str) -> None:
  print(f'local_cluster: {message}', file=sys.stderr, flush=True)


class _Cluster:
  """Runs the hosts to their end and decides who is stopped when."""

  def __init__(self, grace_s: float) -> None:
    self._grace_s = grace_s
    self._received: list[int] = []
    self._stop_signal: int | None = None
    self._kill_at = float('inf')
    self._exit_code = 0

  def _receive(self, number: int, frame: types.FrameType | None) -> None:
    del frame
    self._received.append(number)

  def run(
    self, command: Sequence[str], envs: Sequence[Mapping[str, str]]
  ) -> int:
    """Starts one process for each environment; returns the exit code."""
    guard = _Guard()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
      signal.signal(number, self._receive)
    terminal = sys.stdout.isatty()
    output = _Output(terminal)
    running: list[_Host] = []
    for index, env in enumerate(envs):
      host = _Host(index, command, env, output, terminal and index == 0)
      guard.add(host.pid)
      running.append(host)
    for host in running:
      host.start_output()
    while running:
      for host in [host for host in running if host.has_exited()]:
        running.remove(host)
        self._ended(host, host.reap(), running)
        guard.remove(host.pid)
      if output.closed and self._stop_signal is None:
        self._received.append(signal.SIGTERM)
      self._pass_on(running)
      if time.monotonic() > self._kill_at:
        _say(f'killing hosts {[host.index for host in running]}.')
        self._kill(running)
      time.sleep(_POLL_S if running else 0)
    guard.close()
    if self._exit_code == 0 and self._stop_signal is not None:
      return 128 + self._stop_signal  # A stopped job is no finished job.
    return self._exit_code

  def _kill(self, running: Sequence[_Host]) -> None:
    self._kill_at = float('inf')
    for host in running:
      host.kill()

  def _ended(self, host: _Host, code: int, running: Sequence[_Host]) -> None:
    asked = self._stop_signal
    if code == 0 or self._exit_code or asked in (code - 128, -code):
      return
    how = f'exited with code {code}' if code > 0 else f'died of {_name(-code)}'
    others = [other.index for other in running]
    _say(
      f'host {host.index} {how}'
      + (f'; stopping hosts {others}.' if others else '.')
    )
    self._exit_code = code if code > 0 else 128 - code
    for other in running:
      other.send(signal.SIGTERM)
    self._kill_at = time.monotonic() + _GRACE_AFTER_FAILURE_S

  def _pass_on(self, running: Sequence[_Host]) -> None:
    while self._received:
      number = self._received.pop(0)
      if self._stop_signal is not None:
        if number == signal.SIGINT:
          _say('asked twice; killing the hosts.')
          self._kill(running)
        continue
      if self._exit_code:
        continue  # Being stopped already.
      # A lost terminal is a polite request to end.
      self._stop_signal = (
        signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
      )
      _say(
        f'passing {_name(self._stop_signal)} on; the hosts may save and stop.'
        + (' Once more kills them.' if number == signal.SIGINT else '')
      )
      if number != signal.SIGINT:
        self._kill_at = time.monotonic() + self._grace_s
      for host in running:
        host.send(self._stop_signal)


def _define_flags() -> None:
  flags.DEFINE_integer('hosts', 2, 'Processes to start.', lower_bound=1)
  flags.DEFINE_integer(
    'devices_per_host', 4, 'Virtual CPU devices of each.', lower_bound=1
  )
  flags.DEFINE_string(
    'platform', 'cpu', "JAX platform of the hosts; '' leaves it to JAX."
  )
  flags.DEFINE_float(
    'grace_s',
    30.0,
    'Seconds that the hosts have to stop after a SIGTERM, before SIGKILL.',
    lower_bound=0.0,
  )


def main(argv: Sequence[str]) -> int:
  command = list(argv[1:])
  if not command:
    _say('nothing to run; give a script and its flags after --.')
    return 2
  if not command[0].startswith('-') and not os.path.isfile(command[0]):
    _say(f'no such script: {command[0]}; give its path, or -m and a module.')
    return 2
  port = free_port()
  envs = [
    worker_env(
      host,
      hosts=flags.FLAGS.hosts,
      devices_per_host=flags.FLAGS.devices_per_host,
      port=port,
      platform=flags.FLAGS.platform,
      base=os.environ,
    )
    for host in range(flags.FLAGS.hosts)
  ]
  return _Cluster(flags.FLAGS.grace_s).run(command, envs)


if __name__ == '__main__':
  _define_flags()
  app.run(main)
