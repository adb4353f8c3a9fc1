# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads AntM2C's CSV files strictly, in parallel and in bounded memory.

Blocks of whole records go to threads that parse, check and write them: pyarrow
lets go of Python's lock meanwhile. At most two blocks a thread are in memory at
once, however large the files are. A row that is not as it must be is set aside
with its line number, see `antm2c_columns`.
"""

import collections
from collections.abc import Callable, Iterator, Sequence
import csv
import dataclasses
import os
import pathlib
import re
import threading
from typing import Self

from absl import logging
import pyarrow as pa
import pyarrow.parquet as pq

from antjax.data import antm2c_columns, csv_blocks, delimited, thread_map
from antjax.data.antm2c_columns import Antm2cConfig, BadRow, Parsed
from antjax.data.csv_blocks import Block

# Bytes of the shortest record: a comma between columns and the line end.
_SHORTEST = len(antm2c_columns.COLUMNS)
_PART_BYTES = 1 << 30
_PART = re.compile(r'antm2c.*part', re.IGNORECASE)


def find_files(source: str | os.PathLike[str]) -> list[pathlib.Path]:
  """Returns the parts in their order: antm2c_10m_part0, ...

  Args:
    source: One file, or a folder with files antm2c*part* without a suffix.

  Raises:
    FileNotFoundError: No such source, or a folder without parts.
  """
  source = pathlib.Path(source)
  if not source.exists():
    raise FileNotFoundError(f'source={source} does not exist.')
  if source.is_file():
    return [source]
  found = [p for p in source.iterdir() if _PART.match(p.name) and not p.suffix]
  if not found:
    raise FileNotFoundError(
      f'source={source} holds no file antm2c*part*, such as antm2c_10m_part0.'
    )

  def in_order(path: pathlib.Path) -> list[tuple[int, str]]:
    return [
      (int(x), '') if x.isdigit() else (-1, x)
      for x in re.split(r'(\d+)', path.name)
    ]

  return sorted(found, key=in_order)


@dataclasses.dataclass
class Counts:
  """What the files hold.

  Attributes:
    rows: Records, those set aside included.
    rejected_lines: Records set aside.
    rejected: Why -> how many of them.
    empty_numbers: Fields of numbers that were empty and became 0.
    filled_times: Times that were none and were replaced.
  """

  rows: int = 0
  rejected_lines: int = 0
  rejected: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )
  empty_numbers: int = 0
  filled_times: int = 0

  @classmethod
  def of(cls, parsed: Parsed) -> 'Counts':
    """Counts a block."""
    return cls(
      rows=parsed.table.num_rows + len(parsed.bad),
      rejected_lines=len(parsed.bad),
      rejected=collections.Counter(bad.reason for bad in parsed.bad),
      empty_numbers=parsed.empty_numbers,
      filled_times=parsed.filled_times,
    )

  def add(self, other: 'Counts') -> None:
    """Adds other counts to these."""
    self.rows += other.rows
    self.rejected_lines += other.rejected_lines
    self.rejected += other.rejected
    self.empty_numbers += other.empty_numbers
    self.filled_times += other.filled_times


@dataclasses.dataclass(frozen=True)
class _Done:
  """A block that is written."""

  size: int
  counts: Counts
  bad: list[BadRow]


def write_rows(
  files: Sequence[pathlib.Path],
  folder: pathlib.Path,
  config: Antm2cConfig,
  *,
  max_rejected_share: float,
  rejected_path: pathlib.Path,
  finish: Callable[[pa.Table], pa.Table] = lambda table: table,
  threads: int = 0,
  block_bytes: int = 1 << 22,
  max_record_bytes: int = 1 << 20,
  progress: Callable[[str], None] = lambda text: None,
) -> Counts:
  """Writes the good rows of all files to Parquet files in a folder.

  Args:
    files: From `find_files`.
    folder: Existing folder.
    config: What the columns hold.
    max_rejected_share: Largest share of the rows of a file to set aside.
    rejected_path: CSV file that lists them, made only if needed.
    finish: Makes what is to be written of the typed rows of a block; the rows'
      numbers are those over all files.
    threads: 0 means one a core.
    block_bytes: Bytes of a block: a few megabytes, so that the next step finds
      in a processor's cache what the last one wrote there.
    max_record_bytes: A quote that is open for longer is never closed.
    progress: Called with a text at the start of each file.

  Raises:
    ValueError: Another header, or too many rows set aside.
    FileNotFoundError: No such file.
  """
  total = Counts()
  threads = threads or os.cpu_count() or 1
  with _Parts(folder) as parts:
    for number, path in enumerate(files):
      progress(f'reading {path.name}')

      def work(block: Block) -> _Done:
        parsed = antm2c_columns.parse(block, config)
        if parsed.table.num_rows:
          parts.write(finish(_numbered(parsed.table, number)))
        return _Done(len(block.data), Counts.of(parsed), parsed.bad)

      blocks = csv_blocks.read_blocks(
        path, block_bytes=block_bytes, max_record_bytes=max_record_bytes
      )
      counts, done = Counts(), 0
      for block in thread_map.in_order(
        work, _after_header(path, blocks), threads
      ):
        counts.add(block.counts)
        done += block.size
        _list(rejected_path, path, block.bad)
        # No more records than these can follow.
        most = counts.rows + (path.stat().st_size - done) // _SHORTEST
        _refuse_above(max_rejected_share, path, counts, most, rejected_path)
      _refuse_above(
        max_rejected_share, path, counts, counts.rows, rejected_path
      )
      if counts.rejected_lines:
        logging.warning(
          '%d of %d rows of %s are malformed and set aside in %s.',
          counts.rejected_lines,
          counts.rows,
          path,
          rejected_path,
        )
      total.add(counts)
  return total


def _after_header(
  path: pathlib.Path, blocks: Iterator[Block]
) -> Iterator[Block]:
  """Gives the blocks without the header, once it is the right one.

  Raises:
    ValueError: It is another one.
  """
  first = next(blocks, None)
  columns: list[str] = []
  if first is not None and len(first.starts):
    text = first.text(int(first.starts[0]), int(first.stops[0]))
    columns = next(csv.reader([text]))
  if columns != [*antm2c_columns.COLUMNS]:
    shown = ', '.join(columns)[:500]
    raise ValueError(
      f'{path} begins with {shown!r}; needed: the header'
      f' {", ".join(antm2c_columns.COLUMNS[:10])}, deep_features_0 to'
      f' deep_features_{antm2c_columns.NUM_FEATURES - 1}.'
    )
  assert first is not None
  yield dataclasses.replace(
    first,
    starts=first.starts[1:],
    stops=first.stops[1:],
    first_record=first.first_record + 1,
  )
  yield from blocks


def _numbered(table: pa.Table, file: int) -> pa.Table:
  """Numbers of rows in a file -> those over all files."""
  place = table.schema.get_field_index(antm2c_columns.ROW)
  rows = table[place].to_numpy() + antm2c_columns.row_number(file, 0)
  return table.set_column(place, antm2c_columns.ROW, pa.array(rows))


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


def _list(
  rejected_path: pathlib.Path, path: pathlib.Path, bad: Sequence[BadRow]
) -> None:
  """Appends bad rows to the list."""
  if not bad:
    return
  is_first = not rejected_path.exists()
  with open(rejected_path, 'a', newline='', encoding='utf-8') as file:
    writer = csv.writer(file, lineterminator='\n')
    if is_first:
      writer.writerow(delimited.REJECTED_COLUMNS)
    for row in bad:
      writer.writerow((path, *dataclasses.astuple(row)))


def _refuse_above(
  share: float,
  path: pathlib.Path,
  counts: Counts,
  num_rows: int,
  rejected_path: pathlib.Path,
) -> None:
  """Raises ValueError if too many of at most `num_rows` are set aside."""
  if counts.rejected_lines <= share * num_rows:
    return
  why = ', '.join(f'{name} {n}' for name, n in counts.rejected.most_common())
  raise ValueError(
    f'{counts.rejected_lines} of {counts.rows} rows of {path} so far are'
    f' malformed ({why}), more than max_rejected_share={share:g}. They are in'
    f' {rejected_path}; correct them or raise max_rejected_share.'
  )
