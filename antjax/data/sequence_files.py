# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes a folder of sequences, which `sequence_data` reads.

items.parquet   key, domain, title, count: row i is item i, row 0 the padding
users.parquet   key, num_domains, split: row u is user u
events.npy      int32 [E]: items of all users, each user's in time
offsets.npy     int64 [U + 1]: user u has events[offsets[u]:offsets[u + 1]]
dataset.json    domains, counts, settings
"""

from collections.abc import Iterator, Mapping
import dataclasses
import os
import pathlib
from typing import Any

from ibis.expr import types as ir
import numpy as np
import pyarrow as pa

from antjax.data import (
  column_file,
  output_folder,
  prepare,
  record_writer,
  sequence_data,
  view,
  view_sequences,
)
from antjax.data.record_schema import Field
from antjax.data.schema import Schema
from antjax.data.view_sequences import SequenceConfig

_VERSION = 2
_ROW_GROUP = 65_536
_ITEM_SCHEMA = {
  'key': Field('str'),
  'domain': Field('int32'),
  'title': Field('str'),
  'count': Field('int64'),
}
_USER_SCHEMA = {
  'key': Field('str'),
  'num_domains': Field('int32'),
  'split': Field('int8'),
}
_PADDING = pa.record_batch(
  {'key': [''], 'domain': [-1], 'title': [''], 'count': [0]}
)

# Writes the source to a folder: (work, rejected file) -> SequenceSource.


def write_sequences(
  out: str | os.PathLike[str],
  events: str | os.PathLike[str],
  schema: Schema,
  config: SequenceConfig,
  **options: Any,
) -> tuple[dict[str, Any], bool]:
  """Makes the folder of the module's docstring.

  Args:
    out: Folder to make.
    events: Folder of the events.
    schema: Schema of their columns.
    config: Settings of the sequences.
    **options: See `view.make`.

  Returns:
    The content of `dataset.json`, and whether it was made now.

  Raises:
    ValueError: `out` holds something else, or no event is left.
  """
  check(schema)

  def build(job: view.ViewWork) -> dict[str, Any]:
    with job.opened() as events:
      steps = job.work / 'steps'
      made = view_sequences.build(events, config, steps, job.progress)
      job.progress('writing events, users and items')
      _write(made, job.stage, job.work)
    return {
      'kind': sequence_data.KIND,
      'has_user_split': bool(schema.split),
      **made.about,
      'files': output_folder.list_files(job.stage),
    }

  return view.make(
    out,
    events,
    schema,
    _VERSION,
    dataclasses.asdict(config),
    build,
    **options,
  )


def check(schema: Schema) -> None:
  """Refuses a schema that says too little for sequences.

  Raises:
    ValueError: Something is missing; the message says what.
  """
  if not (schema.user and schema.item):
    raise ValueError(
      f'schema of {schema.name}: sequences need a user and an item; name their'
      ' columns.'
    )


def _write(
  made: view_sequences.Sequences, stage: pathlib.Path, work: pathlib.Path
) -> None:
  """Writes the four files."""
  num_events = column_file.write_int32(
    stage / sequence_data.EVENTS, made.events, 'item', work
  )
  sizes: list[np.ndarray] = []

  def users() -> Iterator[pa.RecordBatch]:
    for batch in _stream(made.users, work):
      sizes.append(batch['size'].to_numpy())
      yield batch

  record_writer.write(
    stage / sequence_data.USERS,
    users(),
    _USER_SCHEMA,
    block_size=_ROW_GROUP,
  )
  offsets = np.concatenate([[0], *sizes]).cumsum(dtype=np.int64)
  assert offsets[-1] == num_events, (offsets[-1], num_events)
  np.save(stage / sequence_data.OFFSETS, offsets)

  def items() -> Iterator[pa.RecordBatch]:
    yield _PADDING
    yield from _stream(made.items, work)

  record_writer.write(
    stage / sequence_data.ITEMS,
    items(),
    _ITEM_SCHEMA,
    block_size=_ROW_GROUP,
  )


def _stream(table: ir.Table, work: pathlib.Path) -> Iterator[pa.RecordBatch]:
  return prepare.stream(table, work, table.columns, batch_rows=_ROW_GROUP)


def counts_tables(
  description: Mapping[str, Any],
) -> tuple[list[list[str]], list[list[str]]]:
  """Returns the counts of domains and of users, first rows are headings."""
  names = ['users', 'items', 'interactions', 'train', 'validation', 'test']
  domains = [['domain', *names]]
  for domain in description['domains']:
    domains.append([domain['name'], *(f'{domain[name]:,}' for name in names)])
  counts = description['counts']
  total = ['users', 'items', 'events', 'train_events']
  total += ['validation_examples', 'test_examples']
  domains.append(['all', *(f'{counts[name]:,}' for name in total)])
  users = [['domains of a user', 'users']]
  for number, size in description['users_by_num_domains'].items():
    users.append([number, f'{size:,}'])
  return domains, users
