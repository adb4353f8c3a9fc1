# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""AntM2C's files as events: five texts a row, five scenarios."""

import dataclasses
import functools
import json
import os
import pathlib
from typing import Any

import pyarrow as pa

from antjax.data import antm2c, prepare, text_reader
from antjax.data.antm2c import Antm2cConfig
from antjax.data.events import EventWriter, Source
from antjax.data.schema import Kind, Schema

CLICKED = 'clicked'
# Names of the sequences, in the order of `antm2c.TEXTS`.
SEQUENCES = ('bill', 'service', 'query', 'item_entities')
# What parts the entities of a text is not published. It may be any of these.
SEPARATORS = r'[,;|\uff0c\uff1b\u3001\s]+'


def schema(config: Antm2cConfig) -> Schema:
  """What the columns mean; the scenario is a domain, and the first category.

  The history of a user is what the user clicked before, by its title, in all
  scenarios.
  """
  texts = ('user_id', 'item_id', antm2c.TITLE, *SEQUENCES)
  kinds: dict[str, Kind] = dict.fromkeys(texts, 'string')
  kinds |= {'log_time': 'int64', 'label': 'int32'}
  kinds |= dict.fromkeys(config.categories, 'string')
  kinds |= dict.fromkeys(config.numeric_columns, 'float32')
  return Schema(
    name='antm2c',
    columns=kinds,
    user='user_id',
    item='item_id',
    time='log_time',
    text=antm2c.TITLE,
    domain='scene',
    label='label',
    texts=SEQUENCES,
    ids=config.categories,
    numeric=config.numeric_columns,
    history_names=(CLICKED,),
  )


def source(
  path: str | os.PathLike[str], config: Antm2cConfig | None = None
) -> Source:
  """Names the events of AntM2C's files.

  Args:
    path: See `antm2c.find_files`.
    config: Settings of the columns.

  Raises:
    FileNotFoundError: No such source.
  """
  config = config or Antm2cConfig()
  files = antm2c.find_files(path)
  made_of = {
    'data': prepare.fingerprint(files),
    'files': [path.name for path in files],
    'antm2c': json.loads(json.dumps(dataclasses.asdict(config))),
  }
  write = functools.partial(_write, files, config)
  return Source(schema(config), made_of, write)


def _write(
  files: list[pathlib.Path], config: Antm2cConfig, step: EventWriter
) -> dict[str, Any]:
  """Writes the rows."""
  counts = text_reader.read(
    files,
    config.layout(),
    step.part('rows'),
    step.rejects,
    finish=lambda table, _: _named(table),
    threads=step.threads,
    progress=step.progress,
  )
  if not counts.good:
    raise ValueError(f'antm2c: {files[0]} and the others have no good row.')
  filled_times = counts.filled['log_time']
  # Files of the true format may be made up: their names say so.
  is_synthetic = any('synthetic' in path.name for path in files)
  return {
    'name': 'antm2c-synthetic' if is_synthetic else 'antm2c',
    'is_synthetic': is_synthetic,
    'counts': {
      'rows': counts.rows,
      'rejected_lines': counts.rejected_lines,
      **{f'rejected_{k}': n for k, n in sorted(counts.rejected.items())},
      'empty_numbers': counts.filled.total() - filled_times,
      'times_filled_in': filled_times,
    },
  }


def _named(table: pa.Table) -> pa.Table:
  """Names the columns of typed rows as `schema` has them."""
  names = dict(zip(antm2c.TEXTS, SEQUENCES))
  return table.rename_columns([names.get(n, n) for n in table.column_names])
