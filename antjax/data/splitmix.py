# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""An even hash of 64 bits, by the array (SplitMix64, Steele et al. 2014)."""

import numpy as np

STEP = np.uint64(0x9E3779B97F4A7C15)


def mix(x: np.ndarray) -> np.ndarray:
  """SplitMix64's finalizer: uint64 -> uint64 of the same shape."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))
