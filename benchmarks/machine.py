# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Context of figures: the machine, its memory, Pythons and packages."""

import contextlib
import ctypes
import functools
import gc
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]


def peers_made() -> str:
  """The Python of the peers' environment; '' if there is none."""
  made = ROOT / '.venv-peers' / 'bin' / 'python'
  named = os.environ.get('PEERS_PYTHON')
  return named or (str(made) if made.exists() else '')


@functools.cache
def peers_have(package: str) -> bool:
  """Whether the peers' environment has a package, by its import name."""
  if made := peers_made():
    code = f'import importlib.util as u; assert u.find_spec({package!r})'
    done = subprocess.run([made, '-c', code], capture_output=True, check=False)
    return not done.returncode
  return importlib.util.find_spec(package) is not None


def peers_python() -> str:
  """The Python of the peers' environment; exits if it lacks PyTorch.

  It is the value of PEERS_PYTHON, else that of `.venv-peers`, created by `make
  peers`, else this one.
  """
  if not (made := peers_made()) and not peers_have('torch'):
    sys.exit(
      'The peers need torch: run `make peers`, or set PEERS_PYTHON to a Python'
      ' that has it, or pip install antjax[bench].'
    )
  return made or sys.executable


def device_name() -> str:
  """The processor, by its name in results files."""
  model = 'unknown CPU'
  with contextlib.suppress(OSError):
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
      if line.startswith('model name'):
        model = line.split(':')[1].strip()
        break
  return f'cpu: {model}, {os.cpu_count()} cores'


def versions() -> dict[str, str]:
  """Versions of the packages that figures depend on, including peers."""
  names = ('jax', 'jaxlib', 'flax', 'numpy', 'torch', 'transformers')
  code = (
    'import importlib.metadata as m, json\n'
    f'have = {{d.metadata["Name"]: d.version for d in m.distributions()}}\n'
    f'print(json.dumps({{n: have[n] for n in {names!r} if n in have}}))'
  )
  found = {}
  for python in filter(None, (peers_made(), sys.executable)):
    said = subprocess.run(
      [python, '-c', code], capture_output=True, text=True, check=False
    ).stdout
    found |= json.loads(said or '{}')
  return found


def forget_peak_memory() -> None:
  """Resets `peak_bytes` to the memory in use."""
  gc.collect()
  ctypes.CDLL(None).malloc_trim(0)
  pathlib.Path('/proc/self/clear_refs').write_text('5')


def peak_bytes() -> int:
  """Peak resident memory of this process."""
  return memory_of('self')['peak_bytes']


def memory_of(pid: int | str) -> dict[str, int]:
  """Resident memory of a process, now and at the peak."""
  status = pathlib.Path(f'/proc/{pid}/status').read_text()
  fields = dict(line.split(':', 1) for line in status.splitlines())
  return {
    key: int(fields[name].split()[0]) * 1024
    for key, name in (('bytes', 'VmRSS'), ('peak_bytes', 'VmHWM'))
  }


def matmul_flops_per_s(dtype: str = 'float32', size: int = 2048) -> float:
  """The fastest of several products of two large matrices in JAX."""
  import jax
  import jax.numpy as jnp

  x = jnp.ones((size, size), dtype)
  product = jax.jit(jnp.matmul)
  product(x, x).block_until_ready()
  seconds = []
  for _ in range(5):
    start = time.perf_counter()
    product(x, x).block_until_ready()
    seconds.append(time.perf_counter() - start)
  return 2.0 * size**3 / min(seconds)
