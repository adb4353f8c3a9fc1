# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads the texts of `encode`, in pieces: every row or an error, never less."""

from collections.abc import Callable, Iterator, Sequence
import functools
import io
import itertools
import pathlib

import pyarrow as pa
from pyarrow import csv
import pyarrow.parquet as pq

from antjax.data import csv_blocks

_BLOCK_ROWS = 65_536  # Lines of a text file that are read at once.
_MAX_RECORD_BYTES = 1 << 26  # Of a CSV file's row in quotes.
# Number of rows, and the function that reads them.
Piece = tuple[int, Callable[[], pa.Table]]


def pieces(path: pathlib.Path, columns: Sequence[str]) -> Iterator[Piece]:
  """Yields the pieces of a file, with the given columns, the text first.

  Raises:
    ValueError: The file is damaged, its text is not UTF-8, it lacks a column
      or has two of its name, or the first is not of texts.
  """
  inner = path.with_suffix('') if csv_blocks.is_packed(path) else path
  kind = inner.suffix.lower()
  try:
    if kind == '.parquet':
      yield from _of_parquet(path, columns)
    elif kind == '.txt':
      _check(path, columns, columns[:1])
      yield from _of_lines(path, columns[0])
    else:
      yield from _of_csv(path, columns, '\t' if kind == '.tsv' else ',')
  except (pa.ArrowException, UnicodeDecodeError, *csv_blocks.DAMAGED) as error:
    raise ValueError(f'{path} cannot be read: {error}.') from error


def _check(
  path: pathlib.Path, columns: Sequence[str], there: Sequence[str]
) -> None:
  for name in columns:
    if (count := [*there].count(name)) != 1:
      found = f'{count} columns' if count else 'no column'
      raise ValueError(
        f'{path} cannot be read: it has {found} {name}; needed is one. There'
        f' are: {", ".join(there)}.'
      )


def _texts(path: pathlib.Path, table: pa.Table) -> pa.Table:
  """The table, its first column checked to be texts."""
  column = table.column(0)
  kind = column.type
  if pa.types.is_dictionary(kind):
    kind = kind.value_type
  if kind not in (pa.string(), pa.large_string(), pa.string_view()):
    raise ValueError(
      f'{path}: column {table.column_names[0]!r} is {column.type}; needed are'
      ' texts.'
    )
  try:
    column = column.cast(pa.large_string())
    column.validate(full=True)
  except pa.ArrowException as error:
    raise ValueError(f'{path} cannot be read: {error}.') from error
  return table.set_column(0, table.column_names[0], column)


def _of_parquet(path: pathlib.Path, columns: Sequence[str]) -> Iterator[Piece]:
  file = pq.ParquetFile(path)
  _check(path, columns, file.schema_arrow.names)
  for i in range(file.num_row_groups):

    def read(i: int = i) -> pa.Table:
      try:
        table = file.read_row_group(i, columns).select(columns)
      except (pa.ArrowException, OSError) as error:
        raise ValueError(f'{path} cannot be read: {error}.') from error
      return _texts(path, table)

    yield file.metadata.row_group(i).num_rows, read


def _of_lines(path: pathlib.Path, column: str) -> Iterator[Piece]:
  packed = csv_blocks.is_packed(path)
  with csv_blocks.opened(path) if packed else open(path, 'rb') as file:
    lines = io.TextIOWrapper(file, 'utf-8-sig', newline='\n')
    while block := [*itertools.islice(lines, _BLOCK_ROWS)]:
      rows = pa.array([x.rstrip('\r\n') for x in block], pa.large_string())
      table = pa.table({column: rows})
      yield len(block), functools.partial(_texts, path, table)


def _of_csv(
  path: pathlib.Path, columns: Sequence[str], delimiter: str
) -> Iterator[Piece]:
  dialect = csv_blocks.Dialect(delimiter)
  parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
  types = {columns[0]: pa.string()}  # Others: as the first rows have them.
  header = b''
  for block in csv_blocks.read_blocks(
    path, dialect, max_record_bytes=_MAX_RECORD_BYTES
  ):
    for fault in block.faults:
      raise ValueError(
        f'{path} cannot be read: line {block.line(fault.start)}:'
        f' {fault.message}.'
      )
    data = block.records().tobytes()
    if not header and len(block.starts):
      size = int(block.stops[0] - block.starts[0])
      header = data[:size]
      names = csv.read_csv(pa.BufferReader(header), None, parse).column_names
      _check(path, columns, names)
      data = data[size:]
    if not data:
      continue
    table = csv.read_csv(
      pa.BufferReader(header + data),
      csv.ReadOptions(block_size=len(header + data)),
      parse,
      csv.ConvertOptions(include_columns=columns, column_types=types),
    )
    types = dict(zip(columns, table.schema.types, strict=True))
    yield len(table), functools.partial(_texts, path, table)
  if not header:
    raise ValueError(f'{path} cannot be read: it has no header.')
