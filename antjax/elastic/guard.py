# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A process that kills process groups when its parent has ended.

It reads lines `+<group>` and `-<group>` from a pipe whose other end only its
parent holds: the kernel closes that end however the parent dies. Then it
also removes the folders that its arguments name. `process_group.Guard` starts
it, as a script, so that it is there within milliseconds.
"""

import glob
import os
import shutil
import signal
import sys
import time

_DYING_S = 5.0


def _running() -> set[int]:
  """Returns the process groups of which something runs; Linux only."""
  groups = set()
  for path in glob.glob('/proc/[0-9]*/stat'):
    try:
      with open(path, errors='replace') as file:
        state, _, group = file.read().rsplit(')', 1)[1].split()[:3]
    except (OSError, IndexError):  # It has ended meanwhile.
      continue
    if state not in 'ZX':
      groups.add(int(group))
  return groups


def main() -> None:
  """Reads lines until the parent is gone; then kills and removes."""
  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
  groups: set[int] = set()
  for line in sys.stdin:
    (groups.add if line[0] == '+' else groups.discard)(int(line[1:]))
  for group in groups:
    try:
      os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
      pass
  # What we keep open says that they still run.
  give_up = time.monotonic() + _DYING_S
  while groups & _running() and time.monotonic() < give_up:
    time.sleep(0.01)
  for folder in sys.argv[1:]:
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == '__main__':
  main()
