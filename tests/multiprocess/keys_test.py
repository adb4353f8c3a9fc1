# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Processes that see other keys have one vocabulary, as one process has."""

import pytest

from tests.multiprocess import keys_worker
from tests.multiprocess.run_workers import run_workers

pytestmark = pytest.mark.multiprocess


@pytest.mark.slow
def test_two_processes_share_a_vocabulary():
  first, second = run_workers('keys_worker.py', hosts=2, num_devices=2)
  expected = keys_worker.train(0, 1)
  assert first == second
  assert first['keys'] == expected['keys'] and len(first['keys']) == 5
  assert first['ids'] == expected['ids']
  assert first['losses'] == pytest.approx(expected['losses'], rel=1e-5)
