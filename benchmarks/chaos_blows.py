# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Faults of `benchmarks.chaos_storm` that are more than a signal.

  python -m benchmarks.chaos_blows OFFSET_S launch.coordinator FLAGS...

runs a module on a machine whose clock is off by OFFSET_S seconds.
"""

import os
import pathlib
import random
import runpy
import sys
import time

import psutil

_DAY_S = 86_400.0
_FILE_BYTES = 4096  # Larger writes fail with EFBIG, as on a full disk.


def clock_offset_s(share: float) -> float:
  """Offset of a clock in seconds, up to a day in either direction."""
  return round((2 * share - 1) * _DAY_S, 3)


def fill_disk(worker: psutil.Process) -> None:
  """Makes the worker's writes fail from now on, as on a full disk."""
  worker.rlimit(psutil.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))


def damage_wal(journal: pathlib.Path, share: float) -> str:
  """Damages the write-ahead log of a journal; returns a description.

  Args:
    journal: File of a stopped coordinator.
    share: Number from 0 to 1 that chooses the damage and its place.
  """
  wal = journal.with_name(f'{journal.name}-wal')
  size = wal.stat().st_size if wal.exists() else 0
  if not size:
    return 'nothing: it is empty'
  rng = random.Random(share)
  kind, at = int(3 * share), rng.randrange(size)
  if kind == 0:
    os.truncate(wal, at)
    return f'cut from {size} to {at} bytes'
  if kind == 1:
    with wal.open('r+b') as file:
      file.seek(at)
      (old,) = file.read(1)
      file.seek(at)
      file.write(bytes([old ^ (1 << rng.randrange(8))]))
    return f'a bit of byte {at} of {size} flipped'
  wal.unlink()
  return f'{size} bytes removed'


def main() -> None:
  offset_s, module = float(sys.argv[1]), sys.argv[2]
  now = time.time
  time.time = lambda: now() + offset_s  # type: ignore[assignment]
  sys.argv = [module, *sys.argv[3:]]
  runpy.run_module(module, run_name='__main__', alter_sys=True)


if __name__ == '__main__':
  main()
