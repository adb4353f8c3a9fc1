# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Splits MovieLens-1M into the tasks of `movielens`, as ibis expressions."""

from collections.abc import Mapping
import dataclasses

import ibis
from ibis.expr import types as ir

from antjax.data import movielens, movielens_raw, prepare


@dataclasses.dataclass(frozen=True)
class Tasks:
  """Tasks of each split and the id maps they use.

  Attributes:
    splits: Split -> table with the columns of `movielens.SCHEMA`.
    vocabularies: Feature -> table (feature, id).
    states: (state, users, ratings, eligible_users, eligible_ratings) of the
      four states, to compare with MeLU's.
    max_genres: Most genres of an item.
  """

  splits: Mapping[str, ir.Table]
  vocabularies: Mapping[str, ir.Table]
  states: ir.Table
  max_genres: int


def build(
  con: ibis.BaseBackend,
  raw: movielens_raw.RawTables,
  config: movielens.SplitConfig,
) -> Tasks:
  """Builds the tasks of all splits.

  Args:
    con: Connection that holds `raw`; intermediate tables are made in it.
    raw: Tables from `movielens_raw.read_raw`.
    config: Split rule.

  Returns:
    Lazy tables; each is computed when it is written.
  """
  users = con.create_table('task_users', _split_users(raw.users, config))
  ratings = con.create_table('task_ratings', _state_ratings(raw, users, config))
  in_train = ratings.train
  vocabularies = {
    'item': con.create_table(
      'ids_item',
      prepare.dense_ids(ratings.filter(in_train), 'item', first=1),
    ),
    'genres': con.create_table('ids_genres', _genre_ids(raw.items)),
  }
  warm_users = users.filter(users.warm)
  for name in movielens.USER_FEATURES:
    vocabularies[name] = con.create_table(
      f'ids_{name}', prepare.dense_ids(warm_users, name, first=1)
    )
  for name in movielens.USER_FEATURES:
    users = prepare.to_ids(users, name, vocabularies[name])
  users = con.create_table('coded_users', users)
  rows = con.create_table(
    'coded_ratings', _coded_ratings(ratings, raw.items, vocabularies)
  )
  splits = {'train': _tasks(rows.filter(rows.train), users, num_query=0)}
  for state in movielens.SPLITS[1:]:
    chosen = rows.filter((rows.state == state) & rows.eligible)
    splits[state] = _tasks(chosen, users, num_query=config.query_size)
  max_genres = int(raw.items.genres.length().max().to_pyarrow().as_py())
  return Tasks(splits, vocabularies, _count_states(ratings), max_genres)


def _split_users(users: ir.Table, config: movielens.SplitConfig) -> ir.Table:
  """Adds `task`, the dense id of a user, and `warm`."""
  position = ibis.row_number().over(ibis.window(order_by=users.user))
  warm = prepare.in_first_share(
    users, 'user', share=config.warm_share, seed=config.seed, salt='warm'
  )
  return users.mutate(task=position.cast('int32'), warm=warm)


def _state_ratings(
  raw: movielens_raw.RawTables,
  users: ir.Table,
  config: movielens.SplitConfig,
) -> ir.Table:
  """Adds task, state, rank in the state, eligible and train to ratings."""
  old = raw.items.year <= config.last_old_year
  ratings = raw.ratings.join(users.select('user', 'task', 'warm'), 'user')
  ratings = ratings.join(raw.items.select('item', old=old), 'item')
  state = ibis.cases(
    (ratings.warm & ratings.old, 'warm'),
    (ratings.old, 'user_cold'),
    (ratings.warm, 'item_cold'),
    else_='both_cold',
  )
  ratings = ratings.mutate(
    state=state,
    order=prepare.digest(config.seed, 'rating', ratings.user, ratings.item),
  )
  task = ibis.window(group_by=['state', 'task'])
  in_time = [ratings.timestamp] if config.order == 'time' else []
  in_order = ibis.window(
    group_by=['state', 'task'],
    order_by=[*in_time, ratings.order, ratings.item],
  )
  ratings = ratings.mutate(
    rank=ibis.row_number().over(in_order),
    size=ratings.count().over(task),
  )
  eligible = ratings['size'].between(config.min_ratings, config.max_ratings)
  query = eligible & (ratings['rank'] >= ratings['size'] - config.query_size)
  return ratings.mutate(
    eligible=eligible, train=(ratings.state == 'warm') & ~query
  ).select(
    'task',
    'item',
    'rating',
    'timestamp',
    'state',
    'rank',
    'eligible',
    'train',
  )


def _genre_ids(items: ir.Table) -> ir.Table:
  """Returns (genres, id): genres of all movies, known before any rating."""
  each = items.select(genres=items.genres.unnest())
  return prepare.dense_ids(each, 'genres')


def _coded_ratings(
  ratings: ir.Table, items: ir.Table, vocabularies: Mapping[str, ir.Table]
) -> ir.Table:
  """Replaces titles and genres by ids."""
  each = items.select('item', genres=items.genres.unnest()).distinct()
  each = prepare.to_ids(each, 'genres', vocabularies['genres'])
  genres = prepare.group_into_lists(each, ['item'], ['genres'], ['genres'])
  rows = ratings.join(genres, 'item')
  return prepare.to_ids(rows, 'item', vocabularies['item'])


def _tasks(rows: ir.Table, users: ir.Table, *, num_query: int) -> ir.Table:
  """Groups ratings by task, in their order, and adds the user."""
  lists = ['item', 'genres', 'rating', 'timestamp']
  tasks = prepare.group_into_lists(rows, ['task'], lists, ['rank'])
  tasks = tasks.join(users.select('task', *movielens.USER_FEATURES), 'task')
  tasks = tasks.mutate(num_query=ibis.literal(num_query, 'int32'))
  return tasks.select(list(movielens.SCHEMA)).order_by('task')


def _count_states(ratings: ir.Table) -> ir.Table:
  """Counts users and ratings of each state, all and eligible ones."""
  return ratings.group_by('state').agg(
    users=ratings.task.nunique(),
    ratings=ratings.count(),
    eligible_users=ratings.task.nunique(where=ratings.eligible),
    eligible_ratings=ratings.eligible.sum(),
  )
