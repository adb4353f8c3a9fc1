# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""launch/train_dlrm: from files in MLPerf's form to scores."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from antjax.data.behavior_examples import ExampleConfig
from antjax.jobs import prepare_data
from antjax.jobs.clicks import dlrm, make_criteo
from antjax.jobs.clicks.data import ScenarioData
from antjax.jobs.clicks.training import ClickJob
from antjax.serving.click_loader import ClickScorer
from tests.jobs import ratings
from tests.jobs.processes import job_of

_SCHEMAS = pathlib.Path(__file__).parents[2] / 'launch' / 'schemas'
_FILES = """files:
  train: synthetic_train*.npz
  valid: synthetic_valid*.npz
  test: synthetic_test*.npz
columns:"""


def _prepared(tmp_path, num_rows):
  made = make_criteo.Config(
    out=str(tmp_path / 'synthetic'), num_rows=num_rows, max_ids=60, max_values=3
  )
  make_criteo.main(made)
  schema = (_SCHEMAS / 'criteo_multihot.yaml').read_text()
  schema = schema.replace('columns:', _FILES)
  return made, ratings.prepare_log(tmp_path, schema, source=made.out)


def _config(tmp_path, data, **changes):
  default = dlrm.Config()
  fields = {'embedding_dim': 8, 'learning_rate': 0.05}
  sizes = {'bottom_widths': (16,), 'widths': (16,), 'cross_rank': 8}
  return dlrm.Config(
    data=str(data),
    run_dir=str(tmp_path / 'run'),
    batch_size=64,
    fields=dataclasses.replace(default.fields, **fields),
    network=dataclasses.replace(default.network, **sizes),
    **changes,
  )


@pytest.mark.slow
def test_multi_hot_files_are_trained_on_and_scored_alike(tmp_path):
  made, data_folder = _prepared(tmp_path, 4000)
  config = _config(tmp_path, data_folder, num_epochs=3)
  job = job_of(config)
  data = ScenarioData(config, job)
  arrays = np.load(f'{made.out}/synthetic_train_sparse_multi_hot.npz')
  sizes = dict(enumerate(make_criteo.NUM_VALUES))
  many = {str(i) for i, most in sizes.items() if most > 1}
  assert {*data.sizes.bags} == many and {*data.sizes.columns} == {
    str(i) for i, most in sizes.items() if most == 1
  }
  assert {how for _, how in data.sizes.bags.values()} == {'sum'}
  batch = data.splits['train'].batch(np.arange(9), 9)
  for name in many:
    found = batch[f'bag_{name}']
    assert found.shape == arrays[name][:9].shape and (found >= 0).all()
    # Ids of the model are those of the files by another name.
    assert len({*zip(found.ravel(), arrays[name][:9].ravel())}) == len(
      {*found.ravel()}
    )
  one = ClickJob(config, job, data, seed=0, is_exported=True)
  assert one.model.sizes.num_fields == 26
  assert one.model.sizes.dense_width == 13
  result = one.run()
  true = json.loads((tmp_path / 'synthetic' / 'synthetic.json').read_text())
  assert true['synthetic'] and true['true_auc']['test'] > 0.65
  assert 0.52 < result.test['all'].metrics['AUC'].value
  # What is exported gives the logits of the training.
  scorer = ClickScorer(pathlib.Path(result.folder) / 'export')
  held = np.load(f'{made.out}/synthetic_test_sparse_multi_hot.npz')
  numbers = np.load(f'{made.out}/synthetic_test_dense.npy')
  rows = {n: [[str(i) for i in x] for x in held[n]] for n in many}
  rows |= {n: held[n][:, 0].astype(str) for n in held.files if n not in many}
  rows |= {f'dense_{k}': x for k, x in enumerate(numbers.T)}
  logits, _ = scorer.score(rows)
  trained = np.load(pathlib.Path(result.folder) / 'predictions.npz')['logit']
  np.testing.assert_allclose(logits['prediction'], trained, atol=1e-5)


def test_a_folder_of_rows_needs_a_number_of_them():
  with pytest.raises(ValueError, match='fields.home=x.*fields.device_rows=1'):
    dataclasses.replace(dlrm.Config().fields, home='x')


@pytest.mark.slow
def test_rows_in_files_give_the_same_model(tmp_path):
  _, data_folder = _prepared(tmp_path, 600)
  found = {}
  for device_rows in (0, 52):
    folder = tmp_path / f'{device_rows}'
    config = _config(folder, data_folder, num_steps=8)
    fields = dataclasses.replace(
      config.fields, level='global', device_rows=device_rows
    )
    config = dataclasses.replace(config, fields=fields, batch_size=16)
    job = job_of(config)
    one = ClickJob(
      config, job, ScenarioData(config, job), seed=0, is_exported=True
    )
    found[device_rows] = pathlib.Path(one.run().folder)
  files = [*(found[52] / 'rows').glob('*/rows')]
  assert files and not (found[0] / 'rows').exists()
  logits = [np.load(x / 'predictions.npz')['logit'] for x in found.values()]
  np.testing.assert_allclose(*logits, atol=1e-5)
  tables = [
    {f.name: np.load(f) for f in (x / 'export' / 'tables').glob('*.npy')}
    for x in found.values()
  ]
  assert {n: x.shape for n, x in tables[0].items()} == {
    n: x.shape for n, x in tables[1].items()
  }
  for name, rows in tables[0].items():
    np.testing.assert_allclose(tables[1][name], rows, atol=1e-5)


@pytest.mark.slow
def test_files_as_criteo_released_them(tmp_path):
  made = make_criteo.Config(
    out=str(tmp_path / 'tsv'), form='tsv', num_rows=1000, max_ids=50
  )
  make_criteo.main(made)
  out = str(tmp_path / 'data')
  prepare_data.main(
    prepare_data.Config(
      views=('examples',),
      dataset='criteo',
      source=f'{made.out}/synthetic_*.tsv',
      out=out,
      examples=ExampleConfig(split='random'),
    )
  )
  config = _config(tmp_path, out, num_steps=3)
  fields = dataclasses.replace(config.fields, row_dtype='int8', level='global')
  config = dataclasses.replace(config, fields=fields)
  job = job_of(config)
  data = ScenarioData(config, job)
  assert not data.sizes.bags and len(data.sizes.columns) == 26
  one = ClickJob(config, job, data, seed=0, is_exported=True)
  result = one.run()
  assert np.isfinite(result.test['all'].metrics['AUC'].value)
  exported = pathlib.Path(result.folder) / 'export' / 'tables'
  assert {np.load(x).dtype.name for x in exported.glob('*.npy')} == {'float32'}


def test_the_defaults_are_those_of_mlperf():
  config = dlrm.Config()
  assert sum(make_criteo.NUM_ROWS) == 204_184_588
  assert len(make_criteo.NUM_VALUES) == len(make_criteo.NUM_ROWS) == 26
  assert sum(make_criteo.NUM_VALUES) == 214
  assert config.fields.optimizer == 'rowwise_adagrad'
  assert config.network.cross_rank == 512 and config.batch_size == 65_536
