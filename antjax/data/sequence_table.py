# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads a log that a schema file describes as sequences, out of core.

The schema file is that of `behavior_schema`; its user, item, text, time, domain
and items are used. Without a time the order of the rows counts; where the log
says what was liked, only that makes a sequence.
"""

from collections.abc import Callable
import os
import pathlib

import ibis
from ibis.expr import types as ir

from antjax.data import behavior_table, prepare
from antjax.data import engine as engine_lib
from antjax.data.behavior_schema import BehaviorSchema
from antjax.data.sequence_build import SequenceSource

# Of data without domains, and of items without one.
_ONE_DOMAIN, _UNKNOWN = 'all', 'unknown'


def read(
  source: str | os.PathLike[str],
  schema: BehaviorSchema,
  work: pathlib.Path,
  rejected: pathlib.Path,
  *,
  engine: engine_lib.Engine,
  max_rejected_share: float,
  progress: Callable[[str], None],
) -> SequenceSource:
  """Writes events and items as `SequenceSource` says.

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
  if not (schema.user and schema.item):
    raise ValueError(
      f'schema of {schema.name}: sequences need a user and an item; name their'
      ' columns.'
    )
  log = behavior_table.read(
    source,
    schema,
    work,
    rejected,
    engine=engine,
    max_rejected_share=max_rejected_share,
    progress=progress,
  )
  names = 'sequence_events', 'sequence_items'
  folders = [work / 'raw' / name for name in names]
  for folder in folders:
    folder.mkdir()
  counts = dict(log.about['counts'])
  with engine_lib.duckdb(work, engine) as con:
    rows = prepare.read_parquet(con, log.rows, '*.parquet')
    liked = rows.filter(rows['label'] > 0)
    counts['events_not_liked'] = _count(rows) - _count(liked)
    liked.select(
      'user', 'item', 'time', tie=liked['row'].cast('float64')
    ).to_parquet(str(folders[0] / 'rows.parquet'))
    items = _items(rows, bool(schema.domain))
    items.to_parquet(str(folders[1] / 'rows.parquet'))
    found = items.select('domain').distinct().order_by('domain').to_pyarrow()
  return SequenceSource(
    folders[0],
    folders[1],
    tuple(found['domain'].to_pylist()),
    None,
    {'name': schema.name, 'counts': counts},
  )


def _items(rows: ir.Table, has_domains: bool) -> ir.Table:
  """(item, domain, title, row): all that rows say of items."""
  domain: ir.Value = ibis.literal(_ONE_DOMAIN)
  if has_domains:
    given = rows['domain'].fill_null('').strip()
    domain = (given == '').ifelse(_UNKNOWN, given)
  named = rows.mutate(domain=domain, title=rows['text'].fill_null(''))
  return named.group_by(['item', 'domain', 'title']).agg(
    row=named['row'].min().cast('int64')
  )


def _count(table: ir.Table) -> int:
  return int(table.count().to_pyarrow().as_py())
