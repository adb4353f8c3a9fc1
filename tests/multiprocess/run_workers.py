# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs a worker of these tests in several processes of virtual devices."""

import json
import pathlib
import re
import subprocess
import sys

_FOLDER = pathlib.Path(__file__).parent


def run_workers(worker, *args, hosts, num_devices):
  """What each process printed behind RESULT; `worker` is a file beside this."""
  per_host = num_devices // hosts
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'launch.local_cluster'),
      *(f'--hosts={hosts}', f'--devices_per_host={per_host}', '--'),
      *(str(_FOLDER / worker), *map(str, args)),
    ],
    cwd=_FOLDER.parents[1],
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  lines = re.findall(r'RESULT (\{.*\})', done.stdout)
  assert len(lines) == hosts
  return [json.loads(line) for line in lines]
