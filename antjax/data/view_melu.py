# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""MovieLens-1M as tasks of a cold-start meta-learner, see `movielens`.

Ibis expressions, and the record files that are written of them.
"""

from collections.abc import Mapping
import dataclasses
import os
from typing import Any

import ibis
from ibis.expr import types as ir
import pyarrow as pa
import pyarrow.compute as pc

from antjax.data import (
  movielens,
  output_folder,
  prepare,
  record_schema,
  view,
)
from antjax.data.events import Events, ITEM, USER
from antjax.data.schema import Schema

_VERSION = 2


def write_tasks(
  out: str | os.PathLike[str],
  events: str | os.PathLike[str],
  schema: Schema,
  config: movielens.SplitConfig,
  **options: Any,
) -> tuple[dict[str, Any], bool]:
  """Makes a folder with one record file a split and a `dataset.json`.

  Args:
    out: Folder to make.
    events: Folder of the events of MovieLens-1M.
    schema: Schema of their columns.
    config: Split rule.
    **options: See `view.make`; the engine is DuckDB.

  Returns:
    The content of `dataset.json`, and whether it was made now.

  Raises:
    ValueError: `out` holds something else.
  """
  settings = dataclasses.asdict(config)
  return view.make(
    out,
    events,
    schema,
    _VERSION,
    settings,
    lambda job: _build(job, config),
    **options,
  )


def _build(job: view.ViewWork, config: movielens.SplitConfig) -> dict[str, Any]:
  """Writes all files; returns the description."""
  with job.opened() as events:
    tasks = build(events, config)
    written = _write(job, tasks)
    states = _states(tasks)
  return {
    'seed': config.seed,
    'query_size': config.query_size,
    'counts': {},
    'states': states,
    'kind': 'rating',
    'label': 'rating',
    'numeric': [],
    'task_feature': None,  # The user; no feature names it.
    'scenarios': list(movielens.SPLITS[1:]),
    **written,
  }


def counts_table(description: Mapping[str, Any]) -> list[list[str]]:
  """Returns the counts of each split beside those of MeLU's split files.

  Args:
    description: Content of `dataset.json`.

  Returns:
    Rows of texts, the first one the heading. MeLU drew another 80% of the
    users, so its figures are near these, but only those of all users are equal.
  """
  table = [['split', 'users', 'ratings', 'users 13-100', 'ratings 13-100']]
  for state, counts in description['states'].items():
    for name, numbers in (
      (state, counts.values()),
      ('  MeLU', movielens.REFERENCE[state]),
    ):
      table.append([name, *(f'{number:,}' for number in numbers)])
  train = description['splits']['train']
  table.append(
    ['train', f'{train["tasks"]:,}', f'{train["ratings"]:,}', '', '']
  )
  return table


def _states(tasks: 'Tasks') -> dict[str, dict[str, int]]:
  """Returns state -> counts, in the order of `movielens.SPLITS`."""
  rows = {
    row.pop('state'): row for row in tasks.states.to_pyarrow().to_pylist()
  }
  none = dict.fromkeys(
    ('users', 'ratings', 'eligible_users', 'eligible_ratings'), 0
  )
  return {state: rows.get(state, none) for state in movielens.SPLITS[1:]}


def _write(job: view.ViewWork, tasks: 'Tasks') -> dict[str, Any]:
  """Writes all files; returns 'schema', 'splits', 'features' and 'files'."""
  schema = dict(movielens.SCHEMA)
  schema['genres'] = dataclasses.replace(
    schema['genres'], width=tasks.max_genres
  )
  splits, files = {}, {}
  for split, table in tasks.splits.items():
    job.progress(f'writing {split}')
    path = job.stage / f'{split}.{job.file_format}'
    num_ratings = 0

    def add(batch: pa.RecordBatch) -> None:
      nonlocal num_ratings
      lengths = pc.list_value_length(batch.column('rating'))
      num_ratings += pc.sum(lengths).as_py() or 0

    num_tasks = prepare.write_records(table, path, schema, on_batch=add)
    splits[split] = {'tasks': num_tasks, 'ratings': num_ratings}
    files[split] = output_folder.file_entry(job.stage, path)
  features = {}
  for feature, ids in tasks.vocabularies.items():
    path = job.stage / f'ids_{feature}.parquet'
    ids.order_by('id').to_parquet(path)
    files[f'ids_{feature}'] = output_folder.file_entry(job.stage, path)
    # Ids of genres start at 0, all others at 1: their 0 is "not in train".
    num_ids = prepare.count(ids) + (feature != 'genres')
    max_values = tasks.max_genres if feature == 'genres' else 1
    features[feature] = {'num_ids': num_ids, 'max_values': max_values}
  return {
    'schema': record_schema.schema_to_json(schema),
    'splits': splits,
    'features': features,
    'files': files,
  }


@dataclasses.dataclass(frozen=True)
class Tasks:
  """Tasks of each split and the id maps they use.

  Attributes:
    splits: Split -> table with the columns of `movielens.SCHEMA`.
    vocabularies: Feature -> table (feature, id).
    states: (state, users, ratings, eligible_users, eligible_ratings) of the
      four states, to compare with MeLU's.
    max_genres: Largest number of genres of an item.
  """

  splits: Mapping[str, ir.Table]
  vocabularies: Mapping[str, ir.Table]
  states: ir.Table
  max_genres: int


def build(events: Events, config: movielens.SplitConfig) -> Tasks:
  """Builds the tasks of all splits.

  Args:
    events: Events of MovieLens-1M, opened by DuckDB.
    config: Split rule.

  Returns:
    Lazy tables; each is computed when it is written.
  """
  con = events.con
  assert events.users is not None and events.items is not None
  users = events.users.mutate(user=events.users[USER].cast('int32'))
  items = events.items.rename(item=ITEM)
  users = con.create_table('task_users', _split_users(users, config))
  ratings = con.create_table(
    'task_ratings', _state_ratings(events.rows, items, users, config)
  )
  in_train = ratings.train
  vocabularies = {
    'item': con.create_table(
      'ids_item',
      prepare.dense_ids(ratings.filter(in_train), 'item', first=1),
    ),
    'genres': con.create_table('ids_genres', _genre_ids(items)),
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
    'coded_ratings', _coded_ratings(ratings, items, vocabularies)
  )
  splits = {'train': _tasks(rows.filter(rows.train), users, num_query=0)}
  for state in movielens.SPLITS[1:]:
    chosen = rows.filter((rows.state == state) & rows.eligible)
    splits[state] = _tasks(chosen, users, num_query=config.query_size)
  max_genres = int(items.genres.length().max().to_pyarrow().as_py())
  return Tasks(splits, vocabularies, _count_states(ratings), max_genres)


def _split_users(users: ir.Table, config: movielens.SplitConfig) -> ir.Table:
  """Adds `task`, the dense id of a user, and `warm`."""
  position = ibis.row_number().over(ibis.window(order_by=users.user))
  warm = prepare.in_first_share(
    users, 'user', share=config.warm_share, seed=config.seed, salt='warm'
  )
  return users.mutate(task=position.cast('int32'), warm=warm)


def _state_ratings(
  rows: ir.Table,
  items: ir.Table,
  users: ir.Table,
  config: movielens.SplitConfig,
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
