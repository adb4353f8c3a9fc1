# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What tests ask of processes that others have started."""

import pathlib


def is_alive(pid: int) -> bool:
  try:
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
  except FileNotFoundError:
    return False
  return stat.rsplit(')', 1)[1].split()[0] != 'Z'
