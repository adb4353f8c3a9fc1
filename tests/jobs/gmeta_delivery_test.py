# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Two days of delivery as a user runs them, on tiny made-up data."""

import json

import pyarrow.parquet as pq
import pytest

from antjax.data import records
from tests.data import movielens_fixture
from tests.jobs import processes
from tests.serving import delta_test

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

  def export(name, *flags):
    run2 = f'--run_dir={tmp_path}/run2'
    return run('export_gmeta', run2, f'--out={tmp_path}/{name}', *flags)

  def apply(base, delta, out, wanted):
    flags = f'--base={tmp_path}/{base}', f'--delta={tmp_path}/{delta}'
    run('apply_delta', *flags, f'--out={tmp_path}/{out}')
    delta_test.assert_same_folder(tmp_path / out, tmp_path / wanted)

  # The delta from yesterday's model, and from a checkpoint of the same run.
  export('model2')
  assert 'rows differ' in export('delta2', f'--base={tmp_path}/model1')
  apply('model1', 'delta2', 'made2', 'model2')
  for name, of in (('step2', ['--step=2']), ('since2', ['--since=2'])):
    export(name, '--quantize=int8', *of)
  export('step4', '--quantize=int8')
  apply('step2', 'since2', 'made4', 'step4')

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


def test_mistakes_are_one_line(tmp_path):
  told = run('export_gmeta', f'--run_dir={tmp_path}', expect=1)
  assert 'give the config.json that a run wrote' in told
  told = run('export_gmeta', '--base=a', '--since=3', expect=1)
  assert 'give one of them' in told
  told = run('score_gmeta', f'--model={tmp_path}', '--input=x', expect=1)
  assert 'launch/export_gmeta.py writes a model' in told
  told = run('apply_delta', f'--base={tmp_path}', expect=1)
  assert 'give --base, --delta and --out' in told
