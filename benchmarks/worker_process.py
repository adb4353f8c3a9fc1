# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The sides of a benchmark as processes of their own that take orders."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import json
import os
import pathlib
import subprocess
import sys
from typing import Any


class WorkerProcess:
  """A process that serves `orders`, one at a time."""

  def __init__(self, name: str, args: list[str], env: Mapping[str, str]):
    """Starts it.

    Args:
      name: For messages.
      args: Of the Python interpreter.
      env: Added to the environment.
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
