# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""launch/train_llm_rec on made-up ratings and a tiny language model."""

import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from antjax.ctr.llm_rec.late import UserConfig
from antjax.ctr.llm_rec.losses import LossConfig
from antjax.ctr.llm_rec.model import VectorConfig
from antjax.jobs.llm_rec import data as llm_rec_data
from antjax.jobs.llm_rec import export as llm_rec_export
from antjax.jobs.llm_rec import held_out as llm_rec_held_out
from antjax.jobs.llm_rec import job as train_llm_rec
from antjax.jobs.llm_rec import recommend
from antjax.jobs.llm_rec import sweep as llm_rec_sweep
from antjax.jobs.llm_rec.config import SweepConfig
from antjax.jobs.llm_rec.served import ServedTitles
from antjax.train.optimizer import OptimizerConfig
from tests.jobs import processes, ratings
from tests.jobs.processes import job_of, logged_steps

# Of reading a checkpoint as it is.
pytestmark = pytest.mark.filterwarnings('ignore:Sharding info not provided')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Data and model."""
  folder = tmp_path_factory.mktemp('llm_rec')
  ratings.prepare(folder, 'sequences')
  ratings.write_model(folder, ['Film', '(1990);', *map(str, range(40))])
  return folder


def config_of(folder, run_dir, **changes):
  base = train_llm_rec.Config(
    run_dir=str(run_dir),
    data=str(folder / 'data'),
    model=str(folder / 'model'),
    max_history=4,
    max_title_tokens=6,
    max_tokens=32,
    batch_size=16,
    num_steps=4,
    shard_size=8,
    checkpoint_every=2,
    baselines=(),
    with_hybrid=False,
    validation_examples=20,
    min_shard_size=64,
    held_out=llm_rec_held_out.HeldOutConfig(num_negatives=5),
    vector=VectorConfig(
      pooling='mean', normalize=True, half_life=8, word_dim=16
    ),
    loss=LossConfig(
      negatives='shared', num_negatives=4, temperature=0.1, across='all'
    ),
    optimizer=OptimizerConfig(warmup_steps=1, lm_learning_rate=1e-2),
  )
  return dataclasses.replace(base, **changes)


def train(folder, run_dir, **changes):
  config = config_of(folder, run_dir, **changes)
  return train_llm_rec.train(config, job_of(config))


def test_a_run_trains_scores_exports_and_reports(folder, tmp_path):
  run_dir = tmp_path / 'run'
  results = train(folder, run_dir, with_hybrid=True, baselines=('popularity',))
  scores = results['test']['sampled']['all']
  assert 0 <= scores['ndcg@10'] <= scores['recall@10'] <= 1
  assert scores['examples'] >= 20
  written = json.loads((run_dir / 'results.json').read_text())
  assert written['results']['llm_rec'] == results
  planned = sum(written['memory']['state'].values())
  planned -= written['memory']['state']['grads']
  planned += written['memory']['batch']
  # Gradients are no argument; arrays are padded to whole cache lines.
  arguments = written['memory']['compiled']['arguments']
  assert arguments == pytest.approx(planned, rel=0.05)
  page = (run_dir / 'report.html').read_text()
  assert 'NDCG@10 among all items' in page and '(PCA)' in page
  assert 'Where llm_rec loses' in page
  gaps = {(x['part'], x['method']): x for x in written['gaps']}
  for method in 'llm_rec', 'hybrid_llm_rec':
    gap, found = gaps['all', method], written['results']
    values = [found[m]['test']['sampled']['all']['ndcg@10'] for m in found]
    rival = found['popularity']['test']['sampled']['all']['ndcg@10']
    assert gap['rival'] == 'popularity' and gap['value'] in values
    assert gap['difference'] == pytest.approx(gap['value'] - rival)
  assert 'validation_ndcg@10' in (run_dir / 'metrics.jsonl').read_text()
  # What was exported recommends, and its vectors are those of the items.
  recommender, catalogue = llm_rec_export.read(run_dir / 'export')
  vectors = np.load(run_dir / 'export' / 'item_vectors.npy')
  items = pq.read_table(run_dir / 'export' / 'items.parquet')
  assert len(vectors) == len(items) == len(catalogue.titles)
  history = catalogue.titles[1:3]
  ((best, *_),) = recommender([history], 5)
  (user,) = recommender.user_vectors([history])
  scores = vectors @ user
  scores[:3] = -np.inf
  assert scores[best.item] == pytest.approx(scores.max(), abs=1e-5)
  # So does the hybrid, new items too; each part says what it adds.
  (tmp_path / 'new.csv').write_text('title,domain\nFilm 3 anew,Drama\n')
  config = recommend.Config(
    folder=str(run_dir / 'export'), items=str(tmp_path / 'new.csv'), num=999
  )
  given = [catalogue.titles[1], 'Film of no item']
  rows = recommend._Ranker(config, [given])(given, 999)
  titles = [row['title'] for row in rows]
  assert sorted([*titles, given[0], '']) == sorted(
    [*catalogue.titles, 'Film 3 anew']
  )
  for row in rows:
    assert sum(row['parts'].values()) == pytest.approx(row['score'], abs=0.01)
    assert {'lm', 'words', 'knn', 'popularity'} <= {*row['parts']}
    assert row['nearest'] in given
  assert 'hybrid_llm_rec' in written['results']
  # An item's text is that of a history of it alone.
  np.testing.assert_allclose(
    recommender.user_vectors([catalogue.titles[1:2]])[0], vectors[1], atol=1e-5
  )


def test_a_batch_is_of_many_users(folder, tmp_path):
  # Examples lie by user and time; all of a run are read once an epoch.
  config = config_of(folder, tmp_path, shard_size=16)
  job = job_of(config)
  sequences = llm_rec_data.TrainingSequences(config, job)
  batches = []

  class Inputs:
    def __call__(self, batch, num_parts):
      batches.append(batch)
      return {}

  sequences._inputs = Inputs()
  num_batches = -(-len(sequences.source) // 16)
  for _ in zip(range(num_batches), sequences.training(), strict=False):
    pass
  keys = np.concatenate([batch['key'] for batch in batches])
  users, _ = sequences.events.examples(keys[:48] % len(sequences.source))
  assert min(len({*users[i : i + 16]}) for i in (0, 16, 32)) > 6
  assert {*keys[: len(sequences.source)] % len(sequences.source)} == {
    *range(len(sequences.source))
  }


@pytest.mark.slow
def test_a_run_goes_on_where_it_ended(folder, tmp_path):
  train(folder, tmp_path, num_steps=2, export=False)
  train(folder, tmp_path, num_steps=4, export=False)
  assert logged_steps(tmp_path) == [0, 1, 2, 3]
  with pytest.raises(ValueError, match='another start than given now'):
    train(folder, tmp_path, start='random')


@pytest.mark.slow
@pytest.mark.parametrize(
  ('num_low', 'interaction'), [(1, 'pooled'), (3, 'pooled'), (3, 'late')]
)
def test_a_run_over_a_store(folder, tmp_path, num_low, interaction):
  run_dir, store = tmp_path / 'run', str(tmp_path / 'store')
  changes = {'store': store, 'num_low': num_low, 'check_memory': num_low == 1}
  changes['user'] = UserConfig(interaction=interaction)
  if num_low == 1:
    changes |= {'tuning': 'lora', 'lora_rank': 2}
  else:
    vector = VectorConfig(
      pooling='mean', normalize=True, whiten=True, token_vectors=True
    )
    changes |= {'vector': vector, 'stage1_steps': 2}
  train(folder, run_dir, num_steps=2, export=False, **changes)
  results = train(folder, run_dir, num_steps=4, with_hybrid=True, **changes)
  assert logged_steps(run_dir) == [0, 1, 2, 3]
  assert results['test']['sampled']['all']['examples'] >= 20
  # What is exported says of titles what the run said of the items' rows.
  recommender, catalogue = llm_rec_export.read(run_dir / 'export')
  vectors = np.load(run_dir / 'export' / 'item_vectors.npy')
  titles = catalogue.titles[1:3]
  width = vectors.shape[1] - (interaction == 'late')  # But new items' bias.
  # Whitening enlarges the rounding of float16 rows, up to 60 times.
  atol = 2e-3 if num_low == 1 else 2e-2
  np.testing.assert_allclose(
    recommender.title_vectors(titles)[:, :width],
    vectors[1:3, :width],
    atol=atol,
  )
  users = recommender.user_vectors([titles])
  ((best, *_),) = recommender([titles], 3)
  if interaction == 'late':  # A vector of each title, with its age's weight.
    terms = users[0] @ vectors.T
    assert terms.shape == (2, len(vectors))
    want = np.log(np.exp(terms).sum(axis=0))
    assert best.score == pytest.approx(want[3:].max(), abs=1e-4)
    assert users[0, 0, -2] < users[0, 1, -2]
  else:
    assert best.score == pytest.approx((users @ vectors[3:].T).max(), abs=1e-4)
  (found,) = recommender([['a title of none', catalogue.titles[4]]], 3)
  assert len(found) == 3 and 4 not in [x.item for x in found]
  # A new item has a text vector as the others do.
  (tmp_path / 'new.csv').write_text(f'title\n{catalogue.titles[1]} anew\n')
  config = recommend.Config(
    folder=str(run_dir / 'export'), items=str(tmp_path / 'new.csv')
  )
  history = [catalogue.titles[1]]
  ranker = recommend._Ranker(config, [history])
  assert f'{history[0]} anew' in [x['title'] for x in ranker(history, 999)]
  parts = ranker._hybrid.by_part(np.array([[1]]))
  assert parts['vectors'][0, -1] and not parts['knn'][0, -1]
  with pytest.raises(ValueError, match='num_low, the layers below the cut'):
    train(folder, tmp_path / 'other', num_low=2, store=store)


@pytest.mark.slow
@pytest.mark.parametrize(
  'changes',
  [
    {
      'tuning': 'lora',
      'lora_rank': 2,
      'lora_dora': True,
      'quantize': 'int4',
      'vector': VectorConfig(normalize=True, word_dim=8),
      'paro': 'GGG',
    },
    {
      'tuning': 'none',
      'vector': VectorConfig(normalize=True, word_dim=8, word_weight=2),
    },
    {
      'tuning': 'none',
      'vector': VectorConfig(projection_dim=8),
      'loss': LossConfig(num_negatives=3),
      'paro': 'auto',
    },
    {
      'num_chunks': 2,
      'num_micro_batches': 2,
      'loss': LossConfig(
        negatives='in_batch', across='group', learn_temperature=True
      ),
      'evaluate_every': 2,
      'patience': 1,
    },
  ],
)
def test_tunings_losses_and_codes(folder, tmp_path, changes):
  results = train(folder, tmp_path / 'run', **changes)
  assert results['test']['full']['all']['recall@20'] is not None
  recommender, catalogue = llm_rec_export.read(tmp_path / 'run' / 'export')
  (found,) = recommender([[catalogue.titles[4]]], 3)
  assert len(found) == 3 and 4 not in [x.item for x in found]
  served = ServedTitles(str(tmp_path / 'run' / 'export'))
  served.warm()
  request = served.read({'history': [catalogue.titles[4]], 'num': 3})
  for answer in served.score([request] * 9):
    keys = [catalogue.keys[x.item] for x in found]
    assert [x['key'] for x in answer['items']] == keys
  with pytest.raises(ValueError, match='history, row 1: got 3; needed is a'):
    served.read({'history': ['a', 3]})
  with pytest.raises(ValueError, match='num: got 0; needed is an integer, 1'):
    served.read({'history': ['a'], 'num': 0})


@pytest.mark.slow
def test_a_head_of_an_older_export_is_a_projection(folder, tmp_path):
  run_dir = tmp_path / 'run'
  vector = VectorConfig(pooling='mean', projection_dim=8)
  train(folder, run_dir, vector=vector, num_steps=1, check_memory=False)
  path = run_dir / 'export' / 'head.npz'
  recommender, _ = llm_rec_export.read(path.parent)
  want = recommender.user_vectors([['Film 3 (1990)']])
  with np.load(path) as arrays:
    older = {name.removeprefix('projection.'): arrays[name] for name in arrays}
  assert set(older) == {'kernel', 'bias'}
  np.savez(path, **older)
  recommender, _ = llm_rec_export.read(path.parent)
  got = recommender.user_vectors([['Film 3 (1990)']])
  np.testing.assert_array_equal(got, want)


@pytest.mark.slow
def test_baselines_and_recommendations_from_the_command_line(folder, tmp_path):
  run_dir = tmp_path / 'run'
  train(folder, run_dir, baselines=('popularity', 'bm25'))
  found = json.loads((run_dir / 'results.json').read_text())['results']
  assert set(found) == {'popularity', 'bm25', 'llm_rec'}
  result = processes.run(
    *('-m', 'launch.recommend', '--json', '--num=2', '--repeats=2'),
    f'--folder={run_dir}/export',
    *('--history=Film 3 (1990)', '--history=Film, unknown'),
  )
  line = json.loads(result.stdout)
  assert len(line['items']) == 2 and line['history'][1] == 'Film, unknown'
  assert 'A history takes' in result.stderr


@pytest.mark.slow
def test_a_sweep_makes_one_table(folder, tmp_path, capsys):
  config = config_of(
    folder,
    tmp_path / 'sweep',
    paro='NNN',
    num_steps=1,
    check_memory=False,
    loss=LossConfig(num_negatives=3),
    swept=SweepConfig(
      starts=('pretrained',), tunings=('lora', 'none'), histories=(1,)
    ),
  )
  rows = llm_rec_sweep.run(config)
  assert [row['tuning'] for row in rows] == ['lora', 'none']
  table = (tmp_path / 'sweep' / 'sweep.md').read_text()
  assert 'model, pretrained, lora | 1 |' in table
  assert (tmp_path / 'sweep' / 'report.html').exists()
  capsys.readouterr()
  llm_rec_sweep.run(config)  # All is done.
  assert 'exit_code' not in capsys.readouterr().out


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'best_metric': 'validation_auc'}, 'best_metric=validation_auc'),
    ({'patience': 2}, 'evaluate_every'),
    ({'tuning': 'none', 'vector': VectorConfig()}, 'nothing would be trained'),
    ({'baselines': ('magic',)}, 'magic unknown'),
    ({'paro': 'XYZ'}, 'XYZ'),
    ({'only_domain': 'a', 'without_domain': 'a'}, 'nothing is left'),
    ({'num_chunks': 0}, 'num_chunks=0'),
    ({'num_low': 1}, 'give --store'),
    ({'stage1_steps': 2}, 'give --store'),
    ({'user': UserConfig(interaction='late')}, 'late are of a store'),
    ({'store': 's', 'start': 'random'}, 'pretrained layers make of titles'),
    ({'store': 's', 'num_chunks': 2}, 'nothing to cut'),
    ({'store': 's', 'loss': LossConfig()}, 'shared or in_batch'),
  ],
)
def test_settings_that_cannot_be_are_refused(
  folder, tmp_path, changes, message
):
  with pytest.raises(ValueError, match=message):
    config_of(folder, tmp_path / 'run', **changes)


def test_what_is_no_export_is_told(tmp_path):
  with pytest.raises(FileNotFoundError, match='recommender.json is not there'):
    llm_rec_export.read(tmp_path)
  with pytest.raises(ValueError, match='must be at least 1'):
    recommend.Config(num=0)
