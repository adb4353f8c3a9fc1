# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""An exchange in two levels gives what one in one level gives."""

import functools

from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.embedding import exchange, traffic, two_level
from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import Adam
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import make_mesh
from tests import warm_python
from tests.cases import first_fast
from tests.embedding import table_test

make_tables = functools.partial(
  table_test.make_tables, 'global', exchange_levels=2
)


@pytest.mark.parametrize(
  ('intra', 'factor', 'skewed'),
  first_fast(
    (2, 0.3, True),
    (4, 1.25, False),
    (4, 0.05, True),
    (2, 1.25, False),
    (4, 8, True),
  ),
)
def test_steps_equal_a_dense_table(intra, factor, skewed):
  optimizer = Adam(0.1)
  tables = make_tables(intra, optimizer, capacity_factor=factor)
  state, step = table_test.start(tables), table_test.make_step(tables)
  dense = table_test.canonical(tables, state)
  for i in range(2):
    ids = table_test.make_ids(i, skewed=skewed)
    indices, routing = tables.prepare(ids, 8)
    state, vectors = step(state, indices, routing, jnp.int32(i))
    dense, expected = table_test.dense_step(tables, dense, ids, i)
    table_test.assert_close(vectors, expected)
    table_test.assert_close(table_test.canonical(tables, state), dense)


def sent(jaxpr, found):
  """Adds bytes of all-to-alls by axes, each other peer's part, to `found`."""
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == 'all_to_all':
      (x,) = eqn.invars
      axes = eqn.params['axis_name']
      axes = axes if isinstance(axes, tuple) else (axes,)
      size = x.aval.size * x.aval.dtype.itemsize
      found[axes] = found.get(axes, 0) + size // x.aval.shape[0]
    for param in jax.tree.leaves(
      eqn.params, is_leaf=lambda p: hasattr(p, 'eqns') or hasattr(p, 'jaxpr')
    ):
      inner = getattr(param, 'jaxpr', param)
      if hasattr(inner, 'eqns'):
        sent(inner, found)
  return found


@pytest.mark.parametrize('levels', [1, 2])
def test_what_is_counted_is_sent(levels):
  tables = EmbeddingTables(
    [TableSpec('item', 50_000, 4, 'global')],
    {'item': 'item'},
    mesh=make_mesh(intra=4),
    exchange_levels=levels,
  )
  ids = np.random.default_rng(0).integers(0, 50_000, 8 * 200)
  indices, routing = tables.prepare({'item': ids}, 8)
  step = table_test.make_step(tables)
  jaxpr = jax.make_jaxpr(step)(
    jax.tree.map(jnp.zeros_like, tables.shapes), indices, routing, jnp.int32(0)
  )
  found = sent(jaxpr.jaxpr, {})
  (stack,) = tables._stacks.values()
  positions = routing[stack.name]['positions'].reshape(8, -1)
  known = [p[p < stack.num_positions] for p in positions]
  # As long as they are padded to, which decides the room in messages.
  counted = traffic.count(
    stack, known, levels=levels, num_unique=positions.shape[1]
  )
  assert counted.rounds == ((1, 0) if levels == 1 else (1, 1))
  if levels == 1:
    (a_peer,) = found.values()
    assert (counted.inside, counted.between) == (3 * a_peer, 4 * a_peer)
  else:
    assert counted.inside == 3 * found[('intra',)]
    assert counted.between == found[('inter',)]
  assert counted.least < counted.between < 3 * counted.least


@pytest.mark.slow
def test_64_devices(tmp_path):
  """In a process of its own: eight groups of eight."""
  program = """
import jax.numpy as jnp, numpy as np
from tests.embedding import table_test, two_level_test
for intra, skewed in ((8, False), (16, True)):
  tables = two_level_test.make_tables(intra, capacity_factor=0.9)
  state, step = table_test.start(tables), table_test.make_step(tables)
  dense = table_test.canonical(tables, state)
  ids = table_test.make_ids(skewed=skewed)
  ids = {a: {b: np.concatenate([x] * 4) for b, x in i.items()}
         for a, i in ids.items()}
  indices, routing = tables.prepare(ids, 64)
  state, vectors = step(state, indices, routing, jnp.int32(0))
  dense, expected = table_test.dense_step(tables, dense, ids, 0)
  table_test.assert_close(vectors, expected)
  table_test.assert_close(table_test.canonical(tables, state), dense)
print('equal')
"""
  path = tmp_path / 'program.py'
  path.write_text(program)
  done = warm_python.run(str(path), env=warm_python.env_of(64))
  assert done.stdout.strip().endswith('equal'), done.stderr


@given(st.sets(st.integers(0, 4 * 37 - 1), max_size=60), st.integers(1, 20))
def test_rounds_are_those_of_the_host(positions, capacity):
  ex = exchange.Exchange(('inter',), 4, 37, capacity)
  known = np.array(sorted(positions), np.int32)
  padded = np.full(64, ex.num_positions, np.int32)
  padded[: len(known)] = known
  found = int(_fit_shift(ex, padded))
  assert found == ex.fit_shift(known)


@functools.partial(jax.jit, static_argnums=0)
def _fit_shift(ex, positions):
  return two_level.fit_shift(ex, positions)


@given(st.lists(st.integers(0, 20), min_size=24, max_size=24))
def test_distinct_ids_and_indices(values):
  unique, index = map(np.array, _distinct(np.array(values, np.int32)))
  expected = np.unique([v for v in values if v < 20])
  np.testing.assert_array_equal(unique[: len(expected)], expected)
  assert (unique[len(expected) :] == 20).all()
  for value, i in zip(values, index, strict=True):
    assert i >= 24 if value == 20 else unique[i] == value


@jax.jit
def _distinct(ids):
  return two_level._distinct(ids, 20)
