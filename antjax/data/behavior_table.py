# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads a log that a schema file describes as rows of `behavior_data`.

DuckDB does it, out of core, whatever engine goes on from there. Rows that do
not parse, name no user or no item, or an item that the items' table lacks, are
set aside, counted and listed.
"""

from collections.abc import Callable
import dataclasses
import functools
import operator
import os
import pathlib
import re

import ibis
from ibis.expr import types as ir
import numpy as np

from antjax.data import engine as engine_lib
from antjax.data import prepare, rejected_lines, table_raw
from antjax.data.behavior_data import Source
from antjax.data.behavior_examples import RowLayout
from antjax.data.behavior_schema import BehaviorSchema, TableColumns
from antjax.data.table_tasks import ROW

_MAX_DOMAINS = 32  # Of which each is a sequence of its own.
_ITEM_PREFIX = 'item:'
_NO_ITEM = '-'  # The item of a log without any.
_LARGEST = float(np.finfo(np.float32).max)


@dataclasses.dataclass(frozen=True)
class _Read:
  """What all steps need."""

  con: ibis.BaseBackend
  work: pathlib.Path
  rejected: pathlib.Path
  max_rejected_share: float
  progress: Callable[[str], None]

  def table(
    self, name: str, source: str | os.PathLike[str], columns: TableColumns
  ) -> tuple[ir.Table, int, int]:
    """Returns the good rows of a source, and how many are good and bad."""
    folder = self.work / 'raw' / name
    folder.mkdir()
    counts = table_raw.write_rows(
      self.con,
      table_raw.find_files(source),
      columns,
      folder,
      max_rejected_share=self.max_rejected_share,
      rejected_path=self.rejected,
      progress=self.progress,
    )
    rejected_lines.put_aside(self.rejected, name)
    return prepare.read_parquet(self.con, folder, '*.parquet'), *counts

  def set_aside(
    self, table: ir.Table, bad: ir.BooleanValue, column: str, why: str
  ) -> tuple[ir.Table, int]:
    """Returns the rows that are not bad, and how many are."""
    found = table.filter(bad).select(
      line=(ibis._[ROW] + 1), column=ibis.literal(column)
    )
    num = table_raw.set_aside(
      found,
      table,
      'the log (line: its row, over all files)',
      why,
      max_rejected_share=self.max_rejected_share,
      rejected_path=self.rejected,
    )
    return table.filter(~bad), num


def read(
  source: str | os.PathLike[str],
  schema: BehaviorSchema,
  work: pathlib.Path,
  rejected: pathlib.Path,
  *,
  engine: engine_lib.Engine,
  max_rejected_share: float,
  progress: Callable[[str], None],
) -> Source:
  """Writes the rows of a log as `behavior_data.Source` says.

  Args:
    source: See `table_raw.find_files`.
    schema: Columns of the log and of the items.
    work: Folder with the empty folders raw and spill.
    rejected: CSV file for malformed rows, made only if needed.
    engine: With how much memory and how many threads.
    max_rejected_share: Largest share of malformed rows to go on with.
    progress: Called with a text at the start of each step.

  Raises:
    ValueError: The source does not fit the schema, or too many rows do not.
    FileNotFoundError: No such source.
  """
  with engine_lib.duckdb(work, engine) as con:
    step = _Read(con, work, rejected, max_rejected_share, progress)
    table, num_rows, num_bad = step.table('log', source, schema.table)
    table, num_blank = _without_blanks(step, table, schema)
    num_unknown = 0
    if schema.items is not None:
      table, num_unknown = _with_items(step, table, schema)
    table, num_large = _within_float32(step, table, schema)
    rows, layout = _rows(table, schema)
    progress('writing rows')
    folder = work / 'rows'
    folder.mkdir()
    rows.to_parquet(str(folder / 'rows.parquet'))
  rejected_lines.join(rejected)
  counts = {
    'rows': num_rows + num_bad,
    'rejected_lines': num_bad,
    'rows_without_user_or_item': num_blank,
    'events_of_unknown_items': num_unknown,
    'rows_beyond_float32': num_large,
  }
  return Source(folder, layout, {'name': schema.name, 'counts': counts})


def _without_blanks(
  step: _Read, table: ir.Table, schema: BehaviorSchema
) -> tuple[ir.Table, int]:
  """Casts user and item to texts; sets rows without one of them aside."""
  user = table[schema.user or ROW].cast('string')
  item = (
    table[schema.item].cast('string') if schema.item else ibis.literal(_NO_ITEM)
  )
  table = table.mutate(_user=user, _item=item)
  bad = (table._user.strip() == '') | (table._item.strip() == '')
  column = ' or '.join(filter(None, (schema.user, schema.item)))
  table, num = step.set_aside(table, bad, column, 'names no user or no item')
  rejected_lines.put_aside(step.rejected, 'blank')
  if schema.separator:
    each = table.mutate(_item=table._item.split(schema.separator))
    each = each.unnest('_item', offset='_place')
    each = each.mutate(_item=each._item.strip())
    return each.filter(each._item != ''), num
  return table.mutate(_place=ibis.literal(0, 'int64')), num


def _with_items(
  step: _Read, table: ir.Table, schema: BehaviorSchema
) -> tuple[ir.Table, int]:
  """Adds the columns of the items' table, with a prefix."""
  assert schema.items is not None
  items, num_items, _ = step.table(
    'items', schema.items.source, schema.items.table
  )
  key = items[schema.items.item].cast('string')
  named = items.select(
    _key=key, **{f'{_ITEM_PREFIX}{n}': items[n] for n in items.columns}
  )
  num_keys = int(named._key.nunique().to_pyarrow().as_py())
  if num_keys != num_items:
    raise ValueError(
      f'items of {schema.items.source}: {num_items} rows, but {num_keys}'
      f' different values of {schema.items.item!r}; needed: one row an item.'
    )
  joined = table.left_join(named, table._item == named._key)
  good, num = step.set_aside(
    joined,
    joined._key.isnull(),
    schema.item,
    'the item is not in the table of items',
  )
  rejected_lines.put_aside(step.rejected, 'unknown')
  return good, num


def _within_float32(
  step: _Read, table: ir.Table, schema: BehaviorSchema
) -> tuple[ir.Table, int]:
  """Sets rows aside with a number that features and labels cannot hold."""
  names = [*schema.numeric, *filter(None, (schema.rating,))]
  if schema.items is not None:
    names += [f'{_ITEM_PREFIX}{n}' for n in schema.items.numeric]
  wide = [n for n in names if table[n].type().is_floating()]
  if not wide:
    return table, 0
  is_bad = functools.reduce(
    operator.or_, [table[n].abs() > _LARGEST for n in wide]
  )
  column = ', '.join(n.removeprefix(_ITEM_PREFIX) for n in wide)
  found = step.set_aside(table, is_bad, column, 'is beyond float32')
  rejected_lines.put_aside(step.rejected, 'beyond')
  return found


def _rows(
  table: ir.Table, schema: BehaviorSchema
) -> tuple[ir.Table, RowLayout]:
  """Returns the rows, and what they hold."""
  items = schema.items
  ids = [table[n] for n in schema.ids]
  numeric = [table[n] for n in schema.numeric]
  id_names, numeric_names = list(schema.ids), list(schema.numeric)
  item_columns = list(schema.item_columns)
  if items is not None:
    ids += [table[f'{_ITEM_PREFIX}{n}'] for n in items.ids]
    numeric += [table[f'{_ITEM_PREFIX}{n}'] for n in items.numeric]
    id_names += items.ids
    numeric_names += items.numeric
    item_columns += [*items.ids, *items.numeric]

  def either(name: str) -> ir.Value:
    """A column of the log, or else of the items."""
    own = name in schema.table.columns
    return table[name if own else f'{_ITEM_PREFIX}{name}'].cast('string')

  longest = int(table['_place'].max().to_pyarrow().as_py() or 0) + 1
  row = (table[ROW] * longest + table['_place']).cast('int64')
  domain = either(schema.domain) if schema.domain else ibis.literal('')
  if schema.label:
    label = table[schema.label].cast('float32')
  elif schema.rating:
    label = (table[schema.rating] >= schema.positive_from).cast('float32')
  else:
    label = ibis.literal(1).cast('float32')
  time = table[schema.time] if schema.time else row
  rows = table.select(
    row=row,
    user=table._user,
    item=table._item,
    text=either(schema.text) if schema.text else table._item,
    domain=domain,
    time=time.floor().cast('int64') if schema.time else time,
    label=label,
    **{f'text_{i}': table[n] for i, n in enumerate(schema.texts)},
    **{f'id_{i}': value.cast('string') for i, value in enumerate(ids)},
    **{
      f'numeric_{i}': value.cast('float32') for i, value in enumerate(numeric)
    },
  )
  rows, histories = _with_history(rows, schema)
  names = [*histories, *schema.texts]
  for name in names:
    if not re.fullmatch(r'[\w-]+', name) or names.count(name) > 1:
      raise ValueError(
        f'schema of {schema.name}: the sequence {name!r} needs a name of its'
        ' own, of letters, digits, _ and -; rename the column.'
      )
  return rows, RowLayout(
    tuple(histories),
    schema.texts,
    tuple(id_names),
    tuple(numeric_names),
    tuple(item_columns),
    schema.is_labelled,
  )


def _with_history(
  rows: ir.Table, schema: BehaviorSchema
) -> tuple[ir.Table, list[str]]:
  """Adds `history`, the sequence that an event joins; '' for none."""
  is_positive = rows.label > 0
  if schema.histories == 'none':
    return rows.mutate(history=ibis.literal('')), []
  if schema.histories == 'all':
    name = is_positive.ifelse('history', '')
    return rows.mutate(history=name), ['history']
  if schema.histories == 'outcome':
    name = is_positive.ifelse('positive', 'negative')
    return rows.mutate(history=name), ['positive', 'negative']
  found = rows.select('domain').distinct().order_by('domain').limit(1000)
  domains = found.to_pyarrow()['domain'].to_pylist()
  if len(domains) > _MAX_DOMAINS:
    raise ValueError(
      f'schema of {schema.name}: {schema.domain!r} has {len(domains)} values or'
      f' more; histories=domain makes a sequence of each, at most'
      f' {_MAX_DOMAINS}. Use histories: all.'
    )
  names = [re.sub(r'\W+', '_', domain) for domain in domains]
  cases = [
    (is_positive & (rows.domain == domain), name)
    for domain, name in zip(domains, names)
  ]
  return rows.mutate(history=ibis.cases(*cases, else_='')), names
