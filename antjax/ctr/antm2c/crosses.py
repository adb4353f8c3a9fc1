# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Crosses of id columns: a pair of values is an id of its own."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses

import numpy as np

# Shape suffixes: N = clicks, V = pairs that training knows.

Chunks = Callable[[], Iterable[Mapping[str, np.ndarray]]]
_LEAST = 1 << 20  # Values that are united at once.


@dataclasses.dataclass(frozen=True, eq=False)
class Cross:
  """Two id columns as one.

  Attributes:
    left: Name of a column.
    right: Name of another.
    num_right: Ids of the latter.
    codes_V: int64, rising: the pairs that have a row, left * num_right + right.
  """

  left: str
  right: str
  num_right: int
  codes_V: np.ndarray

  @classmethod
  def fit(cls, text: str, chunks: Chunks, min_count: int) -> 'Cross':
    """The pairs of the training clicks.

    Args:
      text: Names of two columns, as user*scenario.
      chunks: Gives column -> its ids in training, int [n], chunk by chunk.
      min_count: Clicks that a pair needs for a row of its own.

    Raises:
      ValueError: `text` is no pair, or names a column that is not there.
    """
    left, _, right = text.partition('*')
    largest = 0
    for columns in chunks():
      if not {left, right} <= set(columns) or left == right:
        raise ValueError(
          f'fields.crosses={text}: needed are two of {", ".join(columns)}, as'
          ' user*scenario.'
        )
      largest = max(largest, int(columns[right].max()))
    cross = cls(left, right, largest + 1, np.empty(0))
    codes, counts = _counts(cross._codes(columns) for columns in chunks())
    return dataclasses.replace(cross, codes_V=codes[counts >= min_count])

  @property
  def name(self) -> str:
    """Name of the column that it makes."""
    return f'{self.left}_x_{self.right}'

  @property
  def num_ids(self) -> int:
    """Pairs with a row, and 0, the unknown one."""
    return len(self.codes_V) + 1

  def __call__(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """int32 [N]: the id of each click's pair, 0 for one without a row."""
    codes = self._codes(columns)
    # What training has not seen of `right` must not look like another pair.
    is_new = columns[self.right] >= self.num_right
    place = np.searchsorted(self.codes_V, codes)
    known = place < len(self.codes_V)
    known[known] = self.codes_V[place[known]] == codes[known]
    return np.where(known & ~is_new, place + 1, 0).astype(np.int32)

  def _codes(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    left = columns[self.left].astype(np.int64)
    return left * self.num_right + columns[self.right]


def _counts(parts: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Distinct values, rising, and how many there are of each."""
  found = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
  for part in parts:
    found.append(np.unique(part, return_counts=True))
    if sum(len(x) for x, _ in found[1:]) > max(len(found[0][0]), _LEAST):
      found = [_united(found)]
  return _united(found)


def _united(
  found: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
  values, counts = (np.concatenate(x) for x in zip(*found, strict=True))
  values, place = np.unique(values, return_inverse=True)
  return values, np.bincount(place, counts, len(values)).astype(np.int64)


def chosen(names: Sequence[str], wanted: Sequence[str]) -> list[int]:
  """Places of the wanted id columns; of all where none is named.

  Raises:
    ValueError: There is no such column.
  """
  if unknown := sorted(set(wanted) - set(names)):
    raise ValueError(
      f'fields.columns={tuple(wanted)}: {", ".join(unknown)} unknown; the data'
      f' have {", ".join(names) or "no id columns"}.'
    )
  return [i for i, name in enumerate(names) if not wanted or name in wanted]
