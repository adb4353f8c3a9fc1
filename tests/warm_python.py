# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs scripts as `python` does; in `make test` without importing JAX anew.

Importing what a script needs takes seconds, what many tests ask of it a few
hundredths of one. With WARM_PYTHON set, a process that has imported the
libraries and antjax, and has done nothing else, forks one child for each run. A
child is not all that a new process is: modules that it forgets to import are
there, hashes have one seed, and variables that Python or JAX read at their
start are those of the tests. `make test-slow` has true processes.
"""

import atexit
from collections.abc import Mapping
import multiprocessing
import os
import pathlib
import re
import runpy
import subprocess
import sys
import tempfile

import numpy as np

from antjax.jobs import compilation_cache

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_FORKS = multiprocessing.get_context('forkserver')
_FORKS.set_forkserver_preload(
  [
    *('flax.nnx', 'grain', 'grpc', 'ibis', 'jax', 'matplotlib.figure'),
    *('optax', 'orbax.checkpoint', 'pyarrow.parquet', 'rich.progress'),
    *(f'antjax.jobs.{name}.job' for name in ('bahe', 'clicks', 'gmeta')),
    *('antjax.jobs.llm_rec.job', 'antjax.jobs.lm.job'),
    *('antjax.jobs.coordinator', 'antjax.jobs.local_cluster'),
    'antjax.jobs.prepare_data',
  ]
)


def env_of(num_devices: int) -> dict[str, str]:
  """This process's environment, but with so many CPU devices."""
  # An inherited device count would win over JAX_NUM_CPU_DEVICES.
  count = r'--xla_force_host_platform_device_count=\d+'
  return os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': str(num_devices),
    'XLA_FLAGS': re.sub(count, '', os.environ['XLA_FLAGS']),
    'PYTHONPATH': str(_ROOT),
  }


def run(
  *arguments: str | os.PathLike[str],
  cwd: str | os.PathLike[str] = _ROOT,
  env: Mapping[str, str] | None = None,
  timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
  """`subprocess.run([sys.executable, *arguments])`, its output captured.

  Args:
    *arguments: '-m' and a module, or a script; then the script's own.
    cwd: Where it runs.
    env: All of its environment; None: this process's. Of the variables that
      are read at the start a fork sees PYTHONPATH and JAX_NUM_CPU_DEVICES.
    timeout: Seconds until it is killed.

  Raises:
    subprocess.TimeoutExpired: It did not end in time.
  """
  process = start(*arguments, cwd=cwd, env=env)
  try:
    out, err = process.communicate(timeout=timeout)
  except subprocess.TimeoutExpired:
    process.kill()
    out, err = process.communicate()
    command = [*map(os.fspath, arguments)]
    raise subprocess.TimeoutExpired(command, timeout, out, err) from None
  return subprocess.CompletedProcess(
    [sys.executable, *map(os.fspath, arguments)], process.returncode, out, err
  )


def start(
  *arguments: str | os.PathLike[str],
  cwd: str | os.PathLike[str] = _ROOT,
  env: Mapping[str, str] | None = None,
) -> 'subprocess.Popen[str] | Fork':
  """As `run`, but does not wait for its end."""
  command = [os.fspath(a) for a in arguments]
  if 'WARM_PYTHON' in os.environ:
    return Fork(command, str(cwd), dict(os.environ if env is None else env))
  return subprocess.Popen(
    [sys.executable, *command],
    cwd=cwd,
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


class Fork:
  """What tests ask of a `subprocess.Popen`.

  Attributes:
    pid: Number of the process.
    stdout: File of what it prints; a line that is not there yet is empty.
  """

  def __init__(self, command: list[str], cwd: str, env: dict[str, str]):
    self._command, self._folder = command, tempfile.TemporaryDirectory()
    folder = pathlib.Path(self._folder.name)
    self._out, self._err = folder / 'out', folder / 'err'
    for path in self._out, self._err:
      path.touch()
    self.stdout = self._out.open()
    self._process = _FORKS.Process(
      target=_child,
      args=(command, cwd, env),
      kwargs={'stdout': str(self._out), 'stderr': str(self._err)},
    )
    self._process.start()
    self.pid = self._process.pid
    self.send_signal = lambda number: os.kill(self.pid, number)
    self.kill = self._process.kill

  @property
  def returncode(self) -> int | None:
    return self._process.exitcode

  def poll(self) -> int | None:
    return self._process.exitcode

  def communicate(self, timeout: float | None = None) -> tuple[str, str]:
    """What it has printed since the last line read, after its end."""
    self._process.join(timeout)
    if self.returncode is None:
      raise subprocess.TimeoutExpired(self._command, timeout)
    said = self.stdout.read(), self._err.read_text()
    self.stdout.close()
    self._folder.cleanup()
    return said


def _child(
  command: list[str],
  cwd: str,
  env: dict[str, str],
  *,
  stdout: str,
  stderr: str,
) -> None:
  for number, path in ((1, stdout), (2, stderr)):
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, number)
    os.close(file)
  os.chdir(cwd)
  os.environ.clear()
  os.environ.update(env)
  if 'JAX_NUM_CPU_DEVICES' in env:
    import jax

    jax.config.update('jax_num_cpu_devices', int(env['JAX_NUM_CPU_DEVICES']))
  compilation_cache.keep_on_every_process()
  np.random.seed()
  sys.path[:0] = filter(None, env.get('PYTHONPATH', '').split(os.pathsep))
  sys.orig_argv = [sys.executable, *command]
  try:
    if command[0] == '-m':
      module, sys.argv = command[1], command[1:]
      sys.path.insert(0, cwd)
      runpy.run_module(module, run_name='__main__', alter_sys=True)
    else:
      sys.argv = command
      sys.path.insert(0, str(pathlib.Path(command[0]).resolve().parent))
      runpy.run_path(command[0], run_name='__main__')
  finally:
    atexit._run_exitfuncs()
