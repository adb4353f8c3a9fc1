# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Parses files piece by piece in threads, and writes good rows as Parquet."""

import collections
from collections.abc import Callable, Iterable, Sequence
import dataclasses
import os
import pathlib
import threading
from typing import Generic, Self, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from antjax.data import thread_map
from antjax.data.rejects import BadRow, Rejects

ROW = '__row'  # Column of the numbers of rows, int64.
_PART_BYTES = 1 << 30
_Piece = TypeVar('_Piece')


@dataclasses.dataclass
class Counts:
  """Rows of files, those set aside included, and what was done to them.

  Attributes:
    rows: Number of rows.
    rejected: Reason -> rows set aside.
    filled: Column -> fields that another value stands for now.
  """

  rows: int = 0
  rejected: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  filled: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )

  def add(self, other: 'Counts') -> None:
    """Adds other counts to these."""
    self.rows += other.rows
    self.rejected += other.rejected
    self.filled += other.filled

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
  """What a piece of a file holds.

  Attributes:
    table: Good rows: the columns, and `ROW`, their places in the file.
    bad: Rows set aside, in their order.
    filled: Column -> values that were filled in.
    size: Size of this part of the file, in the unit of `Source.size`.
  """

  table: pa.Table
  bad: list[BadRow]
  filled: collections.Counter[str]
  size: int

  def counts(self) -> Counts:
    """Counts the rows."""
    rejected = collections.Counter(bad.reason for bad in self.bad)
    return Counts(self.table.num_rows + len(self.bad), rejected, self.filled)


@dataclasses.dataclass(frozen=True)
class Source(Generic[_Piece]):
  """A file as pieces that are parsed in parallel.

  Attributes:
    path: The file.
    pieces: Its pieces, read as they are taken.
    parse: Parses a piece, in any thread.
    size: Size of the file, infinite where unknown.
    smallest: Size of the smallest row.
    unit: Name of its rows.
  """

  path: pathlib.Path
  pieces: Iterable[_Piece]
  parse: Callable[[_Piece], Parsed]
  size: float
  smallest: float = 1
  unit: str = 'lines'


def write(
  sources: Sequence[Callable[[], Source[_Piece]]],
  folder: pathlib.Path,
  rejects: Rejects,
  no_rows: Callable[[], pa.Table],
  *,
  finish: Callable[[pa.Table, pathlib.Path], pa.Table] = lambda table, _: table,
  file_bits: int = 0,
  threads: int = 0,
  progress: Callable[[str], None] = lambda text: None,
) -> Counts:
  """Writes the good rows of sources, one after another.

  Args:
    sources: Functions that open the sources.
    folder: Existing folder for `part-*.parquet`; at least one is written.
    rejects: Lists rows that are set aside, and refuses too many of them.
    no_rows: Makes the table of no rows.
    finish: Makes what is written of the rows of a piece and their file; called
      in any thread.
    file_bits: See `text_reader.Layout`.
    threads: Number of threads; 0 means one a core.
    progress: Function called with a text at the start of each file.
  """
  total = Counts()
  threads = threads or os.cpu_count() or 1
  path = pathlib.Path()
  with _Parts(folder) as parts:
    for number, opened in enumerate(sources):
      source = opened()
      path = source.path
      progress(f'reading {path.name}')
      first = (number << file_bits) + 1 if file_bits else total.rows

      def work(piece: _Piece) -> tuple[Counts, int, list[BadRow]]:
        parsed = source.parse(piece)
        if parsed.table.num_rows:
          parts.write(finish(_numbered(parsed.table, first), path))
        return parsed.counts(), parsed.size, parsed.bad

      counts, left = Counts(), source.size
      for more, size, bad in thread_map.in_order(work, source.pieces, threads):
        counts.add(more)
        left -= size
        rejects.add(path, bad)
        if left > 0:  # No more rows than these can follow.
          most = counts.rows + left / source.smallest
          _check(rejects, source, counts, most)
      _check(rejects, source, counts)
      total.add(counts)
    if not total.good:
      parts.write(finish(no_rows(), path))
  return total


def _check(
  rejects: Rejects,
  source: Source[_Piece],
  counts: Counts,
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


def _numbered(table: pa.Table, first: int) -> pa.Table:
  place = table.schema.get_field_index(ROW)
  rows = table[place].to_numpy() + first
  return table.set_column(place, ROW, pa.array(rows))


class _Parts:
  """Parquet files that several threads write, each one file at a time."""

  def __init__(self, folder: pathlib.Path):
    """The files are whole when the context ends."""
    self._folder = folder
    self._free: list[tuple[pq.ParquetWriter, int]] = []
    self._lock = threading.Lock()
    self._num_files = 0

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *error: object) -> None:
    for writer, _ in self._free:
      writer.close()

  def write(self, table: pa.Table) -> None:
    """Adds a table to a file that no other thread writes to now."""
    with self._lock:
      writer, size = self._free.pop() if self._free else (None, 0)
      if writer is None:
        self._num_files += 1
        path = self._folder / f'part-{self._num_files:05d}.parquet'
    if writer is None:
      # Read once, and soon: neither packed nor coded.
      writer = pq.ParquetWriter(
        path,
        table.schema,
        compression='none',
        use_dictionary=False,
        write_statistics=False,
      )
    writer.write_table(table)
    size += table.nbytes
    if size > _PART_BYTES:
      writer.close()
      return
    with self._lock:
      self._free.append((writer, size))
