# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The files of Amazon Reviews 2018 as events, out of core.

Source: Ni et al. 2019, "Justifying recommendations using distantly-labeled
reviews and fine-grained aspects" (https://aclanthology.org/D19-1018). Of a
domain there are `meta_<Domain>.json.gz`, a JSON object a line with asin and
title, and `<Domain>.csv`, lines of item, user, rating and time in seconds,
without a header. DuckDB reads them, whatever engine takes over from there.
"""

from collections.abc import Sequence
import functools
import os
import pathlib
from typing import Any, NamedTuple

import ibis
from ibis.expr import types as ir

from antjax.data import events, prepare
from antjax.data.csv_blocks import Dialect
from antjax.data.events import EventWriter, ITEM, ROW, Source
from antjax.data.rejects import BadRow
from antjax.data.row_writer import RowCounts
from antjax.data.schema import Schema
from antjax.data.strict_columns import Column

ACKNOWLEDGEMENT = (
  'Jianmo Ni, Jiacheng Li, Julian McAuley. 2019. Justifying recommendations'
  ' using distantly-labeled reviews and fine-grained aspects. EMNLP.'
  ' https://aclanthology.org/D19-1018'
)
SCHEMA = Schema(
  name='amazon-2018',
  columns={
    'user': 'string',
    'item': 'string',
    'title': 'string',
    'domain': 'string',
    'time': 'int64',
  },
  user='user',
  item='item',
  time='time',
  text='title',
  domain='domain',
)
_RATINGS = {
  'item': Column(is_needed=True),
  'user': Column(is_needed=True),
  'rating': Column(kind='float32'),
  'time': Column(kind='int64'),
}
_PREFIX, _SUFFIXES = 'meta_', ('.json.gz', '.json')
# A line is one field: no JSON text holds a raw control character.
_NO_DELIMITER = '\x1f'


@ibis.udf.scalar.builtin  # type: ignore[untyped-decorator]
def json_valid(text: str) -> bool:  # type: ignore[empty-body]
  """Whether a text is JSON; DuckDB's."""


@ibis.udf.scalar.builtin  # type: ignore[untyped-decorator]
def json_extract_string(text: str, path: str) -> str:  # type: ignore[empty-body]
  """The value at a path of a JSON text; DuckDB's."""


class DomainFiles(NamedTuple):
  """The two files of a domain."""

  name: str
  items: pathlib.Path
  ratings: pathlib.Path


def find_files(
  source: str | os.PathLike[str], domains: Sequence[str] = ()
) -> list[DomainFiles]:
  """Finds the files of domains in a folder, at any depth.

  Without names, all domains that have metadata, by name.

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
  """Names the events of some domains; see `find_files`."""
  files = find_files(path, domains)
  made_of = {
    'data': prepare.fingerprint([path for one in files for path in one[1:]]),
    'domains': [one.name for one in files],
  }
  return Source(SCHEMA, made_of, functools.partial(_write, files))


def _write(files: Sequence[DomainFiles], step: EventWriter) -> dict[str, Any]:
  """Writes rows and items.

  Lines that are no JSON or name no item, and ratings without a user, an item or
  a number, are set aside.
  """
  names: list[ir.Table] = []
  num_items = num_rows = num_bad = 0
  for number, domain in enumerate(files):
    items, counts, more = _items(step, domain)
    names.append(items.mutate(**{ROW: items[ROW] + num_items}))
    num_items += counts.rows
    num_bad += counts.rejected_lines + more
    ratings, counts = step.read_text(
      domain.ratings, _RATINGS, Dialect(quote='')
    )
    ratings = ratings.mutate(**{ROW: ratings[ROW] + num_rows}).drop('rating')
    step.store('rows', ratings, number)
    num_rows += counts.rows
    num_bad += counts.rejected_lines
  both = names[0] if len(names) == 1 else ibis.union(*names)
  num_read = prepare.count(both)
  both = both.mutate(title=events.clean_title(both['title']))
  items = events.one_row_an_item(both, ITEM, 'title', ROW).drop(ROW)
  step.store('items', items)
  num_known = prepare.count(step.opened(step.part('items')))
  return {
    'acknowledgement': ACKNOWLEDGEMENT,
    'domains': [domain.name for domain in files],
    'counts': {
      'rejected_lines': num_bad,
      'item_rows_read': num_read,
      'item_rows_repeated': num_read - num_known,
    },
  }


def _items(
  step: EventWriter, domain: DomainFiles
) -> tuple[ir.Table, RowCounts, int]:
  """(`ITEM`, title, domain, `ROW`), counts of lines, and those set aside."""
  dialect = Dialect(_NO_DELIMITER, '')
  lines, counts = step.read_text(domain.items, {'line': Column()}, dialect)
  is_json = json_valid(lines['line'])
  text = is_json.ifelse(lines['line'], '{}')
  item = json_extract_string(text, '$.asin')
  title = json_extract_string(text, '$.title').fill_null('')
  rows = lines.select(
    ROW, is_json=is_json, item=item.fill_null('').strip(), title=title
  )
  where = f'{domain.items} (line: its number among those that are not empty)'
  num_bad = 0
  for bad, why in (
    (~rows['is_json'], 'the line is no JSON'),
    (rows['is_json'] & (rows['item'] == ''), 'names no item (asin)'),
  ):
    row = BadRow(0, 'line', 'json', why)
    num_bad += step.set_aside(rows, bad, where, row)[1]
  good = rows.filter(rows['is_json'] & (rows['item'] != ''))
  named = good.select(
    ROW, 'title', **{ITEM: good['item']}, domain=ibis.literal(domain.name)
  )
  return named, counts, num_bad
