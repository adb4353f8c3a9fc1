# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The files of Amazon Reviews 2018 as events, out of core.

Source: Ni et al. 2019, "Justifying recommendations using distantly-labeled
reviews and fine-grained aspects" (https://aclanthology.org/D19-1018). Of a
domain there are `meta_<Domain>.json.gz`, a JSON object a line with asin and
title, and `<Domain>.csv`, lines of item, user, rating and time in seconds,
without a header. DuckDB reads them, whatever engine goes on from there.
"""

from collections.abc import Sequence
import dataclasses
import functools
import os
import pathlib
from typing import Any

import ibis
from ibis.expr import types as ir

from antjax.data import delimited, events, prepare, rejected_lines
from antjax.data.events import ITEM, ROW, Source, Writer
from antjax.data.schema import Schema

ACKNOWLEDGEMENT = (
  'Jianmo Ni, Jiacheng Li, Julian McAuley. 2019. Justifying recommendations'
  ' using distantly-labeled reviews and fine-grained aspects. EMNLP.'
  ' https://aclanthology.org/D19-1018'
)
SCHEMA = Schema(
  name='amazon-2018',
  columns=dict.fromkeys(('user', 'item', 'title', 'domain'), 'string')
  | {'time': 'int64'},
  user='user',
  item='item',
  time='time',
  text='title',
  domain='domain',
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


def source(path: str | os.PathLike[str], domains: Sequence[str] = ()) -> Source:
  """Names the events of some domains.

  Args:
    path: See `find_files`.
    domains: See `find_files`.

  Raises:
    FileNotFoundError: See `find_files`.
    ValueError: See `find_files`.
  """
  files = find_files(path, domains)
  made_of = {
    'data': prepare.fingerprint(
      [path for one in files for path in (one.items, one.ratings)]
    ),
    'domains': [one.name for one in files],
  }
  return Source(SCHEMA, made_of, functools.partial(_write, files))


def _write(files: Sequence[DomainFiles], step: Writer) -> dict[str, Any]:
  """Writes rows and items.

  Lines that are no JSON or name no item, and ratings without a user, an item or
  a number, are set aside.
  """
  read = _Read(step)
  names: list[ir.Table] = []
  num_items = num_rows = 0
  for number, domain in enumerate(files):
    items = read.items(domain).mutate(row=ibis.row_number() + num_items)
    num_items += prepare.count(items)
    path = step.work / 'raw' / f'items-{number:05d}.parquet'
    items.to_parquet(str(path))
    names.append(prepare.read_parquet(step.con, path))
    read.drop_tables()
    ratings = read.ratings(domain)
    ratings = ratings.mutate(
      **{ROW: (ibis.row_number() + num_rows).cast('int64')}
    )
    num_rows += prepare.count(ratings)
    step.store('rows', ratings, number)
    read.drop_tables()
  both = names[0] if len(names) == 1 else ibis.union(*names)
  both = both.mutate(title=events.clean_title(both['title']))
  items = events.one_row_an_item(both, ITEM, 'title', 'row').drop('row')
  step.store('items', items)
  num_known = prepare.count(
    prepare.read_parquet(step.con, step.part('items'), '*.parquet')
  )
  return {
    'acknowledgement': ACKNOWLEDGEMENT,
    'domains': [domain.name for domain in files],
    'counts': {
      'rejected_lines': read.num_set_aside + delimited.num_rejected(step.con),
      'item_rows_read': num_items,
      'item_rows_repeated': num_items - num_known,
    },
  }


class _Read:
  """Reads the files of a domain.

  Attributes:
    num_set_aside: Lines that were whole but said something that cannot be.
  """

  def __init__(self, step: Writer):
    self.num_set_aside = 0
    self._step = step
    self._tables: list[str] = []

  def items(self, domain: DomainFiles) -> ir.Table:
    """(`ITEM`, domain, title)."""
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
    return good.select(
      'title', **{ITEM: good['item']}, domain=ibis.literal(domain.name)
    )

  def ratings(self, domain: DomainFiles) -> ir.Table:
    """(user, item, time)."""
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
    return rows.filter(~is_blank).select('user', 'item', time='timestamp')

  def _lines(
    self,
    path: pathlib.Path,
    columns: dict[str, delimited.Kind],
    *,
    delimiter: str,
  ) -> ir.Table:
    self._step.progress(f'reading {path.name}')
    table = delimited.read_delimited(
      self._step.con,
      path,
      columns,
      delimiter=delimiter,
      max_rejected_share=self._step.max_rejected_share,
      rejected_path=self._step.rejected,
    )
    # It lists the lines of all files so far.
    rejected_lines.put_aside(self._step.rejected, 'lines')
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
    where = f'{path} (line: its number among those that are whole)'
    _, number = self._step.set_aside(
      table, bad, table['number'], column, where, why
    )
    self.num_set_aside += number

  def drop_tables(self) -> None:
    """Gives the room of the tables read so far back."""
    for name in self._tables:
      self._step.con.raw_sql(f'DROP TABLE {name}')
    self._tables = []
