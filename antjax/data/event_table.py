# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Events of a log that a schema describes, as text or Parquet files.

Rows that do not parse, name no user or no item, an item that the items' table
lacks, or a number that a record cannot hold are set aside, counted and listed.
"""

import functools
import operator
import os
from typing import Any

from ibis.expr import types as ir
import numpy as np

from antjax.data import prepare, table_raw
from antjax.data.events import ITEM, ROW, Source, Writer
from antjax.data.schema import Schema

_PLACE = '__place'
_LOG = 'the log (line: its row, over all files)'
_LARGEST = float(np.finfo(np.float32).max)


def source(path: str | os.PathLike[str], schema: Schema) -> Source:
  """Names the events of a log.

  Args:
    path: See `table_raw.find_files`.
    schema: Columns of the log and of the items.

  Raises:
    FileNotFoundError: No such source.
    ValueError: See `table_raw.find_files`.
  """
  made_of = {'data': prepare.fingerprint(table_raw.find_files(path))}
  if schema.items is not None:
    files = table_raw.find_files(schema.items.source)
    made_of['items'] = prepare.fingerprint(files)
  return Source(schema, made_of, functools.partial(_write, path, schema))


def _write(
  path: str | os.PathLike[str], schema: Schema, step: Writer
) -> dict[str, Any]:
  """Writes rows and items; returns the counts."""
  table, num_rows, num_bad = step.read('log', path, schema)
  table, num_blank = _without_blanks(step, table, schema)
  longest = 0
  if schema.item in schema.separator:
    longest = int(table[schema.item].length().max().to_pyarrow().as_py() or 1)
    table = table.unnest(schema.item, offset=_PLACE)
    table = table.mutate(**{schema.item: table[schema.item].strip()})
    table = table.filter(table[schema.item] != '')
  num_unknown = 0
  if schema.items is not None:
    table, num_unknown = _of_known_items(step, table, schema)
  wide = [n for n in (*schema.numeric, schema.rating) if n not in schema.log]
  table, num_large = _within_float32(step, table, schema, wide, _LOG)
  if longest:  # The place in a list follows the row.
    row = (table[ROW] * longest + table[_PLACE]).cast('int64')
    table = table.mutate(**{ROW: row}).drop(_PLACE)
  if longest or num_blank or num_unknown or num_large:
    step.progress('writing rows')
    step.store('rows', table)
  else:  # As they were read.
    (step.work / 'raw' / 'log').rename(step.folder / 'rows')
  return {
    'counts': {
      'rows': num_rows + num_bad,
      'rejected_lines': num_bad,
      'rows_without_user_or_item': num_blank,
      'events_of_unknown_items': num_unknown,
      'rows_beyond_float32': num_large,
    }
  }


def _without_blanks(
  step: Writer, table: ir.Table, schema: Schema
) -> tuple[ir.Table, int]:
  """Sets rows without a user or an item aside."""
  checks = []
  for name in filter(None, (schema.user, schema.item)):
    if name in schema.separator:
      parts = table[name].filter(lambda text: text.strip() != '')
      checks.append(parts.length() == 0)
    elif schema.columns[name] == 'string':
      checks.append(table[name].strip() == '')
  if not checks:
    return table, 0
  bad = functools.reduce(operator.or_, checks)
  column = ' or '.join(filter(None, (schema.user, schema.item)))
  why = 'names no user or no item'
  return step.set_aside(table, bad, table[ROW] + 1, column, _LOG, why)


def _of_known_items(
  step: Writer, table: ir.Table, schema: Schema
) -> tuple[ir.Table, int]:
  """Writes the items; sets rows of other ones aside."""
  assert schema.items is not None
  items, num_items, _ = step.read('items', schema.items.source, schema.items)
  key = items[schema.items.item].cast('string')
  num_keys = int(key.nunique().to_pyarrow().as_py())
  if num_keys != num_items:
    raise ValueError(
      f'items of {schema.items.source}: {num_items} rows, but {num_keys}'
      f' different values of {schema.items.item!r}; needed: one row an item.'
    )
  taken = {name.lower() for name in schema.used}  # The log's win.
  columns = [n for n in items.columns if n.lower() not in taken and n != ROW]
  good, _ = _within_float32(
    step, items, schema, list(schema.items.numeric), schema.items.source
  )
  step.store('items', good.select(*columns, **{ITEM: key}))
  known = prepare.read_parquet(step.con, step.part('items'), '*.parquet')
  item = table[schema.item].cast('string')
  joined = table.left_join(known.select(ITEM), item == known[ITEM])
  bad, line = joined[ITEM].isnull(), joined[ROW] + 1
  why = 'the item is not in the table of items'
  good, num = step.set_aside(joined, bad, line, schema.item, _LOG, why)
  return good.drop(ITEM), num


def _within_float32(
  step: Writer, table: ir.Table, schema: Schema, names: list[str], where: str
) -> tuple[ir.Table, int]:
  """Sets rows aside with a number that features and labels cannot hold."""
  wide = [n for n in names if n and schema.kind_of(n) == 'float64']
  if not wide:
    return table, 0
  bad = functools.reduce(
    operator.or_, [table[n].abs() > _LARGEST for n in wide]
  )
  why = 'is beyond float32; list it under log, or scale it'
  return step.set_aside(table, bad, table[ROW] + 1, ', '.join(wide), where, why)
