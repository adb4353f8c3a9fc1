# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Crosses of id columns, with an id for each pair of values."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses

import numpy as np

# Shape suffixes: N = clicks, V = pairs in training.

Chunks = Callable[[], Iterable[Mapping[str, np.ndarray]]]
_LEAST = 1 << 20  # Number of values merged at once.


@dataclasses.dataclass(frozen=True, eq=False)
class Cross:
  """Two id columns combined to one."""

  left: str  # Name of a column.
  right: str  # Name of another column.
  num_right: int  # Number of ids of the latter.
  # int64, ascending: pairs with a row, left * num_right + right.
  codes_V: np.ndarray

  @classmethod
  def fit(cls, text: str, chunks: Chunks, min_count: int) -> 'Cross':
    """Collects the pairs of the training clicks of two columns, user*scenario.

    `chunks` yields column -> training ids int [n]; a pair needs `min_count`
    clicks for its own row.

    Raises:
      ValueError: `text` is not a pair, or names an unknown column.
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
    return f'{self.left}_x_{self.right}'

  @property
  def num_ids(self) -> int:
    """Number of pairs with a row, plus 1 for the unknown pair 0."""
    return len(self.codes_V) + 1

  def __call__(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Id of each click's pair, int32 [N]; 0 for a pair without a row."""
    codes = self._codes(columns)
    # Values of `right` unseen in training must not alias another pair.
    is_new = columns[self.right] >= self.num_right
    place = np.searchsorted(self.codes_V, codes)
    known = place < len(self.codes_V)
    known[known] = self.codes_V[place[known]] == codes[known]
    return np.where(known & ~is_new, place + 1, 0).astype(np.int32)

  def _codes(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    left = columns[self.left].astype(np.int64)
    return left * self.num_right + columns[self.right]


def _counts(parts: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Distinct values, ascending, and their counts."""
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
  """Indices of the wanted id columns; of all if none is named.

  Raises:
    ValueError: A column is unknown.
  """
  if unknown := sorted(set(wanted) - set(names)):
    raise ValueError(
      f'fields.columns={tuple(wanted)}: {", ".join(unknown)} unknown; the data'
      f' have {", ".join(names) or "no id columns"}.'
    )
  return [i for i, name in enumerate(names) if not wanted or name in wanted]
