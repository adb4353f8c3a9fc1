# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The collectives between real processes, in chunks of a MiB too."""

import pytest

from tests.multiprocess.run_workers import run_workers

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
  results = run_workers(
    'collectives_worker.py', lanes, size, hosts=hosts, num_devices=devices
  )
  for result in results:
    assert len(result['counts']) == 10
    assert set(result['counts'].values()) == {devices}, result
    # Measured by one, known to all.
    assert result['seconds'] == results[0]['seconds']
