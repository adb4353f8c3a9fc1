# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""MovieLens-1M as tasks of a cold-start meta-learner.

A task is a user. Users are split at random into warm and cold, items by their
year of release into old and new; that gives MeLU's four states (Lee et al.,
KDD 2019, https://doi.org/10.1145/3292500.3330859):

  warm       warm users x old items        user_cold   cold users x old items
  item_cold  warm users x new items        both_cold   cold users x new items

A user with 13 to 100 ratings in a state is a task of it; the ratings are put in
a seeded random order, or in time, and the last 10 are the query. `train` has
all ratings of warm users for old items, except the queries of `warm`: those are
never trained on. Ids come from `train` alone; 0 means a value that it lacks.
With MeLU's own lists the states are those that were released with it.
"""

from collections.abc import Mapping
import dataclasses
import os
import pathlib
import re
from typing import Annotated, Any, ClassVar, Literal

from absl import logging
import ibis
from ibis.expr import types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from antjax import paths
from antjax.data import (
  output_folder,
  prepare,
  record_schema,
  split_lists,
  task_files,
  view,
)
from antjax.data.events import Events, ITEM, USER
from antjax.data.record_schema import Field
from antjax.data.schema import Schema

SPLITS = ('train', 'warm', 'user_cold', 'item_cold', 'both_cold')
USER_FEATURES = ('gender', 'age', 'occupation', 'zip')
SCHEMA: Mapping[str, Field] = {
  'task': Field('int32'),
  **{name: Field('int32') for name in USER_FEATURES},
  'item': Field('int32', 1),
  'genres': Field('int32', 2),
  'rating': Field('float32', 1),
  'timestamp': Field('int64', 1),
  'num_query': Field('int32'),
}
# MeLU's files, each a JSON object: user -> numbers of films.
_LISTS = {
  'warm': ('warm_state.json',),
  'user_cold': ('user_cold_state.json',),
  'item_cold': ('item_cold_state.json',),
  'both_cold': ('user_and_item_cold_state.json',),
}
_FILMS = 'movies.dat'
_NOT_ASCII = '[^ -~]+'
# Users, ratings, eligible users and eligible ratings of each state in the split
# files released with MeLU. Their random 80% of the users is another one.
_REFERENCE = {
  'warm': (4832, 640_448, 2653, 121_811),
  'user_cold': (1208, 163_702, 668, 30_478),
  'item_cold': (4769, 157_456, 2863, 106_814),
  'both_cold': (1197, 38_603, 723, 26_790),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitConfig:
  """How ratings become tasks."""

  seed: Annotated[
    int, "Seed of the user split and of the order of each user's ratings."
  ] = 0
  order: Annotated[
    Literal['random', 'time'],
    "Order of a user's ratings in a state: random by the seed, or by time, so"
    ' that queries of evaluation tasks follow their supports.',
  ] = 'random'
  warm_share: Annotated[float, 'Share of users that are warm.'] = 0.8
  last_old_year: Annotated[
    int, 'Last release year of old items; later items are new.'
  ] = 1997
  query_size: Annotated[
    int, 'Number of query ratings of an evaluation task.'
  ] = 10
  min_ratings: Annotated[
    int, 'Minimum number of ratings of an evaluation task in its state.'
  ] = 13
  max_ratings: Annotated[
    int, 'Maximum number of ratings of an evaluation task in its state.'
  ] = 100
  lists: Annotated[
    str,
    'Folder with the states released with MeLU (warm_state.json and three'
    ' more) and its movies.dat. Empty: split by the settings above.',
    paths.URL,
  ] = ''

  def __post_init__(self) -> None:
    if not 0 < self.warm_share < 1:
      raise ValueError(
        f'warm_share must lie between 0 and 1; got {self.warm_share}.'
      )
    if not 0 < self.query_size < self.min_ratings <= self.max_ratings:
      raise ValueError(
        'needed 0 < query_size < min_ratings <= max_ratings; got'
        f' {self.query_size}, {self.min_ratings}, {self.max_ratings}.'
      )


@dataclasses.dataclass(frozen=True)
class MeluView:
  """Tasks of MovieLens-1M, as a `view.View`; the engine is DuckDB."""

  config: SplitConfig = SplitConfig()
  version: ClassVar[int] = 2

  def check(self, schema: Schema) -> None:
    """Accepts the schema of `event_movielens`, which has all it needs."""

  def settings(
    self, out: str | os.PathLike[str], schema: Schema
  ) -> dict[str, Any]:
    """The configuration, and what its lists hold."""
    del out, schema
    told = dataclasses.asdict(self.config)
    lists = told.pop('lists')
    if lists:
      found = split_lists.find_files(lists, _LISTS)
      told['lists'] = prepare.fingerprint([*found])
    return told

  def build(self, job: view.ViewJob) -> dict[str, Any]:
    """Writes a record file a split and a file of ids a feature."""
    with job.opened() as events:
      written = _write(job, events, self.config)
    return {
      'seed': self.config.seed,
      'query_size': self.config.query_size,
      'counts': {},
      'states': written.pop('states'),
      'kind': 'rating',
      'label': 'rating',
      'numeric': [],
      'task_feature': None,  # The user; no feature names it.
      'item_feature': 'item',
      'scenarios': list(SPLITS[1:]),
      **written,
    }

  def tables(self, description: Mapping[str, Any]) -> list[view.Table]:
    """The counts of each split beside those of MeLU's split files.

    MeLU drew another 80% of the users, so its figures are near these, but only
    those of all users are equal; with its lists all are.
    """
    table = [['split', 'users', 'ratings', 'users 13-100', 'ratings 13-100']]
    for state, counts in description['states'].items():
      table.append([state, *(f'{n:,}' for n in counts.values())])
      table.append(['  MeLU', *(f'{n:,}' for n in _REFERENCE[state])])
    train = description['splits']['train'].values()
    return [[*table, ['train', *(f'{n:,}' for n in train), '', '']]]


def _write(
  job: view.ViewJob, events: Events, config: SplitConfig
) -> dict[str, Any]:
  """Writes all files; returns 'schema', 'splits', 'features' and 'files'."""
  con = events.con
  assert events.users is not None and events.items is not None
  users = events.users.mutate(user=events.users[USER].cast('int32'))
  items = events.items.rename(item=ITEM)
  listed = _listed(events, items, job.work, config) if config.lists else None
  users = con.create_table('task_users', _split_users(users, config, listed))
  ratings = con.create_table(
    'task_ratings', _state_ratings(events.rows, items, users, config, listed)
  )
  # Genres of all movies are known before any rating.
  genres = items.select('item', genres=items.genres.unnest())
  max_genres = int(items.genres.length().max().to_pyarrow().as_py())
  vocabularies = {
    'item': prepare.dense_ids(ratings.filter(ratings.train), 'item', first=1),
    'genres': prepare.dense_ids(genres, 'genres'),
  }
  for name in USER_FEATURES:
    warm = users.filter(users.warm)
    vocabularies[name] = prepare.dense_ids(warm, name, first=1)
  files = task_files.write_values(users.select('task', 'user'), job.stage)
  features = {}
  for name, ids in vocabularies.items():
    ids = vocabularies[name] = con.create_table(f'ids_{name}', ids)
    # Ids of genres start at 0, all others at 1: their 0 is "not in train".
    num_ids = prepare.count(ids) + (name != 'genres')
    max_values = max_genres if name == 'genres' else 1
    features[name] = {'num_ids': num_ids, 'max_values': max_values}
  of_users = {name: vocabularies[name] for name in USER_FEATURES}
  users = con.create_table('coded_users', prepare.to_ids(users, of_users))
  genres = prepare.to_ids(genres.distinct(), {'genres': vocabularies['genres']})
  genres = prepare.group_into_lists(genres, ['item'], ['genres'], ['genres'])
  rows = prepare.to_ids(
    ratings.join(genres, 'item'), {'item': vocabularies['item']}
  )
  rows = con.create_table('coded_ratings', rows)
  schema = dict(SCHEMA)
  schema['genres'] = dataclasses.replace(schema['genres'], width=max_genres)
  splits = {}
  for split in SPLITS:
    job.progress(f'writing {split}')
    if split == 'train':
      chosen, num_query = rows.filter(rows.train), 0
    else:
      chosen = rows.filter((rows.state == split) & rows.eligible)
      num_query = config.query_size
    path = job.stage / f'{split}.{job.file_format}'
    num_tasks = prepare.write_records(
      _tasks(chosen, users, num_query), path, schema
    )
    splits[split] = {'tasks': num_tasks, 'ratings': prepare.count(chosen)}
    files[split] = output_folder.file_entry(job.stage, path)
  for name, ids in vocabularies.items():
    path = job.stage / f'ids_{name}.parquet'
    ids.order_by('id').to_parquet(path)
    files[f'ids_{name}'] = output_folder.file_entry(job.stage, path)
  return {
    'schema': record_schema.schema_to_json(schema),
    'splits': splits,
    'features': features,
    'files': files,
    'states': _states(ratings),
  }


def _listed(
  events: Events, items: ir.Table, work: pathlib.Path, config: SplitConfig
) -> ir.Table:
  """(user int32, item, state) of MeLU's lists."""
  folder = paths.fetched(config.lists, 'split.lists')
  pairs = split_lists.read(split_lists.find_files(folder, _LISTS), '', '')
  film, name = [], []
  # Copies of the file differ in letters that are not ASCII.
  for line in (folder / _FILMS).read_text(encoding='latin-1').splitlines():
    number, title, *_ = line.split('::')
    film.append(number)
    name.append(re.sub(_NOT_ASCII, '', title))
  path = work / 'films.parquet'
  pq.write_table(pa.table({'film': film, 'name': name}), path)
  films = prepare.read_parquet(events.con, path)
  films = items.mutate(name=items.item.re_replace(_NOT_ASCII, '')).join(
    films, 'name'
  )
  path = work / 'pairs.parquet'
  pq.write_table(pairs, path)
  table = prepare.read_parquet(events.con, path)
  listed = table.join(films, table[split_lists.ITEM] == films.film).select(
    'item',
    user=table[split_lists.USER].cast('int32'),
    state=table[split_lists.SPLIT],
  )
  listed = events.con.create_table('listed', listed)
  found = prepare.count(listed.semi_join(events.rows, ['user', 'item']))
  total = prepare.count(events.rows)
  if not found:
    raise ValueError(
      f'split.lists={config.lists}: no listed user and film is among the'
      f' {total} ratings; needed: the lists of MovieLens-1M.'
    )
  if found < max(total, len(pairs)):
    logging.warning(
      'Of %d ratings and %d listed pairs %d fit together; others are left out.',
      total,
      len(pairs),
      found,
    )
  return listed


def _split_users(
  users: ir.Table, config: SplitConfig, listed: ir.Table | None
) -> ir.Table:
  """Adds `task`, the dense id of a user, and `warm`."""
  position = ibis.row_number().over(ibis.window(order_by=users.user))
  if listed is not None:
    is_warm = listed.state.isin(['warm', 'item_cold'])
    known = listed.filter(is_warm).select(known='user').distinct()
    joined = users.left_join(known, users.user == known.known)
    warm = joined.known.notnull()
    position = ibis.row_number().over(ibis.window(order_by=joined.user))
    joined = joined.mutate(task=position.cast('int32'), warm=warm)
    return joined.drop('known')
  warm = prepare.in_first_share(
    users, 'user', share=config.warm_share, seed=config.seed, salt='warm'
  )
  return users.mutate(task=position.cast('int32'), warm=warm)


def _state_ratings(
  rows: ir.Table,
  items: ir.Table,
  users: ir.Table,
  config: SplitConfig,
  listed: ir.Table | None,
) -> ir.Table:
  """Adds task, state, rank in the state, eligible and train to ratings."""
  old = items.year <= config.last_old_year
  ratings = rows.join(users.select('user', 'task', 'warm'), 'user')
  ratings = ratings.join(items.select('item', old=old), 'item')
  state = ibis.cases(
    (ratings.warm & ratings.old, 'warm'),
    (ratings.old, 'user_cold'),
    (ratings.warm, 'item_cold'),
    else_='both_cold',
  )
  if listed is not None:
    ratings = ratings.join(listed, ['user', 'item'])
    state = ratings.state
  order = prepare.digest(config.seed, 'rating', ratings.user, ratings.item)
  ratings = ratings.mutate(state=state, order=order)
  in_time = [ratings.timestamp] if config.order == 'time' else []
  in_order = ibis.window(
    group_by=['state', 'task'],
    order_by=[*in_time, ratings.order, ratings.item],
  )
  ratings = ratings.mutate(
    rank=ibis.row_number().over(in_order),
    size=ratings.count().over(ibis.window(group_by=['state', 'task'])),
  )
  eligible = ratings['size'].between(config.min_ratings, config.max_ratings)
  query = eligible & (ratings['rank'] >= ratings['size'] - config.query_size)
  train = (ratings.state == 'warm') & ~query
  ratings = ratings.mutate(eligible=eligible, train=train)
  names = 'task item rating timestamp state rank eligible train'
  return ratings.select(names.split())


def _tasks(rows: ir.Table, users: ir.Table, num_query: int) -> ir.Table:
  """Groups ratings by task, in their order, and adds the user."""
  lists = ['item', 'genres', 'rating', 'timestamp']
  tasks = prepare.group_into_lists(rows, ['task'], lists, ['rank'])
  tasks = tasks.join(users.select('task', *USER_FEATURES), 'task')
  tasks = tasks.mutate(num_query=ibis.literal(num_query, 'int32'))
  return tasks.select(list(SCHEMA)).order_by('task')


def _states(ratings: ir.Table) -> dict[str, dict[str, int]]:
  """Users and ratings of each state, all and eligible ones."""
  grouped = ratings.group_by('state').agg(
    users=ratings.task.nunique(),
    ratings=ratings.count(),
    eligible_users=ratings.task.nunique(where=ratings.eligible),
    eligible_ratings=ratings.eligible.sum(),
  )
  found = {row.pop('state'): row for row in grouped.to_pyarrow().to_pylist()}
  none = dict.fromkeys([n for n in grouped.columns if n != 'state'], 0)
  return {state: found.get(state, none) for state in SPLITS[1:]}
