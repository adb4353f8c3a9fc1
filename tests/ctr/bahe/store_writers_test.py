# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Processes that write to one store at once, one of them killed on the way."""

import pathlib
import random
import subprocess
import sys
import time

import numpy as np
import pytest

from antjax.ctr.bahe.store import BehaviorStore, StoreWriter
from tests.ctr.bahe import store_test

_ROOT = pathlib.Path(__file__).parents[3]
NUM_WRITERS, NUM_CHUNKS, CHUNK_ROWS = 3, 60, 1024
FIRST = 500  # Rows that were there before; no whole chunk.

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]


def rows(start, stop):
  """What every process writes for these rows."""
  number = np.arange(start, stop, dtype=np.float32)[:, None]
  return np.sin(number * np.arange(1, store_test.DIM + 1, dtype=np.float32))


def write_share(path, index):
  """A process: writes each NUM_WRITERS-th chunk that is missing."""
  writer = StoreWriter(path, store_test.NEW)
  print('READY', flush=True)
  for chunk in range(index, NUM_CHUNKS, NUM_WRITERS):
    start, stop = chunk * CHUNK_ROWS, (chunk + 1) * CHUNK_ROWS
    for first, last in writer.missing(start, stop):
      writer.write(first, rows(first, last))


def start_writer(path, index):
  return subprocess.Popen(
    [sys.executable, '-m', __spec__.name, str(path), str(index)],
    cwd=_ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )


def test_no_row_is_lost_and_none_is_seen_half(tmp_path):
  total = NUM_CHUNKS * CHUNK_ROWS
  first = StoreWriter(tmp_path, store_test.NEW)
  first.write(0, rows(0, FIRST))
  first.commit(FIRST)
  expected = rows(0, total).astype(np.float16)
  writers = [start_writer(tmp_path, i) for i in range(NUM_WRITERS)]
  rng = random.Random(0)
  num_killed, num_reads = 0, 0
  while any(writer.poll() is None for writer in writers):
    if num_killed < 4 and writers[0].stdout.readline() == 'READY\n':
      time.sleep(rng.uniform(0.0, 0.1))
      if writers[0].poll() is None:
        writers[0].kill()
        num_killed += 1
      writers[0].wait()
      writers[0].stdout.close()
      writers[0] = start_writer(tmp_path, 0)
    found = BehaviorStore.open(tmp_path)
    assert found.rows == FIRST
    np.testing.assert_array_equal(found.load(np.float16), expected[:FIRST])
    num_reads += 1
  for writer in writers:
    assert writer.wait() == 0
    writer.stdout.close()
  assert num_killed and num_reads > 3
  last = StoreWriter(tmp_path, store_test.NEW)
  assert last.missing(0, total) == []
  last.commit(total)
  np.testing.assert_array_equal(
    BehaviorStore.open(tmp_path).load(np.float16), expected
  )


if __name__ == '__main__':
  write_share(sys.argv[1], int(sys.argv[2]))
