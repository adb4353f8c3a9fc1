# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Environment variables of the processes of a job, for their launcher."""

from collections.abc import Mapping, Sequence
import os
import pathlib
import re
import sys

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def worker_env(
  host: int,
  *,
  hosts: int,
  devices_per_host: int,
  coordinator: str,
  platform: str,
  base: Mapping[str, str],
) -> dict[str, str]:
  """Returns the environment of the process of one of `hosts`.

  0 devices and the platform '' leave these to JAX. The coordinator is JAX's, a
  free address:port of host 0.
  """
  env = dict(base)
  # Read by jax.distributed.initialize, and by antjax/jobs/job.py:
  env['JAX_COORDINATOR_ADDRESS'] = coordinator
  # This address only; JAX's default binds all and needs IPv6.
  env['JAX_COORDINATOR_BIND_ADDRESS'] = coordinator
  env['JAX_NUM_PROCESSES'] = str(hosts)
  env['JAX_PROCESS_ID'] = str(host)
  if devices_per_host:
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
  if platform == 'cpu':
    # XLA frees a step's memory after it: with small pages, getting 1 GB again
    # is a sixth of a step of 2.5 s.
    env.setdefault('GLIBC_TUNABLES', 'glibc.malloc.hugetlb=1')
  return checkout_env(env)


def checkout_env(base: Mapping[str, str]) -> dict[str, str]:
  """Adds that programs find `launch` and `antjax` without installation."""
  paths = [str(_ROOT), *filter(None, [base.get('PYTHONPATH')])]
  return {**base, 'PYTHONPATH': os.pathsep.join(paths), 'PYTHONUNBUFFERED': '1'}


def found_command(command: Sequence[str]) -> list[str]:
  """The command, with the path of a program that pip installed.

  Raises:
    ValueError: There is no such command.
  """
  if not command:
    raise ValueError('nothing to run; give a script and its flags after --.')
  name, *rest = command
  if name.startswith('-') or os.path.isfile(name):
    return [name, *rest]
  if script := re.fullmatch(r'launch/(\w+)\.py', name):  # As in the docs.
    name = f'antjax-{script[1].replace("_", "-")}'
  installed = os.path.join(os.path.dirname(sys.executable), name)
  if os.path.basename(name) == name and os.path.isfile(installed):
    return [installed, *rest]
  raise ValueError(
    f'no such script: {command[0]}; give its path, a program such as'
    ' antjax-train-clicks, or -m and a module.'
  )
