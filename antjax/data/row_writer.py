# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Parses files piece by piece in threads, and writes good rows as Parquet."""

import collections
from collections.abc import Callable, Iterable, Sequence
import dataclasses
import os
import pathlib
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from antjax.data import thread_map
from antjax.data.rejects import BadRow, Rejects

ROW = '__row'  # Column of the numbers of rows, int64.
_PART_BYTES = 1 << 30
# A column at fault in such a share of the first piece is of another type, where
# the piece has so many rows.
_WRONG_SHARE, _WRONG_ROWS = 0.9, 1000


@dataclasses.dataclass
class RowCounts:
  """Rows of files, those set aside included, and what was done to them."""

  rows: int = 0  # Number of rows.
  # Reason -> rows set aside.
  rejected: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  # Column -> fields that another value stands for now.
  filled: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )

  def __add__(self, other: 'RowCounts') -> 'RowCounts':
    return RowCounts(
      self.rows + other.rows,
      self.rejected + other.rejected,
      self.filled + other.filled,
    )

  @property
  def rejected_lines(self) -> int:
    """Rows set aside."""
    return self.rejected.total()

  @property
  def good(self) -> int:
    """Rows that were written."""
    return self.rows - self.rejected_lines


@dataclasses.dataclass(frozen=True)
class Parsed:
  """What a piece of a file holds."""

  # Good rows: the columns, and `ROW`, their places in the file.
  table: pa.Table
  bad: list[BadRow]  # Rows set aside, in their order.
  filled: collections.Counter[str]  # Column -> values that were filled in.
  size: int  # Size of this part of the file, in the unit of `RowSource.size`.

  def counts(self) -> RowCounts:
    rejected = collections.Counter(bad.reason for bad in self.bad)
    return RowCounts(self.table.num_rows + len(self.bad), rejected, self.filled)


@dataclasses.dataclass(frozen=True)
class RowSource:
  """A file as pieces that are parsed in parallel."""

  path: pathlib.Path  # The file.
  # Functions that parse its pieces, in any thread; read as taken.
  pieces: Iterable[Callable[[], Parsed]]
  size: float  # Size of the file, infinite where unknown.
  smallest: float = 1  # Size of the smallest row.
  unit: str = 'lines'  # Name of its rows.


def write(
  sources: Iterable[RowSource],
  folder: pathlib.Path,
  rejects: Rejects,
  no_rows: Callable[[], pa.Table],
  *,
  finish: Callable[[pa.Table, pathlib.Path], pa.Table] = lambda table, _: table,
  file_bits: int = 0,
  threads: int = 0,
  progress: Callable[[str], None] = lambda text: None,
) -> RowCounts:
  """Writes the good rows of sources, one after another.

  Sources are opened as they are taken. The existing folder gets
  `part-*.parquet`, at least one: `no_rows` makes the table of no rows. `finish`
  makes what is written of the rows of a piece and their file, in any thread.
  For `file_bits` see `text_reader.TextLayout`; 0 threads are one a core.
  """
  total = RowCounts()
  threads = threads or os.cpu_count() or 1
  path = pathlib.Path()
  with _Parts(folder) as parts:
    for number, source in enumerate(sources):
      path = source.path
      progress(f'reading {path.name}')
      first = (number << file_bits) + 1 if file_bits else total.rows

      def work(piece: Callable[[], Parsed]) -> tuple[Parsed, pa.Table]:
        parsed = piece()
        place = parsed.table.schema.get_field_index(ROW)
        rows = parsed.table[place].to_numpy() + first
        table = parsed.table.set_column(place, ROW, pa.array(rows))
        return parsed, finish(table, path) if len(rows) else table

      counts, left = RowCounts(), source.size
      for parsed, table in thread_map.in_order(work, source.pieces, threads):
        is_first = not counts.rows
        counts += parsed.counts()
        left -= parsed.size
        rejects.add(path, parsed.bad)
        if is_first and counts.rows >= _WRONG_ROWS:
          _check_types(rejects, source, parsed.bad, counts.rows)
        if left > 0:  # No more rows than these can follow.
          most = counts.rows + left / source.smallest
          _check(rejects, source, counts, most)
        if table.num_rows:
          parts.write(table)
      _check(rejects, source, counts)
      total += counts
    if not total.good:
      parts.write(finish(no_rows(), path))
  pa.default_memory_pool().release_unused()  # The engine's limit is small.
  return total


def _check_types(
  rejects: Rejects, source: RowSource, bad: Sequence[BadRow], num_rows: int
) -> None:
  """Refuses a column of another type before all is read."""
  columns = collections.Counter(row.column for row in bad if row.column)
  for name, num in columns.most_common(1):
    if num > max(_WRONG_SHARE, rejects.max_share) * num_rows:
      first = next(row for row in bad if row.column == name)
      raise ValueError(
        f'{source.path}: column {name!r} is at fault in {num} of the first'
        f' {num_rows} {source.unit}: {" ".join(first.message.split())}. Correct'
        ' its type in the schema.'
      )


def _check(
  rejects: Rejects,
  source: RowSource,
  counts: RowCounts,
  most: float | None = None,
) -> None:
  reasons = counts.rejected.most_common()
  rejects.check(
    source.path,
    counts.rejected_lines,
    counts.rows,
    most=most,
    why=', '.join(f'{name} {n}' for name, n in reasons),
    unit=source.unit,
  )


class _Parts:
  """Parquet files of about `_PART_BYTES`, whole when the context ends."""

  def __init__(self, folder: pathlib.Path):
    self._folder, self._num_files, self._size = folder, 0, 0
    self._writer: pq.ParquetWriter | None = None

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error: object) -> None:
    if self._writer is not None:
      self._writer.close()

  def write(self, table: pa.Table) -> None:
    """Adds a table, to a new file where the last one is full."""
    if self._writer is None or self._size > _PART_BYTES:
      self.__exit__()
      self._num_files, self._size = self._num_files + 1, 0
      # Read once, and soon: neither packed nor coded.
      self._writer = pq.ParquetWriter(
        self._folder / f'part-{self._num_files:05d}.parquet',
        table.schema,
        compression='none',
        use_dictionary=False,
        write_statistics=False,
      )
    self._writer.write_table(table)
    self._size += table.nbytes
