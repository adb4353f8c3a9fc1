# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A table that one device has no memory for trains, and is saved, on several.

Each process is a device whose memory the system limits.
"""

import hashlib
import resource

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.embedding.layout import new_rows, TableSpec
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import make_mesh
from antjax.train.checkpoint import Checkpointer
from antjax.train.trainer import Trainer
from tests.multiprocess.run_workers import run_workers

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

BATCH, WIDTH = 64, 32
NUM_ROWS = 8_000_000  # 1 GB.
LIMIT_MB = (
  1200  # Of which the program takes about a third, and TensorStore 100.
)


def work(num_rows, limit_mb, folder):
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
  wanted = digests(state)
  with Checkpointer(folder, trainer.layout) as saver:
    saver.save(3, state)
    saver.wait()
    del state
    state, _ = saver.restore(3)
  assert digests(state) == wanted  # Of this process's rows and slots.
  return {'losses': losses, 'bytes': held}


def digests(state):
  return [
    hashlib.sha256(shard.data).hexdigest()
    for leaf in jax.tree.leaves(state.tables)
    for shard in leaf.addressable_shards
  ]


def run(hosts, folder):
  args = NUM_ROWS, LIMIT_MB, str(folder)
  return run_workers(work, *args, hosts=hosts, num_devices=hosts)


def test_a_table_larger_than_a_device_trains_on_four(tmp_path):
  with pytest.raises(AssertionError, match='Out of memory'):
    run(hosts=1, folder=tmp_path)
  results = run(hosts=4, folder=tmp_path)
  table_bytes = NUM_ROWS * (WIDTH + 1) * 4
  assert sum(result['bytes'] for result in results) == table_bytes
  losses = results[0]['losses']
  assert losses[0] > losses[1] > losses[2]
  # The rows are those that one device would have made.
  rng = np.random.default_rng(0)
  ids, y = rng.integers(0, NUM_ROWS, BATCH), rng.normal(size=BATCH)
  key = jax.random.fold_in(jax.random.key(0), 1)
  rows = new_rows(TableSpec('item', NUM_ROWS, WIDTH), key, ids)
  expected = np.mean(np.square(np.asarray(rows).sum(axis=-1) - y))
  assert losses[0] == pytest.approx(expected, rel=1e-4)
