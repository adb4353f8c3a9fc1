# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The servers that `coordinator_bench` compares, each with its fake workers."""

from collections.abc import Sequence
import contextlib
import json
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import psutil

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.client import CoordinatorClient
from benchmarks import coordinator_peers, coordinator_workers, harness

_ROOT = pathlib.Path(__file__).parents[1]
_START_S = 60.0
_SHARD_SIZE = 1000


class Side:
  """A server that can be killed and started again, and a process of workers."""

  def __init__(
    self, folder: pathlib.Path, name: str, python: str, workers: str
  ):
    """Starts nothing yet.

    Args:
      folder: For all that it writes; is made.
      name: Name of the side.
      python: Interpreter of both processes.
      workers: Module of its workers.
    """
    folder.mkdir(parents=True)
    self.folder, self.name = folder, name
    self.port = _free_port()
    self._python = python
    self._workers_module = workers
    self._server: subprocess.Popen[bytes] | None = None
    self._workers: harness.Worker | None = None

  @property
  def address(self) -> str:
    """host:port of the server."""
    return f'127.0.0.1:{self.port}'

  def command(self) -> list[str]:
    """Returns the command of the server."""
    raise NotImplementedError

  def env(self) -> dict[str, str]:
    """Returns what its environment has beside ours."""
    return {}

  def target(self) -> dict[str, Any]:
    """Returns what the order 'open' says beside names and sizes."""
    return {'address': self.address}

  def start(self) -> None:
    """Starts both, and waits until the server serves."""
    self.start_server()
    log = self.folder / 'workers.log'
    with log.open('ab') as file:
      side = harness.Side(
        self._workers_module, ('workers',), self.env(), python=self._python
      )
      self._workers = harness.Worker(
        f'workers of {self.name}', side, stderr=file
      )

  def start_server(self) -> None:
    """Starts the server, and waits until it listens."""
    log = self.folder / 'server.log'
    with log.open('ab') as file:
      self._server = subprocess.Popen(
        self.command(),
        stdout=file,
        stderr=file,
        cwd=_ROOT,
        env=os.environ | self.env(),
      )
    deadline = time.monotonic() + _START_S
    while True:
      with contextlib.suppress(OSError):
        socket.create_connection(('127.0.0.1', self.port), 1).close()
        return
      if self._server.poll() is not None or time.monotonic() > deadline:
        raise RuntimeError(
          f'{self.name}: {" ".join(self.command())} does not serve:\n'
          + log.read_text(errors='replace')[-2000:]
        )
      time.sleep(0.01)

  def open(self, num_clients: int, num_shards: int, **fields: Any) -> None:
    """Connects workers, each with a first lease."""
    self._order(
      'open',
      names=list(range(num_clients)),
      num_shards=num_shards,
      shard_size=_SHARD_SIZE,
      **self.target(),
      **fields,
    )

  def drive(self, **fields: float) -> dict[str, Any]:
    """Runs a block; adds the server's CPU seconds to what `drive` returns."""
    before = self._cpu_s()
    block: dict[str, Any] = self._order('drive', **fields)
    return block | {'server_cpu_s': self._cpu_s() - before}

  def close(self) -> None:
    """Disconnects the workers."""
    self._order('close')

  def stop(self) -> None:
    """Ends both processes."""
    if self._workers is not None:
      self._workers.close()
    self.kill_server()

  def kill_server(self) -> None:
    """Kills the server, without a last word."""
    if self._server is not None:
      self._server.send_signal(signal.SIGKILL)
      self._server.wait()

  def kill_and_restart(
    self, num_clients: int, seconds: float
  ) -> dict[str, Any]:
    """Kills the server in a block; returns what it knows afterwards."""
    raise NotImplementedError

  def memory(self) -> dict[str, int]:
    """Returns the server's memory now, and the most it had."""
    assert self._server is not None
    status = pathlib.Path(f'/proc/{self._server.pid}/status').read_text()
    fields = dict(line.split(':', 1) for line in status.splitlines())
    return {
      key: int(fields[name].split()[0]) * 1024
      for key, name in (('bytes', 'VmRSS'), ('peak_bytes', 'VmHWM'))
    }

  def _cpu_s(self) -> float:
    assert self._server is not None
    times = psutil.Process(self._server.pid).cpu_times()
    return float(times.user + times.system)

  def _order(self, do: str, **fields: Any) -> Any:
    assert self._workers is not None
    try:
      return self._workers.order(do, **fields)
    except RuntimeError as error:
      text = (self.folder / 'workers.log').read_text(errors='replace')
      raise RuntimeError(f'{self.name}: {error}\n{text[-2000:]}') from error


class Antjax(Side):
  """Our coordinator, as users start it."""

  def __init__(self, folder: pathlib.Path):
    super().__init__(
      folder, 'antjax', sys.executable, coordinator_workers.__name__
    )
    self._tokens = {
      role: secrets.token_urlsafe() for role in ('worker', 'operator')
    }
    path = folder / 'tokens'
    path.touch(0o600)
    path.write_text(
      ''.join(f'{role} {token}\n' for role, token in self._tokens.items())
    )

  def command(self) -> list[str]:
    return [
      self._python,
      '-m',
      'launch.coordinator',
      f'--journal={self.folder / "journal.db"}',
      f'--port={self.port}',
      f'--token_file={self.folder / "tokens"}',
      # Workers are silent while the other sides have their turns.
      '--lease_timeout_s=3600',
    ]

  def target(self) -> dict[str, Any]:
    return {'address': self.address, 'token': self._tokens['worker']}

  def client(self, role: str, name: str) -> CoordinatorClient:
    """Returns a client with the token of a role."""
    return CoordinatorClient(
      self.address, job=name, client=name, token=self._tokens[role]
    )

  def commit_epoch(self) -> None:
    """Commits a checkpoint with all of the first epoch."""
    self._order('first', method='commit_epoch')

  def counts(self, data_set: str) -> dict[str, int]:
    """Returns how many shards of a data set are what."""
    with self.client('operator', 'bench') as client:
      status = json.loads(client.call('Status', pb.StatusRequest()).json)
    jobs = [
      job for job in status['jobs'] if job['name'] == coordinator_workers.JOB
    ]
    for one in jobs[0]['data_sets']:
      if one['name'] == data_set:
        counts: dict[str, int] = one['shards']
        return counts
    raise KeyError(data_set)

  def journal_bytes(self) -> int:
    """Returns the size of the journal on disk."""
    return sum(path.stat().st_size for path in self.folder.glob('journal.db*'))

  def kill_and_restart(
    self, num_clients: int, seconds: float
  ) -> dict[str, Any]:
    name = 'kill'
    self.open(num_clients, num_shards=1_000_000, data_set=name)
    assert self._workers is not None
    self._workers.send('drive', seconds=seconds)
    time.sleep(seconds / 2)
    self.kill_server()
    began = time.perf_counter()
    self.start_server()
    self.counts(name)  # An answer.
    back_after_s = time.perf_counter() - began
    block = self._workers.receive()
    counts = self.counts(name)
    self.close()
    return {
      # Workers repeat what was not answered, so that both are equal if nothing
      # was lost or counted twice.
      'kept_after_kill': counts['consumed'] + counts['done'],
      'reported_shards': block['shards'],
      'longest_wait_ms': max(block['latencies_ms']),
      'back_after_s': round(back_after_s, 3),
    }


class Echo(Side):
  """A server that does nothing: the bound."""

  def __init__(self, folder: pathlib.Path):
    super().__init__(
      folder, 'echo', sys.executable, coordinator_workers.__name__
    )

  def command(self) -> list[str]:
    return [
      self._python,
      '-m',
      coordinator_workers.__name__,
      'echo',
      str(self.port),
    ]


class Peer(Side):
  """DLRover's master."""

  def __init__(
    self, folder: pathlib.Path, name: str, python: str, log_level: str
  ):
    """See `Side`; the log level is DLRover's."""
    super().__init__(folder, name, python, coordinator_peers.__name__)
    self._log_level = log_level

  def command(self) -> list[str]:
    return coordinator_peers.master_command(self._python, self.port)

  def env(self) -> dict[str, str]:
    return {'DLROVER_LOG_LEVEL': self._log_level}

  def open(self, num_clients: int, num_shards: int, **fields: Any) -> None:
    fields.pop('num_wanted', None)  # It gives one task a call.
    super().open(num_clients, num_shards, **fields)

  def kill_and_restart(
    self, num_clients: int, seconds: float
  ) -> dict[str, Any]:
    self.open(num_clients, num_shards=1_000_000)
    block = self.drive(seconds=seconds / 2)
    self.kill_server()
    self.start_server()
    found = subprocess.run(
      [
        self._python,
        '-m',
        coordinator_peers.__name__,
        'kept',
        self.address,
      ],
      cwd=_ROOT,
      env=os.environ | self.env(),
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


def peer_python(venv: pathlib.Path) -> str:
  """Returns the interpreter of the peer's environment; makes that if needed."""
  python = venv.absolute() / 'bin' / 'python'
  requirements = coordinator_peers.REQUIREMENTS
  stamp = venv / 'requirements.txt'
  wanted = requirements.read_text()
  if not stamp.exists() or stamp.read_text() != wanted:
    print(f'coordinator_bench: makes {venv} for DLRover.', file=sys.stderr)
    pip = [str(python), '-m', 'pip', '--disable-pip-version-check', '--quiet']
    _run([sys.executable, '-m', 'venv', '--clear', str(venv)])
    _run([*pip, 'install', '-r', str(requirements)])
    stamp.write_text(wanted)
  return str(python)


def _run(command: Sequence[str]) -> None:
  done = subprocess.run(command, stdout=sys.stderr)
  if done.returncode:
    raise RuntimeError(
      f'{" ".join(command)} failed with exit code {done.returncode}; its output'
      ' is above. Without DLRover: --nowith_peer.'
    )


def _free_port() -> int:
  with socket.socket() as sock:
    sock.bind(('127.0.0.1', 0))
    port: int = sock.getsockname()[1]
    return port
