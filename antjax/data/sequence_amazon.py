# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads the files of Amazon Reviews 2018 as sequences, out of core.

Source: Ni et al. 2019, "Justifying recommendations using distantly-labeled
reviews and fine-grained aspects" (https://aclanthology.org/D19-1018). Of a
domain there are `meta_<Domain>.json.gz`, a JSON object a line with asin and
title, and `<Domain>.csv`, lines of item, user, rating and time in seconds,
without a header. DuckDB reads them, whatever engine goes on from there.
"""

from collections.abc import Callable, Sequence
import dataclasses
import os
import pathlib

import ibis
from ibis.expr import types as ir

from antjax.data import delimited, rejected_lines, table_files, table_raw
from antjax.data import engine as engine_lib
from antjax.data.sequence_build import SequenceSource

ACKNOWLEDGEMENT = (
  'Jianmo Ni, Jiacheng Li, Julian McAuley. 2019. Justifying recommendations'
  ' using distantly-labeled reviews and fine-grained aspects. EMNLP.'
  ' https://aclanthology.org/D19-1018'
)
_PREFIX, _SUFFIXES = 'meta_', ('.json.gz', '.json')
# A line is one field: no JSON text holds a raw control character.
_NO_DELIMITER = '\x1f'


@ibis.udf.scalar.builtin  # type: ignore[untyped-decorator]
def json_valid(text: str) -> bool:  # type: ignore[empty-body]
  """Whether a text is JSON; DuckDB's."""


@ibis.udf.scalar.builtin  # type: ignore[untyped-decorator]
def json_extract_string(text: str, path: str) -> str:  # type: ignore[empty-body]
  """The value at a path of a JSON text; DuckDB's."""


@dataclasses.dataclass(frozen=True)
class DomainFiles:
  """The two files of a domain."""

  name: str
  items: pathlib.Path
  ratings: pathlib.Path


def find_files(
  source: str | os.PathLike[str], domains: Sequence[str] = ()
) -> list[DomainFiles]:
  """Finds the files of domains in a folder, at any depth.

  Args:
    source: The folder.
    domains: Names and order of domains; empty: all that have metadata, by name.

  Raises:
    FileNotFoundError: No such folder, or a domain lacks a file.
    ValueError: A domain has a file twice.
  """
  folder = pathlib.Path(source)
  names: dict[str, list[pathlib.Path]] = {}
  for path in sorted(folder.rglob('*')):
    names.setdefault(path.name, []).append(path)
  if not domains:
    domains = sorted(
      name.removeprefix(_PREFIX).removesuffix(suffix)
      for name in names
      for suffix in _SUFFIXES
      if name.startswith(_PREFIX) and name.endswith(suffix)
    )
  if not domains:
    raise FileNotFoundError(
      f'source={source} holds no meta_<Domain>.json.gz; give the folder with'
      ' the metadata and ratings of Amazon Reviews 2018.'
    )
  found = []
  for domain in domains:
    paths = []
    for choices in (
      [f'{_PREFIX}{domain}{suffix}' for suffix in _SUFFIXES],
      [f'{domain}.csv'],
    ):
      fit = [p for choice in choices for p in names.get(choice, ())]
      if not fit:
        raise FileNotFoundError(
          f'source={source}: domain {domain} has no {" or ".join(choices)}; get'
          ' it, or name the domains to read with --domains.'
        )
      if len(fit) > 1:
        raise ValueError(
          f'source={source}: domain {domain} has {len(fit)} of'
          f' {" or ".join(choices)}: {", ".join(map(str, fit))}; keep one.'
        )
      paths += fit
    found.append(DomainFiles(domain, *paths))
  return found


def fingerprint(files: Sequence[DomainFiles]) -> str:
  """Returns a SHA-256 over the content of all files."""
  return table_files.fingerprint(
    [path for one in files for path in (one.items, one.ratings)]
  )


def read(
  files: Sequence[DomainFiles],
  work: pathlib.Path,
  rejected: pathlib.Path,
  *,
  engine: engine_lib.Engine,
  max_rejected_share: float,
  progress: Callable[[str], None],
) -> SequenceSource:
  """Writes events and items as `SequenceSource` says.

  Args:
    files: From `find_files`.
    work: Folder with the empty folders raw and spill.
    rejected: CSV file for malformed lines, made only if needed: lines that are
      no JSON or name no item, ratings without a user, an item or a number.
    engine: With how much memory and how many threads.
    max_rejected_share: Largest share of malformed lines of a file to go on
      with.
    progress: Called with a text at the start of each file.

  Raises:
    ValueError: Too many malformed lines.
  """
  folders = [work / 'raw' / name for name in ('events', 'items')]
  for folder in folders:
    folder.mkdir()
  with engine_lib.duckdb(work, engine) as con:
    step = _Read(con, rejected, max_rejected_share, progress)
    num_rows = 0
    for number, domain in enumerate(files):
      part = f'{number:03d}.parquet'
      items = step.items(domain)
      rows = items.mutate(row=ibis.row_number().cast('int64') + num_rows)
      rows.to_parquet(str(folders[1] / part))
      num_rows += int(items.count().to_pyarrow().as_py())
      step.drop_tables()
      step.ratings(domain).to_parquet(str(folders[0] / part))
      step.drop_tables()
    num_rejected = step.num_set_aside + delimited.num_rejected(con)
  rejected_lines.join(rejected)
  return SequenceSource(
    folders[0],
    folders[1],
    tuple(domain.name for domain in files),
    None,
    {
      'name': 'amazon-2018',
      'acknowledgement': ACKNOWLEDGEMENT,
      'counts': {'rejected_lines': num_rejected},
    },
  )


class _Read:
  """Reads the files of a domain.

  Attributes:
    num_set_aside: Lines that were whole but said something that cannot be.
  """

  def __init__(
    self,
    con: ibis.BaseBackend,
    rejected: pathlib.Path,
    max_rejected_share: float,
    progress: Callable[[str], None],
  ):
    self.num_set_aside = 0
    self._con, self._rejected = con, rejected
    self._max_rejected_share, self._progress = max_rejected_share, progress
    self._tables: list[str] = []

  def items(self, domain: DomainFiles) -> ir.Table:
    """(item, domain, title)."""
    lines = self._lines(
      domain.items, {'line': 'string'}, delimiter=_NO_DELIMITER
    )
    lines = lines.mutate(number=ibis.row_number() + 1)
    is_json = json_valid(lines['line'])
    text = is_json.ifelse(lines['line'], '{}')
    item = json_extract_string(text, '$.asin')
    title = json_extract_string(text, '$.title').fill_null('')
    rows = lines.select(
      'number',
      is_json=is_json,
      item=item.fill_null('').strip(),
      title=title,
    )
    is_named = rows['item'] != ''
    for bad, why in (
      (~rows['is_json'], 'the line is no JSON'),
      (rows['is_json'] & ~is_named, 'names no item (asin)'),
    ):
      self._set_aside(rows, bad, domain.items, 'line', why)
    good = rows.filter(rows['is_json'] & is_named)
    return good.select('item', 'title', domain=ibis.literal(domain.name))

  def ratings(self, domain: DomainFiles) -> ir.Table:
    """(user, item, time, tie)."""
    rows = self._lines(
      domain.ratings,
      {
        'item': 'string',
        'user': 'string',
        'rating': 'float32',
        'timestamp': 'int64',
      },
      delimiter=',',
    )
    rows = rows.mutate(number=ibis.row_number() + 1)
    is_blank = (rows['user'].strip() == '') | (rows['item'].strip() == '')
    why = 'names no user or no item'
    self._set_aside(rows, is_blank, domain.ratings, 'user or item', why)
    return rows.filter(~is_blank).select(
      'user',
      'item',
      time=rows['timestamp'],
      tie=rows['rating'].cast('float64'),
    )

  def _lines(
    self,
    path: pathlib.Path,
    columns: dict[str, delimited.Kind],
    *,
    delimiter: str,
  ) -> ir.Table:
    self._progress(f'reading {path.name}')
    table = delimited.read_delimited(
      self._con,
      path,
      columns,
      delimiter=delimiter,
      max_rejected_share=self._max_rejected_share,
      rejected_path=self._rejected,
    )
    # It lists the lines of all files so far.
    rejected_lines.put_aside(self._rejected, 'lines')
    self._tables.append(table.get_name())
    return table

  def _set_aside(
    self,
    table: ir.Table,
    bad: ir.BooleanValue,
    path: pathlib.Path,
    column: str,
    why: str,
  ) -> None:
    found = table.filter(bad).select(line='number', column=ibis.literal(column))
    number = table_raw.set_aside(
      found,
      table,
      f'{path} (line: its number among those that are whole)',
      why,
      max_rejected_share=self._max_rejected_share,
      rejected_path=self._rejected,
    )
    if number:
      rejected_lines.put_aside(self._rejected, f'set-{self.num_set_aside}')
      self.num_set_aside += number

  def drop_tables(self) -> None:
    """Gives the room of the tables read so far back."""
    for name in self._tables:
      self._con.raw_sql(f'DROP TABLE {name}')
    self._tables = []
