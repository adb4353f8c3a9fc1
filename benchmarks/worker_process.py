# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The sides of a benchmark as processes of their own that take orders."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

# Longer than an idle OpenMP thread spins before it sleeps: whoever works next
# has the cores for itself.
PAUSE_S = 0.05
# Freed memory stays in the process, and in large pages.
_ENV = {
  'MALLOC_MMAP_THRESHOLD_': '4294967296',
  'MALLOC_TRIM_THRESHOLD_': '4294967296',
  'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1',
}
# Of workers that train language models, as their users would tune them.
ENVS = {
  'antjax': _ENV | {'JAX_PLATFORMS': 'cpu'},
  'peer': _ENV | {'OMP_PROC_BIND': 'true'},
}


class WorkerProcess:
  """A process that serves `orders`, one at a time."""

  def __init__(self, name: str, args: list[str], env: Mapping[str, str]):
    """Starts it.

    Args:
      name: For messages.
      args: Arguments of the Python interpreter.
      env: Variables added to the environment.
    """
    self._name = name
    self._process = subprocess.Popen(
      [sys.executable, *args],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=os.environ | env,
    )

  def order(self, do: str, **fields: Any) -> Any:
    """Sends an order; returns the reply.

    Raises:
      RuntimeError: The process died.
    """
    assert self._process.stdin is not None and self._process.stdout is not None
    self._process.stdin.write(json.dumps({'do': do} | fields) + '\n')
    self._process.stdin.flush()
    reply = self._process.stdout.readline()
    if not reply:
      raise RuntimeError(
        f'the process {self._name} died during {do!r}; its output is above.'
      )
    return json.loads(reply)

  def close(self) -> None:
    """Ends it, and waits for that."""
    assert self._process.stdin is not None
    self._process.stdin.close()
    self._process.wait()


def orders() -> Iterator[tuple[dict[str, Any], Callable[[Any], None]]]:
  """Yields (order, function that sends its reply) until stdin ends."""
  out = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # What libraries print must not get between the replies.

  def reply(content: Any) -> None:
    print(json.dumps(content), file=out, flush=True)

  for line in sys.stdin:
    yield json.loads(line), reply


def device_name() -> str:
  """The processor, as results files name it."""
  model = 'unknown CPU'
  with contextlib.suppress(OSError):
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
      if line.startswith('model name'):
        model = line.split(':')[1].strip()
        break
  return f'cpu: {model}, {os.cpu_count()} cores'


def versions() -> dict[str, str]:
  """Of the packages that figures of language models depend on."""
  return {
    name: importlib.metadata.version(name)
    for name in ('jax', 'jaxlib', 'torch', 'transformers', 'numpy')
    if importlib.util.find_spec(name)
  }


def write_model(fields: Mapping[str, Any], folder: str | pathlib.Path) -> None:
  """Writes a language model with random weights as a Hugging Face folder.

  Args:
    fields: Its config.json.
    folder: To write.
  """
  import jax

  from antjax.lm import config_json, pretrained, transformer

  config = config_json.read_config(fields)
  params = jax.jit(lambda key: transformer.init(config, key))(jax.random.key(0))
  pretrained.save_pretrained(folder, config, params)
