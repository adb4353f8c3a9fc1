# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs of whole benchmarks, and what some of them need."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from benchmarks import cluster, machine
from tests import source_tree

needs_peers = pytest.mark.skipif(
  not (machine.peers_have('torch') and machine.peers_have('transformers')),
  reason='the peers need PyTorch: make peers',
)
needs_hosts = pytest.mark.skipif(
  cluster.missing() is not None, reason=str(cluster.missing())
)


def call(module: str, *flags: str, **env: str) -> subprocess.CompletedProcess:
  """Runs a module as `python -m` does.

  Args:
    module: Its name.
    *flags: Its arguments.
    **env: Variables beside this process's own.
  """
  return subprocess.run(
    [sys.executable, '-m', module, *flags],
    cwd=source_tree.ROOT,
    env=os.environ | {'PYTHONPATH': str(source_tree.ROOT)} | env,
    capture_output=True,
    text=True,
    timeout=500,
    check=False,
  )


def lines(name: str, *flags: str, **env: str) -> list[dict[str, Any]]:
  """The lines of a benchmark that ends well."""
  done = call(f'benchmarks.{name}', *flags, **env)
  assert done.returncode == 0, done.stdout + done.stderr
  return [json.loads(line) for line in done.stdout.splitlines()]
