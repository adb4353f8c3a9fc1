# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Bulk data work, written once as ibis expressions: read, map, split, group.

Every function takes and returns ibis tables, so nothing is computed before a
result is asked for and nothing has to fit in memory: DuckDB, embedded here,
works out of core on all cores. Reading delimited text strictly is the one part
that is DuckDB's own; the other functions are plain ibis and run unchanged on
its other backends, such as Spark.

Results do not depend on the number of threads: every order is total, and what
is random is ordered by a digest of (seed, key), not by a generator.
"""

from collections.abc import Mapping, Sequence
import itertools
import os

from absl import logging
import ibis
from ibis.expr import types as ir

_REJECTS = 'rejected_lines'
_SCANS = 'rejected_scans'
# An empty field is malformed, not NULL: only this conventional marker is NULL.
_NULL_TEXT = '\\N'
_counter = itertools.count()


def connect(
  *,
  threads: int = 0,
  memory_limit: str = '',
  temp_directory: str | os.PathLike[str] = '',
) -> ibis.BaseBackend:
  """Opens an in-process DuckDB that spills to disk what exceeds memory.

  Args:
    threads: Number of threads; 0 means all cores.
    memory_limit: Size such as '4GB'; '' means 80% of the memory.
    temp_directory: Folder to spill to; '' means `.tmp` in the working folder.

  Returns:
    An ibis backend. Disconnect it with `con.disconnect()`.
  """
  options: dict[str, object] = {}
  if threads:
    options['threads'] = threads
  if memory_limit:
    options['memory_limit'] = memory_limit
  if temp_directory:
    options['temp_directory'] = os.fspath(temp_directory)
  con = ibis.duckdb.connect(**options)
  con.raw_sql('SET enable_progress_bar = false')
  return con


def read_delimited(
  con: ibis.BaseBackend,
  path: str | os.PathLike[str],
  columns: Mapping[str, str],
  *,
  delimiter: str,
  header: Sequence[str] | None = None,
  encoding: str = 'utf-8',
  quote: str = '',
  max_rejected_share: float = 0.001,
  rejected_path: str | os.PathLike[str],
) -> ir.Table:
  """Reads a delimited text file strictly into a table of the connection.

  A line with too few or too many fields, an empty or unreadable number, or
  bytes that are not of the encoding is set aside: it is not in the table, but
  in the file `rejected_path` with file, line number, reason and text. The lines
  set aside by all reads of one connection are in the same file.

  Args:
    con: A connection from `connect`.
    path: Text file; line ends may be LF or CRLF.
    columns: Column name -> DuckDB type, in the order of the file.
    delimiter: Text between two fields, 1 to 4 bytes.
    header: The first line's fields where the file has a header, else None.
    encoding: 'utf-8' or 'latin-1'.
    quote: Quote character, or '' where quotes are ordinary text.
    max_rejected_share: Largest share of malformed lines to go on with.
    rejected_path: CSV file to write malformed lines to; made only if needed.

  Returns:
    A table with the columns `columns`, fully read.

  Raises:
    ValueError: The header is another one, a quote is never closed, or more than
      `max_rejected_share` of the lines are malformed.
    FileNotFoundError: No such file.
  """
  path = os.fspath(path)
  if not os.path.isfile(path):
    raise FileNotFoundError(f'read_delimited: no such file: {path}')
  if header is not None:
    _check_header(path, header, delimiter, encoding)
  lines = con.read_csv(
    path,
    delim=delimiter,
    columns=dict(columns),
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
  # Read whole and once: a count alone would not look into the columns.
  table = con.create_table(f'delimited_{next(_counter)}', lines)
  _check_rejected(con, path, table, max_rejected_share, rejected_path)
  return table


def num_rejected(con: ibis.BaseBackend) -> int:
  """Counts the lines set aside so far by `read_delimited`."""
  exists = con.raw_sql(
    f"SELECT count(*) FROM duckdb_tables() WHERE table_name = '{_REJECTS}'"
  ).fetchall()[0][0]
  if not exists:
    return 0
  return int(_rejected(con).select('file', 'line').distinct().count().execute())


def digest(seed: int, salt: str, *keys: ir.Value) -> ir.StringValue:
  """Returns a text per row whose sort order is a seeded random order.

  Args:
    seed: Seed; another seed gives an independent order.
    salt: Name of the use, so that two uses of one key are independent.
    *keys: Columns that together identify a row.

  Returns:
    32 hexadecimal digits (MD5: stable over versions, backends and threads).
  """
  text = ibis.literal(f'{seed}:{salt}')
  for key in keys:
    text = text + ibis.literal(':') + key.cast('string')
  return text.hexdigest('md5')


def dense_ids(
  table: ir.Table, column: str, *, first: int = 0, name: str = 'id'
) -> ir.Table:
  """Maps the distinct values of a column, in sorted order, to dense ids.

  Args:
    table: Table with the column; NULLs get no id.
    column: Column to map.
    first: First id; 1 leaves id 0 for values that are not in the map.
    name: Name of the id column.

  Returns:
    Table (column, name), one row a distinct value; `name` is int32.
  """
  values = table.filter(table[column].notnull()).select(column).distinct()
  position = ibis.row_number().over(ibis.window(order_by=values[column]))
  return values.mutate(**{name: (position + first).cast('int32')})


def to_ids(
  table: ir.Table, column: str, ids: ir.Table, *, missing: int = 0
) -> ir.Table:
  """Replaces a column's values by their ids from `dense_ids`.

  Args:
    table: Table with the column.
    column: Column to replace.
    ids: Table (column, id) with each value once.
    missing: Id of values that are not in `ids`.

  Returns:
    `table` with `column` as int32 ids.
  """
  renamed = ids.select(_key=ids[column], _id=ids['id'])
  joined = table.left_join(renamed, table[column] == renamed['_key'])
  value = ibis.coalesce(joined['_id'], missing).cast('int32')
  return joined.mutate(**{column: value}).drop('_key', '_id')


def in_first_share(
  table: ir.Table, key: str, *, share: float, seed: int, salt: str
) -> ir.BooleanValue:
  """Marks a seeded random share of the rows of a table of distinct keys.

  Args:
    table: Table with one row a key.
    key: Column with the keys.
    share: Share of the rows to mark; exactly round(share * rows) are marked.
    seed: Seed of the choice.
    salt: Name of the use, see `digest`.

  Returns:
    A boolean column of `table`.
  """
  order = digest(seed, salt, table[key])
  rank = ibis.row_number().over(ibis.window(order_by=[order, table[key]]))
  num_rows = ibis._[key].count().over(ibis.window())
  return rank < (num_rows * share).round()


def group_into_lists(
  table: ir.Table,
  by: Sequence[str],
  lists: Sequence[str],
  order_by: Sequence[str],
) -> ir.Table:
  """Groups rows into one row a key, with a list for each collected column.

  Args:
    table: Input rows; collected columns hold no NULLs.
    by: Key columns.
    lists: Columns to collect, all in the same order.
    order_by: Columns that order the rows of a group; together with the key they
      must identify a row, or the order is not defined.

  Returns:
    Table of `by` and `lists`, the latter now arrays.
  """
  keys = [table[name] for name in order_by]
  return table.group_by(list(by)).agg(
    **{name: table[name].collect(order_by=keys) for name in lists}
  )


def _check_header(
  path: str, header: Sequence[str], delimiter: str, encoding: str
) -> None:
  """Raises ValueError if the first line is not the expected header."""
  with open(path, encoding=encoding, errors='replace', newline='\n') as file:
    found = file.readline().rstrip('\r\n').lstrip('\ufeff').split(delimiter)
  if found != list(header):
    raise ValueError(
      f'read_delimited: {path} has the columns {", ".join(found)}; needed:'
      f' {", ".join(header)}.'
    )


def _rejected(con: ibis.BaseBackend) -> ir.Table:
  """Returns (file, line, column, reason, message, text) of lines set aside."""
  rejects = con.table(_REJECTS)
  scans = con.table(_SCANS).select('scan_id', 'file_id', 'file_path').distinct()
  joined = rejects.join(scans, ['scan_id', 'file_id'])
  return joined.select(
    file=joined.file_path,
    line=joined.line,
    column=joined.column_name,
    reason=joined.error_type.cast('string').lower(),
    message=joined.error_message,
    text=joined.csv_line,
  )


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
  num_bad = int(here.select('line').distinct().count().execute())
  if not num_bad:
    return
  rejected.order_by('file', 'line', 'column').to_csv(os.fspath(rejected_path))
  first = here.limit(1).to_pyarrow().to_pylist()[0]
  where = f'line {first["line"]}: {first["message"]}'.replace('\n', ' ')
  unclosed = here.filter(here.message.contains('unterminated quote'))
  if int(unclosed.count().execute()):
    line = int(unclosed.line.min().execute())
    raise ValueError(
      f'read_delimited: {path}: the quote in line {line} is never closed, so'
      ' the lines after it cannot be told apart; close it.'
    )
  num_lines = int(table.count().execute()) + num_bad
  text = f'{num_bad} of {num_lines} lines of {path} are malformed'
  if num_bad > max_rejected_share * num_lines:
    raise ValueError(
      f'read_delimited: {text}, more than max_rejected_share='
      f'{max_rejected_share:g}; the first is {where} All are in'
      f' {os.fspath(rejected_path)}; correct them or raise'
      ' max_rejected_share.'
    )
  logging.warning('%s and set aside in %s.', text, os.fspath(rejected_path))
