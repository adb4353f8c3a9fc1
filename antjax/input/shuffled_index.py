# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Numbers of records in a shuffled order, as a source for a data set.

Record files of logs are ordered by time, and neighbours are alike. A batch
should not be of neighbours, so a DataShard is a range of *places* of this
order, and its records are fetched by their numbers, from memory.
"""

import numpy as np

from antjax.input import record_schema
from antjax.input.arrow_columns import Block


class ShuffledIndex:
  """A source of `Block`s with the column 'index'.

  Numbers are permuted inside windows: the records of a DataShard lie near each
  other in a file larger than memory.
  """

  def __init__(self, num_records: int, *, seed: int, window: int = 1 << 22):
    """Draws the order.

    Args:
      num_records: N.
      seed: Of the order.
      window: Records that are permuted among each other.
    """
    rng = np.random.default_rng([seed, num_records])
    self._order = np.arange(num_records, dtype=np.int64)
    for start in range(0, num_records, window):
      rng.shuffle(self._order[start : start + window])

  def __len__(self) -> int:
    return len(self._order)

  def read(self, start: int, stop: int) -> Block:
    """The numbers at the places start <= place < stop."""
    record_schema.check_block('ShuffledIndex', start, stop, len(self))
    index = self._order[start:stop]
    one = np.ones(len(index), np.int64)
    tasks = {'index': index, 'first_row': 0 * one, 'num_rows': one}
    return Block({}, tasks)
