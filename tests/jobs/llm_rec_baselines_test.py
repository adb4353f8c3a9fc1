# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""launch/llm_rec_baselines: every method, on the same small examples."""

import json

import numpy as np
import pytest

from antjax.ctr.llm_rec.encoders import GRU4RecConfig, SASRecConfig
from antjax.data import event_food_kitchen
from antjax.data.sequence_data import SequenceData
from antjax.data.view_sequences import SequenceConfig
from antjax.jobs.llm_rec import baselines as llm_rec_baselines
from antjax.jobs.llm_rec import baselines_table
from antjax.jobs.llm_rec import held_out as llm_rec_held_out
from antjax.jobs.llm_rec.baselines import Config
from antjax.jobs.llm_rec.config import CHEAP, HybridConfig, NextItemConfig
from tests.data import views
from tests.jobs.processes import job_of


def write(folder, num_users=60, num_items=20):
  """Food: each item is followed by the next one; Kitchen: by any one."""
  rng = np.random.default_rng(0)
  folder.mkdir()
  for name in 'AB':
    lines = [
      json.dumps({'asin': f'{name}{i}', 'index': i, 'title': f'{name} word{i}'})
      for i in range(num_items)
    ]
    (folder / f'items_{name}.jsonl').write_text('\n'.join(lines))

  def food():
    return [
      int(i) for i in (rng.integers(num_items) + np.arange(6)) % num_items
    ]

  def kitchen():
    # The last item of Kitchen is bought last, and so never trained on.
    return [int(i) for i in num_items + rng.permutation(num_items - 1)[:5]]

  users = {
    'train_A': [food() for _ in range(num_users)],
    'train_B': [kitchen() for _ in range(num_users)],
    'train_overlap': [kitchen()[:3] + food() for _ in range(num_users)],
    'valid': [food() for _ in range(10)],
    'test': [kitchen() + [2 * num_items - 1] for _ in range(10)],
  }
  for name, rows in users.items():
    text = ''.join(
      f'{i}\t{",".join(map(str, r))}\n' for i, r in enumerate(rows)
    )
    (folder / f'{name}.txt').write_text(text)
  return folder


@pytest.fixture(name='folder', scope='module')
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('sequences')
  source = event_food_kitchen.source(write(folder / 'source'))
  views.write(folder / 'out', source, 'sequences', SequenceConfig(k_core=0))
  return folder / 'out'


class Letters:
  """Texts -> counts of characters, in place of a language model."""

  made_of = 'letters'

  def __init__(self, *args):
    del args

  def __call__(self, texts, title=''):
    del title
    rows = [[text.count(c) for c in 'ABword0123456789'] for text in texts]
    return np.array(rows, np.float32)

  def kept(self, texts, folder, title):
    del folder, title
    return self(texts)


def config_of(folder, run_dir, **options):
  return Config(
    run_dir=str(run_dir),
    data=str(folder),
    held_out=llm_rec_held_out.HeldOutConfig(
      num_examples=80, num_cold=5, num_negatives=10
    ),
    training=NextItemConfig(
      num_steps=240, batch_size=64, evaluate_every=80, learning_rate=0.01
    ),
    sasrec=SASRecConfig(dim=16, max_length=8, dropout=0.0),
    gru4rec=GRU4RecConfig(dim=16, state_dim=16, max_length=8, dropout=0.0),
    validation_examples=60,
    **options,
  )


def test_cheap_methods_tell_of_a_new_item(folder, tmp_path):
  hybrid = HybridConfig(num_examples=30, num_negatives=10)
  methods = tuple(m for m in CHEAP if m != 'popularity')
  config = config_of(folder, tmp_path, methods=methods, hybrid=hybrid)
  found = llm_rec_baselines.train(config, job_of(config))
  food = {
    m: x['test']['sampled']['domain/Food']['ndcg@10'] for m, x in found.items()
  }
  # Food follows its order, which words do not tell.
  assert food['hybrid'] > food['bm25_recency']
  assert food['item_knn'] > food['bm25_recency']


@pytest.mark.slow
def test_all_methods_rank_the_same_examples(
  folder, tmp_path, capsys, monkeypatch
):
  monkeypatch.setattr(llm_rec_baselines, 'TitleEncoder', Letters)
  config = config_of(folder, tmp_path / 'run')
  job = job_of(config)
  baselines = llm_rec_baselines.Baselines(config, job)
  data = baselines.data
  found = {}
  for method in config.methods:
    ranks, cold = baselines.ranks(method)
    baselines_table.write_method(
      tmp_path / 'run' / f'{method}.json',
      (ranks, baselines.test),
      (cold, baselines.cold),
      {'made_of': baselines.made_of(method), 'wall_s': 1.0},
    )
    text = (tmp_path / 'run' / f'{method}.json').read_text()
    found[method] = json.loads(text)['test']['sampled']
    assert json.loads(text)['cold']['sampled']['all']['examples'] == 5
  assert data.counts[data.keys.index('B19')] == 0  # The cold item.
  for scores in found.values():
    assert scores['all']['examples'] == 80
  food = {m: s['domain/Food']['recall@1'] for m, s in found.items()}
  assert food['sasrec'] > 0.8 and food['gru4rec'] > 0.8
  assert food['sasrec_single'] > 0.8
  assert food['unisrec'] > 0.8 and food['unisrec_ids'] > 0.8
  assert food['popularity'] < 0.4
  # What is done is not done again: no method is left to run.
  llm_rec_baselines.train(config, job)
  assert 'among all items' in capsys.readouterr().out


def test_scores_of_other_users_are_no_scores_of_these(folder, tmp_path):
  def run(**options):
    config = config_of(folder, tmp_path, methods=('popularity',), **options)
    return llm_rec_baselines.train(config, job_of(config))

  all_users, few = run(), {'train_users': 3}
  table = (tmp_path / 'table.md').read_text()
  assert 'paired by examples' in table and '| popularity |' in table
  with pytest.raises(ValueError, match='of other data, users'):
    run(**few)
  (tmp_path / 'popularity.json').unlink()
  assert run(**few) != all_users
  assert run(**few) == run(**few)


def test_a_missing_model_is_told_before_any_method_runs(folder, tmp_path):
  config = config_of(
    folder,
    tmp_path,
    methods=('popularity', 'one_text'),
    model=str(tmp_path / 'lm'),
  )
  needed = 'no model at .* It reads texts for one_text; --methods=popularity,bm'
  with pytest.raises(FileNotFoundError, match=needed):
    llm_rec_baselines.train(config, job_of(config))
  assert not (tmp_path / 'popularity.json').exists()


def test_examples_are_drawn_by_seed_and_cold_ones_apart(folder):
  data = SequenceData.open(folder)
  options = llm_rec_held_out.HeldOutConfig(
    num_examples=30, num_cold=4, num_negatives=5
  )
  test, cold = llm_rec_held_out.held_out(data, 'test', options)
  again, _ = llm_rec_held_out.held_out(data, 'test', options)
  assert len(test) == 30 and len(cold) == 4
  np.testing.assert_array_equal(test.users, again.users)
  np.testing.assert_array_equal(
    test.examples.negatives, again.examples.negatives
  )
  assert cold.parts['cold_item'].all()
  assert {data.keys[i] for i in cold.examples.targets} == {'B19'}
  whole, none = llm_rec_held_out.held_out(
    data, 'test', llm_rec_held_out.HeldOutConfig(num_negatives=5)
  )
  assert none is None and len(whole) == len(data.examples('test')[0])
  history = whole.examples.history_fn(np.arange(3))
  for u, row, target in zip(whole.users, history, whole.examples.targets):
    events = data.events[data.offsets[u] : data.offsets[u + 1]]
    assert [*row[row > 0], target] == events.tolist()


@pytest.mark.parametrize(
  'options, message',
  [
    (
      {'methods': ('sasrec', 'svd')},
      r"\['svd'\] cannot be run; use popularity",
    ),
    ({'methods': ()}, 'none cannot be run'),
    ({'max_history': 0}, 'max_history=0: must be at least 1'),
    ({'paro': 'XYZ'}, 'XYZ'),
  ],
)
def test_wrong_flags_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    Config(**options)
  with pytest.raises(ValueError, match='training.num_steps=0'):
    NextItemConfig(num_steps=0)
  with pytest.raises(ValueError, match='num_negatives=0: must be at least 1'):
    llm_rec_held_out.HeldOutConfig(num_negatives=0)
