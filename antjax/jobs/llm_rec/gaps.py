# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Where a method falls behind the best other method, by parts of examples.

The other method is chosen in each part by the same examples, so the comparison
is biased against the method.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np


class Gap(NamedTuple):
  """A method's mean beside its best rival's, in a part of the examples.

  `difference` is paired, `width` half its 95% interval. The verdict is 'behind'
  or 'ahead' where the interval is without 0, else 'level'.
  """

  part: str
  examples: int
  method: str
  value: float
  rival: str
  rival_value: float
  difference: float
  width: float
  verdict: str

  def row(self) -> list[str]:
    """Cells of a table under the fields' names."""
    kinds = {int: '{:,}', float: '{:.4f}'}
    return [kinds.get(type(x), '{}').format(x) for x in self]


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
    if (size := int(mask.sum())) < 2 or not others:
      continue
    means = {name: float(x[mask].mean()) for name, x in gains.items()}
    rival = max(others, key=lambda name: means[name])
    for method in methods:
      less = (gains[method] - gains[rival])[mask]
      mean, width = float(less.mean()), 1.96 * float(less.std(ddof=1))
      width /= size**0.5
      verdict = 'ahead' if mean > width else 'level'
      verdict = 'behind' if mean < -width else verdict
      pair = method, means[method], rival, means[rival]
      found.append(Gap(part, size, *pair, mean, width, verdict))
  return found
