# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A hash table from 64-bit keys to row numbers, in vectorized numpy.

Open addressing with linear probing. A call handles all its keys at once: it
loops over probes, of which few are needed, never over keys.
"""

import numpy as np

_EMPTY, _DELETED = -1, -2
# Stafford's mix 13, the finaliser of SplitMix64 (Steele et al., OOPSLA 2014).
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_FNV_OFFSET, _FNV_PRIME = 0xCBF29CE484222325, np.uint64(0x100000001B3)


def mix(keys: np.ndarray) -> np.ndarray:
  """SplitMix64's output for each state in `keys`, uint64 of the same shape."""
  x = keys.astype(np.uint64, copy=True)
  x += _GAMMA
  for shift, factor in _MIX:
    x ^= x >> np.uint64(shift)
    x *= np.uint64(factor)
  return x ^ (x >> np.uint64(31))


def to_keys(values: np.ndarray) -> np.ndarray:
  """Integers or texts of any shape as int64 keys.

  Integers are their own keys. A text's key is 63 bits of the mixed FNV-1a hash
  of its UTF-8 bytes: never negative, and the same in every process and version.
  Among n texts, two share a key with probability n^2 / 2^64, 5e-6 for ten
  million.

  Raises:
    ValueError: Values that are neither integers, str nor bytes.
  """
  values = np.asarray(values)
  if np.issubdtype(values.dtype, np.integer):
    return values.astype(np.int64)
  if values.dtype.kind == 'U':
    values = np.strings.encode(values, 'utf-8')
  if values.dtype.kind != 'S':
    raise ValueError(
      f'to_keys: the values are {values.dtype}; integers, str or bytes are'
      ' needed. Make np.array(values, str) of a column of objects.'
    )
  width = values.dtype.itemsize
  letters = np.ascontiguousarray(values).view(np.uint8)
  letters = letters.reshape(*values.shape, width)
  length = np.strings.str_len(values)
  x = np.full(values.shape, _FNV_OFFSET, np.uint64)
  for i in range(width):
    longer = (x ^ letters[..., i]) * _FNV_PRIME
    x = np.where(i < length, longer, x)
  return (mix(x) >> np.uint64(1)).view(np.int64)


class KeyIndex:
  """Map from keys to rows, which the caller assigns.

  Takes 16 to 32 bytes per row.

  Attributes:
    keys: Key of each row that has one, int64 [capacity].
  """

  def __init__(self, capacity: int):
    size = 1 << (2 * capacity - 1).bit_length()
    self.keys = np.zeros(capacity, np.int64)
    self._mask = size - 1
    self._table = np.full(size, _EMPTY, np.int32)
    self._num_deleted = 0

  def find(self, keys: np.ndarray) -> np.ndarray:
    """The rows of keys [n], int32 [n]; -1 for a key without a row."""
    rows = np.full(keys.shape, -1, np.int32)
    waiting, at = np.arange(keys.size), self._home(keys)
    while waiting.size:
      entry = self._table[at]
      is_hit = (entry >= 0) & (self.keys[entry] == keys[waiting])
      rows[waiting[is_hit]] = entry[is_hit]
      goes_on = ~is_hit & (entry != _EMPTY)
      waiting, at = waiting[goes_on], self._next(at[goes_on])
    return rows

  def insert(self, keys: np.ndarray, rows: np.ndarray) -> None:
    """Adds distinct keys [n] without a row, at `rows` [n] without a key."""
    self.keys[rows] = keys
    at = self._home(keys)
    while rows.size:
      is_free = self._table[at] < 0
      self._table[at[is_free]] = rows[is_free]
      # If several keys reach one slot, the one written last stays.
      goes_on = self._table[at] != rows
      rows, at = rows[goes_on], self._next(at[goes_on])

  def remove(self, rows: np.ndarray) -> None:
    """Removes the keys of rows [n] that have one."""
    at, waiting = self._home(self.keys[rows]), rows
    while waiting.size:
      is_hit = self._table[at] == waiting
      self._table[at[is_hit]] = _DELETED
      waiting, at = waiting[~is_hit], self._next(at[~is_hit])
    self._num_deleted += rows.size
    if self._num_deleted > self._table.size // 4:
      kept = self._table[self._table >= 0]
      self._table.fill(_EMPTY)
      self._num_deleted = 0
      self.insert(self.keys[kept], kept)

  def _home(self, keys):
    return (mix(keys) & np.uint64(self._mask)).astype(np.int64)

  def _next(self, at):
    return (at + 1) & self._mask
