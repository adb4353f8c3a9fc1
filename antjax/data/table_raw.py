# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads the files of a table strictly and writes their good rows as Parquet.

DuckDB does it, out of core, whatever backend goes on from there.
"""

from collections.abc import Callable, Mapping
import functools
import operator
import os
import pathlib
from typing import Protocol

from absl import logging
import ibis
from ibis.expr import types as ir
import pyarrow as pa
from pyarrow import csv
import pyarrow.parquet as pq

from antjax.data import delimited, prepare

# The number of a row over all files, from 0.
ROW = '__row'
_TEXT = ('.csv', '.tsv', '.txt')
_DATA = (*_TEXT, '.parquet')
_PACKED = ('.gz', '.bz2', '.xz', '.zst', '.zip', '.lz4', '.br', '.snappy')


class Layout(Protocol):
  """Columns of a table, as its schema file says; see `Schema`."""

  # A column of 0 and 1; '' for none.
  @property
  def label(self) -> str: ...
  @property
  def columns(self) -> Mapping[str, delimited.Kind]: ...
  @property
  def used(self) -> list[str]: ...
  @property
  def time(self) -> str: ...
  @property
  def numeric(self) -> tuple[str, ...]: ...
  @property
  def empty(self) -> Mapping[str, float]: ...
  @property
  def separator(self) -> Mapping[str, str]: ...
  @property
  def delimiter(self) -> str: ...
  @property
  def header(self) -> bool: ...
  @property
  def quote(self) -> str: ...


def find_files(source: str | os.PathLike[str]) -> list[pathlib.Path]:
  """Returns the files of a source, in the order of their names.

  Args:
    source: A text file or Parquet file, or a folder with files of one kind.

  Raises:
    FileNotFoundError: No such source, or a folder without such files.
    ValueError: A file of another kind, or a folder with both kinds or with a
      packed file that is not there unpacked as well.
  """
  source = pathlib.Path(source)
  if not source.exists():
    raise FileNotFoundError(f'source={source} does not exist.')
  if source.is_file():
    files = [source]
  else:
    there = sorted(source.iterdir())
    packed = [
      p.name
      for p in there
      if _suffix(p) in _PACKED
      and _suffix(p.with_suffix('')) in _DATA
      and p.with_suffix('') not in there
    ]
    if packed:
      raise ValueError(
        f'source={source} holds the packed files {", ".join(packed)}, which are'
        ' not read; unpack them, or move them elsewhere.'
      )
    files = [p for p in there if _suffix(p) in _DATA]
    if not files:
      raise FileNotFoundError(
        f'source={source} holds no file that ends in {", ".join(_TEXT)} or'
        ' .parquet.'
      )
  if len({*map(_is_parquet, files)}) > 1:
    raise ValueError(f'source={source} holds both text and Parquet files.')
  if source.is_file() and _suffix(source) not in _DATA:
    raise ValueError(
      f'source={source} must end in {", ".join(_TEXT)} or .parquet; unpack it'
      ' first, if it is packed.'
    )
  return files


def _suffix(path: pathlib.Path) -> str:
  return path.suffix.lower()


def _is_parquet(path: pathlib.Path) -> bool:
  return _suffix(path) == '.parquet'


def first_line(path: pathlib.Path) -> str:
  """Returns the first line of a text file, without its end."""
  if _is_parquet(path):
    return ','.join(_parquet_columns(path))
  with open(path, encoding='utf-8', errors='replace') as file:
    return file.readline().rstrip('\r\n').lstrip('\ufeff')


def write_rows(
  con: ibis.BaseBackend,
  files: list[pathlib.Path],
  schema: Layout,
  folder: pathlib.Path,
  *,
  max_rejected_share: float,
  rejected_path: pathlib.Path,
  progress: Callable[[str], None] = lambda text: None,
) -> tuple[int, int]:
  """Writes the good rows of all files to Parquet files in a folder.

  Args:
    con: DuckDB, from `prepare.connect`.
    files: From `find_files`.
    schema: Their columns.
    folder: Existing folder; it gets the columns that are used, those with a
      separator as lists of texts, and `ROW`.
    max_rejected_share: Largest share of rows of a file to set aside.
    rejected_path: CSV file that lists them, made only if needed.
    progress: Called with a text at the start of each file.

  Returns:
    (rows written, rows set aside).

  Raises:
    ValueError: Another header, too many rows set aside, a label of a click
      that is not 0 or 1, or no row at all.
  """
  num_rows = num_rejected = 0
  for i, path in enumerate(files):
    progress(f'reading {path.name}')
    if _is_parquet(path):
      table, bad = _parquet(
        con, path, schema, max_rejected_share, rejected_path
      )
      num_rejected += bad
    else:
      table = delimited.read_delimited(
        con,
        path,
        schema.columns,
        delimiter=schema.delimiter,
        header=list(schema.columns) if schema.header else None,
        quote=schema.quote,
        empty=schema.empty,
        time=schema.time,
        max_rejected_share=max_rejected_share,
        rejected_path=rejected_path,
      )
      texts = table
      table = texts.mutate(
        **{n: _split(texts[n], s) for n, s in schema.separator.items()}
      )
    if schema.label:
      _check_label(table, path, schema)
    # DuckDB keeps the order of a file.
    numbered = table.select(
      *schema.used, **{ROW: (ibis.row_number() + num_rows).cast('int64')}
    )
    part = folder / f'rows-{i:05d}.parquet'
    numbered.to_parquet(str(part))
    num_rows += pq.read_metadata(part).num_rows
    if not _is_parquet(path):
      con.raw_sql(f'DROP TABLE {texts.get_name()}')
  if not _is_parquet(files[0]):
    num_rejected = delimited.num_rejected(con)
  if not num_rows:
    raise ValueError(f'{files[0]} and the others hold no row at all.')
  return num_rows, num_rejected


def _check_label(table: ir.Table, path: pathlib.Path, schema: Layout) -> None:
  """Refuses labels that are no click."""
  label = table[schema.label]
  bad = table.filter(~label.isin([0, 1])).select(schema.label).limit(1)
  for row in bad.to_pyarrow().to_pylist():
    raise ValueError(
      f'{path}: the label {schema.label!r} is {row[schema.label]}; needed is 0'
      ' or 1. Name a column of ratings with rating.'
    )


def _value(column: ir.Column, schema: Layout, name: str) -> ir.Column:
  """A column in the type of the schema; null where it holds no such value."""
  kind, given = schema.columns[name], column.type()
  if name in schema.separator:
    return _list(column, schema.separator[name])
  value = column.try_cast(kind)
  if kind.startswith('float'):
    value = ibis.ifelse(value.isnan() | value.isinf(), ibis.null(), value)
    if name == schema.time:
      is_time = value.abs() < delimited.TIME_LIMIT
      value = ibis.ifelse(is_time, value, ibis.null())
  is_number = None  # A cast to an integer would round.
  if kind != 'string' and given.is_string():
    is_number = column.re_search(delimited.pattern(kind))
  elif kind.startswith('int') and (given.is_floating() or given.is_decimal()):
    is_number = column == value.try_cast(given)
  if is_number is not None:
    value = ibis.ifelse(is_number, value, ibis.null())
  if name in schema.empty:
    is_empty = column.isnull()
    if given.is_string():
      is_empty |= column.strip() == ''
    value = ibis.ifelse(is_empty, schema.empty[name], value)
  return value


def _list(column: ir.Column, separator: str) -> ir.ArrayColumn:
  """A list of texts from one, or a text; null where one of its values is."""
  if not column.type().is_array():
    return _split(column.try_cast('string'), separator)
  texts = column.cast('array<string>')
  is_whole = texts.filter(lambda text: text.isnull()).length() == 0
  return ibis.ifelse(is_whole, texts, ibis.null())


def _split(text: ir.StringColumn, separator: str) -> ir.ArrayColumn:
  """The parts of a text; of an empty one none."""
  none = ibis.literal([], 'array<string>')
  return ibis.ifelse(text == '', none, text.split(separator))


def _parquet_columns(path: pathlib.Path) -> list[str]:
  try:
    return list(pq.read_schema(path).names)
  except pa.ArrowInvalid as error:
    raise ValueError(f'{path} is no Parquet file ({error}).') from error


def _parquet(
  con: ibis.BaseBackend,
  path: pathlib.Path,
  schema: Layout,
  max_rejected_share: float,
  rejected_path: pathlib.Path,
) -> tuple[ir.Table, int]:
  """Returns the rows without empty or unreadable values, and their number."""
  columns = _parquet_columns(path)
  if missing := [name for name in schema.used if name not in columns]:
    raise ValueError(
      f'{path} has no column {", ".join(missing)}; it has {", ".join(columns)}.'
    )
  table = prepare.read_parquet(con, path)
  for name in schema.used:
    _check_list(table[name].type(), path, schema, name)
  values = {f'_{n}': _value(table[n], schema, n) for n in schema.used}
  cast = table.select(line=ibis.row_number() + 1, **values)
  is_good = functools.reduce(
    operator.and_, [cast[f'_{name}'].notnull() for name in schema.used]
  )
  bad = cast.filter(~is_good)
  column = ibis.cases(
    *((bad[f'_{name}'].isnull(), name) for name in schema.used)
  )
  num_bad = set_aside(
    bad.select('line', column=column),
    table,
    str(path),
    'empty, or no value of the type of the schema',
    max_rejected_share=max_rejected_share,
    rejected_path=rejected_path,
  )
  good = cast.filter(is_good)
  return good.select(**{n: good[f'_{n}'] for n in schema.used}), num_bad


def _check_list(
  kind: ibis.DataType, path: pathlib.Path, schema: Layout, name: str
) -> None:
  """Refuses a list that is no feature with many values, or not of values."""
  if not kind.is_array():
    return
  if name not in schema.separator:
    raise ValueError(
      f'{path}: the column {name!r} holds lists; needed is a value in each row,'
      ' or a feature with a separator in the schema file.'
    )
  values = kind.value_type
  if not (values.is_string() or values.is_integer()):
    raise ValueError(
      f'{path}: the column {name!r} holds lists of {values}; needed are lists'
      ' of texts or of integers.'
    )


def set_aside(
  bad: ir.Table,
  table: ir.Table,
  where: str,
  why: str,
  *,
  max_rejected_share: float,
  rejected_path: pathlib.Path,
) -> int:
  """Lists malformed rows of a table in a CSV file; returns their number.

  Args:
    bad: (line, column) of the malformed rows.
    table: All rows.
    where: Their file.
    why: What is wrong with them.
    max_rejected_share: Largest share of them to go on with.
    rejected_path: CSV file to append to, made only if needed.

  Raises:
    ValueError: There are more.
  """
  num_bad = int(bad.count().to_pyarrow().as_py())
  if not num_bad:
    return 0
  listed = bad.select(
    file=ibis.literal(where),
    line='line',
    column='column',
    reason=ibis.literal('cast'),
    message=ibis.literal(why),
    text=ibis.literal(''),  # Lines of text files have theirs here.
  )
  is_first = not rejected_path.exists()
  with open(rejected_path, 'ab') as file:
    csv.write_csv(
      listed.order_by('line').to_pyarrow(),
      file,
      csv.WriteOptions(include_header=is_first),
    )
  num_rows = int(table.count().to_pyarrow().as_py())
  text = f'{num_bad} of {num_rows} rows of {where} are malformed ({why})'
  if num_bad > max_rejected_share * num_rows:
    raise ValueError(
      f'{text}, more than max_rejected_share={max_rejected_share:g}. All are'
      f' in {rejected_path}; correct them or raise max_rejected_share.'
    )
  logging.warning('%s and set aside in %s.', text, rejected_path)
  return num_bad
