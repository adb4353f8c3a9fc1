# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Jobs in this process or in others, and what tests ask of processes."""

from collections.abc import Callable
import json
import pathlib
import subprocess
import sys
import time

from antjax.jobs import job as job_lib
from antjax.jobs import script
from antjax.mesh.mesh import make_mesh

ROOT = pathlib.Path(__file__).parents[2]
DEADLINE_S = 400.0


def job_of(config: job_lib.JobConfig) -> job_lib.Job:
  """As `job_lib.start` makes it, in a process whose devices are in use."""
  run_dir = pathlib.Path(config.run_dir)
  run_dir.mkdir(parents=True, exist_ok=True)
  mesh = make_mesh(intra=4)
  return job_lib.Job(mesh, run_dir, script.StopRequest(), config)


def is_alive(pid: int) -> bool:
  try:
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except FileNotFoundError:
    return False
  return stat.rsplit(')', 1)[1].split()[0] != 'Z'


def children(pid: int) -> list[int]:
  path = pathlib.Path(f'/proc/{pid}/task/{pid}/children')
  return [int(child) for child in path.read_text().split()]


def logged_steps(folder: pathlib.Path) -> list[int]:
  """Steps in a metrics log, also while it is written."""
  path = folder / 'metrics.jsonl'
  lines = path.read_text().splitlines() if path.exists() else []
  found = [json.loads(line) for line in lines if line.endswith('}')]
  return [line['step'] for line in found if 'loss' in line]


class ElasticJob:
  """A job under `local_cluster --elastic`, on two hosts of two devices."""

  def __init__(self, script: str, *flags: str, launcher: tuple[str, ...] = ()):
    self._script = script
    self._process = subprocess.Popen(
      [
        *(sys.executable, '-m', 'launch.local_cluster', '--elastic'),
        *('--hosts=2', '--devices_per_host=2', *launcher, '--'),
        *(f'launch/{script}.py', *flags),
      ],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  def workers(self) -> list[int]:
    """Processes that train, by rank."""
    found = [
      worker
      for agent in children(self._process.pid)
      for worker in children(agent)
      if self._script in pathlib.Path(f'/proc/{worker}/cmdline').read_text()
    ]
    assert len(found) == 2
    return found

  def wait_for(self, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
      if self._process.poll() is not None or time.monotonic() > end:
        self._process.kill()
        raise AssertionError(self._process.communicate()[0])
      time.sleep(0.05)

  def output(self) -> str:
    """All that it said, when it has ended well."""
    output, _ = self._process.communicate(timeout=DEADLINE_S)
    assert self._process.returncode == 0, output
    return output
