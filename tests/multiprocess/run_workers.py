# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs a function of these tests in several processes of virtual devices.

`python -m tests.multiprocess.run_workers MODULE:FUNCTION ARGUMENTS` is one of
them: it calls the function with JSON's arguments, and prints what it returns.
"""

import importlib
import json
import os
import pathlib
import re
import subprocess
import sys

from antjax.jobs import distributed

_ROOT = pathlib.Path(__file__).parents[2]


def run_workers(work, *args, hosts, num_devices):
  """What `work(*args)`, of a module's top level, returned in each process."""
  per_host = num_devices // hosts
  what = f'{work.__module__}:{work.__name__}'
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'launch.local_cluster'),
      *(f'--hosts={hosts}', f'--devices_per_host={per_host}', '--'),
      *('-m', __name__, what, json.dumps(args, default=str)),
    ],
    cwd=_ROOT,
    env=os.environ | {'PYTHONPATH': str(_ROOT)},
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  lines = re.findall(r'RESULT (\{.*\})', done.stdout)
  assert len(lines) == hosts
  return [json.loads(line) for line in lines]


def main(what, args):
  module, _, name = what.partition(':')
  distributed.initialize()
  try:
    found = getattr(importlib.import_module(module), name)(*json.loads(args))
  except RuntimeError as error:  # As a launch script does.
    print(error, flush=True)
    os._exit(3)
  print('RESULT', json.dumps(found), flush=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
