# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""launch/train_clicks on data with a domain and two labels."""

import json

import numpy as np
import pytest

from antjax.ctr.antm2c.fields import FieldConfig
from antjax.jobs.clicks import job as train_clicks
from antjax.jobs.clicks.config import Config
from antjax.jobs.clicks.data import ScenarioData
from antjax.metrics import by_slice as scores
from antjax.networks.load import NetworkConfig
from tests.jobs import ratings
from tests.jobs.processes import job_of

_SCHEMA = """
columns: {user: string, item: string, tab: string, click: int32, sale: int32,
  second: int64}
user: user
item: item
time: second
domain: tab
ids: [tab]
label: click
labels: [sale]
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Two scenarios, and in the newest tenth, the test rows, a third one."""
  work = tmp_path_factory.mktemp('axes')
  rng = np.random.default_rng(0)
  lines = ['user,item,tab,click,sale,second']
  for second in range(400):
    tab = 'new' if second >= 390 else 'home' if second % 3 else 'search'
    click = int(rng.random() < 0.5)
    sale = int(click and rng.random() < 0.5)
    user, item = rng.integers(0, 20, 2)
    lines.append(f'u{user},i{item},{tab},{click},{sale},{second}')
  return ratings.prepare_log(work, _SCHEMA, lines)


def config_of(folder, run_dir, **options):
  return Config(
    data=str(folder),
    run_dir=str(run_dir),
    num_steps=4,
    batch_size=32,
    eval_batch_size=64,
    max_history=3,
    min_shard_size=64,
    score=scores.ScoreConfig(num_resamples=2),
    fields=FieldConfig(embedding_dim=4),
    network=NetworkConfig(widths=(8,), tower_widths=(4,), expert_widths=(4,)),
    **options,
  )


def data_of(folder, tmp_path, **options):
  config = config_of(folder, tmp_path, **options)
  return ScenarioData(config, job_of(config))


def test_the_domain_is_the_scenario_and_new_ones_fall_back(folder, tmp_path):
  data = data_of(folder, tmp_path)
  assert data.scenarios == ('home', 'search')
  assert data.unseen == {'train': 0, 'validation': 0, 'test': 10}
  test = data.splits['test']
  assert not test.column('scenario')[-10:].any()  # As of home, the largest.
  assert test.column('scenario')[:-10].any()
  assert 'tab' not in data.sizes.columns
  one = data_of(folder, tmp_path, scenario='none')
  assert one.scenarios == ('all',) and 'tab' in one.sizes.columns
  with pytest.raises(ValueError, match='--scenario_groups leaves theirs out'):
    data_of(folder, tmp_path, scenario='tab', scenario_groups=('home',))


def test_labels_are_tasks_in_the_order_that_is_asked_for(folder, tmp_path):
  data = data_of(folder, tmp_path)
  assert data.sizes.labels == ('click', 'sale')
  train = data.splits['train']
  swapped = data_of(folder, tmp_path, labels=('sale', 'click'))
  other = swapped.splits['train']
  np.testing.assert_array_equal(train.label, other.labels[:, 0])
  np.testing.assert_array_equal(train.labels[:, 0], other.label)
  assert 0 < other.label.sum() < train.label.sum()
  assert (train.labels[:, 0] <= train.label).all()
  only = data_of(folder, tmp_path, labels=('sale',))
  assert only.splits['train'].labels is None
  with pytest.raises(ValueError, match='labels=buy: the data have the labels'):
    data_of(folder, tmp_path, labels=('buy',))


@pytest.mark.slow
@pytest.mark.parametrize('model', ['esmm', 'ple', 'deepfm'])
@pytest.mark.filterwarnings('ignore:Sharding info not provided')
def test_each_task_and_each_scenario_is_scored(folder, tmp_path, model):
  config = config_of(folder, tmp_path, model=model)
  (result,) = train_clicks.train(config, job_of(config))
  tasks = [part for part in result.test if part.startswith(scores.TASK)]
  assert (
    tasks
    == {
      'esmm': ['task/click', 'task/sale', 'task/sale after click'],
      'ple': ['task/click', 'task/sale'],
      'deepfm': [],  # It learns the first.
    }[model]
  )
  assert {'scenario/home', 'scenario/search'} <= set(result.test)
  told = (tmp_path / 'report.html').read_text()
  assert '10 test rows of scenarios without a training row' in told
  assert json.loads((tmp_path / 'results.json').read_text())['models']
