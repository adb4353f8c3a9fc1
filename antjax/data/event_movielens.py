# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""MovieLens-1M as events: ratings, users, and films with their titles.

A rating of 4 or 5 stars is a click. The text of a film is its title with the
article first, its year and its genres, 'The Matrix (1999) | Action, Sci-Fi'.
Its title in sequences is the same without genres. Genres are sorted in the
source, so that the domain, the first one, is the first by name.
"""

from collections.abc import Mapping
import functools
import os
import tempfile
from typing import Any

from absl import logging
import ibis
from ibis.expr import types as ir

from antjax.data import (
  movielens,
  movielens_raw,
  prepare,
)
from antjax.data.events import EventWriter, ITEM, ROW, Source, USER
from antjax.data.schema import Schema

# 'Matrix, The (1999)' is how catalogues sort, not how one writes. An article
# that elides, as in "Atalante, L'", is left where it is.
_ARTICLE = r'^(.*?), (The|A|An|Der|Die|Das|El|Il|La|Las|Le|Les|Los)( \(.*)$'
SCHEMA = Schema(
  name='ml-1m',
  columns={
    'user': 'int32',
    'item': 'string',
    'rating': 'float32',
    'timestamp': 'int64',
    'text': 'string',
    'title': 'string',
    'domain': 'string',
    'gender': 'string',
    'age': 'int32',
    'occupation': 'int32',
  },
  user='user',
  item='item',
  time='timestamp',
  text='text',
  title='title',
  domain='domain',
  rating='rating',
  positive_from=4,  # Stars.
  ids=('gender', 'age', 'occupation'),
  histories='outcome',
  history_names=('liked', 'other'),
  liked_only=False,
)


def source(
  path: str | os.PathLike[str] = '', *, allow_other_counts: bool = True
) -> Source:
  """Names the events of MovieLens-1M.

  Args:
    path: Folder or zip with MovieLens-1M; '' downloads it by package name.
    allow_other_counts: Go on, with a warning, where the numbers of ratings and
      users are not those of MovieLens-1M, such as for a sample.

  Raises:
    FileNotFoundError: The source or one of its files does not exist.
    ValueError: The source is a file, but no zip.
  """
  data = movielens.PACKAGE
  if path:
    with tempfile.TemporaryDirectory() as temporary:
      files = movielens_raw.find_files(path, temporary)
      data = f'sha256:{files.fingerprint()}'
  write = functools.partial(_write, path, allow_other_counts)
  return Source(SCHEMA, {'data': data}, write)


def _write(
  path: str | os.PathLike[str], allow_other_counts: bool, step: EventWriter
) -> dict[str, Any]:
  """Writes rows, items and users."""
  if not path:
    step.progress(f'downloading {movielens.PACKAGE}')
    path = movielens_raw.fetch(step.work)
  files = movielens_raw.find_files(path, step.work)
  raw = movielens_raw.read_raw(step.con, files, step.read_text)
  counts = {
    'ratings': prepare.count(raw.ratings),
    'users': prepare.count(raw.users),
    'items': prepare.count(raw.items),
  }
  _check_counts(counts, allow_other_counts)
  # The order of users and items decides ties, not that of the file.
  rows = raw.ratings.order_by(['user', 'timestamp', 'item'])
  step.store('rows', rows.mutate(**{ROW: ibis.row_number().cast('int64')}))
  title = _written(raw.items.item)
  step.store(
    'items',
    raw.items.select(
      'year',
      'genres',
      **{ITEM: raw.items.item},
      text=title + ' | ' + raw.items.genres.join(', '),
      title=title,
      domain=raw.items.genres[0],
    ),
  )
  users = raw.users.mutate(**{USER: raw.users.user.cast('string')})
  step.store('users', users.drop('user'))
  counts['rejected_lines'] = step.rejects.num_rows
  return {
    'acknowledgement': movielens.ACKNOWLEDGEMENT,
    'licence': movielens.LICENCE,
    'counts': {'rows': counts['ratings'], **counts},
  }


def _written(title: ir.StringValue) -> ir.StringValue:
  """'Matrix, The (1999)' -> 'The Matrix (1999)'."""
  return title.re_replace(_ARTICLE, r'\2 \1\3')


def _check_counts(counts: Mapping[str, int], allow_other: bool) -> None:
  """Refuses other counts than MovieLens-1M's, or warns of them."""
  if not counts['ratings']:
    raise ValueError('ml-1m: the source has no rating at all.')
  needed = {'ratings': movielens.NUM_RATINGS, 'users': movielens.NUM_USERS}
  other = {k: counts[k] for k, v in needed.items() if counts[k] != v}
  if not other:
    return
  text = ' and '.join(
    f'{v} {k} (needed: {needed[k]})' for k, v in other.items()
  )
  if not allow_other:
    raise ValueError(
      f'ml-1m: the source has {text}: it is not the whole MovieLens-1M; add'
      ' --allow_other_counts to go on with a sample.'
    )
  logging.warning('The source has %s: not the whole MovieLens-1M.', text)
