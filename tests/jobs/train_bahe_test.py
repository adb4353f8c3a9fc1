# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""launch/train_bahe on made-up ratings and a tiny language model."""

import dataclasses
import json
import logging
import math
import os
import shutil
import signal

import jax
import numpy as np
import pytest

from antjax import config as config_lib
from antjax.ctr.bahe import model
from antjax.data.behavior_vocabulary import BehaviorVocabulary
from antjax.jobs import identity as run_identity
from antjax.jobs import script, serve
from antjax.jobs.bahe import build_store as build_behavior_store
from antjax.jobs.bahe import data as bahe_data
from antjax.jobs.bahe import job as train_bahe
from antjax.jobs.bahe import users as bahe_users
from antjax.mesh.paro import PaRO
from antjax.train import checkpoint
from antjax.train.optimizer import OptimizerConfig
from tests.ctr.bahe import small_vocabulary
from tests.jobs import ratings
from tests.jobs.processes import ElasticJob, job_of, logged_steps

# Of reading a checkpoint as it is.
pytestmark = pytest.mark.filterwarnings('ignore:Sharding info not provided')

NUM_LAYERS, NUM_LOW, DIM = 3, 1, 32


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """data, model, and stores of one layer and of all."""
  folder = tmp_path_factory.mktemp('bahe')
  ratings.prepare(folder, 'examples')
  ratings.write_model(folder)
  for num_low in (NUM_LOW, NUM_LAYERS):
    build_behavior_store.build(
      build_behavior_store.Config(
        vocabulary=str(folder / 'data'),
        model=str(folder / 'model'),
        out=str(folder / f'store{num_low}'),
        num_low=num_low,
        max_tokens=16,
      )
    )
  return folder


def config_of(folder, run_dir, **changes):
  base = train_bahe.Config(
    run_dir=str(run_dir),
    data=str(folder / 'data'),
    model=str(folder / 'model'),
    store=str(folder / f'store{NUM_LOW}'),
    max_behaviors=(5, 3),
    batch_size=32,
    num_steps=4,
    shard_size=8,
    checkpoint_every=2,
    min_shard_size=64,
    head=model.HeadConfig(kind='tests.jobs.my_model:Net'),
    ids=model.IdConfig(embedding_dim=8),
    optimizer=OptimizerConfig(warmup_steps=1, lm_learning_rate=1e-3),
  )
  return dataclasses.replace(base, **changes)


def train(folder, run_dir, **changes):
  config = config_of(folder, run_dir, **changes)
  return train_bahe.train(config, job_of(config))


def saved_params(run_dir, step):
  """Parameters and the rest of the state of a checkpoint."""
  import orbax.checkpoint as ocp

  path = (run_dir / 'checkpoints' / str(step)).absolute()
  restore = ocp.PyTreeCheckpointer().restore
  tree = {name: restore(path / name) for name in ('params', 'state')}
  return jax.tree.map(np.asarray, tree)


def test_a_run_trains_scores_and_reports(folder, tmp_path):
  run_dir = tmp_path / 'run'
  scores = train(folder, run_dir, num_steps=2)
  assert 0 <= scores['test']['auc'] <= 1
  assert scores['test']['examples'] > 20
  results = json.loads((run_dir / 'results.json').read_text())
  assert results['results']['test']['auc'] == scores['test']['auc']
  beside = results['results']['user mean']
  assert beside['examples'] == scores['test']['examples']
  memory = results['memory']
  planned = sum(memory['state'].values()) - memory['state']['grads']
  planned += memory['table'] + memory['batch']
  # Gradients are no argument; arrays are padded to whole cache lines.
  assert memory['compiled']['arguments'] == pytest.approx(planned, rel=0.05)
  assert 'AUC' in (run_dir / 'report.html').read_text()
  assert 'validation_auc' in (run_dir / 'metrics.jsonl').read_text()
  # The frozen rows are nowhere in the checkpoint.
  state = saved_params(run_dir, 2)
  shapes = {x.shape for x in jax.tree.leaves(state)}
  behaviors = folder / 'data' / 'examples' / 'behaviors'
  num_behaviors = len(BehaviorVocabulary.open(behaviors))
  assert (num_behaviors, DIM) not in shapes


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['din', 'pepnet'])
def test_any_click_network_is_a_head(folder, tmp_path, kind):
  head = model.HeadConfig(
    kind=kind, widths=(8,), attention_widths=(4,), gate_width=4
  )
  scores = train(folder, tmp_path, num_steps=2, head=head)
  assert 0 <= scores['test']['auc'] <= 1


def test_a_head_refuses_what_it_cannot_do():
  with pytest.raises(ValueError, match="head.kind=star: it needs 'moments'"):
    model.HeadConfig(kind='star')
  with pytest.raises(ValueError, match='head.kind=.tree.: there is no such'):
    model.HeadConfig(kind='tree')
  with pytest.raises(ValueError, match='cross_rank=-1: must be at least 0'):
    model.HeadConfig(cross_rank=-1)
  with pytest.raises(ValueError, match=r'widths=\(\)'):
    model.HeadConfig(widths=())


def test_a_batch_is_of_many_users(folder, tmp_path):
  # Records lie by user and time.
  config = config_of(folder, tmp_path, shard_size=32)
  clicks = bahe_data.Clicks(config, job_of(config))
  batches = iter(clicks.training(lambda batch, num_parts: batch))
  for _ in range(3):
    assert len({*next(batches)['user'].tolist()}) > 10


@pytest.mark.slow
@pytest.mark.parametrize('tower', ['store', 'frozen', 'none'])
def test_served_scores_are_those_of_predict(
  folder, tmp_path, monkeypatch, tower
):
  kept = {}

  def write(config, job, clicks, built, trainer, state, tables):
    def predict(params, *rest):
      *rows, batch, _ = rest
      vectors = tables.lookup(rows[0], batch['ids'])
      logit = built.merge(params).logits(batch, vectors)
      return {'logit': logit, **{n: batch[n] for n in ('index', 'weight')}}

    batches = clicks.evaluation('test', built.model.prepare, with_index=True)
    kept['found'] = trainer.predict(state, batches, predict)
    kept['clicks'] = clicks
    return bahe_export_write(config, job, clicks, built, trainer, state, tables)

  bahe_export_write = train_bahe.bahe_export.write
  monkeypatch.setattr(train_bahe.bahe_export, 'write', write)
  number = NUM_LAYERS if tower == 'frozen' else NUM_LOW
  store = str(folder / f'store{number}')
  train(folder, tmp_path, tower=tower, store=store, export=True, num_steps=2)
  clicks, found = kept['clicks'], kept['found']
  split = clicks.splits['test']
  opened = serve.load(serve.Config(model=str(tmp_path)))
  about, columns = opened.served.model.clicks, clicks.description['ids']

  def value(vocabulary, column, number):
    keys, ids = opened.served.model.keys(vocabulary)
    text = keys[ids == number][0].decode() if number else '0'
    return text if about['columns'][column]['type'] == 'string' else int(text)

  rows = []
  of_split = split.read(0, len(split))
  for i in range(len(split)):
    record = {name: column[i] for name, column in of_split.items()}
    row = {about[n]: value(n, about[n], record[n]) for n in ('user', 'item')}
    for column, number in zip((c['name'] for c in columns), record['ids']):
      if column in about['needed']:
        row[column] = value(f'id:{column}', column, number)
    for n, name in enumerate(about['histories']):
      ids = clicks.events[n][record['starts'][n] : record['stops'][n]]
      row[name] = [clicks.vocabulary.texts(i, i + 1)[0] for i in ids]
    rows.append(row)
  request = opened.served.read({'rows': rows})
  opened.served.warm()
  (answer,) = opened.served.score([request])
  want = np.zeros(len(rows))
  want[found['index']] = found['logit']
  np.testing.assert_array_equal(answer['score_logit'], want)
  assert np.ptp(want) > 1e-3


def test_what_cannot_be_exported_is_refused(folder, tmp_path):
  with pytest.raises(ValueError, match='export: tower=dedup reads tokens'):
    config_of(folder, tmp_path, tower='dedup', export=True)


@pytest.mark.slow
def test_user_vectors_of_one_run_are_features_of_another(folder, tmp_path):
  run_dir = tmp_path / 'run'
  scores = train(
    folder, run_dir, export_users=True, table='split', evaluate_every=2
  )
  exported = run_dir / 'user_embeddings'
  users = bahe_users.UserVectors.open(
    str(exported), {'test': int(scores['test']['examples'])}
  )
  assert users.dim == 2 * DIM
  assert np.abs(users.read('test', np.arange(3))).max() > 0
  ids = np.load(exported / 'user_ids.npy')
  vectors = np.load(exported / 'users.npy')
  assert vectors.shape == (30, 2 * DIM) and (np.diff(ids) > 0).all()
  with pytest.raises(ValueError, match='it was exported from other data'):
    bahe_users.UserVectors.open(str(exported), {'test': 1})
  assert not (run_dir / '.user_embeddings').exists()
  options = {'tower': 'none', 'user_embeddings': str(exported)}
  other = train(folder, tmp_path / 'ids', **options)
  assert math.isfinite(other['test']['log_loss'])
  # The run does not resume with another export, nor with one of other data.
  path = exported / 'made_of.json'
  made_of = json.loads(path.read_text())
  path.write_text(json.dumps(made_of | {'name': 'other'}))
  with pytest.raises(ValueError, match='with another export of user vectors'):
    train(folder, tmp_path / 'ids', **options)
  path.write_text(json.dumps(made_of | {'data': 'other'}))
  with pytest.raises(ValueError, match='from other data, which have as many'):
    train(folder, tmp_path / 'ids', **options)


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_parameters(folder, tmp_path):
  train(folder, tmp_path / 'whole')
  # The same schedule, stopped half way.
  config = config_of(folder, tmp_path / 'parts')
  job = job_of(config)

  class StopAfterTwo(script.StopRequest):
    asked = 0

    def __call__(self):
      self.asked += 1
      return self.asked > 1

  stopping = dataclasses.replace(job, should_stop=StopAfterTwo())
  with pytest.raises(KeyboardInterrupt):
    train_bahe.train(config, stopping)
  stopped_at = checkpoint.latest_step(tmp_path / 'parts' / 'checkpoints')
  assert 0 < stopped_at < 4
  train_bahe.train(config, job)
  whole, parts = (
    saved_params(tmp_path / name, 4) for name in ('whole', 'parts')
  )
  jax.tree.map(np.testing.assert_array_equal, whole, parts)


@pytest.mark.slow
@pytest.mark.parametrize('home', ['host', 'split', 'disk'])
def test_homes_of_the_table_give_the_same_scores(folder, tmp_path, home):
  expected = train(folder, tmp_path / 'device', table='device')
  found = train(folder, tmp_path / home, table=home, num_micro_batches=2)
  for name in ('auc', 'log_loss'):
    assert found['test'][name] == pytest.approx(
      expected['test'][name], rel=1e-4
    )


@pytest.mark.slow
def test_the_planner_chooses_the_code(folder, tmp_path, caplog):
  caplog.set_level(logging.INFO)
  train(folder, tmp_path, paro='auto', num_steps=1, head=model.HeadConfig())
  results = json.loads((tmp_path / 'results.json').read_text())
  PaRO.from_code(results['paro'])
  assert 'paro=auto: ' in caplog.text


@pytest.mark.slow
def test_lora_trains_adapters_and_places_only(folder, tmp_path):
  tuned = {'tuning': 'lora', 'num_steps': 2}
  train(folder, tmp_path / 'run', **tuned)
  found = saved_params(tmp_path / 'run', 2)
  params = jax.tree.leaves_with_path(found['params'])
  (adapter,) = (x for path, x in params if 'query_lora_b' in str(path[-1]))
  assert np.abs(adapter).max() > 0
  # Only what is trained has moments.
  moments = jax.tree.leaves_with_path(found['state']['opt_state'])
  names = {jax.tree_util.keystr(path) for path, _ in moments}
  assert any('query_lora_a' in name for name in names)
  assert any('behavior_positions' in name for name in names)
  assert not any(name.endswith("query']") for name in names)
  # In a new run, on matrices in 8 bits, from the adapters of this one.
  adapter = str(tmp_path / 'run' / 'adapter')
  tuned = {'adapter': adapter, 'quantize': 'int8'} | tuned
  train(folder, tmp_path / 'next', **tuned)
  found = saved_params(tmp_path / 'next', 2)['params']
  leaves = {
    jax.tree_util.keystr(path, simple=True, separator='.'): x
    for path, x in jax.tree.leaves_with_path(found)
  }
  assert leaves['tower.high.layers.query'].dtype == np.int8
  assert np.abs(leaves['tower.high.layers.query_lora_b']).max() > 0


@pytest.mark.slow
def test_a_frozen_model_trains_the_head(folder, tmp_path):
  scores = train(
    folder, tmp_path / 'run', tower='frozen', store=str(folder / 'store3')
  )
  assert math.isfinite(scores['test']['log_loss'])
  results = json.loads((tmp_path / 'run' / 'results.json').read_text())
  # The language model is not held at all, and counts as frozen.
  assert results['memory']['frozen_share'] > 0.5


@pytest.mark.slow
def test_towers_of_tokens(folder, tmp_path):
  options = {
    'token_cache': str(tmp_path / 'tokens'),
    'num_low': NUM_LOW,
    'max_tokens': 16,
  }
  found = {
    tower: train(folder, tmp_path / tower, tower=tower, **options)['test']
    for tower in ('store', 'dedup', 'full_text')
  }
  # The store holds float16.
  assert found['dedup']['log_loss'] == pytest.approx(
    found['store']['log_loss'], rel=1e-3
  )
  assert math.isfinite(found['full_text']['log_loss'])
  memory = {
    tower: json.loads((tmp_path / tower / 'results.json').read_text())['memory']
    for tower in found
  }
  assert memory['store']['num_absent'] > memory['full_text']['num_absent'] == 0
  # The low half is held, and frozen.
  assert 0 < memory['dedup']['frozen_share'] < 1


@pytest.mark.slow
def test_early_stopping_takes_the_best_step(folder, tmp_path):
  train(
    folder,
    tmp_path / 'run',
    num_steps=40,
    evaluate_every=2,
    patience=2,
    checkpoint_every=2,
    optimizer=OptimizerConfig(
      warmup_steps=1, lm_learning_rate=0.3, learning_rate=0.3
    ),
  )
  lines = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
  found = [json.loads(line) for line in lines]
  aucs = [r['validation_auc'] for r in found if 'validation_auc' in r]
  results = json.loads((tmp_path / 'run' / 'results.json').read_text())
  assert results['results']['validation']['auc'] == pytest.approx(max(aucs))


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'max_behaviors': (1, 2, 3)}, 'have 2 sequences'),
    ({'batch_size': 12}, 'batch_size=12 must be a multiple of 8'),
    ({'tower': 'frozen'}, 'tower=frozen needs a store of all 3 layers'),
    ({'store': 'store3'}, 'leaves none to train'),
    ({'num_low': 2}, 'num_low=2: the store at .* has rows of num_low=1'),
    ({'user_embeddings': 'data'}, 'train.npy is not there'),
  ],
)
def test_what_does_not_go_together_is_refused(
  folder, tmp_path, changes, message
):
  for name in ('store', 'user_embeddings'):
    if name in changes:
      changes[name] = str(folder / changes[name])
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    train(folder, tmp_path / 'run', **changes)
  assert not (tmp_path / 'run' / 'config.json').exists()


def test_a_store_of_another_tokenizer_is_refused(folder, tmp_path):
  shutil.copytree(folder / 'model', tmp_path / 'model')
  small_vocabulary.write_tokenizer(tmp_path / 'model', ratings.WORDS[::-1])
  with pytest.raises(ValueError, match='different is the tokenizer'):
    train(folder, tmp_path / 'run', model=str(tmp_path / 'model'))


def test_a_model_that_lacks_ids_of_its_tokenizer_is_refused(folder, tmp_path):
  shutil.copytree(folder / 'model', tmp_path / 'model')
  words = [f'w{i}' for i in range(100)]
  small_vocabulary.write_tokenizer(tmp_path / 'model', words)
  options = {'model': str(tmp_path / 'model'), 'token_cache': str(tmp_path)}
  with pytest.raises(ValueError, match='ids up to 103.*vocab_size=61'):
    train(folder, tmp_path / 'run', tower='full_text', **options)
  assert not list(tmp_path.glob('*/tokens.bin'))  # Nothing was tokenized.


def test_events_that_are_cut_are_refused_at_once(folder, tmp_path):
  shutil.copytree(folder / 'data', tmp_path / 'data')
  path = tmp_path / 'data' / 'examples' / 'events' / 'liked.npy'
  path.write_bytes(path.read_bytes()[:-4])
  with pytest.raises(ValueError, match='damaged: events/liked.npy has'):
    train(folder, tmp_path / 'run', data=str(tmp_path / 'data'))


@pytest.mark.parametrize('num_low', [None, 0, 2])
def test_the_cut_comes_back_from_json(num_low):
  given = train_bahe.Config(num_low=num_low)
  text = json.dumps(config_lib.to_dict(given))
  assert config_lib.from_dict(train_bahe.Config, json.loads(text)) == given


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'num_low': -1}, 'num_low=-1: must be at least 0'),
    ({'patience': 3}, 'set evaluate_every'),
    ({'best_metric': 'loss'}, 'no metric of clicks'),
    ({'best_metric': 'auc'}, 'log it as validation_auc'),
    ({'tower': 'none', 'export_users': True}, 'no vector of a user alone'),
    ({'fusion': 'early', 'export_users': True}, 'no vector of a user alone'),
    ({'tower': 'full_text', 'fusion': 'early'}, 'takes neither fusion=early'),
    ({'tower': 'full_text', 'pooling': 'last'}, 'nor pooling=last'),
    ({'max_behaviors': (0,)}, 'must be at least 1'),
    ({'paro': 'GNN'}, 'Valid codes'),
  ],
)
def test_flags_are_checked_before_anything_starts(changes, message):
  with pytest.raises(ValueError, match=message):
    train_bahe.Config(**changes)


def test_a_run_goes_on_with_what_it_was_made_of(tmp_path):
  made_of = {'tower': 'store', 'language model': 'a', 'cut of the store': 3}
  run_identity.check(tmp_path, made_of)  # A new run.
  (tmp_path / 'checkpoints/4').mkdir(parents=True)
  with pytest.raises(ValueError, match='and no made_of.json.* which tower and'):
    run_identity.check(tmp_path, made_of)
  run_identity.save(tmp_path, made_of)
  run_identity.check(tmp_path, made_of)
  changed = {'tower': 'store', 'language model': 'b'}
  with pytest.raises(
    ValueError, match='another language model and cut of the store than'
  ):
    run_identity.check(tmp_path, changed)
  assert run_identity.of_data(
    {'config': 1, 'counts': 2, 'splits': 3}
  ) != run_identity.of_data({'config': 1, 'counts': 2, 'splits': 4})


@pytest.mark.parametrize(
  'num_examples, limit, num_chosen',
  [(10, 0, 10), (10, 4, 4), (100, 99, 99), (1000, 128, 128), (1000, 130, 130)],
)
def test_examples_to_score_are_spread_runs(num_examples, limit, num_chosen):
  index = bahe_data.spread_examples(num_examples, limit)
  assert len(index) == len(np.unique(index)) == num_chosen
  assert index.min() >= 0 and index.max() < num_examples
  assert (np.diff(index) > 0).all()
  assert np.count_nonzero(np.diff(index) > 1) <= num_chosen // 64


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_hosts_under_agents_of_which_one_is_killed(folder, tmp_path):
  run_dir = tmp_path / 'run'
  job = ElasticJob(
    'train_bahe',
    *(f'--run_dir={run_dir}', f'--data={folder / "data"}', '--paro=IIG'),
    *(f'--model={folder / "model"}', f'--store={folder / "store1"}'),
    *('--max_behaviors=5', '--batch_size=32', '--num_steps=16'),
    *('--num_micro_batches=2', '--shard_size=8', '--table=split'),
    *('--min_shard_size=64', '--checkpoint_every=3'),
  )
  job.wait_for(lambda: len(logged_steps(run_dir)) >= 5)
  os.kill(job.workers()[1], signal.SIGKILL)
  output = job.ended()
  assert 'generation 2: rank 0 of 2' in output
  assert 'Restored step' in output
  assert logged_steps(run_dir) == list(range(16))
  results = json.loads((run_dir / 'results.json').read_text())
  assert results['results']['test']['examples'] > 20
