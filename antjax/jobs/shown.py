# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the scripts that prepare data show while and after they work."""

from collections.abc import Mapping
import sys


def show_step(text: str) -> None:
  """Says what begins now; on stderr, as stdout is for results."""
  print(f'... {text}', file=sys.stderr, flush=True)


def print_counts(counts: Mapping[str, int]) -> None:
  """Prints a count a line."""
  for name, count in counts.items():
    print(f'{name.replace("_", " "):28} {count:>15,}')
