# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tasks of data that come split, and of cold items, against plain loops."""

import json

import pyarrow.parquet as pq
import pytest

from antjax.data import event_table, schema_file
from antjax.data.task_spans import TaskConfig
from tests.data import views

SCHEMA = """
columns: {who: string, film: string, stars: int32, day: int64, part: string}
user: who
item: film
time: day
rating: stars
"""
SPLIT = 'split: part\n'


def rows_of(users, films, part, day=0):
  return [
    (f'u{u}', f'f{f}', 1 + (u + f) % 5, day + f, part)
    for u in users
    for f in films
  ]


def prepare(folder, rows, schema=SCHEMA, source='log.csv', **config):
  lines = ['who,film,stars,day,part', *(','.join(map(str, r)) for r in rows)]
  (folder / 'log.csv').write_text('\n'.join(lines) + '\n')
  (folder / 'log.yaml').write_text(schema)
  schema = schema_file.load(str(folder / 'log.yaml'))
  config = TaskConfig(**{'query_size': 2, 'min_rows': 4} | config)
  return views.write_tasks(folder / 'out', folder / source, schema, config)


def read(folder, split):
  """(user, films, number of queries) of each record."""
  ids = {
    name: dict(zip(*(table[c].to_pylist() for c in ('id', name)), strict=True))
    for name in ('who', 'film')
    for table in [
      pq.read_table(folder / 'out' / 'tasks' / f'ids_{name}.parquet')
    ]
  }
  return [
    (
      {ids['who'].get(u, '?') for u in r['who'].tolist()},
      [ids['film'].get(f, '?') for f in r['film'].tolist()],
      int(r['num_query']),
    )
    for r in views.read(folder / 'out', split)
  ]


def test_rows_of_a_test_have_their_support_in_training(tmp_path):
  rows = [
    *rows_of([0, 1], range(4), 'train'),
    *rows_of([0], [5, 6], 'valid', 50),
    *rows_of([0], [0, 1, 2], 'test', 100),  # Not again in their order.
    *rows_of([1], [7], 'test', 100),
    *rows_of([2], range(4), 'test'),
    *rows_of([3], [7, 8, 9, 10, 11], 'test'),
    *rows_of([4], [0, 1, 2], 'test'),  # Too few rows.
  ]
  made = prepare(tmp_path, rows, SCHEMA + SPLIT, max_support=3, test_share=0)
  assert made['scenarios'] == [
    'validation',
    'warm',
    'user_cold',
    'item_cold',
    'both_cold',
  ]
  assert made['counts']['tasks'] == 5 and made['counts']['cold_tasks'] == 3
  films = [f'f{i}' for i in range(4)]
  assert read(tmp_path, 'train') == [({'u0'}, films, 0), ({'u1'}, films, 0)]
  last = films[1:]  # The latest ones of training.
  assert read(tmp_path, 'validation') == [({'u0'}, [*last, '?', '?'], 2)]
  assert read(tmp_path, 'warm') == [
    ({'u0'}, [*last, 'f0', 'f1'], 2),
    ({'u0'}, [*last[1:], 'f0', 'f1', 'f2'][-4:], 1),
  ]
  assert read(tmp_path, 'item_cold') == [({'u1'}, [*last, '?'], 1)]
  assert read(tmp_path, 'user_cold') == [({'?'}, films, 2)]
  assert read(tmp_path, 'both_cold') == [({'?'}, ['?'] * 5, 2)]


def test_states_by_name_have_their_own_support(tmp_path):
  rows = [
    *rows_of([0, 1], range(5), 'train'),
    *rows_of([0], range(7, 12), 'item_cold'),
    *rows_of([2], range(5), 'user_cold'),
    *rows_of([3], range(9), 'user_cold'),  # Too many.
  ]
  made = prepare(tmp_path, rows, SCHEMA + SPLIT, max_eval_rows=8, test_share=0)
  assert made['scenarios'] == ['user_cold', 'item_cold']
  assert read(tmp_path, 'item_cold') == [({'u0'}, ['?'] * 5, 2)]
  films = [f'f{i}' for i in range(5)]
  assert read(tmp_path, 'user_cold') == [({'?'}, films, 2)]
  assert read(tmp_path, 'train') == [({'u0'}, films, 0), ({'u1'}, films, 0)]


def test_lists_say_the_split_of_an_event(tmp_path):
  rows = rows_of(range(3), range(5), '-')
  lists = {
    'warm.json': {'u0': ['f0', 'f1', 'f3', 'f4', 'f9'], 'u1': ['f0', 'f1']}
  }
  for name, listed in lists.items():
    (tmp_path / name).write_text(json.dumps(listed))
  (tmp_path / 'cold.csv').write_text(
    'film,who\n' + ''.join(f'f{i},u2\n' for i in range(5))
  )
  schema = SCHEMA + 'lists: {train: warm.json, user_cold: [cold.csv]}\n'
  made = prepare(tmp_path, rows, schema, test_share=0)
  assert made['counts']['events_in_no_list'] == 15 - 11
  assert read(tmp_path, 'train') == [
    ({'u0'}, ['f0', 'f1', 'f3', 'f4'], 0),
    ({'u1'}, ['f0', 'f1'], 0),
  ]
  assert read(tmp_path, 'user_cold') == [
    ({'?'}, ['f0', 'f1', '?', 'f3', 'f4'], 2)
  ]
  (tmp_path / 'cold.csv').write_text('film,who\nf0,u0\n')
  loaded = schema_file.load(str(tmp_path / 'log.yaml'))
  with pytest.raises(ValueError, match='1 pairs are in several splits.* u0'):
    views.write_tasks(
      tmp_path / 'b', tmp_path / 'log.csv', loaded, TaskConfig()
    )
  (tmp_path / 'cold.csv').unlink()
  with pytest.raises(FileNotFoundError, match='cold.csv, a list of the split'):
    event_table.source(tmp_path / 'log.csv', loaded)


def test_cold_items_are_in_no_training_row(tmp_path):
  rows = rows_of(range(20), range(20), '-')
  made = prepare(
    tmp_path,
    rows,
    order='random',
    cold_share=0.3,
    cold_item_share=0.4,
    test_share=0,
  )
  assert made['scenarios'] == ['warm', 'user_cold', 'item_cold', 'both_cold']
  found = {s: read(tmp_path, s) for s in ('train', *made['scenarios'])}
  assert {s: len(x) for s, x in found.items()} == {
    'train': 14,
    'warm': 14,
    'user_cold': 6,
    'item_cold': 14,
    'both_cold': 6,
  }
  known = {f for _, films, _ in found['train'] for f in films}
  assert all(len(films) == 10 for _, films, _ in found['train'])  # 12 - 2.
  assert len(known) == 12 and '?' not in known
  for state, is_user, is_item in (
    ('warm', True, True),
    ('user_cold', False, True),
    ('item_cold', True, False),
    ('both_cold', False, False),
  ):
    for users, films, num_query in found[state]:
      assert num_query == 2
      assert ('?' not in users) == is_user
      assert ({*films} <= known) == is_item and len(films) == 12 - 4 * (
        not is_item
      )
