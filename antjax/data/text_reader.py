# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads text files strictly, in parallel and in bounded memory, as Parquet.

Blocks of whole records go to threads that parse, check and write them: pyarrow
releases Python's lock meanwhile. At most two blocks a thread are in memory at
once, however large the files are. A row that is not as its layout says is set
aside with its line, see `rejects`.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
import csv
import dataclasses
import functools
import math
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv
import pyarrow.compute as pc

from antjax.data import csv_blocks, row_writer, strict_columns
from antjax.data.csv_blocks import Dialect, TextBlock
from antjax.data.rejects import BadRow, Rejects
from antjax.data.row_writer import Parsed, ROW, RowCounts, RowSource
from antjax.data.strict_columns import Column, Faults


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextLayout:
  """What a text file holds."""

  # Column -> what it has to hold: all of a file, in their order.
  columns: Mapping[str, Column]
  dialect: Dialect = Dialect()  # Dialect of the records.
  # Fields of the first line, or None where a file has no header.
  header: Sequence[str] | None = None
  # 0 numbers the rows of all files one after another, those set aside included,
  # in the column `ROW`. Else a row's number is (place of its file << file_bits)
  # + place of its record, from the header on: it does not change with the other
  # files.
  file_bits: int = 0
  nulls: Sequence[str] = ()  # Texts that stand for an empty field.


def read(
  files: Sequence[pathlib.Path],
  layout: TextLayout,
  folder: pathlib.Path,
  rejects: Rejects,
  *,
  block_bytes: int = 1 << 22,
  max_record_bytes: int = 1 << 20,
  **options: Any,
) -> RowCounts:
  """Writes the good rows of all files to Parquet files; see `row_writer.write`.

  Blocks have a few megabytes, so that the next step finds in a processor's
  cache what the last one wrote there. A quote that is open for more than
  `max_record_bytes` is never closed.

  Raises:
    ValueError: A file has another header, or too many rows are set aside.
    FileNotFoundError: No such file.
    RuntimeError: A file changed while it was read.
  """

  def opened(path: pathlib.Path) -> RowSource:
    blocks = csv_blocks.read_blocks(
      path,
      layout.dialect,
      block_bytes=block_bytes,
      max_record_bytes=max_record_bytes,
    )
    if layout.header is not None:
      blocks = _after_header(path, blocks, layout)
    # Blocks of some files are larger than what they were made of.
    is_same = layout.dialect.encoding == 'utf-8' and path.is_file()
    is_same = is_same and not csv_blocks.is_packed(path)
    return RowSource(
      path,
      (functools.partial(_parse, block, layout) for block in blocks),
      path.stat().st_size if is_same else math.inf,
      (len(layout.columns) - 1) * len(layout.dialect.delimiter) + 1,
    )

  return row_writer.write(
    map(opened, files),
    folder,
    rejects,
    lambda: empty(layout),
    file_bits=layout.file_bits,
    **options,
  )


def _after_header(
  path: pathlib.Path, blocks: Iterator[TextBlock], layout: TextLayout
) -> Iterator[TextBlock]:
  """Gives the blocks without the header, once it is the right one."""
  block = next(blocks, None)
  assert layout.header is not None
  line, fault = '', ''
  if block is not None:
    spans = [
      (int(a), int(b), '') for a, b in zip(block.starts[:1], block.stops[:1])
    ]
    spans += [(f.start, f.stop, f.message) for f in block.faults]
    start, stop, fault = min(spans, default=(0, 0, ''))
    line = block.text(start, stop)
  if fault == csv_blocks.LONE_CR:
    raise ValueError(
      f'{path} has {fault}; needed are LF or CRLF, the same in the whole file.'
    )
  found = header_names(line, layout.dialect)
  if found != [*layout.header]:
    shown = ', '.join(found)[:500]
    lacking = [name for name in layout.header if name not in found]
    extra = [name for name in found if name not in layout.header]
    told = f' It lacks {", ".join(lacking)}.' * bool(lacking)
    told += f' Not needed: {", ".join(extra)[:500]}.' * bool(extra)
    if {name.strip() for name in extra} & {*lacking}:
      told += ' Names have blanks around them: remove those.'
    raise ValueError(
      f'{path} has the columns {shown}; needed: {", ".join(layout.header)}.'
      f'{told or " The order is another one."}'
    )
  assert block is not None
  yield dataclasses.replace(
    block, starts=block.starts[1:], stops=block.stops[1:]
  )
  for block in blocks:
    yield dataclasses.replace(block, first_record=block.first_record - 1)


def header_names(line: str, dialect: Dialect) -> list[str]:
  """Returns the names of a header; pandas writes its index without one."""
  found = _fields(line, dialect) if line else []
  return [name or f'Unnamed: {i}' for i, name in enumerate(found)]


def _fields(line: str, dialect: Dialect) -> list[str]:
  if not dialect.quote or len(dialect.delimiter) > 1:
    return line.split(dialect.delimiter)
  reader = csv.reader(
    [line], delimiter=dialect.delimiter, quotechar=dialect.quote
  )
  try:
    return next(reader, [])
  except csv.Error:  # Such as a very long field: no header of ours.
    return [line]


def _parse(block: TextBlock, layout: TextLayout) -> Parsed:
  """Reads the records of a block strictly."""
  # Where a bad row is, and (column, reason, message).
  bad: list[tuple[int, int, tuple[str, str, str]]] = [
    (f.start, f.stop, ('', 'quote', f'{f.message}; the line is left out'))
    for f in block.faults
  ]

  def add(record: int, fault: tuple[str, str, str]) -> None:
    span = block.starts[record], block.stops[record]
    bad.append((int(span[0]), int(span[1]), fault))

  kept = np.arange(len(block.starts))
  faults = Faults()
  if len(kept):
    raw, wrong = _texts(block, layout, faults)
    for record, message in wrong.items():
      add(record, ('', 'columns', message))
    kept = np.delete(kept, [*wrong])
    table, filled = typed(raw, layout.columns, faults, layout.nulls)
  else:
    table, filled = empty(layout).drop_columns(ROW), collections.Counter()
  table = table.append_column(ROW, pa.array(block.numbers()[kept]))
  table = faults.without(table)
  for row, fault in faults.of_row.items():
    add(int(kept[row]), fault)
  rows = [
    BadRow(block.line(start), *fault, block.text(start, stop))
    for start, stop, fault in sorted(bad)
  ]
  return Parsed(table, rows, filled, len(block.data))


def typed(
  raw: Mapping[str, pa.Array],
  columns: Mapping[str, Column],
  faults: Faults,
  nulls: Sequence[str] = (),
) -> tuple[pa.Table, collections.Counter[str]]:
  """Returns typed columns, and in which of them how many were filled in.

  Texts that are one of `nulls` are empty ones.
  """
  filled: collections.Counter[str] = collections.Counter()
  found = {}
  for name, column in columns.items():
    values = raw[name]
    if nulls and pa.types.is_string(values.type):
      is_null = pc.is_in(values, pa.array(nulls, pa.string()))
      values = pc.if_else(is_null, '', values)
    found[name], num = strict_columns.typed(name, values, column, faults)
    if num:
      filled[name] += num
  return pa.table(found), filled


def empty(layout: TextLayout) -> pa.Table:
  """Returns the table of no rows, with its types."""
  none = {name: pa.array([], pa.string()) for name in layout.columns}
  table, _ = typed(none, layout.columns, Faults())
  return table.append_column(ROW, pa.array([], pa.int64()))


def _texts(
  block: TextBlock, layout: TextLayout, faults: Faults
) -> tuple[dict[str, pa.Array], dict[int, str]]:
  """Returns columns of texts, without the records of another number of them."""
  data: np.ndarray | bytes = block.records()
  dialect, names = layout.dialect, [*layout.columns]
  delimiter = dialect.delimiter
  if len(delimiter) > 1:
    data, delimiter = _with_short_delimiter(data, delimiter)
  wrong: dict[int, str] = {}

  def skip(row: arrow_csv.InvalidRow) -> str:
    wrong[row.number - 1] = (
      f'{row.actual_columns} columns; needed: {row.expected_columns}'
    )
    return 'skip'

  def read(
    kind: pa.DataType, other: Mapping[str, pa.DataType]
  ) -> dict[str, pa.Array]:
    wrong.clear()
    table = arrow_csv.read_csv(
      pa.BufferReader(pa.py_buffer(data)),
      arrow_csv.ReadOptions(
        use_threads=False, block_size=len(data) + 1, column_names=names
      ),
      arrow_csv.ParseOptions(
        delimiter=delimiter,
        quote_char=dialect.quote or False,
        newlines_in_values=bool(dialect.quote),
        invalid_row_handler=skip,
      ),
      arrow_csv.ConvertOptions(
        column_types={**dict.fromkeys(names, kind), **other},
        null_values=['', *layout.nulls],
      ),
    )
    return {name: table[name].combine_chunks() for name in names}

  # Arrow's floats are ours, but for empty and infinite ones.
  floats = strict_columns.float_types(layout.columns)
  try:
    found = read(pa.string(), floats)
    if not all(
      strict_columns.all_fit(found[n], layout.columns[n]) for n in floats
    ):
      found = read(pa.string(), {})
  except pa.ArrowInvalid:  # Some are no number, or no UTF-8: see which.
    raw = read(pa.binary(), {})
    found = {n: strict_columns.decoded(n, raw[n], faults) for n in names}
  if dialect.quote and delimiter != dialect.delimiter:
    for name in [n for n, x in found.items() if pa.types.is_string(x.type)]:
      found[name] = pc.replace_substring(
        found[name], delimiter, dialect.delimiter
      )
  return found, wrong


def _with_short_delimiter(
  data: np.ndarray | bytes, delimiter: str
) -> tuple[bytes, str]:
  """Replaces a long delimiter by a control character that is not there."""
  held = bytes(data)
  for number in range(31, 0, -1):
    short = bytes([number])
    if short not in b'\t\n\r' and short not in held:
      return held.replace(delimiter.encode(), short), short.decode()
  raise ValueError(
    f'delimiter={delimiter!r}: the text holds all control characters; needed: a'
    ' delimiter of one byte.'
  )
