# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A run that starts from another one's tables, whose rows have moved."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import Adam
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import make_mesh
from antjax.train.checkpoint import Checkpointer
from antjax.train.trainer import Trainer
from antjax.train.warm_start import warm_start


def make(num_items, level, intra, dim=4, w=0.0):
  tables = EmbeddingTables(
    [TableSpec('item', num_items, dim, level, Adam(0.1), init_scale=1.0)],
    {'item': 'item'},
    mesh=make_mesh(intra=intra, devices=jax.devices()[:4]),
  )
  trainer = Trainer(
    lambda params, rows, batch, rng: (
      params['w'] * jnp.sum(tables.lookup(rows, batch['ids'])['item'], -1)
    ),
    optax.adam(0.1),
    mesh=tables.mesh,
    tables=tables,
  )
  return trainer, trainer.init({'w': jnp.array(w)}, seed=num_items)


def rows_of(trainer, state):
  canonical = trainer.tables.to_canonical(state.tables)['item']
  num_rows = trainer.tables.specs['item'].num_embeddings
  return jax.tree.map(lambda x: np.asarray(x)[:num_rows], canonical)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """Rows and folder of a run on 21 items, at level global on 2 x 2 devices."""
  folder = str(tmp_path_factory.mktemp('run') / 'checkpoints')
  trainer, state = make(21, 'global', 2, w=3.0)
  with Checkpointer(folder, trainer.layout) as checkpointer:
    checkpointer.save(1, state)
  return rows_of(trainer, state)['table'], folder


@pytest.mark.parametrize('level, intra', [('intra', 4), ('none', 2)])
def test_rows_come_from_their_sources(saved, level, intra):
  old_rows, folder = saved
  trainer, state = make(30, level, intra)
  born = rows_of(trainer, state)
  rng = np.random.default_rng(0)
  source = np.full(30, -1)
  source[rng.permutation(30)[:18]] = rng.permutation(21)[:18]
  state = warm_start(trainer, state, folder, sources={'item': source})
  now = rows_of(trainer, state)
  moved = source >= 0
  np.testing.assert_array_equal(now['table'][moved], old_rows[source[moved]])
  np.testing.assert_array_equal(now['table'][~moved], born['table'][~moved])
  jax.tree.map(np.testing.assert_array_equal, now['slots'], born['slots'])
  assert trainer.params(state)['w'] == 3 and int(state.step) == 0


def test_without_sources_tables_are_new(saved):
  trainer, state = make(30, 'none', 2)
  born = rows_of(trainer, state)['table']
  state = warm_start(trainer, state, saved[1])
  np.testing.assert_array_equal(rows_of(trainer, state)['table'], born)


def test_tables_that_do_not_fit_are_refused(saved):
  trainer, state = make(30, 'none', 2)
  source = np.full(30, -1)
  source[3] = 21
  with pytest.raises(ValueError, match=r'item is \[21, 4\] there; needed is'):
    warm_start(trainer, state, saved[1], sources={'item': source})
  trainer, state = make(30, 'none', 2, dim=5)
  with pytest.raises(ValueError, match='needed is width 5'):
    warm_start(trainer, state, saved[1], sources={'item': np.arange(30) % 5})


def test_a_damaged_checkpoint_is_named(saved, tmp_path):
  folder = tmp_path / 'checkpoints'
  shutil.copytree(saved[1], folder)
  (folder / '1' / 'meta' / 'metadata').write_text('{"model"')
  trainer, state = make(30, 'none', 2)
  with pytest.raises(ValueError, match=f'step 1 of {folder} cannot be read'):
    warm_start(trainer, state, folder)
