# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads the files of a table, text, Parquet or NumPy, as its schema says.

Parquet goes the way of text: what is empty, or no value of the type that the
schema gives, is set aside by its row, and nothing is rounded.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import functools
import glob
import math
import os
import pathlib
from typing import Any
import urllib.parse

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from antjax.data import csv_blocks, numpy_table, row_writer, text_reader
from antjax.data.csv_blocks import Dialect
from antjax.data.rejects import BadRow, Rejects
from antjax.data.row_writer import Parsed, ROW, RowCounts, RowSource
from antjax.data.schema import Schema
from antjax.data.strict_columns import Column, Faults
from antjax.data.table_columns import ItemTable
from antjax.data.text_reader import TextLayout

_TEXT = ('.csv', '.tsv', '.txt')
_COLUMNS = ('.parquet', numpy_table.SUFFIX)
_DATA = (*_TEXT, *_COLUMNS)
_PACKED = (*csv_blocks.PACKED, '.zip', '.lz4', '.br', '.snappy')
_HIVE_NULL = '__HIVE_DEFAULT_PARTITION__'
_BATCH_ROWS = 1 << 16
_LINE_BYTES = 1 << 20  # Of a first line, at most.


def find_files(
  source: str | os.PathLike[str],
  by_split: Mapping[str, Sequence[str]] | None = None,
) -> dict[pathlib.Path, str]:
  """Returns the files of a source, and the split of each if it is given.

  Args:
    source: A text file, Parquet file or .npz file, a pattern of such files, or
      a folder with files of one kind, perhaps in folders named column=value.
    by_split: Split -> names or patterns of its files in the folder.

  Returns:
    Files, in the order of their names or of the splits -> split, or ''.

  Raises:
    FileNotFoundError: No such source, or a folder without such files.
    ValueError: A file of another kind, or a folder with both kinds or with a
      packed file that is not there unpacked as well.
  """
  source = pathlib.Path(source)
  matched: list[pathlib.Path] = []
  if not source.exists():
    names = glob.glob(str(source), recursive=True)
    matched = sorted(p for p in map(pathlib.Path, names) if p.is_file())
    if not matched:
      raise FileNotFoundError(f'source={source} does not exist.')
  if by_split:
    found = _of_splits(source, by_split)
    files = [*found]
  elif source.is_file():
    files = [source]
  else:
    there = matched or _listed(source)
    packed = [
      p.name
      for p in there
      if p.suffix.lower() in _PACKED
      and _suffix(p.with_suffix('')) in _DATA
      and p.with_suffix('') not in there
      and _suffix(p) not in _DATA
    ]
    if packed:
      raise ValueError(
        f'source={source} holds the packed files {", ".join(packed)}, which are'
        f' not read; needed: text packed as {", ".join(csv_blocks.PACKED)}.'
        ' Unpack them, or move them elsewhere.'
      )
    # What is unpacked beside is not read twice.
    files = [
      p
      for p in there
      if _suffix(p) in _DATA
      and not (csv_blocks.is_packed(p) and p.with_suffix('') in there)
    ]
    # As AntM2C's parts are named.
    files = files or [p for p in there if p.is_file() and _is_bare(p)]
    if not files:
      raise FileNotFoundError(
        f'source={source} holds no file that ends in {", ".join(_TEXT)} or'
        ' .parquet.'
      )
  if len({*map(_kind, files)}) > 1:
    raise ValueError(f'source={source} holds both text and Parquet files.')
  if matched and (other := [p for p in matched if p not in files]):
    raise ValueError(
      f'source={source} is also the pattern of {other[0]}; needed: files that'
      f' end in {", ".join(_DATA)}.'
    )
  if source.is_file() and not (_is_bare(source) or _suffix(source) in _DATA):
    raise ValueError(
      f'source={source} must end in {", ".join(_TEXT)} or .parquet; text may be'
      f' packed as {", ".join(csv_blocks.PACKED)}. Rename it, or unpack it.'
    )
  return found if by_split else dict.fromkeys(files, '')


def _listed(folder: pathlib.Path) -> list[pathlib.Path]:
  """What is in a folder, and in those below named column=value."""
  found = []
  for path in sorted(folder.iterdir()):
    found += _listed(path) if path.is_dir() and '=' in path.name else [path]
  return found


def _of_path(path: pathlib.Path) -> dict[str, str]:
  """Column -> value, of the folders of a file named column=value."""
  found = {}
  for part in path.parts[:-1]:
    name, is_column, value = part.partition('=')
    if is_column:
      value = urllib.parse.unquote(value)
      found[name] = '' if value == _HIVE_NULL else value
  return found


def _of_splits(
  source: pathlib.Path, by_split: Mapping[str, Sequence[str]]
) -> dict[pathlib.Path, str]:
  """Files that a schema names, and their splits."""
  if not source.is_dir():
    raise ValueError(
      f'source={source} is a file; the schema names files of each split, and'
      ' needed is their folder.'
    )
  found: dict[pathlib.Path, str] = {}
  for split, names in by_split.items():
    for name in names:
      paths = sorted(p for p in source.glob(name) if p.is_file())
      if not paths:
        there = ', '.join(sorted(p.name for p in source.iterdir())[:20])
        raise FileNotFoundError(
          f'source={source} has no {name}, which the schema names in files:'
          f' {split}; it holds {there or "nothing"}. Rename the file, or'
          ' correct the schema.'
        )
      for path in paths:
        if found.setdefault(path, split) != split:
          raise ValueError(
            f'source={source}: {path.name} is a file of {found[path]} and of'
            f' {split}, by files of the schema.'
          )
  return found


def _suffix(path: pathlib.Path) -> str:
  """Suffix of what a file holds, packed as text may be."""
  if csv_blocks.is_packed(path) and _is_text(path.with_suffix('')):
    path = path.with_suffix('')
  return path.suffix.lower()


def _is_bare(path: pathlib.Path) -> bool:
  """Whether a name has no suffix at all: then a file is text."""
  return '.' not in path.name and not path.name.startswith('_')


def _is_text(path: pathlib.Path) -> bool:
  return path.suffix.lower() in _TEXT


def _kind(path: pathlib.Path) -> str:
  """Suffix of a file in columns; '' for text."""
  return found if (found := _suffix(path)) in _COLUMNS else ''


def names(path: pathlib.Path, dialect: Dialect) -> list[str]:
  """Returns the columns of a file with a header, and those of its folders."""
  if _kind(path):
    found = [*_opened(path)[1]]
  else:
    line = first_line(path, dialect.encoding)
    found = text_reader.header_names(line, dialect)
  return [*found, *(n for n in _of_path(path) if n not in found)]


def first_line(path: pathlib.Path, encoding: str = 'utf-8') -> str:
  """Returns the first line of a text file, without its end."""
  if _kind(path):
    return ','.join(_opened(path)[1])
  with csv_blocks.opened(path) as file:
    line = file.read(_LINE_BYTES).split(b'\n')[0]
  return line.decode(encoding, 'replace').rstrip('\r\n').lstrip('\ufeff')


def read(
  files: Mapping[pathlib.Path, str],
  columns: Schema | ItemTable,
  folder: pathlib.Path,
  rejects: Rejects,
  *,
  threads: int = 0,
  progress: Callable[[str], None] = lambda text: None,
) -> RowCounts:
  """Writes the good rows of all files to Parquet files in an existing folder.

  They get the columns that are used, those with a separator as lists of texts,
  that of the split, if there is one, and `ROW`, see `TextLayout.file_bits`. For
  the rest see `row_writer.write`.

  Raises:
    ValueError: Another header, too many rows set aside, a label that is not 0
      or 1, or no row at all.
  """
  in_path = [n for n in _of_path(next(iter(files))) if n in columns.columns]
  there = [n for n in columns.columns if n not in in_path]
  layout = TextLayout(
    columns={n: _column(n, columns) for n in there},
    dialect=Dialect(columns.delimiter, columns.quote, columns.encoding),
    header=there if columns.header else None,
    nulls=columns.nulls,
  )

  def finish(table: pa.Table, path: pathlib.Path) -> pa.Table:
    for name in (n for n in in_path if n in columns.used):
      value = _typed_of_path(path, name, columns)
      table = table.append_column(name, pa.repeat(value, len(table)))
    for name in filter(None, (columns.label, *columns.labels)):
      _check_label(table, path, name)
    if split:
      if split in table.column_names:
        known = pa.array(splits, pa.string())
        place = pc.index_in(table[split], known)
        named = pa.array(splits.values(), pa.string()).take(place)
        table = table.drop_columns(split)
      else:
        named = pa.repeat(pa.scalar(files.get(path, '')), len(table))
      table = table.append_column(split, named)
    return table.select([*wanted])

  split = '' if columns.lists else columns.split_column  # Found later on.
  splits = columns.split_of if isinstance(columns, Schema) else {}
  wanted = dict.fromkeys([*columns.used, *filter(None, [split]), ROW])
  options: dict[str, Any] = {
    'finish': finish,
    'threads': threads,
    'progress': progress,
  }
  if _kind(next(iter(files))):
    used = {n: layout.columns[n] for n in columns.used if n not in in_path}
    counts = row_writer.write(
      (_source(path, used, columns.nulls) for path in files),
      folder,
      rejects,
      lambda: text_reader.empty(layout),
      **options,
    )
  else:
    counts = text_reader.read([*files], layout, folder, rejects, **options)
  if not counts.good:
    others = ' and the others hold' if len(files) > 1 else ' holds'
    raise ValueError(f'{next(iter(files))}{others} no row that can be read.')
  return counts


def _column(name: str, columns: Schema | ItemTable) -> Column:
  if isinstance(columns, Schema) and name == columns.split:
    return Column(values=tuple(columns.split_of))
  if name not in (*columns.used, *columns.needed):
    return Column()  # Whatever it holds.
  empty = columns.empty.get(name)
  if name in columns.empty and empty is None:
    empty = math.nan
  return Column(
    kind=columns.columns[name],
    empty=empty,
    is_needed=name in columns.needed,
    limit=columns.limits.get(name, math.inf),
    separator=columns.separator.get(name, ''),
  )


def _check_label(table: pa.Table, path: pathlib.Path, name: str) -> None:
  """Refuses labels that are no click."""
  clicks = pa.array([0, 1], table[name].type)
  bad = table.filter(pc.invert(pc.is_in(table[name], clicks)))
  if len(bad):
    raise ValueError(
      f'{path}: the label {name!r} is {bad[name][0].as_py()}; needed is 0 or 1.'
      f' It is in row {bad[ROW][0].as_py() + 1} of all files, without headers.'
      ' Name a column of ratings with rating, and positive_from.'
    )


def _opened(path: pathlib.Path) -> tuple[Any, list[str], int]:
  """A file in columns, their names, and its rows."""
  if _kind(path) == numpy_table.SUFFIX:
    table = numpy_table.NumpyTable(path)
    return table, table.names, table.num_rows
  try:
    # Read from front to back: buffering ahead would hold all of it.
    file = pq.ParquetFile(path, pre_buffer=False)
  except (pa.ArrowInvalid, OSError) as error:
    raise ValueError(f'{path} is no Parquet file ({error}).') from error
  return file, file.schema_arrow.names, file.metadata.num_rows


def _typed_of_path(
  path: pathlib.Path, name: str, columns: Schema | ItemTable
) -> pa.Scalar:
  """The value of a column that the folders of a file name."""
  if name not in (found := _of_path(path)):
    raise ValueError(f'{path} is in no folder {name}=VALUE, as others are.')
  faults = Faults()
  column = _column(name, columns)
  table, _ = text_reader.typed(
    {name: pa.array([found[name]])}, {name: column}, faults, columns.nulls
  )
  for fault in faults.of_row.values():
    raise ValueError(f'{path}: the folder {name}={found[name]}: {fault[-1]}.')
  return table[name][0]


def _source(
  path: pathlib.Path, columns: Mapping[str, Column], nulls: Sequence[str]
) -> RowSource:
  file, there, num_rows = _opened(path)
  if missing := [name for name in columns if name not in there]:
    raise ValueError(
      f'{path} has no column {", ".join(missing)}; it has {", ".join(there)}.'
    )

  def pieces() -> Iterator[Callable[[], Parsed]]:
    first = 0
    with contextlib.closing(file):
      for batch in file.iter_batches(_BATCH_ROWS, columns=[*columns]):
        yield functools.partial(parse, first, batch)
        first += batch.num_rows

  def parse(first: int, batch: pa.RecordBatch) -> Parsed:
    faults = Faults()
    try:
      table, filled = text_reader.typed(
        {n: batch.column(n) for n in columns}, columns, faults, nulls
      )
    except ValueError as e:
      raise ValueError(f'{path}: {e}') from e
    rows = pa.array(np.arange(first, first + batch.num_rows, dtype=np.int64))
    table = faults.without(table.append_column(ROW, rows))
    bad = [
      BadRow(first + row + 1, *fault)
      for row, fault in sorted(faults.of_row.items())
    ]
    return Parsed(table, bad, filled, batch.num_rows)

  return RowSource(path, pieces(), num_rows, unit='rows')
