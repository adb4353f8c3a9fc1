# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""launch/train_gmeta on made-up clicks, and its algorithms by name."""

import json

import numpy as np
import pyarrow as pa
import pytest

from antjax.data import record_schema, record_writer
from antjax.jobs.gmeta import job as train_gmeta
from antjax.jobs.gmeta.data import TaskBatches
from antjax.meta import episodes
from antjax.meta.recommender import ModelConfig
from tests import warm_python
from tests.jobs import processes
from tests.jobs.processes import job_of, logged_steps

SCHEMA = {
  'task': record_schema.Field('int32'),
  'scenario': record_schema.Field('int32'),
  'ad': record_schema.Field('int32', 1),
  'tags': record_schema.Field('int32', 2, 2),
  'price': record_schema.Field('float32', 1),
  'click': record_schema.Field('float32', 1),
  'num_query': record_schema.Field('int32'),
}
FLAGS = (
  '--support_sizes=8',
  '--slots_per_device=4',
  '--shard_size=4',
  '--validation_tasks=8',
  '--model.embedding_dim=4',
  '--model.widths=8',
  '--checkpoint_every=4',
  '--num_resamples=20',
  '--inner.task_axis=vmap',
)

pytestmark = pytest.mark.multiprocess


def make_records(num_tasks, num_query, seed):
  """Clicks that depend on the price, each task in its own way."""
  rng = np.random.default_rng(seed)
  for task in range(num_tasks):
    price = rng.normal(size=12).astype(np.float32)
    likes = price * (1 if task % 2 else -1) + rng.normal(0, 0.3, 12)
    yield {
      'task': task,
      'scenario': task % 3,
      'ad': rng.integers(1, 9, 12).astype(np.int32),
      'tags': rng.integers(0, 5, (12, 2)).astype(np.int32).tolist(),
      'price': price,
      'click': (likes > 0).astype(np.float32),
      'num_query': num_query,
    }


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp('clicks')
  files = {}
  for seed, (split, num_query) in enumerate({'train': 0, 'unseen': 4}.items()):
    made = list(make_records(40, num_query, seed))
    columns = {
      name: pa.array([r[name] for r in made], field.arrow_type())
      for name, field in SCHEMA.items()
    }
    path = folder / f'{split}.parquet'
    record_writer.write(path, [pa.record_batch(columns)], SCHEMA)
    files[split] = {'path': path.name}
  description = {
    'name': 'made-up clicks',
    'config': {},
    'schema': record_schema.schema_to_json(SCHEMA),
    'label': 'click',
    'kind': 'click',
    'numeric': ['price'],
    'task_feature': 'scenario',
    'scenarios': ['unseen'],
    'splits': {'train': {}, 'unseen': {}},
    'features': {
      'scenario': {'num_ids': 3, 'max_values': 1},
      'ad': {'num_ids': 9, 'max_values': 1},
      'tags': {'num_ids': 5, 'max_values': 2},
    },
    'files': files,
  }
  (folder / 'dataset.json').write_text(json.dumps(description))
  return folder


def test_data_without_an_evaluation_split_are_scored_on_held_out_tasks(
  data, tmp_path, caplog
):
  told = json.loads((data / 'dataset.json').read_text()) | {'scenarios': []}
  config = train_gmeta.Config(
    data=str(data), run_dir=str(tmp_path), validation_tasks=8
  )
  tasks = TaskBatches(config, told, job_of(config))
  assert tasks.scenarios == ('held-out',)
  assert 'has no split to evaluate on' in caplog.text
  batches = [*tasks.scenario('held-out')]
  assert sum(map(episodes.count_rows, batches)) > 0
  made = [*tasks.validation(with_rows=False)]
  np.testing.assert_equal(batches, made)


def run(data, run_dir, *flags):
  processes.run(
    *('-m', 'launch.train_gmeta', *FLAGS),
    *(f'--data={data}', f'--run_dir={run_dir}', *flags),
    env=warm_python.env_of(2),
  )
  return json.loads((run_dir / 'results.json').read_text())


def numbers(details, **chosen):
  return [
    row
    for row in details
    if all(row.get(key) == value for key, value in chosen.items())
  ]


@pytest.mark.slow
def test_clicks_are_learned_and_scored(data, tmp_path):
  found = run(data, tmp_path, '--num_steps=6', '--joint_steps=6')
  assert found['kind'] == 'click'
  methods = ['meta-learned', 'joint', 'joint + fine-tuning']
  rows = found['results']
  assert [row['method'] for row in rows[:3]] == methods
  for row in rows[:3]:
    assert set(row) == {'scenario', 'method', 'AUC', 'GAUC', 'NE', 'log-loss'}
    assert 0 < row['AUC'] <= 1 and 0 < row['log-loss'] < 5
  by_step = numbers(found['details'], method='meta-learned', metric='NE')
  steps = [row['num_steps'] for row in by_step if 'num_steps' in row]
  assert steps == [0, 1, 2, 3]
  (whole,) = [r for r in by_step if 'num_steps' not in r and 'support' not in r]
  (own,) = [row for row in by_step if row.get('num_steps') == 1]
  assert whole['value'] == own['value'] and whole['low'] < whole['high']
  page = (tmp_path / 'report.html').read_text()
  assert 'NE by adaptation steps' in page and 'Results in detail' in page
  assert 'NE against support mean' in page


@pytest.mark.slow
@pytest.mark.parametrize('name', ['maml++', 'reptile', 'cbml', 'per_task'])
def test_an_algorithm_runs_by_its_name(data, tmp_path, name):
  found = run(
    data,
    tmp_path,
    f'--algorithm={name}',
    '--num_steps=10',
    '--joint_steps=0',
    '--eval_steps=0',
  )
  assert found['algorithm'] == name
  method = found['results'][0]
  assert method['method'] == (
    'per-task' if name == 'per_task' else 'meta-learned'
  )
  assert 0 < method['log-loss'] < 5
  if name != 'per_task':
    assert logged_steps(tmp_path / 'meta') == list(range(10))


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['tests.jobs.my_model:Net', 'pepnet'])
def test_any_click_network_is_meta_learned(data, tmp_path, kind):
  config = train_gmeta.Config(
    data=str(data),
    run_dir=str(tmp_path),
    support_sizes=(8,),
    slots_per_device=(1,),
    shard_size=4,
    validation_tasks=8,
    num_steps=2,
    joint_steps=2,
    eval_steps=1,
    num_resamples=0,
    model=ModelConfig(kind=kind, embedding_dim=4, widths=(8,), gate_width=4),
  )
  rows = train_gmeta.train(config, job_of(config))[:3]
  methods = ['meta-learned', 'joint', 'joint + fine-tuning']
  assert [row['method'] for row in rows] == methods
  for row in rows:
    assert 0 <= row['AUC'] <= 1 and 0 < row['log-loss'] < 5
