# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The collectives between real processes, in chunks of a MiB too."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
WORKER = pathlib.Path(__file__).with_name('collectives_worker.py')

pytestmark = pytest.mark.multiprocess


@pytest.mark.parametrize(
  ('hosts', 'lanes', 'size'),
  [
    (2, 2, 301),
    pytest.param(2, 4, 1 << 18, marks=pytest.mark.slow),
    pytest.param(4, 2, 1 << 18, marks=pytest.mark.slow),
    # Groups that cross processes.
    pytest.param(4, 4, 1001, marks=pytest.mark.slow),
  ],
)
def test_every_device_of_every_process_gets_the_right_result(
  hosts, lanes, size
):
  devices = 4 if size == 301 else 8
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'launch.local_cluster'),
      *(f'--hosts={hosts}', f'--devices_per_host={devices // hosts}', '--'),
      *(WORKER, str(lanes), str(size)),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  results = [
    json.loads(line) for line in re.findall(r'RESULT (\{.*\})', done.stdout)
  ]
  assert len(results) == hosts
  for result in results:
    assert len(result['counts']) == 9
    assert set(result['counts'].values()) == {devices}, result
    # Measured by one, known to all.
    assert result['seconds'] == results[0]['seconds']
