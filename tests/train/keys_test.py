# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A job whose batches hold keys equals one whose batches hold their ids."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import Adagrad
from antjax.embedding.table import EmbeddingTables
from antjax.embedding.vocabulary import Vocabulary, VocabularyConfig
from antjax.mesh.mesh import make_mesh
from antjax.metrics import means as metrics_lib
from antjax.train.trainer import Trainer
from tests.train.positioned import Positioned

NUM_IDS = 6
BIAS = np.zeros((), np.float32)
CONFIG = VocabularyConfig(num_ids=NUM_IDS, min_count=2, eviction='lfu')


def make_trainer(vocabulary=None, **options):
  tables = EmbeddingTables(
    [
      TableSpec('word', NUM_IDS, 4, 'global', Adagrad(0.5), init_scale=1.0),
      TableSpec('place', 5, 4, 'global', Adagrad(0.5), init_scale=1.0),
    ],
    {'word': 'word', 'both': ('place', 'word')},
    mesh=make_mesh(intra=4),
  )

  def predict(rows, batch):
    vectors = tables.lookup(rows, batch['ids'])
    return vectors['word'].sum(axis=-1) + vectors['both'].sum(axis=(-1, -2))

  def loss_fn(params, rows, batch, rng):
    del rng
    return jnp.square(predict(rows, batch) + params - batch['y'])

  def predict_fn(params, rows, batch, rng):
    del params, rng
    return {'prediction': predict(rows, batch), 'label': batch['y']}

  trainer = Trainer(
    loss_fn,
    optax.sgd(0.1),
    mesh=tables.mesh,
    tables=tables,
    vocabularies=None if vocabulary is None else {'word': vocabulary},
    **options,
  )
  return trainer, predict_fn


def batch_of(step):
  """Keys that come and go, so that rows change hands."""
  rng = np.random.default_rng(step)
  top = 4 + 3 * (step % 3)
  words = rng.integers(max(0, top - 5), top, (2, 16))
  both = np.stack([rng.integers(-1, 5, 16), words[1]], axis=1)
  return {
    'ids': {'word': words[0], 'both': both},
    'y': rng.normal(size=16).astype(np.float32),
  }


def with_keys(batch):
  ids = batch['ids']
  columns = ids['both'].copy()
  # As integer keys: 0, the empty word, is padding.
  columns[:, 1] = np.where(columns[:, 1] == 0, -1, columns[:, 1] + 1000)
  word = np.where(ids['word'] == 0, -1, ids['word'] + 1000)
  return batch | {'ids': {'word': word, 'both': columns}}


def with_ids(batch, vocabulary, step):
  """The batch that a user makes by hand, and the rows to reset before it."""
  keyed = with_keys(batch)['ids']
  keys = np.concatenate([keyed['word'], keyed['both'][:, 1]])
  update = vocabulary.update(keys, step, mask=keys >= 0)
  word, column = np.split(update.ids, 2)
  both = np.stack([keyed['both'][:, 0], column], axis=1)
  return batch | {'ids': {'word': word, 'both': both}}, update.reset


def tables_of(trainer, state):
  return jax.tree.map(np.array, trainer.tables.to_canonical(state))


@pytest.mark.slow
def test_steps_on_keys_equal_steps_on_ids_and_resets_by_hand():
  trainer, _ = make_trainer(Vocabulary(CONFIG))
  plain, _ = make_trainer()
  by_hand = Vocabulary(CONFIG)
  state, other = trainer.init(BIAS, seed=3), plain.init(BIAS, seed=3)
  num_reset = 0
  for step in range(1, 9):
    state, metrics = trainer.step(state, with_keys(batch_of(step)))
    ids, reset = with_ids(batch_of(step), by_hand, step)
    num_reset += len(reset)
    plain.placer.reset = {'word': reset} if len(reset) else {}
    other, expected = plain.step(other, ids)
    assert float(metrics['loss']) == float(expected['loss'])
  assert num_reset > 2  # Rows did change hands.
  jax.tree.map(
    np.testing.assert_array_equal,
    tables_of(trainer, state.tables),
    tables_of(plain, other.tables),
  )


def test_texts_are_keys_too_and_the_empty_one_is_padding():
  trainer, _ = make_trainer(Vocabulary(CONFIG))
  ids, _ = trainer.keys.ids(
    trainer.keys.read({'word': np.array(['x', '', 'x', 'y'])}), is_training=True
  )
  np.testing.assert_array_equal(ids['word'], [1, -1, 1, 0])
  assert trainer.vocabularies['word'].lookup(np.array(['x'])) == 1


def test_a_key_that_would_be_taken_for_padding_is_refused():
  trainer, _ = make_trainer(Vocabulary(CONFIG))
  keys = np.array([3, 2**63 - 1], np.uint64)
  np.testing.assert_array_equal(trainer.keys.read({'word': keys})['word'], keys)
  with pytest.raises(ValueError, match=r'key 9223372036854775808; .*keys >> 1'):
    trainer.keys.read({'word': keys + np.uint64(1)})


def test_an_evaluation_changes_no_vocabulary():
  trainer, predict_fn = make_trainer(Vocabulary(CONFIG))
  state = trainer.init(BIAS)
  state, _ = trainer.step(state, with_keys(batch_of(1)))
  before = trainer.vocabularies['word'].state()
  scores = trainer.evaluate(
    state,
    [with_keys(batch_of(step)) for step in range(2, 5)],
    predict_fn,
    {'MAE': metrics_lib.MAE()},
  )
  assert 0 < scores['MAE'] < 10
  after = trainer.vocabularies['word'].state()
  jax.tree.map(np.testing.assert_array_equal, before, after)


def batches():
  return Positioned(lambda number: with_keys(batch_of(number + 1)))


@pytest.mark.slow
def test_a_stopped_job_goes_on_with_its_vocabularies(tmp_path):
  losses = {}

  def fit(folder, num_steps, seed=3):
    trainer, _ = make_trainer(Vocabulary(CONFIG))
    state = trainer.fit(
      trainer.init(BIAS, seed=seed),
      batches(),
      num_steps,
      checkpoint_dir=str(tmp_path / folder),
      on_step=lambda step, m: losses.setdefault(folder, {}).update(
        {step: m['loss']}
      ),
    )
    return trainer, state

  whole, state = fit('whole', 8)
  fit('parts', 5)
  parts, resumed = fit('parts', 8)
  assert losses['parts'] == losses['whole'] and len(losses['whole']) == 8
  jax.tree.map(
    np.testing.assert_array_equal,
    tables_of(whole, state.tables),
    tables_of(parts, resumed.tables),
  )
  jax.tree.map(
    np.testing.assert_array_equal,
    whole.vocabularies['word'].state(),
    parts.vocabularies['word'].state(),
  )
  plain, _ = make_trainer()
  folder = str(tmp_path / 'parts')
  with pytest.raises(ValueError, match="has vocabularies of \\['word'\\]"):
    plain.fit(plain.init(BIAS), batches(), 9, checkpoint_dir=folder)


def test_a_vocabulary_must_fit_its_table():
  other = VocabularyConfig(num_ids=7)
  with pytest.raises(ValueError, match='num_ids=7; the rows of the tables'):
    make_trainer(Vocabulary(other))
  with pytest.raises(ValueError, match='row_staleness=0'):
    make_trainer(Vocabulary(CONFIG), row_staleness=1)
