# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Random numbers for many tasks at once, determined by the task.

A numpy generator per task would cost more than all other work on a task. Here
number i of a task is the i-th of SplitMix64 (Steele et al., 2014,
https://doi.org/10.1145/2660193.2660195), seeded by a hash of (seed, key, task),
so it does not depend on which tasks are drawn together.
"""

import numpy as np

from antjax.embedding.key_index import mix

_STEP = np.uint64(0x9E3779B97F4A7C15)


def seeds(seed: int, key: np.ndarray, task: np.ndarray) -> np.ndarray:
  """A seed for each (key, task), uint64 [N], never 0."""
  result: np.ndarray = np.full(len(task), seed % 2**64, np.uint64)
  for part in (key, task):
    result = mix(result) ^ part.astype(np.int64).astype(np.uint64)
  return mix(result) | np.uint64(1)


def uniform(seed: np.ndarray, index: np.ndarray) -> np.ndarray:
  """Number `index` of each seed, float64 in [0, 1), broadcast."""
  # The top 53 bits, the precision of a float64.
  return (_bits(seed, index.astype(np.uint64)) >> np.uint64(11)) * 2.0**-53


def shuffle(
  num_rows: int, first: np.ndarray, size: np.ndarray, seed: np.ndarray
) -> np.ndarray | None:
  """Shuffles the rows of each range, all by one sort.

  Ranges [N] of `size` rows from `first` on do not overlap, in R rows; `seed`
  [N] is the result of `seeds`.

  Returns:
    Index of the row at each place, [R]; None if there is nothing to shuffle.
  """
  if not size.sum():
    return None
  order = np.arange(num_rows, dtype=np.uint64)
  by_row = np.argsort(first)
  first, size, seed = first[by_row], size[by_row], seed[by_row]
  places = ranges(first, size)
  # (range, number, row) in 64 bits, since a plain sort is fast. The number gets
  # the remaining bits: 40 for a block of 2**16 rows in 2**8 tasks.
  row_bits, range_bits = num_rows.bit_length(), len(first).bit_length()
  owner = np.repeat(np.arange(len(first), dtype=np.uint64), size)
  number = _bits(
    np.repeat(seed, size), (places - np.repeat(first, size)).astype(np.uint64)
  ) >> np.uint64(row_bits + range_bits)
  packed = owner << np.uint64(64 - range_bits)
  packed |= number << np.uint64(row_bits)
  packed |= places.astype(np.uint64)
  packed.sort()
  order[places] = packed & np.uint64((1 << row_bits) - 1)
  return order.astype(np.int64)


def ranges(first: np.ndarray, size: np.ndarray) -> np.ndarray:
  """Concatenates ranges: first[0], first[0] + 1, ..., first[1], ..."""
  before = np.cumsum(size) - size
  return np.arange(size.sum()) + np.repeat(first - before, size)


def _bits(seed: np.ndarray, index: np.ndarray) -> np.ndarray:
  return mix(seed + _STEP * index)
