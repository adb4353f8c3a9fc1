# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Hosts of the processes of `benchmarks.chaos_bench`, and their checkpoints."""

from collections.abc import Callable, Sequence
import contextlib
import os
import pathlib
import sys
import time

from antjax.elastic import host_sockets
from antjax.elastic.process_group import Guard
from benchmarks import cluster as cluster_lib
from benchmarks import machine, virtual_network

_SAVE_WAIT_S = 20.0
_SAVE_TRIES = 6
_TEMPORARY = '.orbax-checkpoint-tmp'


class Hosts:
  """Virtual hosts for processes, or loopback for all.

  A context manager, which ends remaining processes on loopback.
  """

  def __init__(self, cluster: cluster_lib.Cluster | None):
    """Takes the virtual hosts, of which the last is the coordinator's."""
    self._cluster = cluster
    self._guard = Guard()  # Ends processes on loopback when we die.
    if cluster is None:
      ports = [host_sockets.free_port('127.0.0.1') for _ in range(2)]
      self.proxy, self.coordinator = (f'127.0.0.1:{port}' for port in ports)
    else:
      address = virtual_network.address(cluster.num_hosts - 1)
      self.proxy, self.coordinator = f'{address}:8476', '127.0.0.1:8477'

  def __enter__(self) -> 'Hosts':
    return self

  def __exit__(self, *exc: object) -> None:
    self._guard.close()

  def start(
    self, host: int, argv: Sequence[str], on_line: Callable[[int, str], None]
  ) -> cluster_lib.Process:
    """Starts a Python program on a host."""
    env = {'PYTHONUNBUFFERED': '1', 'PYTHONPATH': str(machine.ROOT)}
    argv = [sys.executable, *argv]
    if self._cluster is not None:
      return self._cluster.start(host, argv, env, on_line)
    process = cluster_lib.Process(host, argv, {**os.environ, **env}, on_line)
    self._guard.add(process.pid)
    return process


class Saves:
  """The folder of a run's checkpoints, seen from outside."""

  def __init__(self, folder: pathlib.Path):
    """Takes a folder, which need not exist yet."""
    self._folder = folder

  def unfinished(self) -> dict[str, int]:
    """Names of unfinished checkpoints, and their folders' inodes."""
    found = {}
    for name in self._names():
      if _TEMPORARY in name:
        with contextlib.suppress(OSError):
          found[name] = (self._folder / name).stat().st_ino
    return found

  def wait_for(self, share: float) -> bool:
    """Waits until an unfinished one has a share of a complete one's bytes."""
    whole = [
      _num_bytes(self._folder / n) for n in self._names() if n.isdecimal()
    ]
    least = share * max(whole, default=0)
    seen: set[str] = set()
    end = time.monotonic() + _SAVE_WAIT_S
    while time.monotonic() < end:
      for name in self.unfinished():
        seen.add(name)
        # Any save is better than none.
        is_late = len(seen) > _SAVE_TRIES
        if is_late or _num_bytes(self._folder / name) >= least:
          return True
      time.sleep(0.0005)
    return False

  def _names(self) -> list[str]:
    with contextlib.suppress(OSError):
      return os.listdir(self._folder)
    return []


def step_of(name: str) -> int:
  """The step of an unfinished checkpoint."""
  return int(name.partition('.')[0])


def _num_bytes(folder: pathlib.Path) -> int:
  """Bytes of the files in a folder that may change meanwhile."""
  total = 0
  for parent, _, files in os.walk(folder):
    for name in files:
      with contextlib.suppress(OSError):
        total += os.stat(os.path.join(parent, name)).st_size
  return total
