# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tasks of many feature columns, in memory and by the engine's joins."""

import random

import pyarrow.parquet as pq

from antjax.data import coded_rows, schema_file, view_tasks
from antjax.data.task_spans import TaskConfig
from tests.data import views

NUM_COLUMNS = 60
CONFIG = TaskConfig(query_size=2, min_rows=4, cold_share=0.25, min_count=2)


def make(folder, out):
  columns = {'user': 'string', 'click': 'int32', 'n': 'float32'}
  for i in range(NUM_COLUMNS):
    columns[f'c{i}'] = 'int64' if i % 2 else 'string'
  rng = random.Random(0)
  rows = [
    (f'u{rng.randint(0, 7)}', rng.randint(0, 1), 0.5)
    + tuple(rng.randint(0, 3 + i) - 2 for i in range(NUM_COLUMNS))
    for _ in range(120)
  ]
  lines = [','.join(map(str, row)) for row in [[*columns], *rows]]
  (folder / 'log.csv').write_text('\n'.join(lines) + '\n')
  schema = schema_file.make(
    columns,
    user='user',
    label='click',
    ids=[f'c{i}' for i in range(NUM_COLUMNS)],
    numeric=['n'],
  )
  views.write_tasks(folder / out, folder / 'log.csv', schema, CONFIG)
  return rows


def test_many_columns_have_ids_of_the_values_of_training(tmp_path):
  rows = make(tmp_path, 'a')
  records = views.read(tmp_path / 'a', 'train')
  in_train = [
    (int(row), i) for r in records for i, row in enumerate(r['timestamp'])
  ]
  by_row = {
    row: (r, i) for r in records for i, row in enumerate(r['timestamp'])
  }
  assert len(by_row) == len(in_train) > 50
  for number in range(NUM_COLUMNS):
    values = [rows[row][3 + number] for row in by_row]
    known = [v for v in {*values} if values.count(v) >= 2]
    known.sort(key=str if number % 2 == 0 else int)
    file = tmp_path / 'a' / 'tasks' / f'ids_c{number}.parquet'
    table = pq.read_table(file)
    assert [str(v) for v in table[f'c{number}'].to_pylist()] == [
      str(v) for v in known
    ]
    for row, (record, place) in by_row.items():
      value = rows[row][3 + number]
      expected = known.index(value) + 1 if value in known else 0
      assert record[f'c{number}'][place] == expected


def test_columns_of_too_many_values_are_joined(tmp_path, monkeypatch):
  make(tmp_path, 'a')
  monkeypatch.setattr(coded_rows, 'MAX_VALUES', 1800)
  monkeypatch.setattr(view_tasks, '_WIDE', 3)  # Ranked apart, too.
  make(tmp_path, 'b')
  files = [views.files_of(tmp_path / name / 'tasks') for name in 'ab']
  assert files[0] == files[1]
