# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A model of one day continues with the next day's data, whose ids differ."""

import json
import logging
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antjax.data import output_folder
from antjax.jobs import identity as run_identity
from antjax.jobs.gmeta import data as gmeta_data
from antjax.jobs.gmeta import export as export_gmeta
from antjax.jobs.gmeta import vocabulary as gmeta_vocabulary
from antjax.jobs.gmeta.config import Config
from antjax.meta.recommender import ModelConfig
from antjax.train.checkpoint import Checkpointer
from tests.serving import serving_case

GENDERS = ['F', 'M']
GENRES = [f'genre {i}' for i in range(9)]
# Another unit in the last place of a prediction, 1 to 5: the tables of the two
# models have other sizes, and so other code.
ROUNDING_ATOL = 2e-6


def write_data(folder, items):
  """What of a prepared folder tells its ids."""
  folder.mkdir()
  vocabularies = {
    'gender': (GENDERS, 1),
    'item': (items, 1),
    'genres': (GENRES, 0),
  }
  files, features = {}, {}
  for name, (values, first) in vocabularies.items():
    ids = pa.array(range(first, first + len(values)), pa.int32())
    path = f'ids_{name}.parquet'
    pq.write_table(pa.table({name: values, 'id': ids}), folder / path)
    files[f'ids_{name}'] = {'path': path, 'bytes': 0}
    features[name] = {'num_ids': first + len(values), 'max_values': 1}
  text = json.dumps({'config': {}, 'files': files, 'features': features})
  (folder / 'dataset.json').write_text(text)
  return str(folder)


def made_of(data, **changes):
  description = output_folder.load_description(data)
  return {'data set': run_identity.of_data({**description, **changes})}


@pytest.fixture(scope='module')
def old(tmp_path_factory):
  """Run folder, model and items of day 1."""
  folder = tmp_path_factory.mktemp('day1')
  items = [f'item {i:02}' for i in range(39)]
  data = write_data(folder / 'data', items)
  case = serving_case.Case(seed=1)
  run_dir = folder / 'run'
  trainer = case.trainer
  with Checkpointer(
    str(run_dir / 'meta' / 'checkpoints'), trainer.layout
  ) as checkpointer:
    checkpointer.save(5, case.state)
  config = json.dumps({'config': {'data': data}})
  (run_dir / 'config.json').write_text(config)
  run_identity.save(run_dir, made_of(data))
  return run_dir, case, items


@pytest.mark.slow
def test_what_both_days_know_is_predicted_alike(old, tmp_path, caplog):
  run_dir, before, items = old
  # Day 2: five items are gone, eight are new, and all ids have moved.
  kept = items[5:]
  later = sorted([*kept, *(f'a new one {i}' for i in range(8))])
  data = write_data(tmp_path / 'data', later)
  after = serving_case.Case(num_items=len(later) + 1, seed=2)
  with caplog.at_level(logging.INFO):
    after.state = gmeta_vocabulary.start_from(
      str(run_dir),
      'meta',
      data,
      serving_case.FEATURES,
      after.trainer,
      after.state,
    )
  assert 'item: 34 values keep their row, 8 are new, 5 are dropped.' in (
    caplog.text
  )
  new_id = np.zeros(40, np.int64)
  new_id[6:] = [later.index(item) + 1 for item in kept]
  batches = list(before.batches(first_item=6))
  assert np.any(new_id[6:] != np.arange(6, 40))
  expected = before.predictions(batches)
  for batch in batches:
    for parts in batch['ids'].values():
      for ids in parts.values():
        ids['item'] = np.where(ids['item'] < 0, -1, new_id[ids['item']])
  for one, other in zip(expected, after.predictions(batches), strict=True):
    np.testing.assert_allclose(
      other['prediction'], one['prediction'], rtol=0, atol=ROUNDING_ATOL
    )
  shown = expected[0]['weight'] > 0
  assert np.ptp(expected[0]['prediction'][shown]) > 1


def test_a_checkpoint_may_be_named(old):
  run_dir, *_ = old
  found = gmeta_vocabulary._find(str(run_dir / 'meta/checkpoints/5'), 'meta')
  assert found == (run_dir, 5)
  assert gmeta_vocabulary._find(str(run_dir), 'meta') == (run_dir, None)


def test_data_made_anew_are_not_taken_for_those_of_the_run(tmp_path):
  """Neither by an export nor by a resumed run."""
  data = write_data(tmp_path / 'data', ['a', 'b'])
  description = output_folder.load_description(data)
  (tmp_path / 'meta/checkpoints/5').mkdir(parents=True)
  config = Config(data=data, run_dir=str(tmp_path))
  job = types.SimpleNamespace(run_dir=tmp_path)

  def refuses(message):
    with pytest.raises(ValueError, match='data set'):
      export_gmeta.exported(config, str(tmp_path), None)
    with pytest.raises(ValueError, match=message):
      gmeta_data.TaskBatches(config, description, job)

  refuses('has checkpoints and no made_of.json.* which data set .*it was')
  run_identity.save(tmp_path, made_of(data, config=1))
  refuses('was trained with another data set and algorithm .*than given now')


def test_what_does_not_fit_is_refused(old, tmp_path):
  run_dir, case, items = old
  data = write_data(tmp_path / 'data', items)
  arguments = 'meta', data, serving_case.FEATURES, case.trainer, case.state
  with pytest.raises(ValueError, match='is no run folder of train_gmeta'):
    gmeta_vocabulary.start_from(str(tmp_path), *arguments)
  told = run_dir / 'made_of.json'
  text = told.read_text()
  # A new day may be trained otherwise, on the rows of the same data.
  run_identity.save(run_dir, json.loads(text) | {'algorithm': 'anil'})
  gmeta_vocabulary.start_from(str(run_dir), *arguments)
  run_identity.save(run_dir, made_of(data, config=1))
  with pytest.raises(ValueError, match='trained with another data set than'):
    gmeta_vocabulary.start_from(str(run_dir), *arguments)
  told.unlink()
  with pytest.raises(ValueError, match='checkpoints and no made_of.json'):
    gmeta_vocabulary.start_from(str(run_dir), *arguments)
  told.write_text(text)
  with pytest.raises(ValueError, match='holds no checkpoint'):
    gmeta_vocabulary.start_from(str(run_dir), 'joint', *arguments[1:])
  description = json.loads((tmp_path / 'data' / 'dataset.json').read_text())
  del description['files']['ids_item']
  (tmp_path / 'data' / 'dataset.json').write_text(json.dumps(description))
  with pytest.raises(ValueError, match='has no ids_item'):
    gmeta_vocabulary.start_from(str(run_dir), *arguments)


def test_any_feature_may_lose_its_ids():
  features = {'film': 1, 'who': 1}

  def dropped(*names, **told):
    model = ModelConfig(dropout_features=names)
    found = gmeta_data.dropout_features(
      Config(model=model), {'name': 'x', **told}, features
    )
    return found

  assert dropped(item_feature='film') == ('film',)
  assert dropped('who', 'film', item_feature='film') == ('who', 'film')
  assert dropped() == dropped(item_feature=None) == ()
  with pytest.raises(
    ValueError, match='item is no feature in use; .*film, who'
  ):
    dropped('item')
