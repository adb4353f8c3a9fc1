# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes a folder of sequences, which `sequence_data` reads.

items.parquet   key, domain, title, count: row i is item i, row 0 the padding
users.parquet   key, num_domains, split: row u is user u
events.npy      int32 [E]: items of all users, each user's in time
offsets.npy     int64 [U + 1]: user u has events[offsets[u]:offsets[u + 1]]
dataset.json    domains, counts, settings
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import json
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
  sequence_build,
  sequence_data,
)
from antjax.data import engine as engine_lib
from antjax.data.record_schema import Field
from antjax.data.sequence_build import SequenceConfig, SequenceSource

_FORMAT_VERSION = 1
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
Reader = Callable[[pathlib.Path, pathlib.Path], SequenceSource]


def prepare_sequences(
  out: str | os.PathLike[str],
  read: Reader,
  made_of: Mapping[str, Any],
  config: SequenceConfig,
  *,
  engine: engine_lib.Engine | None = None,
  overwrite: bool = False,
  progress: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, Any], bool]:
  """Makes the folder of the module's docstring.

  Args:
    out: Folder to make; intermediate files are beside it.
    read: Reads the source.
    made_of: JSON-able: what decides the source, with a fingerprint of the data.
    config: How events become sequences.
    engine: What does the work; the files do not depend on it.
    overwrite: Replace data made with another configuration.
    progress: Called with a text at the start of each step.

  Returns:
    The content of `dataset.json`, and whether it was made now.

  Raises:
    ValueError: `out` holds something else, or the source is not as it must be.
    FileNotFoundError: No such source.
  """
  engine = engine or engine_lib.Engine()
  made_of = {
    'format_version': _FORMAT_VERSION,
    **made_of,
    **json.loads(json.dumps(dataclasses.asdict(config))),
  }

  def write(stage: pathlib.Path, work: pathlib.Path) -> dict[str, Any]:
    for name in ('raw', 'steps', 'spill'):
      (work / name).mkdir()
    source = read(work, work / output_folder.REJECTED)
    with engine_lib.backend(work, engine) as con:
      made = sequence_build.build(con, source, config, work / 'steps', progress)
      progress('writing events, users and items')
      _write(made, stage, work)
    about = dict(source.about)
    return {
      **about,
      'kind': sequence_data.KIND,
      'has_user_split': source.users is not None,
      **made.about,
      'counts': about.get('counts', {}) | made.about['counts'],
      'files': {
        path.name: output_folder.file_entry(stage, path)
        for path in sorted(stage.iterdir())
      },
    }

  return output_folder.make(out, made_of, write, overwrite=overwrite)


def _write(
  made: sequence_build.Sequences, stage: pathlib.Path, work: pathlib.Path
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
