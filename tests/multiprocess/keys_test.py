# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Processes that see other keys have one vocabulary, as one process has."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.embedding.layout import TableSpec
from antjax.embedding.table import EmbeddingTables
from antjax.embedding.vocabulary import Vocabulary, VocabularyConfig
from antjax.mesh.mesh import make_mesh
from antjax.train.trainer import Trainer
from tests.multiprocess.run_workers import run_workers

pytestmark = pytest.mark.multiprocess

NUM_STEPS = 6


def batch_of(step):
  rng = np.random.default_rng(step)
  words = rng.integers(step, step + 9, 16)
  return {
    'ids': {'word': np.char.add('w', words.astype(str))},
    'y': rng.normal(size=16).astype(np.float32),
  }


def train(index, count):
  config = VocabularyConfig(num_ids=6, min_count=2, eviction='lfu')
  tables = EmbeddingTables(
    [TableSpec('word', config.num_ids, 4, 'global', init_scale=1.0)],
    {'word': 'word'},
    mesh=make_mesh(intra=1, devices=jax.devices()[:2]),
  )

  def loss_fn(params, rows, batch, rng):
    del rng
    vectors = tables.lookup(rows, batch['ids'])['word']
    return jnp.square(vectors.sum(axis=-1) + params - batch['y'])

  trainer = Trainer(
    loss_fn,
    optax.sgd(0.1),
    mesh=tables.mesh,
    tables=tables,
    vocabularies={'word': Vocabulary(config)},
  )
  state = trainer.init(np.zeros((), np.float32))
  losses = []
  for step in range(NUM_STEPS):
    mine = jax.tree.map(lambda x: np.split(x, count)[index], batch_of(step))
    state, metrics = trainer.step(state, mine)
    losses.append(float(metrics['loss']))
  keys, ids = trainer.vocabularies['word'].keys()
  return {'losses': losses, 'keys': keys.tolist(), 'ids': ids.tolist()}


def work():
  return train(jax.process_index(), jax.process_count())


@pytest.mark.slow
def test_two_processes_share_a_vocabulary():
  first, second = run_workers(work, hosts=2, num_devices=2)
  expected = train(0, 1)
  assert first == second
  assert first['keys'] == expected['keys'] and len(first['keys']) == 5
  assert first['ids'] == expected['ids']
  assert first['losses'] == pytest.approx(expected['losses'], rel=1e-5)
