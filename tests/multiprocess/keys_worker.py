# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One process of tests/multiprocess/keys_test.py; prints a JSON line.

Steps on keys with an ever changing vocabulary; each process reads its share of
a batch, so each sees other keys.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax

from antjax.embedding.layout import TableSpec
from antjax.embedding.table import EmbeddingTables
from antjax.embedding.vocabulary import Vocabulary, VocabularyConfig
from antjax.jobs import job as job_lib
from antjax.mesh.mesh import make_mesh
from antjax.train.trainer import Trainer

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


if __name__ == '__main__':
  job_lib.initialize_distributed()
  found = train(jax.process_index(), jax.process_count())
  print('RESULT', json.dumps(found), flush=True)
