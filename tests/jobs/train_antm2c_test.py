# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""launch/train_clicks, of one model and of a table, on made-up ratings."""

import dataclasses
import json
import pathlib
import shlex
import sys

import numpy as np
import pytest

from antjax.ctr.antm2c.fields import FieldConfig
from antjax.jobs import identity, script
from antjax.jobs.clicks import data as antm2c_data
from antjax.jobs.clicks import job as train_antm2c
from antjax.jobs.clicks import search as antm2c_search
from antjax.jobs.clicks import table as antm2c_table
from antjax.metrics import by_slice as scores
from antjax.networks import load
from antjax.networks.load import NetworkConfig
from tests.jobs import processes, ratings
from tests.jobs.processes import job_of

# Of reading a checkpoint as it is.
pytestmark = pytest.mark.filterwarnings('ignore:Sharding info not provided')

SMALL = {
  'scenario': 'gender',
  'scenario_groups': ('F', 'M'),
  'history': ('liked',),
  'max_history': 3,
  'batch_size': 16,
  'num_steps': 4,
  'checkpoint_every': 2,
  'evaluate_every': 2,
  'eval_batch_size': 16,
  'min_shard_size': 64,
  'score': scores.ScoreConfig(num_resamples=5),
  'fields': FieldConfig(embedding_dim=4, learning_rate=0.05),
  'network': NetworkConfig(widths=(8,), tower_widths=(4,), expert_widths=(4,)),
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('antm2c')
  ratings.prepare(folder, 'examples')
  return folder


def config_of(folder, run_dir, **changes):
  fields = SMALL | {'data': str(folder / 'data'), 'run_dir': str(run_dir)}
  return train_antm2c.Config(**fields | changes)


def train(folder, run_dir, **changes):
  config = config_of(folder, run_dir, **changes)
  return train_antm2c.train(config, job_of(config))


OWN = {
  'model': 'tests.jobs.my_model:Net',
  'network': NetworkConfig(own=('width=3',)),
  'paro': 'IIG',
}


@pytest.fixture(scope='module')
def trained(folder, tmp_path_factory):
  """A run of a network of one's own with two seeds, and its results."""
  run_dir = tmp_path_factory.mktemp('run')
  return run_dir, train(folder, run_dir, num_seeds=2, **OWN)


def test_each_seed_is_trained_scored_and_reported(folder, trained):
  run_dir, results = trained
  assert [r.seed for r in results] == [0, 1]
  for r in results:
    parts = r.test
    assert {'scenario/F', 'scenario/M', scores.WEIGHTED} <= set(parts)
    rows = parts['scenario/F'].rows + parts['scenario/M'].rows
    assert rows == parts[scores.ALL].rows > 0
    assert 0 <= r.validation['auc'] <= 1
    logits = np.load(pathlib.Path(r.folder) / 'predictions.npz')['logit']
    assert len(logits) == rows and np.isfinite(logits).all()
  first, second = (r.test[scores.ALL].metrics['AUC'].value for r in results)
  assert first != second
  assert 'my_model:Net, seed 1' in (run_dir / 'report.html').read_text()
  reached = json.loads((run_dir / 'results.json').read_text())['models']
  rates = reached.pop('rates of ids, no network')['parts']['all']
  assert (
    rates['rows']
    == reached['tests.jobs.my_model:Net, seed 1']['parts']['all']['rows']
  )
  assert 0.4 < rates['metrics']['AUC'][0] < 1
  stamp = (run_dir / 'seed_0' / 'scores.json').stat().st_mtime_ns
  # What is done is not done again.
  again = train(folder, run_dir, num_seeds=2, **OWN)
  assert [r.validation for r in again] == [r.validation for r in results]
  assert (run_dir / 'seed_0' / 'scores.json').stat().st_mtime_ns == stamp
  # Scored otherwise, or trained on, is not done.
  longer = train(folder, run_dir, num_steps=6, **OWN)
  metrics = (run_dir / 'seed_0' / 'metrics.jsonl').read_text()
  assert json.loads(metrics.splitlines()[-1])['step'] == 5
  assert longer[0].validation != results[0].validation
  with pytest.raises(
    ValueError, match='another model than given now .model: .*Net, now mlp.;'
  ):
    train(folder, run_dir, model='mlp', paro='IIG')


class _Model:
  """Reads batches as they are."""

  prepare = staticmethod(lambda batch: batch)

  def __init__(self, is_by_scenario):
    self.is_by_scenario = is_by_scenario


def test_a_device_s_rows_are_sorted_for_weights_of_scenarios(folder, tmp_path):
  config = config_of(
    *(folder, tmp_path),
    batch_size=128,
    num_micro_batches=2,
    fields=FieldConfig(id_dropout=0.3),
  )
  data = antm2c_data.ScenarioData(config, job_of(config))
  plain, by_scenario = (
    next(
      batch['ids']
      for batch in data.training(_Model(is_sorted), 0, str(is_sorted))
      if batch['weight'].all()  # Not the last clicks of the epoch.
    )
    for is_sorted in (False, True)
  )
  assert 0.2 < (plain[:, :2] == 0).mean() < 0.5  # The same ids are lost.
  # Eight devices take two micro-batches each: no row moves to another part.
  is_sorted = []
  for part, other in zip(np.split(plain, 16), np.split(by_scenario, 16)):
    assert sorted(map(tuple, part)) == sorted(map(tuple, other))
    assert (np.diff(other[:, 3]) >= 0).all()  # The scenario.
    is_sorted.append((np.diff(part[:, 3]) >= 0).all())
  assert not all(is_sorted)


@pytest.mark.slow
@pytest.mark.parametrize(
  'model',
  [
    name
    for name in sorted(load.MULTI_SCENARIO)
    if 'sorted_rows' in load.load(name).needs
  ],
)
def test_layers_of_scenarios_train_in_bfloat16(folder, tmp_path, model):
  (result,) = train(
    *(folder, tmp_path), model=model, compute_dtype='bfloat16', num_steps=2
  )
  assert 0 <= result.validation['auc'] <= 1


@pytest.mark.slow
def test_a_run_goes_on_where_it_was_stopped(folder, trained, tmp_path, caplog):
  whole = trained[1]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(script.StopRequest, '__call__', _after_calls(3), raising=True)
    with pytest.raises(KeyboardInterrupt) as stop:
      train(folder, tmp_path / 'parts', **OWN)
  # The user is told where the work is, and how to go on.
  path = tmp_path / 'parts' / 'seed_0' / 'checkpoints'
  told = str(stop.value)
  step = told.removeprefix('the checkpoint of step ').split()[0]
  assert (path / step).is_dir()
  assert f' is {path / step}; the same command resumes from it: ' in told
  assert told.endswith(shlex.join(sys.orig_argv))
  # Other settings are no silent change of the run.
  with pytest.raises(ValueError, match=r'batch_size was 16 and is 32\. Give'):
    train(folder, tmp_path / 'parts', **OWN, batch_size=32)
  config = config_of(folder, tmp_path / 'parts', **OWN, seed=7)
  optimizer = dataclasses.replace(config.optimizer, learning_rate=0.5)
  config = dataclasses.replace(config, optimizer=optimizer)
  with caplog.at_level('WARNING'):
    identity.check_settings(path.parent, config, int(step), ('seed',))
  assert f'from step {step} with other' in caplog.text
  assert 'settings than before: optimizer.learning_rate was ' in caplog.text
  assert caplog.text.count(' was ') == 1
  parts = train(folder, tmp_path / 'parts', **OWN)
  assert parts[0].validation == pytest.approx(whole[0].validation, abs=1e-6)


def _after_calls(number):
  calls = iter(range(1_000))
  return lambda self: next(calls) >= number


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_train_and_score_together(folder, tmp_path):
  flags = [
    *(f'--data={folder / "data"}', '--model=star', '--scenario=gender'),
    *('--scenario_groups=F,M', '--history=liked', '--batch_size=16'),
    *('--num_steps=6', '--checkpoint_every=3', '--eval_batch_size=16'),
    *('--paro=IIG', '--min_shard_size=64', '--score.num_resamples=0'),
    *('--fields.embedding_dim=4', '--network.widths=8', '--intra=2'),
  ]
  found = {}
  for hosts in (1, 2):
    run_dir = tmp_path / f'hosts_{hosts}'
    flag = f'--run_dir={run_dir}'
    processes.run(*processes.cluster('train_clicks', flag, *flags, hosts=hosts))
    scored = json.loads((run_dir / 'seed_0' / 'scores.json').read_text())
    logits = np.load(run_dir / 'seed_0' / 'predictions.npz')['logit']
    assert np.isfinite(logits).all()
    found[hosts] = scored, logits
    assert (run_dir / 'report.html').exists()
  rows = {n: x[0]['test']['all']['rows'] for n, x in found.items()}
  assert rows[1] == rows[2] == len(found[2][1])
  # Batches are made of other clicks, so that only the sizes agree exactly.
  assert found[1][0]['validation'].keys() == found[2][0]['validation'].keys()


@pytest.mark.slow
def test_a_search_is_by_validation_and_goes_on(folder, tmp_path):
  pytest.importorskip('optuna')
  search = antm2c_search.SearchConfig(num_trials=1, widths=('8', '4'))
  run_dir = tmp_path / 'run'
  train(folder, run_dir, model='mlp', search=search)
  assert (run_dir / 'search.db').exists()
  trials = sorted(p.name for p in (run_dir / 'trials').iterdir())
  assert trials == ['0']
  config = config_of(
    folder,
    run_dir,
    model='mlp',
    search=dataclasses.replace(search, num_trials=2),
  )
  job = job_of(config)
  data = train_antm2c.antm2c_data.ScenarioData(config, job)
  best = antm2c_search.best_config(config, job, data)
  assert sorted(p.name for p in (run_dir / 'trials').iterdir()) == ['0', '1']
  found = {
    name: json.loads((run_dir / 'trials' / name / 'scores.json').read_text())
    for name in ('0', '1')
  }
  values = {n: x['validation']['auc'] for n, x in found.items()}
  chosen = json.loads(
    (
      run_dir / 'trials' / max(values, key=values.get) / 'config.json'
    ).read_text()
  )
  rate = best.optimizer.learning_rate
  assert rate == chosen['config']['optimizer']['learning_rate']


@pytest.mark.slow
def test_a_table_of_models_grows(folder, tmp_path):
  run_dir = tmp_path / 'table'

  def table(*models):
    config = config_of(folder, run_dir, table=True, models=models)
    antm2c_table.fill(config, job_of(config))
    return (run_dir / 'table.md').read_text()

  first = table('lr')
  assert '| lr | id |' in first and 'item/' in first
  both = table('lr', 'shared_bottom')
  line = next(line for line in first.splitlines() if line.startswith('| lr'))
  assert line in both and '| shared_bottom | id |' in both
  told = (run_dir / 'differences.md').read_text()
  assert (
    '| shared_bottom | id | lr on id | ' in told and '| lr | id |' not in told
  )
  cells = json.loads((run_dir / 'table.json').read_text())
  assert [cell['model'] for cell in cells] == ['lr', 'shared_bottom']
  with pytest.raises(ValueError, match="models=bst: it needs 'history'"):
    config = config_of(
      folder, tmp_path, history=('none',), table=True, models=('lr', 'bst')
    )
    antm2c_table.fill(config, job_of(config))
  assert not (tmp_path / 'id').exists()  # Nothing was trained.


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'scenario': 'town'}, 'gender, age, occupation'),
    ({'scenario_groups': ('F', 'X')}, 'gender has no X'),
    ({'scenario_groups': ('F',)}, 'in no scenario'),
    ({'history': 'bought'}, 'liked, other'),
    ({'labels': ('rating', 'sale')}, 'labels=sale: the data have the labels'),
    ({'model': 'esmm'}, 'esmm learns two labels or more, and there is one'),
    ({'image_vectors': 'nowhere'}, 'encode_images'),
  ],
)
def test_what_the_data_lack_is_named(folder, tmp_path, changes, message):
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    train(folder, tmp_path / 'run', **changes)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'model': 'gbdt'}, 'no such model. Of one scenario: lr'),
    ({'num_seeds': 0}, 'num_seeds=0'),
    (
      OWN | {'network': NetworkConfig(own=('depth=3',))},
      'own=depth=3: .*Net.Config: width',
    ),
    (
      {
        'scenario_groups': ('F', 'M'),
        'fields': FieldConfig(knows_scenario=False),
      },
      'tells the scenario',
    ),
  ],
)
def test_settings_that_cannot_be_are_refused(folder, changes, message):
  with pytest.raises(ValueError, match=message):
    config_of(folder, 'run', **changes)
