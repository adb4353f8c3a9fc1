# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Network namespaces, rate limits and CPU quotas of virtual hosts on Linux.

Used by `benchmarks.cluster`. All names start with `antjax<pid>x<number>` of the
owning process. Nothing is created in the machine's own network namespace, so
its addresses and firewall do not matter:

  antjax<pid>x<k>sw     namespace with the bridge that connects the hosts
  antjax<pid>x<k>h<i>   namespace, /etc/netns folder and cgroup of host i

`python -m benchmarks.virtual_network NAME` waits until its stdin ends and
removes NAME: it is the guard that outlives a killed owner.
"""

from collections.abc import Sequence
import contextlib
import math
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

_NAME = re.compile(r'antjax(\d+)x\d+')
_ETC = pathlib.Path('/etc/netns')
_CPU_PERIOD_US = 20_000
_MIN_CPU_QUOTA_US = 1000  # Minimum of the kernel.
_KILL_WAIT_S = 10.0
# A token bucket must hold a whole segment of the kernel (64 KiB), or it is
# split, which costs CPU time.
_MIN_BURST_BYTES = 128 * 1024
_BURST_S = 0.002
# If several hosts send to one, packets wait this long before they are lost.
_QUEUE_S = 0.1


def address(host: int) -> str:
  """IPv4 address of a host, on its interface `eth0`."""
  return f'10.77.0.{host + 1}'


def namespace(name: str, host: int) -> str:
  """Name of a host's network namespace."""
  return f'{name}h{host}'


def sent_bytes() -> int:
  """Bytes sent by the host through its uplink; call it on the host."""
  for line in pathlib.Path('/proc/net/dev').read_text().splitlines():
    device, _, numbers = line.strip().partition(':')
    if device == 'eth0':
      return int(numbers.split()[8])
  raise RuntimeError('virtual_network.sent_bytes: no eth0; call it on a host.')


def missing() -> str | None:
  """Reason, in one line, why virtual hosts are impossible here, or None."""
  if not sys.platform.startswith('linux'):
    return f'virtual hosts need Linux; this is {sys.platform}.'
  if os.geteuid() != 0:
    return 'virtual hosts need root (network namespaces); run as root.'
  for tool in ('ip', 'tc'):
    if shutil.which(tool) is None:
      return f'virtual hosts need the program `{tool}`: install iproute2.'
  probe = f'antjax{os.getpid()}x99probe'
  try:
    _call('ip', 'netns', 'add', probe)
    _limit(probe, 'lo', 100.0)
  except RuntimeError as error:
    return f'virtual hosts cannot be made here: {error}'
  finally:
    _try('ip', 'netns', 'del', probe)
  return None


def create(name: str, num_hosts: int, uplink_mbps: float | None) -> None:
  """Creates the switch and the hosts, each with its own uplink.

  Raises:
    RuntimeError: `ip` or `tc` failed.
  """
  switch = f'{name}sw'
  _call('ip', 'netns', 'add', switch)
  _call('ip', '-n', switch, 'link', 'add', 'bridge0', 'type', 'bridge')
  _call('ip', '-n', switch, 'link', 'set', 'bridge0', 'up')
  for host in range(num_hosts):
    inside, port = namespace(name, host), f'port{host}'
    _write_hosts_file(inside, host)
    _call('ip', 'netns', 'add', inside)
    end = ('peer', 'name', 'eth0', 'netns', inside)
    _call('ip', '-n', switch, 'link', 'add', port, 'type', 'veth', *end)
    # No IPv6 traffic, so that byte counters see only the job.
    _call('ip', '-n', inside, 'link', 'set', 'eth0', 'addrgenmode', 'none')
    _call('ip', '-n', switch, 'link', 'set', port, 'addrgenmode', 'none')
    _call('ip', '-n', switch, 'link', 'set', port, 'master', 'bridge0', 'up')
    own = f'{address(host)}/24'
    _call('ip', '-n', inside, 'addr', 'add', own, 'dev', 'eth0')
    for device in ('lo', 'eth0'):
      _call('ip', '-n', inside, 'link', 'set', device, 'up')
    if uplink_mbps is not None:
      _limit(inside, 'eth0', uplink_mbps)  # What the host sends.
      _limit(switch, port, uplink_mbps)  # What comes in.


def new_name() -> str:
  """An unused name of this process."""
  taken = _existing_names()
  number = 0
  while (name := f'antjax{os.getpid()}x{number}') in taken:
    number += 1
  return name


def start_guard(name: str) -> subprocess.Popen[bytes]:
  """Starts a process that removes `name` when this one dies in any way."""
  return subprocess.Popen(
    [sys.executable, '-m', 'benchmarks.virtual_network', name],
    cwd=pathlib.Path(__file__).resolve().parents[1],
    stdin=subprocess.PIPE,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    start_new_session=True,  # Shields it from a terminal's Ctrl-C.
  )


def cpu_cgroup(name: str, host: int) -> pathlib.Path:
  """Creates a host's CPU cgroup; write a pid to its `cgroup.procs` to join."""
  found = _cpu_controller()
  if found is None:
    raise RuntimeError(
      'cpu_share needs the cgroup controller `cpu` (v1, or v2 with `cpu` in'
      ' cgroup.subtree_control of the root); none is mounted. Leave cpu_share'
      ' out.'
    )
  root, is_v2 = found
  path = root / namespace(name, host)
  try:
    if is_v2:
      (root / 'cgroup.subtree_control').write_text('+cpu')
    path.mkdir(exist_ok=True)
  except OSError as error:
    raise RuntimeError(
      f'cpu_share: cannot make the cgroup {path} ({error.strerror}). Leave'
      ' cpu_share out, or run where cgroups are writable.'
    ) from error
  return path


def set_cpu_quota(cgroup: pathlib.Path, num_cores: float | None) -> None:
  """Caps the CPU of all processes of a cgroup; None removes the cap."""
  quota, period = -1, _CPU_PERIOD_US
  if num_cores is not None:
    period = max(period, math.ceil(_MIN_CPU_QUOTA_US / num_cores))
    quota = int(num_cores * period)
  if (cgroup / 'cpu.max').exists():
    text = 'max' if quota < 0 else str(quota)
    (cgroup / 'cpu.max').write_text(f'{text} {period}')
    return
  (cgroup / 'cpu.cfs_quota_us').write_text('-1')  # Else it may be invalid.
  (cgroup / 'cpu.cfs_period_us').write_text(str(period))
  (cgroup / 'cpu.cfs_quota_us').write_text(str(quota))


def remove(name: str) -> None:
  """Ends all processes in the hosts of `name` and removes the hosts."""
  spaces = [space for space in _namespaces() if _is_part(space, name)]
  end = time.monotonic() + _KILL_WAIT_S
  while pids := [pid for space in spaces for pid in _pids(space)]:
    for pid in pids:
      with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    if time.monotonic() > end:
      break
    time.sleep(0.02)
  for space in spaces:
    _try('ip', 'netns', 'del', space)
  for folder in _folders(_ETC, name):
    shutil.rmtree(folder, ignore_errors=True)
  with contextlib.suppress(OSError):  # Others may have folders there.
    _ETC.rmdir()
  found = _cpu_controller()
  for folder in _folders(found[0], name) if found else []:
    # Already gone, or a process is still dying: a later start sweeps.
    with contextlib.suppress(OSError):
      folder.rmdir()


def sweep() -> list[str]:
  """Removes leftovers of dead owners; returns their names."""
  dead = []
  for name in sorted(_existing_names()):
    match = _NAME.fullmatch(name)
    assert match is not None
    if not _is_owner_alive(name, int(match[1])):
      remove(name)
      dead.append(name)
  return dead


def _existing_names() -> set[str]:
  found = _cpu_controller()
  folders = [*_folders(_ETC), *(_folders(found[0]) if found else [])]
  parts = _namespaces() + [folder.name for folder in folders]
  return {match[0] for part in parts if (match := _NAME.match(part))}


def _is_part(part: str, name: str) -> bool:
  match = _NAME.match(part)
  return match is not None and match[0] == name


def _folders(root: pathlib.Path, name: str | None = None) -> list[pathlib.Path]:
  """Our folders in `root`, or only those of `name` if given."""
  return [
    path
    for path in root.glob('antjax*')
    if _NAME.match(path.name) and (name is None or _is_part(path.name, name))
  ]


def _start_ticks(pid: int) -> str | None:
  """Start time of a process, to distinguish reuses of its pid."""
  try:
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except OSError:
    return None
  state, *rest = stat.rpartition(')')[2].split()
  return None if state == 'Z' else rest[18]


def _is_owner_alive(name: str, pid: int) -> bool:
  ticks = _start_ticks(pid)
  for folder in _folders(_ETC, name):
    try:
      text = (folder / 'hosts').read_text()
    except OSError:
      continue
    if ticks is not None and f'started at {ticks}\n' not in text:
      return False  # The pid was reused.
  return ticks is not None


def _write_hosts_file(space: str, host: int) -> None:
  """Maps the machine's name to the host's address, to which gloo binds."""
  folder = _ETC / space
  folder.mkdir(parents=True, exist_ok=True)
  pid = os.getpid()
  (folder / 'hosts').write_text(
    f'# antjax benchmarks/cluster.py {pid} started at {_start_ticks(pid)}\n'
    '127.0.0.1 localhost\n'
    f'{address(host)} {socket.gethostname()} host{host}\n'
  )


def _limit(space: str, device: str, mbps: float) -> None:
  bytes_per_s = mbps * 1e6 / 8
  burst = max(_MIN_BURST_BYTES, int(bytes_per_s * _BURST_S))
  _call(
    *('tc', '-n', space, 'qdisc', 'replace', 'dev', device, 'root', 'tbf'),
    *('rate', f'{int(mbps * 1e6)}bit', 'burst', str(burst)),
    *('limit', str(burst + int(bytes_per_s * _QUEUE_S))),
  )


def _cpu_controller() -> tuple[pathlib.Path, bool] | None:
  """(folder of the CPU controller, whether it is cgroup v2)."""
  try:
    mounts = pathlib.Path('/proc/mounts').read_text().splitlines()
  except OSError:
    return None
  for line in mounts:
    _, path, kind, options, *_ = line.split()
    if kind == 'cgroup' and 'cpu' in options.split(','):
      return pathlib.Path(path), False
    controllers = pathlib.Path(path, 'cgroup.controllers')
    if kind == 'cgroup2' and controllers.exists():
      if 'cpu' in controllers.read_text().split():
        return pathlib.Path(path), True
  return None


def _namespaces() -> list[str]:
  lines = _try('ip', 'netns', 'list').splitlines()
  return [line.split()[0] for line in lines if line.strip()]


def _pids(space: str) -> list[int]:
  return [int(pid) for pid in _try('ip', 'netns', 'pids', space).split()]


def _call(*command: str) -> str:
  try:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
  except OSError as error:
    raise RuntimeError(f'{command[0]}: {error.strerror}') from error
  if done.returncode:
    said = ' '.join((done.stderr or done.stdout).split())
    raise RuntimeError(f'`{" ".join(command)}` failed: {said}')
  return done.stdout


def _try(*command: str) -> str:
  """Output of a command; '' if it fails."""
  with contextlib.suppress(RuntimeError):
    return _call(*command)
  return ''


def _guard(argv: Sequence[str]) -> None:
  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
  sys.stdin.buffer.read()  # Until the owner closes it, or dies.
  remove(argv[1])


if __name__ == '__main__':
  _guard(sys.argv)
