# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Reset rows are as they were born, and no other row changes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.embedding import rows
from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import Adam, RowWiseAdagrad
from antjax.embedding.table import EmbeddingTables
from antjax.embedding.vocabulary import Vocabulary, VocabularyConfig
from antjax.mesh.mesh import make_mesh
from antjax.train.state import reset_rows
from antjax.train.trainer import Trainer
from tests.cases import first_fast


def make_tables(level, optimizer, dtype='float32'):
  return EmbeddingTables(
    [
      TableSpec('item', 100, 4, level, optimizer, 1.0, dtype),
      TableSpec('city', 37, 4, level, optimizer, 1.0, dtype),
      TableSpec('word', 21, 3, level, optimizer, 1.0, dtype),
    ],
    {name: name for name in ('item', 'city', 'word')},
    mesh=make_mesh(intra=4),
  )


def canonical(tables, state):
  out = tables.to_canonical(state)
  return {
    name: jax.tree.map(lambda x: np.array(x)[: spec.num_embeddings], out[name])
    for name, spec in tables.specs.items()
  }


@pytest.mark.parametrize(
  'level, optimizer',
  first_fast(
    ('global', Adam(0.1)), ('intra', RowWiseAdagrad(0.1)), ('none', Adam(0.1))
  ),
)
def test_only_the_named_rows_are_new(level, optimizer):
  tables = make_tables(level, optimizer)
  key = jax.random.key(3)
  state = jax.jit(tables.init, out_shardings=tables.shardings())(key)
  born = canonical(tables, state)
  reset = {'item': np.array([0, 7, 8, 15, 99]), 'word': np.array([20])}
  state = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s))(state)
  state = tables.reset_rows(state, reset, key)
  after = canonical(tables, state)
  for name, spec in tables.specs.items():
    is_new = np.isin(np.arange(spec.num_embeddings), reset.get(name, []))
    for x, first in zip(
      jax.tree.leaves(after[name]), jax.tree.leaves(born[name]), strict=True
    ):
      np.testing.assert_array_equal(x[is_new], first[is_new])
      np.testing.assert_array_equal(x[~is_new], first[~is_new] + 1)
  expected = jax.tree.map(lambda s: s.spec, tables.shardings())
  assert jax.tree.map(lambda x: x.sharding.spec, state) == expected


@pytest.mark.parametrize(
  'level, dtype',
  first_fast(('global', 'bfloat16'), ('intra', 'float32'), ('none', 'float32')),
)
def test_rows_that_are_read_and_written_are_the_same_bits(level, dtype):
  tables = make_tables(level, Adam(0.1), dtype)
  key = jax.random.key(3)
  state = jax.jit(tables.init, out_shardings=tables.shardings())(key)
  state = jax.jit(lambda s: jax.tree.map(lambda x: -0.0 * x, s))(state)
  other = jax.jit(tables.init, out_shardings=tables.shardings())(key)
  ids = {'item': np.array([0, 7, 8, 15, 99]), 'word': np.array([20])}
  read = rows.read(tables, state, ids)
  other = rows.write(tables, other, ids, read)
  want, got, born = (
    canonical(tables, x) for x in (state, other, tables.init(key))
  )
  for name, spec in tables.specs.items():
    is_new = np.isin(np.arange(spec.num_embeddings), ids.get(name, []))
    for x, new, old in zip(
      *(jax.tree.leaves(x[name]) for x in (got, want, born)), strict=True
    ):
      assert x[is_new].tobytes() == new[is_new].tobytes()
      assert x[~is_new].tobytes() == old[~is_new].tobytes()
  assert np.signbit(read['item']['table'].astype(np.float32)).any()
  batch = {'a': {'item': np.array([[8, -1], [0, 8]])}, 'city': np.arange(2)}
  found = rows.touched(tables, batch)
  assert {n: x.tolist() for n, x in found.items()} == {
    'item': [0, 8],
    'city': [0, 1],
  }


@pytest.mark.slow
def test_a_vocabulary_names_what_to_reset():
  """A key that takes over a row starts like a key in a new table."""
  tables = EmbeddingTables(
    [TableSpec('item', 20, 4, 'global', Adam(0.1))],
    {'item': 'item'},
    mesh=make_mesh(intra=4),
  )
  trainer = Trainer(
    lambda params, rows, batch, rng: (
      params['scale']
      * jnp.sum(tables.lookup(rows, batch['ids'])['item'] ** 2, -1)
    ),
    optax.sgd(0.1),
    mesh=tables.mesh,
    tables=tables,
  )
  state = trainer.init({'scale': jnp.ones(())})
  born = canonical(tables, state.tables)['item']
  vocabulary = Vocabulary(VocabularyConfig(num_ids=20, eviction='ttl', ttl=1))
  for step in range(3):
    keys = np.arange(16) + 16 * step  # All of them new at each step.
    update = vocabulary.update(keys, step)
    assert np.all(update.ids > 0) and len(update.reset) == 16 * (step > 0)
    state = reset_rows(tables, state, {'item': update.reset})
    now = canonical(tables, state.tables)['item']
    jax.tree.map(
      lambda x, first: np.testing.assert_array_equal(
        x[update.ids], first[update.ids]
      ),
      now,
      born,
    )
    state, _ = trainer.step(state, {'ids': {'item': update.ids}})
    moved = canonical(tables, state.tables)['item']['table']
    assert np.all(moved[update.ids] != born['table'][update.ids])
