# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One process of tests/multiprocess/large_table_test.py; prints a JSON line.

large_table_worker.py <rows> <MiB of memory that the process may take>
"""

import json
import resource
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from antjax.embedding.layout import TableSpec
from antjax.embedding.table import EmbeddingTables
from antjax.jobs import job as job_lib
from antjax.mesh.mesh import make_mesh
from antjax.train.trainer import Trainer
from tests.multiprocess.large_table_test import BATCH, WIDTH


def main(num_rows, limit_mb):
  job_lib.initialize_distributed()
  limit = limit_mb << 20
  resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
  tables = EmbeddingTables(
    [TableSpec('item', num_rows, WIDTH, 'global')],
    {'item': 'item'},
    mesh=make_mesh(intra=1),
  )

  def loss_fn(params, rows, batch, rng):
    del rng
    vectors = tables.lookup(rows, batch['ids'])['item']
    return jnp.square(vectors.sum(axis=-1) + params - batch['y'])

  trainer = Trainer(loss_fn, optax.sgd(0.1), mesh=tables.mesh, tables=tables)
  state = trainer.init(lambda key: jnp.zeros(()), seed=0)
  rng = np.random.default_rng(0)
  size = BATCH // jax.process_count()
  mine = slice(jax.process_index() * size, (jax.process_index() + 1) * size)
  batch = {
    'ids': {'item': rng.integers(0, num_rows, BATCH)[mine]},
    'y': rng.normal(size=BATCH).astype(np.float32)[mine],
  }
  losses = []
  for _ in range(3):
    state, metrics = trainer.step(state, batch)
    losses.append(float(metrics['loss']))
  held = sum(
    shard.data.nbytes
    for leaf in jax.tree.leaves(state.tables)
    for shard in leaf.addressable_shards
  )
  print('RESULT', json.dumps({'losses': losses, 'bytes': held}), flush=True)


if __name__ == '__main__':
  main(*map(int, sys.argv[1:]))
