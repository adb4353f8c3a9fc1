# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Where a method is behind: by parts of the examples, against the best other.

The other one is chosen in each part by the same examples, so the comparison
leans against the method.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

HEAD = (
  'part',
  'examples',
  'method',
  'NDCG@10',
  'best other',
  'its NDCG@10',
  'difference',
  '',
)


class Gap(NamedTuple):
  """A method beside the best other one, in a part of the examples.

  Attributes:
    part: Name of the part.
    examples: Number of its examples.
    method: The method.
    value: Its mean.
    rival: The best of the others.
    rival_value: Mean of that one.
    difference: Mean of the method less that of its rival, paired.
    width: Half the 95% interval of the difference.
  """

  part: str
  examples: int
  method: str
  value: float
  rival: str
  rival_value: float
  difference: float
  width: float

  @property
  def verdict(self) -> str:
    """'behind' or 'ahead' where the interval is without 0, else 'level'."""
    if abs(self.difference) <= self.width:
      return 'level'
    return 'behind' if self.difference < 0 else 'ahead'


def gaps(
  gains: Mapping[str, np.ndarray],
  methods: Collection[str],
  parts: Mapping[str, np.ndarray],
) -> list[Gap]:
  """The gaps of some methods, in parts of at least two examples.

  Args:
    gains: Method -> value of each example, float [U].
    methods: Methods that are compared with all others; they are in `gains`.
    parts: Name -> bool [U].
  """
  found = []
  others = [name for name in gains if name not in methods]
  for part, mask in parts.items():
    size = int(mask.sum())
    if size < 2 or not others:
      continue
    means = {name: float(x[mask].mean()) for name, x in gains.items()}
    rival = max(others, key=lambda name: means[name])
    for method in methods:
      less = (gains[method] - gains[rival])[mask]
      found.append(
        Gap(
          part,
          size,
          method,
          means[method],
          rival,
          means[rival],
          float(less.mean()),
          float(1.96 * less.std(ddof=1) / np.sqrt(size)),
        )
      )
  return found


def rows(found: list[Gap]) -> list[tuple[Any, ...]]:
  """Rows of a table under `HEAD`."""
  return [
    (
      gap.part,
      f'{gap.examples:,}',
      gap.method,
      f'{gap.value:.4f}',
      gap.rival,
      f'{gap.rival_value:.4f}',
      f'{gap.difference:+.4f} ± {gap.width:.4f}',
      gap.verdict,
    )
    for gap in found
  ]
