# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A virtual cluster: several hosts with slow uplinks on this machine.

  python -m benchmarks.cluster --hosts=2 --devices_per_host=4 \
      --uplink_mbps=400 -- python my_job.py --flag=1

runs the command once on each host and prints its lines with the host's index.
From Python:

  with Cluster(2, 4, uplink_mbps=400) as cluster:
    outputs = cluster.run([sys.executable, '-m', 'my_job'])

Every host is a separate network namespace; a bridge connects them, and each
uplink is limited in both directions (see `benchmarks.virtual_network`). Inside
a host, devices exchange data through memory, as over fast links. Hosts share
the machine's cores, unless `cpu_share` caps them.

The processes find each other by the variables that `jax.distributed.initialize`
and `antjax.jobs.distributed.initialize` read. When one fails, the others are
ended. When the owner ends, even by `kill -9`, the processes are ended and the
hosts removed; a later start also removes any leftovers.

Needs Linux and root; otherwise `missing()` says in one line what is missing.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Annotated, Any, IO

from antjax.jobs import worker_env
from benchmarks import harness, virtual_network

missing = virtual_network.missing

_POLL_S = 0.02
_FIRST_PORT = 21_000
_TAIL_LINES = 30
_DAEMON_WAIT_S = 2.0
# Gloo announces each connection of each group of devices on stdout, sometimes
# in the middle of another such line.
_NOISE = re.compile(r'\[Gloo\] Rank |\d+ is connected to \d+ peer ranks')


class Process:
  """A command on a host, with its output so far."""

  def __init__(
    self,
    host: int,
    command: Sequence[str],
    env: Mapping[str, str],
    on_line: Callable[[int, str], None] | None,
  ):
    self.host = host
    self._on_line = on_line
    self.stdout: list[str] = []
    self.log: list[str] = []  # Both streams.
    self._popen = subprocess.Popen(
      command,
      env=env,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      errors='replace',
      start_new_session=True,
    )
    self.pid = self._popen.pid
    self._threads = [
      threading.Thread(target=self._pump, args=args, daemon=True)
      for args in ((self._popen.stdout, True), (self._popen.stderr, False))
    ]
    for thread in self._threads:
      thread.start()

  def _pump(self, pipe: IO[str], is_stdout: bool) -> None:
    with pipe:
      for line in pipe:
        if _NOISE.match(line):
          continue
        line = line.rstrip('\n')
        self.log.append(line)
        if is_stdout:
          self.stdout.append(line)
        if self._on_line is not None:
          self._on_line(self.host, line)

  def poll(self) -> int | None:
    """Exit code, < 0 for a signal; None while it runs."""
    return self._popen.poll()

  def kill(self) -> None:
    """Kills it and its process group."""
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self.pid, signal.SIGKILL)

  def join(self) -> str:
    """Waits for the end; returns the text of stdout.

    Does not wait for daemons, which end with the cluster.
    """
    self._popen.wait()
    self.kill()  # Its background processes.
    for thread in self._threads:
      thread.join(_DAEMON_WAIT_S)
    return ''.join(f'{line}\n' for line in self.stdout)


class Cluster:
  """Context manager that creates and removes virtual hosts."""

  def __init__(
    self,
    num_hosts: int,
    devices_per_host: int,
    uplink_mbps: float | None = None,
    cpu_share: float | Sequence[float | None] | None = None,
  ):
    """Describes the hosts; `with` creates them.

    Args:
      num_hosts: Number of hosts, 1 to 200.
      devices_per_host: Virtual CPU devices of a JAX process on a host.
      uplink_mbps: Rate of each host's uplink, in each direction, in Mbit/s;
        None: no limit.
      cpu_share: Cores that a host may use, such as 0.5, or one value per host;
        None: no cap.

    Raises:
      ValueError: A number is out of range.
    """
    shares = (
      [cpu_share] * num_hosts
      if cpu_share is None or isinstance(cpu_share, int | float)
      else list(cpu_share)
    )
    has_rate = uplink_mbps is None or 0.01 <= uplink_mbps <= 400_000
    has_shares = len(shares) == num_hosts and all(
      share is None or 0.01 <= share < 1e6 for share in shares
    )
    for name, value, is_right, needed in (
      ('num_hosts', num_hosts, 1 <= num_hosts <= 200, '1 to 200'),
      (
        'devices_per_host',
        devices_per_host,
        devices_per_host > 0,
        'at least 1',
      ),
      (
        *('uplink_mbps', uplink_mbps, has_rate),
        'from 0.01 to 400000, or None for no limit',
      ),
      (
        *('cpu_share', shares, has_shares),
        f'cores of at least 0.01, or None, one for each of {num_hosts} hosts or'
        ' one for all',
      ),
    ):
      if not is_right:
        raise ValueError(f'Cluster({name}={value}) must be {needed}.')
    self.num_hosts = num_hosts
    self.devices_per_host = devices_per_host
    self.uplink_mbps = uplink_mbps
    self._cpu_share = shares
    self._cgroups: dict[int, pathlib.Path] = {}
    self._runs = 0
    self.name = ''

  def __enter__(self) -> 'Cluster':
    """Creates the hosts; RuntimeError of one line if impossible here."""
    reason = missing()
    if reason is not None:
      raise RuntimeError(reason)
    virtual_network.sweep()
    self.name = virtual_network.new_name()
    self._guard = virtual_network.start_guard(self.name)
    try:
      virtual_network.create(self.name, self.num_hosts, self.uplink_mbps)
      for host, share in enumerate(self._cpu_share):
        if share is not None:
          self.set_cpu_share(host, share)
    except BaseException:
      self.__exit__()
      raise
    return self

  def __exit__(self, *exc: object) -> None:
    virtual_network.remove(self.name)
    self._cgroups = {}
    # The guard then finds nothing to do and ends.
    assert self._guard.stdin is not None
    self._guard.stdin.close()
    self._guard.wait()

  def set_cpu_share(self, host: int, num_cores: float | None) -> None:
    """Caps the cores of a host, even while it runs; None removes the cap."""
    if host not in self._cgroups:
      self._cgroups[host] = virtual_network.cpu_cgroup(self.name, host)
    virtual_network.set_cpu_quota(self._cgroups[host], num_cores)

  def start(
    self,
    host: int,
    argv: Sequence[str],
    env: Mapping[str, str] | None = None,
    on_line: Callable[[int, str], None] | None = None,
  ) -> Process:
    """Starts a command on one host and returns at once.

    Args:
      host: Index.
      argv: Program and arguments.
      env: Variables in addition to this process's own.
      on_line: Called with (host, line) for each line, in a thread.
    """
    space = virtual_network.namespace(self.name, host)
    command = ['ip', 'netns', 'exec', space, *map(str, argv)]
    if host in self._cgroups:
      # Join the cgroup before entering: /sys differs inside.
      join = 'echo $$ > "$0" && exec "$@"'
      procs = str(self._cgroups[host] / 'cgroup.procs')
      command = ['sh', '-c', join, procs, *command]
    return Process(host, command, dict(os.environ) | dict(env or {}), on_line)

  def job_env(
    self, host: int, base: Mapping[str, str] | None = None
  ) -> dict[str, str]:
    """Variables by which a JAX process on a host finds its job."""
    port = _FIRST_PORT + self._runs
    return worker_env.worker_env(
      host,
      hosts=self.num_hosts,
      devices_per_host=self.devices_per_host,
      coordinator=f'{virtual_network.address(0)}:{port}',
      platform='cpu',
      base=dict(os.environ) | dict(base or {}),
    )

  def run(
    self,
    argv: Sequence[str],
    env: Mapping[str, str] | None = None,
    *,
    timeout_s: float | None = None,
    on_line: Callable[[int, str], None] | None = None,
  ) -> list[str]:
    """Runs one job: the command on every host, until all have ended.

    Args:
      argv: Program and arguments, such as [sys.executable, '-m', 'my_job'].
      env: Variables in addition to those of `job_env`.
      timeout_s: Time limit of the job in seconds.
      on_line: See `start`.

    Returns:
      Output of each host on stdout, in the order of hosts.

    Raises:
      RuntimeError: A host failed, or the time limit passed; the others were
        ended. The message has the last lines of the first failed host.
    """
    self._runs += 1
    end = time.monotonic() + (timeout_s or float('inf'))
    running: list[Process] = []
    try:
      for host in range(self.num_hosts):
        own = self.job_env(host, env)
        running.append(self.start(host, argv, own, on_line))
      while True:
        failed = [process for process in running if process.poll()]
        is_over = all(process.poll() is not None for process in running)
        if failed or is_over or time.monotonic() > end:
          break
        time.sleep(_POLL_S)
    finally:
      for process in running:
        if process.poll() is None:
          process.kill()
      outputs = [process.join() for process in running]
    if failed or not is_over:
      first = failed[0] if failed else running[0]
      code = first.poll()
      how = f'ended with code {code}' if failed else f'ran over {timeout_s} s'
      tail = '\n'.join(f'  {line}' for line in first.log[-_TAIL_LINES:])
      raise RuntimeError(
        f'host {first.host} {how}; the others were ended. Its last lines:\n'
        f'{tail}'
      )
    return outputs

  def report(
    self, what: str, order: Mapping[str, Any], timeout_s: float
  ) -> dict[str, Any]:
    """Calls 'module:function' on all hosts; returns the report of host 0.

    Prints its other lines. Hosts share compiled programs. See
    `benchmarks.host_steps`.
    """

    def show(host: int, line: str) -> None:
      if host == 0 and not line.startswith('{'):
        print(line, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as cache:
      env = {
        'JAX_COMPILATION_CACHE_DIR': cache,
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.3',
      }
      command = host_command(what, order)
      outputs = self.run(command, env, timeout_s=timeout_s, on_line=show)
    return last_json(outputs[0])


def host_command(what: str, order: Mapping[str, Any]) -> list[str]:
  """Command of each host for `Cluster.report`."""
  module = 'benchmarks.host_steps'
  return [sys.executable, '-m', module, what, json.dumps(order)]


def last_json(output: str) -> dict[str, Any]:
  """The last JSON object among lines."""
  lines = [line for line in output.splitlines() if line.startswith('{')]
  found: dict[str, Any] = json.loads(lines[-1])
  return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Flags."""

  hosts: Annotated[int, 'Virtual hosts.'] = 2
  devices_per_host: Annotated[int, 'Virtual CPU devices of each.'] = 4
  uplink_mbps: Annotated[float | None, 'Mbit/s; none: no limit.'] = None
  cpu_share: Annotated[tuple[float, ...], 'Cores: of all, or of each.'] = ()


def main(config: Config, command: Sequence[str]) -> int:
  if not command:
    sys.exit('cluster: nothing to run; give a command after --.')
  shares = list(config.cpu_share)
  try:
    with Cluster(
      config.hosts,
      config.devices_per_host,
      config.uplink_mbps,
      shares[0] if len(shares) == 1 else shares or None,
    ) as cluster:
      cluster.run(
        command,
        on_line=lambda host, line: print(f'[{host}] {line}', flush=True),
      )
  except (ValueError, RuntimeError) as error:
    # The lines of a failed host are already printed.
    print(f'cluster: {str(error).splitlines()[0]}', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  harness.run(main, Config(), takes_command=True)
