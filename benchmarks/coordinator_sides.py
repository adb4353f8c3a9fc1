# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The servers compared by `coordinator_bench`, with their fake workers."""

from collections.abc import Mapping
import contextlib
import json
import os
import pathlib
import secrets
import socket
import subprocess
import sys
import time
from typing import Any

import psutil

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import host_sockets
from antjax.elastic.client import CoordinatorClient
from benchmarks import coordinator_peers, coordinator_workers, harness, machine

_START_S = 60.0
_NUM_SHARDS = 1_000_000


class Side:
  """A server that can be killed and restarted, and a process of workers."""

  def __init__(
    self,
    folder: pathlib.Path,
    name: str,
    workers: str,
    *,
    python: str = sys.executable,
    env: Mapping[str, str] | None = None,
  ):
    """Starts nothing yet; `workers` is the module of the side's workers."""
    folder.mkdir(parents=True)
    self.folder, self.name = folder, name
    self.port = host_sockets.free_port('127.0.0.1')
    self.address = f'127.0.0.1:{self.port}'
    self.target: dict[str, Any] = {'address': self.address}
    self._env = dict(env or {})
    self._side = harness.Side(
      self._env, python=python, argv=(workers, 'workers')
    )
    self._server: subprocess.Popen[bytes] | None = None
    self._workers: harness.Worker | None = None

  def command(self) -> list[str]:
    """Module of the server, with its arguments."""
    raise NotImplementedError

  def start(self) -> None:
    """Starts both, and waits until the server serves."""
    self.start_server()
    with (self.folder / 'workers.log').open('ab') as file:
      name = f'workers of {self.name}'
      self._workers = harness.Worker(name, self._side, stderr=file)

  def start_server(self) -> None:
    """Starts the server, and waits until it listens."""
    log = self.folder / 'server.log'
    command = [self._side.python, '-m', *self.command()]
    with log.open('ab') as file:
      self._server = subprocess.Popen(
        command,
        stdout=file,
        stderr=file,
        cwd=machine.ROOT,
        env=os.environ | self._env,
      )
    deadline = time.monotonic() + _START_S
    while True:
      with contextlib.suppress(OSError):
        socket.create_connection(('127.0.0.1', self.port), 1).close()
        return
      if self._server.poll() is not None or time.monotonic() > deadline:
        raise RuntimeError(
          f'{self.name}: {" ".join(command)} does not serve:\n'
          + log.read_text(errors='replace')[-2000:]
        )
      time.sleep(0.01)

  def open(self, num_clients: int, **fields: Any) -> None:
    """Connects workers, each with its first lease."""
    sizes = {'num_shards': _NUM_SHARDS, 'shard_size': 1000}
    names = list(range(num_clients))
    self.order('open', names=names, **sizes | self.target | fields)

  def drive(self, **fields: float) -> dict[str, Any]:
    """Runs a block; adds the server's CPU seconds to the result of `drive`."""
    before = self._cpu_s()
    block: dict[str, Any] = self.order('drive', **fields)
    return block | {'server_cpu_s': self._cpu_s() - before}

  def stop(self) -> None:
    """Ends both processes."""
    if self._workers is not None:
      self._workers.close()
    self.kill_server()

  def kill_server(self) -> None:
    """Kills the server."""
    if self._server is not None:
      self._server.kill()
      self._server.wait()

  def kill_and_restart(
    self, num_clients: int, seconds: float
  ) -> dict[str, Any]:
    """Kills the server during a block; returns its state afterwards."""
    raise NotImplementedError

  def memory(self) -> dict[str, int]:
    """The server's memory now, and its peak."""
    assert self._server is not None
    return machine.memory_of(self._server.pid)

  def _cpu_s(self) -> float:
    assert self._server is not None
    times = psutil.Process(self._server.pid).cpu_times()
    return float(times.user + times.system)

  def order(self, do: str, **fields: Any) -> Any:
    """Gives the workers an order; `close` disconnects them."""
    assert self._workers is not None
    try:
      return self._workers.order(do, **fields)
    except RuntimeError as error:
      text = (self.folder / 'workers.log').read_text(errors='replace')
      raise RuntimeError(f'{self.name}: {error}\n{text[-2000:]}') from error


class Antjax(Side):
  """Our coordinator, started as by users."""

  def __init__(self, folder: pathlib.Path):
    super().__init__(folder, 'antjax', coordinator_workers.__name__)
    self._tokens = {
      role: secrets.token_urlsafe() for role in ('worker', 'operator')
    }
    self.target['token'] = self._tokens['worker']
    path = folder / 'tokens'
    path.touch(0o600)
    path.write_text(
      ''.join(f'{role} {token}\n' for role, token in self._tokens.items())
    )

  def command(self) -> list[str]:
    return [
      'launch.coordinator',
      f'--journal={self.folder / "journal.db"}',
      f'--port={self.port}',
      f'--token_file={self.folder / "tokens"}',
      # Workers are silent during turns of other sides.
      '--lease_timeout_s=3600',
    ]

  def client(self, role: str, name: str) -> CoordinatorClient:
    """Returns a client with the token of a role."""
    return CoordinatorClient(
      self.address, job=name, client=name, token=self._tokens[role]
    )

  def counts(self, data_set: str) -> dict[str, int]:
    """Returns the number of shards of a data set by state."""
    with self.client('operator', 'bench') as client:
      status = json.loads(client.call('Status', pb.StatusRequest()).json)
    (job,) = (
      job for job in status['jobs'] if job['name'] == coordinator_workers.JOB
    )
    (found,) = (one for one in job['data_sets'] if one['name'] == data_set)
    counts: dict[str, int] = found['shards']
    return counts

  def journal_bytes(self) -> int:
    """Returns the size of the journal on disk."""
    return sum(path.stat().st_size for path in self.folder.glob('journal.db*'))

  def kill_and_restart(
    self, num_clients: int, seconds: float
  ) -> dict[str, Any]:
    name = 'kill'
    self.open(num_clients, data_set=name)
    assert self._workers is not None
    self._workers.send('drive', seconds=seconds)
    time.sleep(seconds / 2)
    self.kill_server()
    began = time.perf_counter()
    self.start_server()
    self.counts(name)  # Waits for a reply.
    back_after_s = time.perf_counter() - began
    block = self._workers.receive()
    counts = self.counts(name)
    self.order('close')
    return {
      # Workers repeat unanswered requests, so both are equal if nothing was
      # lost or counted twice.
      'kept_after_kill': counts['consumed'] + counts['done'],
      'reported_shards': block['shards'],
      'longest_wait_ms': max(block['latencies_ms']),
      'back_after_s': back_after_s,
    }


class Echo(Side):
  """A server that does nothing, as a bound."""

  def __init__(self, folder: pathlib.Path):
    super().__init__(folder, 'echo', coordinator_workers.__name__)

  def command(self) -> list[str]:
    return [coordinator_workers.__name__, 'echo', str(self.port)]


class Peer(Side):
  """DLRover's master."""

  def __init__(
    self, folder: pathlib.Path, name: str, python: str, log_level: str
  ):
    """See `Side`; the log level is DLRover's."""
    workers = coordinator_peers.__name__
    env = {'DLROVER_LOG_LEVEL': log_level}
    super().__init__(folder, name, workers, python=python, env=env)

  def command(self) -> list[str]:
    return [*coordinator_peers.MASTER, f'--port={self.port}']

  def open(self, num_clients: int, **fields: Any) -> None:
    fields.pop('num_wanted', None)  # It returns one task per call.
    super().open(num_clients, **fields)

  def kill_and_restart(
    self, num_clients: int, seconds: float
  ) -> dict[str, Any]:
    self.open(num_clients)
    block = self.drive(seconds=seconds / 2)
    self.kill_server()
    self.start_server()
    command = [self._side.python, '-m', coordinator_peers.__name__]
    found = subprocess.run(
      [*command, 'kept', self.address],
      cwd=machine.ROOT,
      env=os.environ | self._env,
      stdout=subprocess.PIPE,
      text=True,
      check=True,
    )
    kept = json.loads(found.stdout.splitlines()[-1])
    return {
      'kept_after_kill': kept.pop('kept'),
      'reported_shards': block['shards'],
      'answers_after_kill': kept,
    }
