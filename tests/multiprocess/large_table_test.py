# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A table that one device has no memory for trains on several.

Each process is a device whose memory the system limits.
"""

import jax
import numpy as np
import pytest

from antjax.embedding.layout import new_rows, TableSpec
from tests.multiprocess.run_workers import run_workers

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

BATCH, WIDTH = 64, 32
NUM_ROWS = 8_000_000  # 1 GB.
LIMIT_MB = 1000  # Of which the program itself takes about a third.


def run(hosts):
  args = NUM_ROWS, LIMIT_MB
  return run_workers(
    'large_table_worker.py', *args, hosts=hosts, num_devices=hosts
  )


def test_a_table_larger_than_a_device_trains_on_four():
  with pytest.raises(AssertionError, match='Out of memory'):
    run(hosts=1)
  results = run(hosts=4)
  table_bytes = NUM_ROWS * (WIDTH + 1) * 4
  assert sum(result['bytes'] for result in results) == table_bytes
  losses = results[0]['losses']
  assert losses[0] > losses[1] > losses[2]
  # The rows are those that one device would have made.
  rng = np.random.default_rng(0)
  ids, y = rng.integers(0, NUM_ROWS, BATCH), rng.normal(size=BATCH)
  key = jax.random.fold_in(jax.random.key(0), 1)
  rows = new_rows(TableSpec('item', NUM_ROWS, WIDTH), key, ids)
  expected = np.mean(np.square(np.asarray(rows).sum(axis=-1) - y))
  assert losses[0] == pytest.approx(expected, rel=1e-4)
