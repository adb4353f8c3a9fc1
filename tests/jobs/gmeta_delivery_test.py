# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Two days of delivery as a user runs them, on tiny made-up data."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from antjax.data import records
from antjax.serving.loader import Model
from tests.data import movielens_fixture
from tests.jobs import processes

TRAIN = (
  '--support_sizes=8,32',
  '--slots_per_device=1,1',
  '--shard_size=4',
  '--validation_tasks=8',
  '--model.embedding_dim=8',
  '--model.widths=16',
  '--num_steps=4',
  '--joint_steps=0',
  '--checkpoint_every=2',
  '--min_shard_size=64',
)

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]


def run(script, *flags, expect=0):
  done = processes.run('-m', f'launch.{script}', *flags, expect=expect)
  return done.stdout + done.stderr


def test_two_days(tmp_path):
  day2 = movielens_fixture.Fixture(num_users=120)
  day1 = movielens_fixture.Fixture(num_users=120)
  # The first films have no rating yet, so all later ids move.
  day1.ratings = [r for r in day1.ratings if r[1] > 5]
  for day, source in ((1, day1), (2, day2)):
    raw = source.write_original(tmp_path / f'raw{day}')
    run(
      *('prepare_data', f'--source={raw}', f'--out={tmp_path}/data{day}'),
      *('--allow_other_counts', '--split.query_size=4'),
      '--split.min_ratings=7',
    )
  flags = (*TRAIN, f'--data={tmp_path}/data1', f'--run_dir={tmp_path}/run1')
  run('train_gmeta', *flags)
  run('export_gmeta', f'--run_dir={tmp_path}/run1', f'--out={tmp_path}/model1')
  flags = (*TRAIN, f'--data={tmp_path}/data2', f'--run_dir={tmp_path}/run2')
  told = run('train_gmeta', *flags, f'--init_from={tmp_path}/run1')
  assert 'values keep their row' in told

  # The delta from yesterday's model, and one from a later step.
  changes = ('--base={0}/model1', '--deltas={0}/deltas')
  changes = [flag.format(tmp_path) for flag in changes]
  for step in ('--step=2', '--step=4'):
    told = run('export_gmeta', f'--run_dir={tmp_path}/run2', step, *changes)
    assert 'rows differ' in told
  told = run('apply_delta', *changes, f'--out={tmp_path}/made2')
  assert 'after delta 2' in told
  run('export_gmeta', f'--run_dir={tmp_path}/run2', f'--out={tmp_path}/model2')
  flags = (
    f'--input={tmp_path}/data2/tasks/user_cold.arrow',
    f'--out={tmp_path}/of_export.parquet',
  )
  run('score_gmeta', f'--model={tmp_path}/model2', *flags)

  # Scores of day 2's tasks; day 1's records become day 2's ids.
  for day in (1, 2):
    out = tmp_path / f'scores{day}.parquet'
    told = run(
      'score_gmeta',
      f'--model={tmp_path}/made2',
      f'--out={out}',
      f'--input={tmp_path}/data{day}/tasks/user_cold.arrow',
    )
    assert 'rows/s' in told
    scores = pq.read_table(out)
    if day == 2:
      assert scores == pq.read_table(tmp_path / 'of_export.parquet')
    tasks = records.open_source(
      tmp_path / f'data{day}' / 'tasks' / 'user_cold.arrow'
    )
    num_query = sum(task['num_query'] for task in tasks.read(0, len(tasks)))
    assert len(scores) == num_query
    assert scores.column_names[:3] == ['task', 'user', 'row']
    numbers = scores.group_by('user').aggregate([('task', 'count_distinct')])
    assert set(numbers['task_count_distinct'].to_pylist()) == {1}
    assert 1 <= min(scores['prediction'].to_pylist())
    assert max(scores['prediction'].to_pylist()) <= 5
  user = {
    'support': {
      'gender': 'F',
      'age': 18,
      'occupation': 3,
      'zip': '00001',
      'item': ['Film 8 (1998)', 'Film 9 (1999)', 'Film 7 (1997)'],
      'genres': [['Drama'], ['Action', 'Drama'], ['Film-Noir']],
    },
    'labels': [5, 1, 4],
  }
  user['query'] = user['support']
  path = tmp_path / 'user.json'
  path.write_text(json.dumps(user))
  told = run('score_gmeta', f'--model={tmp_path}/made2', f'--user={path}')
  answer = json.loads(told.splitlines()[0])
  assert len(answer['prediction']) == 3


def test_values_that_get_rows_in_training(tmp_path):
  """A table with fewer rows than values is served with a row per value."""
  raw = movielens_fixture.Fixture(num_users=120).write_original(
    tmp_path / 'raw'
  )
  run(
    *('prepare_data', f'--source={raw}', f'--out={tmp_path}/data'),
    *('--allow_other_counts', '--split.query_size=4', '--split.min_ratings=7'),
  )
  flags = (*TRAIN, f'--data={tmp_path}/data', f'--run_dir={tmp_path}/run')
  flags = *flags, '--model.table_dtype=int8'
  keys = '--keys.rows=item=30', '--keys.min_count=2', '--keys.eviction=lfu'
  command = processes.cluster('train_gmeta', *flags, *keys, '--num_steps=2')
  processes.run(*command)  # In two processes, and then in one.
  run('train_gmeta', *flags, *keys)
  run('export_gmeta', f'--run_dir={tmp_path}/run', f'--out={tmp_path}/model')
  model = Model(tmp_path / 'model')
  description = json.loads((tmp_path / 'data/tasks/dataset.json').read_text())
  num_items = description['features']['item']['num_ids']
  rows = model.tables['item'].read(np.arange(num_items))
  assert rows.shape[1] == model.manifest['features']['item']['embedding_dim']
  distinct = np.unique(rows, axis=0)
  assert 20 < len(distinct) <= 30 < num_items  # Others share the unknown row.
  told = run('train_gmeta', *flags, '--keys.rows=item=300', expect=1)
  assert 'item' in told
  told = run('train_gmeta', *flags, '--keys.rows=film=300', expect=1)
  assert 'the data set has no film' in told


def test_mistakes_are_one_line(tmp_path):
  told = run('export_gmeta', f'--run_dir={tmp_path}', expect=1)
  assert 'give the config.json that a run wrote' in told
  told = run('export_gmeta', '--base=a', expect=1)
  assert 'give both, or none' in told
  told = run('score_gmeta', f'--model={tmp_path}', '--input=x', expect=1)
  assert 'launch/export_gmeta.py writes a model' in told
  told = run('apply_delta', f'--base={tmp_path}', expect=1)
  assert 'give --base, --deltas and --out' in told
