# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Records in a shuffled order, as a source for a data set.

Record files of logs are ordered by user or time, and neighbors are alike. A
batch should not be of neighbors, so a DataShard is a range of *places* of this
order, and its records are fetched by their numbers.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import numpy as np

from antjax.data import records
from antjax.data.file_sequence import FileSequence
from antjax.shards import data_shard, record_source
from antjax.shards.record_source import RecordBlock

_ROUNDS = 4
_PART = 1 << 16  # Numbers that are permuted at once; they fit caches.


@dataclasses.dataclass(frozen=True)
class Order:
  """A permutation of the numbers 0 .. N - 1.

  Numbers are permuted inside windows, so that the records of a DataShard lie
  near each other in a file larger than memory; a single window is kept once it
  has been asked for (8 N bytes), and of several nothing is. A window's
  permutation is a Feistel network over the next power of 4, walked until it is
  inside (Black and Rogaway 2002, https://doi.org/10.1007/3-540-45760-7_9); it
  mixes well and is no cipher.
  """

  num_records: int  # N.
  seed: int  # Seed of the order.
  window: int = 1 << 22  # Records that are permuted among each other.

  def __call__(self, places: np.ndarray) -> np.ndarray:
    """int64 numbers of the records at `places`, of the same shape.

    Raises:
      ValueError: There is no such place.
    """
    numbers = np.array(places, np.int64)
    if ((numbers < 0) | (numbers >= self.num_records)).any():
      raise ValueError(
        f'Order: places {numbers.min()} to {numbers.max()} of'
        f' {self.num_records} records.'
      )
    if self.num_records <= self.window:
      return self._whole[numbers]
    of = numbers // self.window
    for window in np.unique(of):
      start = int(window) * self.window
      size = min(self.window, self.num_records - start)
      mine = of == window
      found = _permuted(numbers[mine] - start, size, [self.seed, int(window)])
      numbers[mine] = start + found
    return numbers

  @functools.cached_property
  def _whole(self) -> np.ndarray:
    """The order of a single window: batches then cost a look-up."""
    found = np.arange(self.num_records)
    for start in range(0, len(found), _PART):
      part = slice(start, start + _PART)
      found[part] = _permuted(found[part], len(found), [self.seed, 0])
    return found


def _permuted(x: np.ndarray, size: int, seed: list[int]) -> np.ndarray:
  """Numbers below `size`, each another's."""
  keys = np.random.SeedSequence(seed).generate_state(_ROUNDS, np.uint64)
  half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
  mask = (np.uint64(1) << half) - np.uint64(1)
  x = x.astype(np.uint64)
  is_out = np.ones(len(x), bool)
  while is_out.any():
    left, right = x[is_out] >> half, x[is_out] & mask
    for key in keys:
      left, right = right, left ^ (data_shard.mix(right + key) & mask)
    x[is_out] = (left << half) | right
    is_out = x >= size
  return x.astype(np.int64)


class ShuffledBlocks:
  """Records as columns; runs of places have blocks from all over the file.

  A block's records follow each other in the file, and the blocks are in a
  seeded order. A data set with shards of many blocks, whose ledger shuffles
  shards and the records of each, so reads few records of each part of the file
  at a time, in whole blocks.
  """

  def __init__(
    self,
    num_records: int,
    columns: Callable[[int, int], Mapping[str, np.ndarray]] | None = None,
    *,
    seed: int,
    block_size: int,
  ):
    """Reads nothing yet.

    `columns` reads the records start <= index < stop; None: their numbers, the
    column 'index', are all there is. What is left of the last block stays last.
    """
    self._num_records, self._columns = num_records, columns
    self._size = block_size
    whole = np.arange(num_records // block_size)
    self._blocks = np.append(Order(len(whole), seed)(whole), len(whole))

  def __len__(self) -> int:
    return self._num_records

  def read(self, start: int, stop: int) -> RecordBlock:
    """The columns of the records at the places start <= place < stop."""
    record_source.check_block('ShuffledBlocks', start, stop, len(self))
    places = np.arange(start, stop)
    index = self._blocks[places // self._size] * self._size
    index += places % self._size
    one = np.ones(len(index), np.int64)
    tasks = {'index': index, 'first_row': 0 * one, 'num_rows': one}
    if self._columns is not None:
      runs = np.split(index, np.flatnonzero(np.diff(index) != 1) + 1)
      parts = [self._columns(int(run[0]), int(run[-1]) + 1) for run in runs]
      for name in parts[0]:
        tasks[name] = np.concatenate([part[name] for part in parts])
    return RecordBlock({}, tasks)


class ShuffledRecords:
  """The records of an Arrow file in an `Order`."""

  def __init__(self, source: record_source.RecordSource, *, seed: int):
    """Reads nothing yet.

    An `ArrowSource` fetches records by number; any other source gives them one
    by one, slowly.
    """
    self._source = source
    self.order = Order(len(source), seed)

  def __len__(self) -> int:
    return len(self._source)

  def read(self, start: int, stop: int) -> Sequence[dict[str, Any]]:
    """The records at the places start <= place < stop."""
    record_source.check_block('ShuffledRecords', start, stop, len(self))
    numbers = self.order(np.arange(start, stop)).tolist()
    if isinstance(self._source, records.ArrowSource | FileSequence):
      return self._source.take(numbers)
    return [self._source.read(i, i + 1)[0] for i in numbers]
