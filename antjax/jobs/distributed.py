# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""How the processes of a job find each other: flags, environment, cluster."""

import os
import pathlib
import shlex
import sys
from typing import Any

from absl import flags
import jax

from antjax import paths
from antjax.jobs import compilation_cache

flags.disclaim_key_flags()  # They are the script's.

_NAMES = ('coordinator_address', 'num_processes', 'process_id')
# Set by launch/local_cluster.py; the first is JAX's own.
_ENVIRONMENT = {name: f'JAX_{name.upper()}' for name in _NAMES}


def define_flags() -> None:
  """Flags that differ between the processes of a job: no part of its config."""
  flags.DEFINE_string(
    'coordinator_address',
    None,
    'host:port of process 0, for a job of several processes. Needs'
    ' --num_processes and --process_id too. Not needed under'
    ' launch/local_cluster.py and on clusters that JAX knows (Cloud TPU, Slurm,'
    ' Open MPI, Kubernetes).',
  )
  flags.DEFINE_integer('num_processes', None, 'Number of processes in the job.')
  flags.DEFINE_integer('process_id', None, 'Index of this process, from 0.')


def _settings() -> dict[str, Any] | None:
  """Coordinator and process numbers from flags, else from the environment."""
  values: dict[str, Any] = {}
  for name in _NAMES:
    value = flags.FLAGS[name].value if name in flags.FLAGS else None
    if value is None:
      value = os.environ.get(_ENVIRONMENT[name])
    values[name] = value
  missing = [f'--{name}' for name in _NAMES if values[name] is None]
  # A site may set the address alone and leave the rest to JAX's detection.
  if missing and values['num_processes'] is None is values['process_id']:
    return None
  if missing:
    raise ValueError(
      f'a job of several processes needs {", ".join(missing)} too; give'
      ' --coordinator_address, --num_processes and --process_id, or none.'
    )
  for name in ('num_processes', 'process_id'):
    try:
      values[name] = int(values[name])
    except ValueError:
      raise ValueError(
        f'{_ENVIRONMENT[name]} must be an integer; got {values[name]!r}.'
      ) from None
  if not 0 <= values['process_id'] < values['num_processes']:
    raise ValueError(
      f'process_id must be in [0, num_processes); got {values["process_id"]}'
      f' of {values["num_processes"]}.'
    )
  return values


def initialize() -> None:
  """Joins the other processes of the job, if there are any.

  Takes the flags, or the variables that `launch/local_cluster.py` sets, or the
  cluster that JAX detects; without any of them the job is this process alone.

  Raises:
    ValueError: The settings are incomplete or no numbers.
  """
  settings = _settings()
  if settings is not None:
    jax.distributed.initialize(
      **settings, cluster_detection_method='deactivate'
    )
  else:
    try:
      jax.distributed.initialize()
    except ValueError as error:
      # What JAX says where it finds no cluster: an ordinary machine.
      if 'coordinator_address should be defined' not in str(error):
        raise
  compilation_cache.keep_on_every_process()


def resumes_from(run_dir: pathlib.Path) -> str:
  """What a user wants to know whose run could not begin; '' of a new one."""
  found = [
    path
    for folder in ('', '*/')
    for path in run_dir.glob(f'{folder}{paths.CHECKPOINTS}/*')
    if path.name.isdecimal()
  ]
  if not found:
    return ''
  newest = max(found, key=lambda path: path.stat().st_mtime)
  return with_command(
    f'the checkpoint of step {newest.name} is {newest.absolute()}; the same'
    ' command resumes from it'
  )


def with_command(text: str) -> str:
  """A text that ends with the command of this process, if the user gave it."""
  if jax.process_count() > 1 or os.environ.get('ANTJAX_COORDINATOR'):
    return f'{text}.'  # The command is the launcher's.
  words = sys.orig_argv
  if pathlib.Path(sys.argv[0]).name.startswith('antjax-'):
    words = sys.argv  # An installed command finds its own Python.
  return f'{text}: {shlex.join(words)}'
