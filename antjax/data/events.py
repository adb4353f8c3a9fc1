# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The prepared folder that all views are made of: the events of a data set.

  rows/*.parquet    one row an event: the columns in use, and `ROW`
  items/*.parquet   what is known of items: `ITEM` text, and further columns
  users/*.parquet   what is known of users: `USER` text, and further columns
  rejected.csv      what was set aside
  dataset.json      the schema, counts, terms

Sources without a table of items or users have no such folder.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import tempfile
from typing import Any

from absl import logging
import ibis
from ibis.expr import types as ir

from antjax.data import engine as engine_lib
from antjax.data import (
  output_folder,
  prepare,
  row_writer,
  table_source,
  text_reader,
)
from antjax.data.csv_blocks import Dialect
from antjax.data.rejects import BadRow, Rejects
from antjax.data.row_writer import RowCounts
from antjax.data.schema import Schema
from antjax.data.strict_columns import Column
from antjax.data.table_columns import ItemTable
from antjax.data.text_reader import TextLayout

_FORMAT_VERSION = 1
KIND = 'events'
ROW, USER, ITEM = row_writer.ROW, '__user', '__item'
# The item of a log without any.
_NO_ITEM = '-'
# Entries of a schema that are told where they are not as always before.
_NEWER = ('split_values', 'files', 'lists', 'encoding', 'nulls')
_BLANKS = r'[\s\x00-\x1f\x7f]+'


@dataclasses.dataclass(frozen=True)
class EventWriter:
  """What a source writes its events with."""

  con: ibis.BaseBackend  # DuckDB, whatever engine makes the views.
  folder: pathlib.Path  # Folder of the events.
  # Folder for intermediate files, with an empty folder `raw`.
  work: pathlib.Path
  rejects: Rejects  # Lists what is set aside, and refuses too much of it.
  threads: int  # Number of threads; 0 means all cores.
  # Function called with a text at the start of each step.
  progress: Callable[[str], None]

  def part(self, name: str) -> pathlib.Path:
    """Returns the folder `rows`, `items` or `users`, which exists then."""
    folder = self.folder / name
    folder.mkdir(exist_ok=True)
    return folder

  def store(self, name: str, table: ir.Table, number: int = 0) -> None:
    """Writes a table as a file of `rows`, `items` or `users`."""
    path = self.part(name) / f'part-{number:05d}.parquet'
    table.to_parquet(str(path))

  def read(
    self,
    name: str,
    source: str | os.PathLike[str],
    columns: Schema | ItemTable,
  ) -> tuple[pathlib.Path, RowCounts]:
    """Returns a folder with the good rows of a table, and counts."""
    folder = self.work / 'raw' / name
    folder.mkdir()
    return folder, table_source.read(
      table_source.find_files(source, columns.files),
      columns,
      folder,
      self.rejects,
      threads=self.threads,
      progress=self.progress,
    )

  def read_text(
    self,
    path: pathlib.Path,
    columns: Mapping[str, Column],
    dialect: Dialect,
    header: Sequence[str] | None = None,
  ) -> tuple[ir.Table, RowCounts]:
    """Returns the good rows of a text file, and counts."""
    folder = pathlib.Path(tempfile.mkdtemp(dir=self.work / 'raw'))
    counts = text_reader.read(
      [path],
      TextLayout(columns=columns, dialect=dialect, header=header),
      folder,
      self.rejects,
      threads=self.threads,
      progress=self.progress,
    )
    return self.opened(folder), counts

  def opened(self, folder: pathlib.Path) -> ir.Table:
    """Opens the Parquet files of a folder."""
    return prepare.read_parquet(self.con, folder, '*.parquet')

  def set_aside(
    self, table: ir.Table, bad: ir.BooleanValue, where: str, row: BadRow
  ) -> tuple[ir.Table, int]:
    """Lists the bad rows of a table, each as `row` with its number from 1.

    Returns:
      The rows that are not bad, and the number of those that are.

    Raises:
      ValueError: There are more than `rejects` allows.
    """
    lines = table.filter(bad).select(line=table[ROW] + 1).order_by('line')
    found = lines.to_pyarrow()['line'].to_pylist()
    if not found:
      return table, 0
    self.rejects.add(
      where, [dataclasses.replace(row, line=line) for line in found]
    )
    num_rows = prepare.count(table)
    self.rejects.check(where, len(found), num_rows, unit='rows')
    return table.filter(~bad), len(found)


@dataclasses.dataclass(frozen=True)
class Source:
  """A data set, before it is read."""

  schema: Schema  # Schema of its columns.
  # JSON-able: what decides its rows, with a fingerprint of the data.
  made_of: Mapping[str, Any]
  # Writes the events; returns entries for `dataset.json`, counts among them.
  write: Callable[[EventWriter], Mapping[str, Any]]


def write(
  out: str | os.PathLike[str],
  source: Source,
  *,
  engine: engine_lib.Engine | None = None,
  max_rejected_share: float = 0.001,
  overwrite: bool = False,
  progress: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, Any], bool]:
  """Makes the folder of the module's docstring, beside its intermediate files.

  DuckDB reads all sources, with the memory and threads of `engine`. Of a file
  at most `max_rejected_share` of the rows may be malformed. `overwrite`
  replaces events of another source, and `progress` is called at the start of
  each step.

  Returns:
    The content of `dataset.json`, and whether it was made now.

  Raises:
    ValueError: `out` holds something else, or the source is not as it must be.
    FileNotFoundError: No such source.
  """
  if not 0 <= max_rejected_share <= 1:
    raise ValueError(
      f'max_rejected_share={max_rejected_share} must be from 0 to 1.'
    )
  engine = engine or engine_lib.Engine()
  schema = json.loads(json.dumps(dataclasses.asdict(source.schema)))
  for columns in (schema, schema['items'] or {}):
    for name in _NEWER:  # Older folders do not name them.
      if columns.get(name, None) in ({}, [], 'utf-8'):
        del columns[name]
  made_of = {
    'format_version': _FORMAT_VERSION,
    **source.made_of,
    'max_rejected_share': max_rejected_share,
    'schema': schema,
  }

  def write_all(stage: pathlib.Path, work: pathlib.Path) -> dict[str, Any]:
    for name in ('raw', 'spill'):
      (work / name).mkdir()
    rejects = Rejects(work / output_folder.REJECTED, max_rejected_share)
    with engine_lib.duckdb(work, engine) as con:
      step = EventWriter(con, stage, work, rejects, engine.threads, progress)
      about = source.write(step)
    return {
      'kind': KIND,
      'name': source.schema.name,
      **about,
      'files': output_folder.list_files(stage),
    }

  return output_folder.make(out, made_of, write_all, overwrite=overwrite)


@dataclasses.dataclass(frozen=True)
class Events:
  """A folder of events that an engine has opened."""

  con: ibis.BaseBackend  # DuckDB or Spark.
  folder: pathlib.Path  # Folder of the events.
  schema: Schema  # Schema of the columns.
  about: Mapping[str, Any]  # Content of `dataset.json`.

  def _part(self, name: str) -> ir.Table:
    return prepare.read_parquet(self.con, self.folder / name, '*.parquet')

  @functools.cached_property
  def rows(self) -> ir.Table:
    """One row an event."""
    return self._part('rows')

  @functools.cached_property
  def items(self) -> ir.Table | None:
    """What is known of items; None where the rows say it all."""
    return self._part('items') if (self.folder / 'items').exists() else None

  @functools.cached_property
  def users(self) -> ir.Table | None:
    """What is known of users; None where the rows say it all."""
    return self._part('users') if (self.folder / 'users').exists() else None

  def joined(self) -> ir.Table:
    """The rows with all that is known of their users and items."""
    table, schema = self.rows, self.schema
    if self.users is not None:
      key = table[schema.user].cast('string')
      table = table.join(self.users, key == self.users[USER]).drop(USER)
    if self.items is not None:
      key = table[schema.item].cast('string')
      if schema.items is None:  # Rows of unknown items were not set aside.
        known = table.semi_join(self.items, key == self.items[ITEM])
        if num := prepare.count(table) - prepare.count(known):
          logging.warning(
            '%s: %d events are left out, whose items are in no table of items.',
            schema.name,
            num,
          )
      table = table.join(self.items, key == self.items[ITEM]).drop(ITEM)
    return table

  def of_event(self, table: ir.Table) -> dict[str, ir.Value]:
    """Row, user, item, time and label of each row of a table."""
    schema, row = self.schema, table[ROW]
    item = self._item(table)
    time = table[schema.time].floor().cast('int64') if schema.time else row
    label: ir.Value = ibis.literal(1)
    if schema.label:
      label = table[schema.label]
    elif schema.rating:
      # Without a threshold, as of tasks alone, all of them are positive.
      least = schema.positive_from
      label = table[schema.rating] >= least if least is not None else label
    return {
      'row': row.cast('int64'),
      'user': table[schema.user or ROW].cast('string'),
      'item': item,
      'time': time,
      'label': label.cast('float32'),
    }

  def _item(self, table: ir.Table) -> ir.Value:
    if not self.schema.item:
      return ibis.literal(_NO_ITEM)
    return table[self.schema.item].cast('string')

  def of_item(self, table: ir.Table) -> dict[str, ir.Value]:
    """Text, title and domain of the item of each row of a joined table."""
    schema = self.schema
    key = self._item(table)
    text = table[schema.text].cast('string') if schema.text else key
    title = table[schema.title].cast('string') if schema.title else text
    domain: ir.Value = ibis.literal('')
    if schema.domain:
      domain = table[schema.domain].cast('string')
    return {'text': text, 'title': title, 'domain': domain}

  def number(self, table: ir.Table, name: str) -> ir.Value:
    """A numeric column as float32, its logarithm where the schema says so."""
    value = table[name].cast('float64')
    if name in self.schema.log:
      value = value.sign() * (value.abs() + 1).ln()
    return value.cast('float32')


@contextlib.contextmanager
def opened(
  folder: str | os.PathLike[str],
  schema: Schema,
  work: pathlib.Path,
  engine: engine_lib.Engine,
) -> Iterator[Events]:
  """Opens events with an engine; `work` needs an empty folder `spill`."""
  about = output_folder.load_description(folder)
  with engine_lib.backend(work, engine) as con:
    yield Events(con, pathlib.Path(folder), schema, about)


def clean_title(title: ir.StringValue) -> ir.StringValue:
  """One blank for white space and control characters, none at the ends."""
  return title.re_replace(_BLANKS, ' ').strip()


def one_row_an_item(
  rows: ir.Table, key: str, title: str, order: str
) -> ir.Table:
  """Of several rows of an item, the first one with a title."""
  by = [rows[title] == '', rows[order]]
  rank = ibis.row_number().over(ibis.window(group_by=rows[key], order_by=by))
  ranked = rows.mutate(__rank=rank)
  return ranked.filter(ranked['__rank'] == 0).drop('__rank')
