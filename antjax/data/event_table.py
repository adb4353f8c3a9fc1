# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Events of a log that a schema describes, as text or Parquet files.

Rows that do not parse, that name no user or no item, or an item that the items'
table lacks, or that hold a number too large for records, are set aside, counted
and listed.
"""

import functools
import os
from typing import Any

from absl import logging
from ibis.expr import types as ir
import pyarrow.parquet as pq

from antjax.data import prepare, split_lists, table_source
from antjax.data.events import EventWriter, ITEM, ROW, Source
from antjax.data.rejects import BadRow
from antjax.data.schema import Schema

_PLACE = '__place'


def source(path: str | os.PathLike[str], schema: Schema) -> Source:
  """Names the events of a log; see `table_source.find_files`."""
  found = table_source.find_files(path, schema.files)
  made_of = {'data': prepare.fingerprint([*found])}
  if schema.items is not None:
    files = table_source.find_files(schema.items.source)
    made_of['items'] = prepare.fingerprint([*files])
  if schema.lists:
    lists = split_lists.find_files(path, schema.lists)
    made_of['lists'] = prepare.fingerprint([*lists])
  return Source(schema, made_of, functools.partial(_write, path, schema))


def _write(
  path: str | os.PathLike[str], schema: Schema, step: EventWriter
) -> dict[str, Any]:
  """Writes rows and items; returns the counts."""
  folder, counts = step.read('log', path, schema)
  table = step.opened(folder)
  longest = num_unknown = 0
  if schema.item in schema.separator:
    longest = int(table[schema.item].length().max().to_pyarrow().as_py() or 1)
    table = table.unnest(schema.item, offset=_PLACE)
    table = table.mutate(**{schema.item: table[schema.item].strip()})
    table = table.filter(table[schema.item] != '')
  if schema.items is not None:
    table, num_unknown = _of_known_items(step, table, schema)
  num_unlisted = 0
  if schema.lists:
    table, num_unlisted = _listed(step, table, path, schema)
  if longest:  # The place in a list follows the row.
    row = (table[ROW] * longest + table[_PLACE]).cast('int64')
    table = table.mutate(**{ROW: row}).drop(_PLACE)
  if longest or num_unknown or schema.lists:
    step.progress('writing rows')
    step.store('rows', table)
  else:  # As they were read.
    folder.rename(step.folder / 'rows')
  return {
    'counts': {
      'rows': counts.rows,
      'rejected_lines': counts.rejected_lines,
      'events_of_unknown_items': num_unknown,
      **({'events_in_no_list': num_unlisted} if schema.lists else {}),
    }
  }


def _listed(
  step: EventWriter,
  table: ir.Table,
  path: str | os.PathLike[str],
  schema: Schema,
) -> tuple[ir.Table, int]:
  """The events that lists name, with their split, and how many they do not."""
  files = split_lists.find_files(path, schema.lists)
  pairs = split_lists.read(files, schema.user, schema.item)
  file = step.work / 'raw' / 'lists.parquet'
  pq.write_table(pairs, file)
  known = prepare.read_parquet(step.con, file)
  user = table[schema.user].cast('string')
  item = table[schema.item].cast('string')
  joined = table.join(
    known,
    [user == known[split_lists.USER], item == known[split_lists.ITEM]],
  ).drop(split_lists.USER, split_lists.ITEM)
  found = joined.select(schema.user, schema.item).distinct()
  lacking, unlisted = (
    len(pairs) - prepare.count(found),
    prepare.count(table) - prepare.count(joined),
  )
  if lacking == len(pairs):
    raise ValueError(
      f'{schema.name}: no pair of {", ".join(p.name for p in files)} is in the'
      f' log, whose user is {schema.user!r} and item {schema.item!r}; needed:'
      ' the same values in both.'
    )
  if lacking or unlisted:
    logging.warning(
      '%s: %d events are in no list and are left out; %d listed pairs of %d are'
      ' not in the log.',
      schema.name,
      unlisted,
      lacking,
      len(pairs),
    )
  return joined, unlisted


def _of_known_items(
  step: EventWriter, table: ir.Table, schema: Schema
) -> tuple[ir.Table, int]:
  """Writes the items; sets rows of other ones aside."""
  assert schema.items is not None
  folder, counts = step.read('items', schema.items.source, schema.items)
  items = step.opened(folder)
  key = items[schema.items.item].cast('string')
  num_keys = int(key.nunique().to_pyarrow().as_py())
  if num_keys != counts.good:
    raise ValueError(
      f'items of {schema.items.source}: {counts.good} rows, but {num_keys}'
      f' different values of {schema.items.item!r}; needed: one row an item.'
    )
  taken = {name.lower() for name in schema.used}  # The log's win.
  columns = [n for n in items.columns if n.lower() not in taken and n != ROW]
  step.store('items', items.select(*columns, **{ITEM: key}))
  known = step.opened(step.part('items')).select(ITEM)
  item = table[schema.item].cast('string')
  joined = table.left_join(known, item == known[ITEM])
  good, num = step.set_aside(
    joined,
    joined[ITEM].isnull(),
    'the log (line: its row, over all files)',
    BadRow(0, schema.item, 'item', 'the item is not in the table of items'),
  )
  return good.drop(ITEM), num
