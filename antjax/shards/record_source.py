# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sources of records, whose ranges a ledger leases.

A record is a dict of numpy values and texts. Neither jax nor grain is imported
here.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any, overload, Protocol

import numpy as np

Record = dict[str, Any]  # Name -> np.ndarray, numpy scalar, or str.


class RecordSource(Protocol):
  """Random access to records by contiguous block."""

  def __len__(self) -> int:
    """Returns the number of records."""

  def read(self, start: int, stop: int) -> Sequence[Record]:
    """Returns the records start <= index < stop, in order."""


@dataclasses.dataclass(frozen=True)
class RecordBlock(Sequence[Record]):
  """Records as columns: N records with R rows in all.

  As a sequence it has the records, which are made when asked for.
  """

  # Column -> [R] or [R, K], for lists: the rows of a record are together, and
  # all lists of a record are equally long.
  rows: Mapping[str, np.ndarray]
  # Column -> [N], for scalars; with 'first_row' and 'num_rows', int64.
  tasks: Mapping[str, np.ndarray]

  def __len__(self) -> int:
    return len(self.tasks['num_rows'])

  @overload
  def __getitem__(self, index: int) -> Record: ...

  @overload
  def __getitem__(self, index: slice) -> list[Record]: ...

  def __getitem__(self, index: Any) -> Any:
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    first = self.tasks['first_row'][index]
    part = slice(first, first + self.tasks['num_rows'][index])
    record = {name: column[part] for name, column in self.rows.items()}
    record |= {name: column[index] for name, column in self.tasks.items()}
    del record['first_row'], record['num_rows']
    return record

  def take(
    self, index: np.ndarray, **more: np.ndarray
  ) -> dict[str, dict[str, np.ndarray]]:
    """Chooses records [n] in order; their rows stay in place.

    Returns:
      {'rows': ..., 'tasks': ...}, as `antjax.meta.task_block` reads it; `more`
      are further columns [n] of 'tasks'.
    """
    tasks = {name: column[index] for name, column in self.tasks.items()}
    return {'rows': dict(self.rows), 'tasks': tasks | more}


def check_block(path: str, start: int, stop: int, size: int) -> None:
  """Raises ValueError unless a block is inside a source."""
  if not 0 <= start <= stop <= size:
    raise ValueError(
      f'read({start}, {stop}) of {path}: needed 0 <= start <= stop <= {size}.'
    )


def every(
  source: RecordSource, index: int, count: int, *, block: int = 1024
) -> Iterator[Record]:
  """Yields records index, index + count, ... and holds one block at a time."""
  for start in range(0, len(source), block):
    rows = source.read(start, min(start + block, len(source)))
    yield from rows[(index - start) % count :: count]


class SourceRange:
  """The records start <= index < stop of another source, as a source."""

  def __init__(self, source: RecordSource, start: int, stop: int):
    """Takes a part.

    Raises:
      ValueError: The range is not inside the source.
    """
    check_block(type(source).__name__, start, stop, len(source))
    self._source, self._start, self._stop = source, start, stop

  def __len__(self) -> int:
    return self._stop - self._start

  def read(self, start: int, stop: int) -> Sequence[Record]:
    check_block('SourceRange', start, stop, len(self))
    return self._source.read(self._start + start, self._start + stop)
