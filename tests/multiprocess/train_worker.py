# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One process of tests/multiprocess/trainer_test.py; prints a JSON line.

train_worker.py <code> <intra> <folder> <batches of process 0,1,...>
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import Adagrad
from antjax.embedding.table import EmbeddingTables
from antjax.jobs import job as job_lib
from antjax.mesh.mesh import make_mesh
from antjax.metrics import means as metrics_lib
from antjax.metrics import ranking
from antjax.train.trainer import Trainer

BATCH = 32  # Of all processes.


class Batches:
  """This process's rows of a global stream, `num` batches of them."""

  def __init__(self, num):
    self._num, self._next = num, 0

  def __iter__(self):
    return self

  def __next__(self):
    if self._next >= self._num:
      raise StopIteration
    rng = np.random.default_rng(self._next)
    self._next += 1
    whole = {
      'ids': {'item': rng.integers(0, 53, (BATCH, 3))},
      'y': rng.normal(size=(BATCH, 3)).astype(np.float32),
      'group': rng.integers(0, 5, (BATCH, 3)),
    }
    size = BATCH // jax.process_count()
    start = jax.process_index() * size
    return jax.tree.map(lambda x: x[start : start + size], whole)

  def get_state(self):
    return {'next': self._next}

  def set_state(self, state):
    self._next = state['next']


def main(code, intra, folder, counts):
  job_lib.initialize_distributed()
  mesh = make_mesh(intra=int(intra))
  tables = EmbeddingTables(
    [TableSpec('item', 53, 4, 'global', Adagrad(0.1), init_scale=1.0)],
    {'item': 'item'},
    mesh=mesh,
  )

  def predict(params, rows, batch):
    x = tables.lookup(rows, batch['ids'])['item'].reshape(-1, 12)
    return jnp.tanh(x @ params['w1']) @ params['w2']

  def loss_fn(params, rows, batch, rng):
    del rng
    return jnp.mean(
      jnp.square(predict(params, rows, batch) - batch['y']), axis=1
    )

  def predict_fn(params, rows, batch, rng):
    del rng
    return {
      'prediction': predict(params, rows, batch),
      'label': batch['y'],
      'group': batch['group'],
    }

  trainer = Trainer(
    loss_fn,
    optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(1e-2)),
    mesh=mesh,
    paro=code,
    tables=tables,
    num_micro_batches=2,
    min_shard_size=8,
  )
  rng = np.random.default_rng(0)
  state = trainer.init(
    {
      'w1': rng.normal(size=(12, 13)).astype(np.float32),
      'w2': rng.normal(size=(13, 3)).astype(np.float32),
    }
  )
  counts = [int(n) for n in counts.split(',')]
  num = counts[jax.process_index()]
  losses = {}
  state = trainer.fit(
    state,
    Batches(num),
    100,
    checkpoint_dir=folder,
    merge_input_states=lambda states: max(states, key=lambda s: s['next']),
    on_step=lambda step, values: losses.setdefault(step, values['loss']),
  )
  scores = trainer.evaluate(
    state,
    Batches(num),
    predict_fn,
    {
      'MAE': metrics_lib.MAE(),
      'AUC': ranking.AUC(0.0),
      'GAUC': ranking.GAUC(0.0),
    },
  )
  print(
    'RESULT '
    + json.dumps({'losses': losses, 'scores': scores, 'step': int(state.step)}),
    flush=True,
  )


if __name__ == '__main__':
  main(*sys.argv[1:])
