# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Processes that see other keys have one vocabulary, as one process has.

Each has it whole, or a part of it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.embedding.key_store import KeyStore, KeyStoreConfig
from antjax.embedding.layout import TableSpec
from antjax.embedding.table import EmbeddingTables
from antjax.embedding.vocabulary import Vocabulary, VocabularyConfig
from antjax.mesh.mesh import make_mesh
from antjax.train.trainer import Trainer
from tests.multiprocess.run_workers import run_workers
from tests.train.positioned import Positioned

pytestmark = pytest.mark.multiprocess

NUM_STEPS = 6


def batch_of(step):
  rng = np.random.default_rng(step)
  words = rng.integers(step, step + 9, 16)
  return {
    'ids': {'word': np.char.add('w', words.astype(str))},
    'y': rng.normal(size=16).astype(np.float32),
  }


def train(index, count, kind='whole', folder=None, num_steps=NUM_STEPS):
  if kind == 'whole':
    vocabulary = Vocabulary(
      VocabularyConfig(num_ids=6, min_count=2, eviction='lfu')
    )
  else:
    vocabulary = KeyStore(
      KeyStoreConfig(num_ids=10, num_parts=3, min_count=2, eviction='lfu')
    )
  num_ids = vocabulary.config.num_ids
  tables = EmbeddingTables(
    [TableSpec('word', num_ids, 4, 'global', init_scale=1.0)],
    {'word': 'word'},
    mesh=make_mesh(intra=1, devices=jax.devices()[:2]),
  )

  def loss_fn(params, rows, batch, rng):
    del rng
    vectors = tables.lookup(rows, batch['ids'])['word']
    return jnp.square(vectors.sum(axis=-1) + params - batch['y'])

  def predict_fn(params, rows, batch, rng):
    del params, rng
    vectors = tables.lookup(rows, batch['ids'])['word']
    return {'sum': vectors.sum(axis=-1)}

  trainer = Trainer(
    loss_fn,
    optax.sgd(0.1),
    mesh=tables.mesh,
    tables=tables,
    vocabularies={'word': vocabulary},
  )

  def mine(step):
    return jax.tree.map(lambda x: np.split(x, count)[index], batch_of(step))

  state, losses = trainer.init(np.zeros((), np.float32)), []
  state = trainer.fit(
    state,
    Positioned(mine),
    num_steps,
    checkpoint_dir=folder,
    merge_input_states=lambda states: states[0],
    on_step=lambda step, values: losses.append(float(values['loss'])),
  )
  # A process without a batch takes part in the search for keys.
  half = jax.tree.map(lambda x: x[:8], batch_of(7))
  shown = [mine(0), half] if index == 0 else [mine(0)]
  found = trainer.predict(state, shown, predict_fn)
  vocabulary = trainer.vocabularies['word']
  keys, ids = vocabulary.keys()
  return {
    'losses': losses,
    'ids': {str(key): row for key, row in zip(keys.tolist(), ids.tolist())},
    'sums': sorted(found['sum'].tolist()),
    'bytes': vocabulary.nbytes if kind == 'spread' else 0,
  }


def work(*args):
  return train(jax.process_index(), jax.process_count(), *args)


def assert_continues(found, expected, steps):
  """Both processes did some steps of the expected ones."""
  first, second = found
  assert first['losses'] == second['losses']
  assert first['losses'] == pytest.approx(expected['losses'][steps], rel=1e-5)


@pytest.mark.slow
def test_two_processes_share_a_vocabulary():
  found = run_workers(work, hosts=2, num_devices=2)
  expected = train(0, 1)
  assert found[0]['ids'] == found[1]['ids'] == expected['ids']
  assert len(expected['ids']) == 5
  assert_continues(found, expected, slice(None))


@pytest.mark.slow
def test_processes_hold_the_keys_of_one_and_go_on_as_others(tmp_path):
  expected = train(0, 1, 'spread')
  args = 'spread', str(tmp_path / 'run')
  first, second = run_workers(work, *args, 4, hosts=2, num_devices=2)
  assert {*first['ids']}.isdisjoint(second['ids'])
  assert first['ids'] and second['ids']
  # Two parts of three each: the last one is empty.
  assert first['bytes'] == second['bytes'] == expected['bytes'] * 2 // 3
  assert_continues((first, second), expected, slice(4))
  alone = train(0, 1, *args, 5)
  assert alone['losses'] == pytest.approx(expected['losses'][4:5], rel=1e-5)
  first, second = run_workers(work, *args, hosts=2, num_devices=2)
  assert first['ids'] | second['ids'] == expected['ids']
  assert_continues((first, second), expected, slice(5, None))
  assert first['sums'] == second['sums']
  np.testing.assert_allclose(first['sums'], expected['sums'], rtol=1e-5)
