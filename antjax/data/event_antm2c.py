# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""AntM2C's files as events: 37 columns, five texts a row, five scenarios.

"AntM2C: A Large Scale Dataset For Multi-Scenario Multi-Modal CTR Prediction"
(Huan et al. 2023, arXiv 2308.16437). Column names and types are those that
readers of the public files agree on; what `deep_features_*` mean, and which of
them are numbers, is not published.
"""

import dataclasses
import functools
import json
import os
import pathlib
import re
from typing import Annotated, Any

import pyarrow as pa

from antjax.data import (
  behavior_examples,
  prepare,
  table_source,
  text_reader,
)
from antjax.data.events import EventWriter, Source
from antjax.data.schema import Schema
from antjax.data.strict_columns import Column
from antjax.data.table_columns import Kind
from antjax.data.text_reader import TextLayout

TEXTS = (
  'bill_entity_seq',
  'service_entity_seq',
  'query_entity_seq',
  'item_entity_names',
)
TITLE = 'item_title'
NUM_FEATURES = 27
COLUMNS = (
  'user_id',
  'item_id',
  'log_time',
  'label',
  *TEXTS,
  TITLE,
  'scene',
  *(f'deep_features_{i}' for i in range(NUM_FEATURES)),
)
CLICKED = 'clicked'
# Names of the sequences, in the order of `TEXTS`.
SEQUENCES = ('bill', 'service', 'query', 'item_entities')
# What parts the entities of a text is not published. It may be any of these.
SEPARATORS = r'[,;|\uff0c\uff1b\u3001\s]+'
_FILE_BITS = 40
_PART = re.compile(r'antm2c.*part', re.IGNORECASE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Antm2cConfig:
  """What the columns of AntM2C's files hold."""

  numeric: Annotated[
    tuple[int, ...],
    'Indices of the deep_features that are numbers; the others are categories.'
    ' The files do not say which; the default follows a public reader.',
  ] = (14, 19, 20, 21, 22, 23, 24, 25, 26)
  scenes: Annotated[
    tuple[str, ...], 'Valid values of scene. Other rows are rejected.'
  ] = ('0', '1', '2', '3', '4')
  fill_bad_time: Annotated[
    str,
    'Time that replaces an invalid log_time, such as 2023-08-01 12:00:00. Such'
    ' rows are counted. Empty: they are rejected.',
  ] = ''

  def __post_init__(self) -> None:
    if not all(0 <= i < NUM_FEATURES for i in self.numeric) or len(
      {*self.numeric}
    ) < len(self.numeric):
      raise ValueError(
        f'numeric={self.numeric}: needed: different numbers from 0 to'
        f' {NUM_FEATURES - 1}.'
      )
    if not self.scenes:
      raise ValueError('scenes is empty: no row would be good.')
    if self.fill_bad_time:
      behavior_examples.moment(self.fill_bad_time)

  @property
  def numeric_columns(self) -> tuple[str, ...]:
    return tuple(f'deep_features_{i}' for i in self.numeric)

  @property
  def categories(self) -> tuple[str, ...]:
    """Columns of categories, the scene first."""
    names = (f'deep_features_{i}' for i in range(NUM_FEATURES))
    return ('scene', *(n for n in names if n not in self.numeric_columns))

  def layout(self) -> TextLayout:
    """How the files are read: an empty number is 0."""
    columns = dict.fromkeys(COLUMNS, Column())
    number = Column(kind='float32', empty=0)
    columns |= dict.fromkeys(self.numeric_columns, number)
    columns |= dict.fromkeys(('user_id', 'item_id'), Column(is_needed=True))
    moment = self.fill_bad_time
    columns |= {
      'label': Column(kind='int8', values=('0', '1')),
      'scene': Column(values=self.scenes),
      'log_time': Column(
        kind='time',
        empty=behavior_examples.moment(moment) if moment else None,
      ),
    }
    return TextLayout(columns=columns, header=COLUMNS, file_bits=_FILE_BITS)


def row_number(file: int, record: int) -> int:
  """Number of a row over all files, which no other change of them changes.

  Both are counted from 0; the header is record 0, and bad rows count.
  """
  return (file << _FILE_BITS) + record


def find_files(source: str | os.PathLike[str]) -> list[pathlib.Path]:
  """Returns the parts in their order: antm2c_10m_part0, ...

  A source is one file, or a folder with files antm2c*part* without a suffix.

  Raises:
    FileNotFoundError: No such source, or a folder without parts.
  """
  source = pathlib.Path(source)
  if not source.exists():
    raise FileNotFoundError(f'source={source} does not exist.')
  if source.is_file():
    return [source]
  found = [p for p in source.iterdir() if _PART.match(p.name) and not p.suffix]
  if not found:
    raise FileNotFoundError(
      f'source={source} holds no file antm2c*part*, such as antm2c_10m_part0.'
    )

  def in_order(path: pathlib.Path) -> list[tuple[int, str]]:
    return [
      (int(x), '') if x.isdigit() else (-1, x)
      for x in re.split(r'(\d+)', path.name)
    ]

  return sorted(found, key=in_order)


def schema(config: Antm2cConfig) -> Schema:
  """What the columns mean; the scenario is a domain, and the first category.

  The history of a user is what the user clicked before, by its title, in all
  scenarios.
  """
  texts = ('user_id', 'item_id', TITLE, *SEQUENCES)
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
    text=TITLE,
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
  """Names the events of AntM2C's files; see `find_files`."""
  config = config or Antm2cConfig()
  files = find_files(path)
  columns = table_source.first_line(files[0]).split(',')
  if len(columns) > 1 and len(columns) != len(COLUMNS):
    raise ValueError(
      f'antm2c: {files[0]} has the {len(columns)} columns'
      f' {",".join(columns)[:300]}; dataset=antm2c is the layout of'
      f' {len(COLUMNS)} columns from {COLUMNS[0]} to {COLUMNS[-1]}. Any other'
      ' opens with a file that says what its columns mean: --schema=FILE in'
      ' place of --dataset (docs/antm2c.md).'
    )
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
  names = dict(zip(TEXTS, SEQUENCES))
  return table.rename_columns([names.get(n, n) for n in table.column_names])
