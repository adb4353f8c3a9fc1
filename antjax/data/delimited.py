# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Strict reading of delimited text with DuckDB: nothing is lost unseen.

DuckDB sets lines aside that do not have the right number of fields, are not of
the encoding. It would round '2.5' to an integer and take 'nan' for a number,
though, so numbers are read as text here and checked.
"""

from collections.abc import Iterator, Mapping, Sequence
import csv
import functools
import itertools
import operator
import os
import re
from typing import Literal

from absl import logging
import duckdb
import ibis
from ibis.expr import types as ir
import numpy as np
import pyarrow as pa

from antjax.data import prepare

Kind = Literal['int32', 'int64', 'float32', 'float64', 'string']

_INTEGER = r'^[+-]?[0-9]+$'
_FLOAT = r'^[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?$'
# Times with fractions are cut to int64 later on.
TIME_LIMIT = 2.0**63
# No text of a field means NULL: an empty number is malformed.
_NULL_TEXT = '\x1aNULL\x1a'
# Tables that DuckDB makes in the connection, and ours for numbers.
_REJECTS = 'rejected_lines'
_SCANS = 'rejected_scans'
_NUMBERS = 'rejected_numbers'
_NUMBERS_SCHEMA = pa.schema(
  [
    ('file', pa.string()),
    ('line', pa.int64()),
    ('column', pa.string()),
    ('reason', pa.string()),
    ('message', pa.string()),
    ('text', pa.string()),
  ]
)
# Of the files that list malformed lines.
REJECTED_COLUMNS = tuple(_NUMBERS_SCHEMA.names)
_counter = itertools.count()
csv.field_size_limit(2**31 - 1)  # Long texts are good ones.


def read_delimited(
  con: ibis.BaseBackend,
  path: str | os.PathLike[str],
  columns: Mapping[str, Kind],
  *,
  delimiter: str,
  header: Sequence[str] | None = None,
  encoding: Literal['utf-8', 'latin-1'] = 'utf-8',
  quote: str = '',
  empty: Mapping[str, float] | None = None,
  time: str = '',
  max_rejected_share: float = 0.001,
  rejected_path: str | os.PathLike[str],
) -> ir.Table:
  """Reads a delimited text file strictly into a table of the connection.

  A line with too few or too many fields, an empty or unreadable number, or
  bytes that are not of the encoding is set aside: it is not in the table, but
  in the file `rejected_path` with file, line number, column, reason, message
  and text. All reads of one connection write the same file. Empty lines are
  skipped.

  Args:
    con: A connection from `prepare.connect`.
    path: Text file; line ends may be LF or CRLF.
    columns: Column name -> type, in the order of the file.
    delimiter: Text between two fields, 1 to 4 bytes.
    header: The first line's fields where the file has a header, else None.
    encoding: Encoding of the file.
    quote: Quote character, or '' where quotes are ordinary text.
    empty: Column of numbers -> the number that an empty field stands for;
      without an entry an empty number is malformed.
    time: Column of numbers that must fit an int64 when cut, '' for none.
    max_rejected_share: Largest share of malformed lines to go on with.
    rejected_path: CSV file to write malformed lines to; made only if needed.

  Returns:
    A table with the columns `columns`, fully read, without NULLs.

  Raises:
    ValueError: The header is another one, a quote is never closed, or more than
      `max_rejected_share` of the lines are malformed.
    FileNotFoundError: No such file.
  """
  path = os.path.abspath(path)  # As DuckDB names it.
  if not os.path.isfile(path):
    raise FileNotFoundError(f'read_delimited: no such file: {path}')
  if header is not None:
    _check_header(path, header, delimiter, encoding, quote)
  empty = empty or {}
  numbers = {n: k for n, k in columns.items() if k != 'string'}
  lines = con.read_csv(
    prepare.exact_path(con, path),
    delim=delimiter,
    columns=dict.fromkeys(columns, 'VARCHAR'),
    header=header is not None,
    auto_detect=False,
    quote=quote,
    escape=quote,
    nullstr=_NULL_TEXT,
    encoding=encoding,
    store_rejects=True,
    rejects_table=_REJECTS,
    rejects_scan=_SCANS,
  )
  number = next(_counter)
  # Read whole and once: a count alone would not look into the columns.
  try:
    texts = con.create_table(f'texts_{number}', lines)
  except duckdb.InvalidInputException as error:
    raise ValueError(
      f'read_delimited: {path} cannot be read ({str(error).splitlines()[0]});'
      ' are its line ends LF here and CRLF there? Make them one kind.'
    ) from error
  good = _all_numbers(texts, numbers, empty, time)
  if bad := _count(texts.filter(~good)):
    found = list(
      _bad_numbers(
        path, columns, empty, time, delimiter, encoding, quote, header
      )
    )
    if len(found) != bad:
      raise RuntimeError(
        f'read_delimited: {path} changed while it was read: {bad} lines without'
        f' a readable number, then {len(found)}; try again.'
      )
    _add_rejected(con, found)
  table = con.create_table(
    f'delimited_{number}',
    texts.filter(good).mutate(
      **{
        n: _or_empty(texts[n], k, empty.get(n)).cast(k)
        for n, k in numbers.items()
      }
    ),
  )
  con.raw_sql(f'DROP TABLE texts_{number}')
  _check_rejected(con, path, table, max_rejected_share, rejected_path)
  return table


def num_rejected(con: ibis.BaseBackend) -> int:
  """Counts the lines set aside so far by `read_delimited`."""
  return _count(_rejected(con)) if _exists(con, _REJECTS) else 0


def _count(table: ir.Table) -> int:
  return int(table.count().to_pyarrow().as_py())


def _exists(con: ibis.BaseBackend, table: str) -> bool:
  found = con.raw_sql(
    f"SELECT count(*) FROM duckdb_tables() WHERE table_name = '{table}'"
  )
  return bool(found.fetchall()[0][0])


def _check_header(
  path: str, header: Sequence[str], delimiter: str, encoding: str, quote: str
) -> None:
  """Raises ValueError if the first line is not the expected header."""
  with open(path, encoding=encoding, errors='replace', newline='\n') as file:
    line = file.readline().rstrip('\r\n').lstrip('\ufeff')
  if '\r' in line:
    raise ValueError(
      f'read_delimited: {path} has a line end CR without LF; needed are LF or'
      ' CRLF, the same in the whole file.'
    )
  found = line.split(delimiter)
  if quote and line:
    (found,) = csv.reader([line], delimiter=delimiter, quotechar=quote)
  if found != list(header):
    raise ValueError(
      f'read_delimited: {path} has the columns {", ".join(found)}; needed:'
      f' {", ".join(header)}.'
    )


def _or_empty(
  text: ir.StringValue, kind: Kind, number: float | None
) -> ir.StringValue:
  """Replaces an empty text by that of a number."""
  if number is None:
    return text
  exact = f'{number:.0f}' if kind.startswith('int') else repr(float(number))
  return (text == '').ifelse(exact, text)


def pattern(kind: Kind) -> str:
  """Regular expression of the texts that are numbers of a kind."""
  return _INTEGER if kind.startswith('int') else _FLOAT


def _all_numbers(
  texts: ir.Table,
  numbers: Mapping[str, Kind],
  empty: Mapping[str, float],
  time: str,
) -> ir.BooleanValue:
  """Whether all columns of numbers of a row hold one that fits."""
  checks = []
  for name, kind in numbers.items():
    text = _or_empty(texts[name], kind, empty.get(name))
    value = text.try_cast(kind)
    checks.append(text.re_search(pattern(kind)) & value.notnull())
    if kind.startswith('float'):  # What is too large becomes infinite.
      checks.append(
        value.abs() < TIME_LIMIT if name == time else ~value.isinf()
      )
  return functools.reduce(operator.and_, checks, ibis.literal(True))


def _bad_numbers(
  path: str,
  columns: Mapping[str, Kind],
  empty: Mapping[str, float],
  time: str,
  delimiter: str,
  encoding: str,
  quote: str,
  header: Sequence[str] | None,
) -> Iterator[dict[str, str | int]]:
  """Finds the lines whose only fault is a number, with their place.

  DuckDB does not say which line a row came from. Slow, but such lines are rare.
  """
  for line, text, fields in _split_lines(path, delimiter, encoding, quote):
    if (line == 1 and header is not None) or len(fields) != len(columns):
      continue
    for (name, kind), value in zip(columns.items(), fields):
      if kind == 'string' or (name in empty and not value):
        continue
      # Not match: '$' would leave a line end out.
      is_number = re.fullmatch(pattern(kind), value, re.ASCII)
      if is_number and _fits(kind, value, name == time):
        continue
      yield {
        'file': path,
        'line': line,
        'column': name,
        'reason': 'cast',
        'message': f'Could not convert "{value}" in "{name}" to {kind}',
        'text': text,
      }
      break


def _fits(kind: Kind, number: str, is_time: bool) -> bool:
  if kind.startswith('int'):
    limit = 2 ** (int(kind[3:]) - 1)
    return -limit <= int(number) < limit
  with np.errstate(over='ignore'):
    value = np.dtype(kind).type(number)
  return bool(abs(value) < TIME_LIMIT if is_time else np.isfinite(value))


def _split_lines(
  path: str, delimiter: str, encoding: str, quote: str
) -> Iterator[tuple[int, str, list[str]]]:
  """Yields (number of the first line, text, fields) of each record."""
  if encoding == 'utf-8':
    encoding = 'utf-8-sig'  # DuckDB leaves a byte order mark out, too.
  with open(path, encoding=encoding, errors='surrogateescape', newline='') as f:
    if not quote:
      for number, line in enumerate(_lines(f), 1):
        if not _has_bad_bytes(line):
          yield number, line, line.split(delimiter)
      return
    reader = csv.reader(f, delimiter=delimiter, quotechar=quote)
    first = 1
    for fields in reader:
      if not any(map(_has_bad_bytes, fields)):
        yield first, delimiter.join(fields), fields
      first = reader.line_num + 1


def _lines(file: Iterator[str]) -> Iterator[str]:
  return (line.rstrip('\r\n') for line in file)


def _has_bad_bytes(text: str) -> bool:
  return any('\ud800' <= c <= '\udfff' for c in text)


def _add_rejected(
  con: ibis.BaseBackend, found: Sequence[Mapping[str, str | int]]
) -> None:
  """Adds lines to those that DuckDB set aside."""
  lines = ibis.memtable(
    pa.Table.from_pylist(list(found), schema=_NUMBERS_SCHEMA)
  )
  if _exists(con, _NUMBERS):
    con.insert(_NUMBERS, lines)
  else:
    con.create_table(_NUMBERS, lines)


def _rejected(con: ibis.BaseBackend) -> ir.Table:
  """Returns the lines set aside with the first fault of each, see above."""
  rejects = con.table(_REJECTS)
  scans = con.table(_SCANS).select('scan_id', 'file_id', 'file_path').distinct()
  joined = rejects.join(scans, ['scan_id', 'file_id'])
  fault = ibis.row_number().over(
    ibis.window(
      group_by=['file_path', 'line'],
      order_by=[joined.column_idx, joined.error_message],
    )
  )
  lines = joined.mutate(fault=fault).filter(ibis._.fault == 0)
  lines = lines.select(
    file=lines.file_path,
    line=lines.line.cast('int64'),
    column=lines.column_name,
    reason=lines.error_type.cast('string').lower(),
    message=lines.error_message,
    text=lines.csv_line,
  )
  if _exists(con, _NUMBERS):
    lines = lines.union(con.table(_NUMBERS))
  return lines


def _check_rejected(
  con: ibis.BaseBackend,
  path: str,
  table: ir.Table,
  max_rejected_share: float,
  rejected_path: str | os.PathLike[str],
) -> None:
  """Writes the lines set aside, if any, and refuses too many of them."""
  rejected = _rejected(con)
  here = rejected.filter(rejected.file == path).order_by('line')
  num_bad = _count(here)
  if not num_bad:
    return
  rejected.order_by('file', 'line').to_csv(os.fspath(rejected_path))
  unclosed = here.filter(here.message.contains('unterminated quote'))
  for entry in unclosed.limit(1).to_pyarrow().to_pylist():
    raise ValueError(
      f'read_delimited: {path}: the quote in line {entry["line"]} is never'
      ' closed, so the lines after it cannot be told apart; close it.'
    )
  num_lines = _count(table) + num_bad
  text = f'{num_bad} of {num_lines} lines of {path} are malformed'
  if num_bad > max_rejected_share * num_lines:
    first = here.limit(1).to_pyarrow().to_pylist()[0]
    message = ' '.join(first['message'].split())
    raise ValueError(
      f'read_delimited: {text}, more than max_rejected_share='
      f'{max_rejected_share:g}; the first is line {first["line"]}: {message}.'
      f' All are in {os.fspath(rejected_path)}; correct them or raise'
      ' max_rejected_share.'
    )
  logging.warning('%s and set aside in %s.', text, os.fspath(rejected_path))
