# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Jobs in this process or in others, and what tests ask of processes."""

from collections.abc import Callable
import itertools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from typing import Any, TypeVar

from etils import epath

from antjax.jobs import job as job_lib
from antjax.jobs import script
from antjax.mesh.mesh import make_mesh
from tests import warm_python

_T = TypeVar('_T')

ROOT = pathlib.Path(__file__).parents[2]
DEADLINE_S = 400.0


def job_of(config: job_lib.JobConfig) -> job_lib.Job:
  """As `job_lib.start` makes it, in a process whose devices are in use."""
  run_dir = pathlib.Path(config.run_dir)
  run_dir.mkdir(parents=True, exist_ok=True)
  mesh = make_mesh(intra=4)
  return job_lib.Job(mesh, run_dir, script.StopRequest(), config)


def run(
  *command: object, expect: int = 0, **options: Any
) -> subprocess.CompletedProcess[str]:
  """Runs `python COMMAND` to its end, which is as expected, without a bug."""
  options = {'timeout': DEADLINE_S} | options
  done = warm_python.run(*map(str, command), **options)
  assert done.returncode == expect, done.stdout + done.stderr
  assert 'Traceback' not in done.stderr
  return done


def cluster(script: str, *flags: object, hosts: int = 2) -> list[str]:
  """Words for `run` of a script on hosts that have four devices together."""
  return [
    *('-m', 'launch.local_cluster', f'--hosts={hosts}'),
    *(f'--devices_per_host={4 // hosts}', '--', f'launch/{script}.py'),
    *map(str, flags),
  ]


def is_alive(pid: int) -> bool:
  try:
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except FileNotFoundError:
    return False
  return stat.rsplit(')', 1)[1].split()[0] != 'Z'


def children(pid: int) -> list[int]:
  path = pathlib.Path(f'/proc/{pid}/task/{pid}/children')
  return [int(child) for child in path.read_text().split()]


def logged(folder: str | os.PathLike[str]) -> list[tuple[int, float]]:
  """(step, loss) of a metrics log, also while it is written."""
  path = epath.Path(folder) / 'metrics.jsonl'
  lines = path.read_text().splitlines() if path.exists() else []
  found = [json.loads(line) for line in lines if line.endswith('}')]
  return [(line['step'], line['loss']) for line in found if 'loss' in line]


def logged_steps(folder: str | os.PathLike[str]) -> list[int]:
  """Steps of `logged`."""
  return [step for step, _ in logged(folder)]


class Program:
  """`python COMMAND`, and the lines that it has printed so far.

  Attributes:
    process: The process.
    lines: Lines, those of its errors among them.
  """

  def __init__(self, *command: object, **options: Any):
    self.process = subprocess.Popen(
      [sys.executable, *map(str, command)],
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      **{'cwd': ROOT} | options,
    )
    self.lines = list[str]()
    self._reader = threading.Thread(target=self._read, daemon=True)
    self._reader.start()

  def _read(self) -> None:
    for line in self.process.stdout:
      self.lines.append(line.rstrip())

  @property
  def output(self) -> str:
    return '\n'.join(self.lines)

  def wait_for(self, condition: Callable[[], _T]) -> _T:
    """What a condition gives when it holds; it must while the program runs."""
    end = time.monotonic() + DEADLINE_S
    while True:
      is_over = self.process.poll() is not None and not self._reader.is_alive()
      if found := condition():
        return found
      if is_over or time.monotonic() > end:
        self.end(signal.SIGKILL)
        raise AssertionError(self.output)
      time.sleep(0.02)

  def line(self, pattern: str, count: int = 1) -> re.Match[str]:
    """The match of the `count`-th line that has a pattern."""

    def found() -> re.Match[str] | None:
      every = (re.search(pattern, line) for line in [*self.lines])
      return next(itertools.islice(filter(None, every), count - 1, None), None)

    return self.wait_for(found)

  def end(self, number: int | None = None) -> int:
    """Its exit code, after a signal if there is one."""
    if number is not None:
      self.process.send_signal(number)
    code = self.process.wait(DEADLINE_S)
    self._reader.join()
    self.process.stdout.close()
    return code


class ElasticJob(Program):
  """A job under `local_cluster --elastic`, on two hosts of two devices."""

  def __init__(self, script: str, *flags: str, launcher: tuple[str, ...] = ()):
    super().__init__(
      *('-m', 'launch.local_cluster', '--elastic', '--hosts=2'),
      *('--devices_per_host=2', *launcher, '--', f'launch/{script}.py', *flags),
    )
    self._script = script

  def workers(self) -> list[int]:
    """Processes that train, by rank."""
    found = [
      worker
      for agent in children(self.process.pid)
      for worker in children(agent)
      if self._script in pathlib.Path(f'/proc/{worker}/cmdline').read_text()
    ]
    assert len(found) == 2
    return found

  def ended(self, code: int = 0) -> str:
    """All that it said, when it has ended as expected."""
    assert self.end() == code, self.output
    return self.output
