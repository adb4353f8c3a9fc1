# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables with more rows than int32 can number; no device has so many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.embedding import layout
from antjax.embedding import rows as rows_lib
from antjax.embedding.layout import new_rows, Stack, TableSpec
from antjax.embedding.optimizer import Adam
from antjax.embedding.table import EmbeddingTables
from antjax.embedding.vocabulary import hash_ids
from antjax.mesh.mesh import make_mesh
from antjax.mesh.paro import Level
from antjax.serving import exporter
from tests.cases import first_fast
from tests.embedding import table_test

NUM_ROWS = 5 * 2**31 + 7


def make_wide(intra=4, levels='auto', dim=1, num_rows=NUM_ROWS):
  return EmbeddingTables(
    [
      TableSpec('item', num_rows, dim, 'global'),
      TableSpec('city', 100, dim, 'global'),
    ],
    {'item': 'item', 'city': 'city'},
    mesh=make_mesh(intra=intra),
    exchange_levels=levels,
  )


def test_every_id_has_its_owner_and_row():
  tables = make_wide()
  (stack,) = tables._stacks.values()
  assert stack.is_wide and stack.num_positions > 2**33
  rng = np.random.default_rng(0)
  ids = rng.integers(0, NUM_ROWS, (8, 50))
  ids[:, :9] = rng.choice(ids.ravel(), (8, 9))  # Some are there twice.
  ids[0, -4:] = [NUM_ROWS - 1, 0, -1, 2**32]
  indices, routing = tables.prepare({'item': ids.reshape(-1)}, 8)
  index = indices['item'].reshape(8, 50)
  assert index.dtype == np.int32
  route = {n: x.reshape(8, -1) for n, x in routing[stack.name].items()}
  assert {x.dtype for x in route.values()} == {np.dtype(np.int32)}
  assert route['starts'].shape == (8, 9)
  for d in range(8):
    num = route['starts'][d, -1]
    owner = np.repeat(np.arange(8), np.diff(route['starts'][d]))
    # The difference modulo 2^32, as devices compute it.
    base = (owner * stack.rows_per_device).astype(np.int32)
    row = (route['positions'][d, :num] - base).astype(np.int64)
    assert (row >= 0).all() and (row < stack.rows_per_device).all()
    np.testing.assert_array_equal(
      np.unique(owner + 8 * row),
      owner[:0] if not num else np.sort(np.unique(ids[d][ids[d] >= 0])),
    )
    is_id = ids[d] >= 0
    found = (owner + 8 * row)[index[d][is_id]]
    np.testing.assert_array_equal(found, ids[d][is_id])
    assert (index[d][~is_id] == -1).all()


@pytest.mark.parametrize('levels', first_fast(1, 2))
def test_a_step_compiles_and_keeps_its_tables_in_place(levels):
  # Two levels number a member's rows for all groups together.
  num_rows = NUM_ROWS if levels == 1 else 5 * 2**29
  tables = make_wide(2 if levels == 1 else 4, levels, num_rows=num_rows)
  ids = {'item': np.arange(64) * (num_rows // 64)}
  indices, routing = tables.prepare(ids, 8)
  step = table_test.make_step.__wrapped__(tables)
  compiled = step.lower(tables.shapes, indices, routing, jnp.int32(0)).compile()
  memory = compiled.memory_analysis()
  (size,) = tables.bytes_per_device().values()
  assert size == 8 * next(iter(tables._stacks.values())).rows_per_device
  assert size <= memory.alias_size_in_bytes < size + 1000
  assert memory.temp_size_in_bytes < 100_000
  init = jax.jit(tables.init, out_shardings=tables.shardings())
  made = init.lower(jax.random.key(0)).compile().memory_analysis()
  assert made.temp_size_in_bytes < 8 * layout._INIT_BLOCK * 100


@pytest.mark.parametrize(
  ('level', 'intra', 'factor'),
  first_fast(
    ('global', 4, 0.3), ('global', 2, 1.25), ('intra', 4, 0.05), ('none', 4, 1)
  ),
)
@pytest.mark.parametrize('levels', first_fast(2, 1))
def test_steps_are_those_of_small_tables(
  monkeypatch, level, intra, factor, levels
):
  """Positions of few rows, sent as if they were too many for int32."""
  options = {'capacity_factor': factor, 'exchange_levels': levels}
  make = table_test.make_tables.__wrapped__
  expected = make(level, intra, Adam(0.1), **options)
  state = table_test.start(expected)
  step = table_test.make_step.__wrapped__(expected)
  monkeypatch.setattr(layout, '_MAX_POSITIONS', 5)
  tables = make(level, intra, Adam(0.1), **options)
  init = jax.jit(tables.init, out_shardings=tables.shardings())
  other = init(jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, state, other)
  run = table_test.make_step.__wrapped__(tables)
  for i in range(2):
    ids = table_test.make_ids(i, skewed=bool(i))
    indices, routing = tables.prepare(ids, 8)
    assert all('starts' in route for route in routing.values())
    other, found = run(other, indices, routing, jnp.int32(i))
    monkeypatch.setattr(layout, '_MAX_POSITIONS', 2**31 - 1)
    indices, routing = expected.prepare(ids, 8)
    state, vectors = step(state, indices, routing, jnp.int32(i))
    monkeypatch.setattr(layout, '_MAX_POSITIONS', 5)
    jax.tree.map(np.testing.assert_array_equal, vectors, found)
    jax.tree.map(np.testing.assert_array_equal, state, other)


def test_ids_of_two_words():
  for w in (1, 8, 4096, 2**16):
    spec = TableSpec('item', 2**46, 2, 'global')
    stack = Stack('s', (spec,), Level.GLOBAL, w)
    rng = np.random.default_rng(w)
    local = rng.integers(0, 2**31, 200).astype(np.int32)
    local[:2] = 0, 2**31 - 1
    owner = int(rng.integers(0, w))
    low, upper = map(np.asarray, stack.ids(owner, jnp.asarray(local)))
    assert low.dtype == upper.dtype == np.uint32
    found = (upper.astype(np.int64) << 32) + low
    np.testing.assert_array_equal(found, owner + local.astype(np.int64) * w)


def test_a_row_depends_on_all_of_its_id():
  small, large = (TableSpec('item', n, 3) for n in (1000, 2**32 + 2))
  key = jax.random.key(1)
  ids = np.array([5, 6, 1, 1, 5], np.uint32)
  upper = np.array([0, 0, 0, 1, 1], np.uint32)
  found = np.asarray(new_rows(large, key, jnp.asarray(ids), jnp.asarray(upper)))
  known = np.asarray(new_rows(small, key, jnp.asarray(ids[:3])))
  np.testing.assert_array_equal(found[:3], known)
  assert (found[3] != found[2]).all() and (found[4] == 0).all()  # Behind it.


def test_rows_by_id_are_found(monkeypatch):
  monkeypatch.setattr(layout, '_MAX_POSITIONS', 5)
  tables = table_test.make_tables.__wrapped__('global', 2)
  init = jax.jit(tables.init, out_shardings=tables.shardings())
  state = init(jax.random.key(0))
  whole = table_test.canonical(tables, state)['item']['table']
  ids = np.array([3, 99, 0, 64])
  found = rows_lib.read(tables, state, {'item': ids})['item']['table']
  np.testing.assert_array_equal(found, whole[ids])
  changed = {'item': {'table': found * 2, 'slots': {'accumulator': ids * 1.0}}}
  state = rows_lib.write(tables, state, {'item': ids}, changed)
  state = tables.reset_rows(state, {'item': ids[:2]}, jax.random.key(0))
  after = table_test.canonical(tables, state)['item']['table']
  np.testing.assert_array_equal(after[ids[:2]], found[:2])
  np.testing.assert_array_equal(after[ids[2:]], found[2:] * 2)


def test_what_a_device_cannot_number_is_refused():
  with pytest.raises(
    ValueError, match='17179869184 rows at level intra, 4294967296 on each of 4'
  ):
    EmbeddingTables(
      [TableSpec('item', 2**34, 1, 'intra')],
      {'item': 'item'},
      mesh=make_mesh(intra=4),
    )
  with pytest.raises(ValueError, match='needs at least 9 devices'):
    make_wide(num_rows=2**34)
  tables = make_wide(levels=2)
  with pytest.raises(ValueError, match='exchange_levels=2.*Use 1 or auto'):
    tables.prepare({'item': np.arange(64)}, 8)


def test_no_more_are_served_than_ids_of_requests(tmp_path):
  rows = np.broadcast_to(np.float32(0), (2**31 + 1, 1))
  model = exporter.Exported(functions={}, params={}, tables={'item': rows})
  with pytest.raises(ValueError, match='item has 2147483649 rows'):
    exporter.write(tmp_path / 'out', model)


def test_hashes_of_many_ids():
  ids = hash_ids(np.arange(1000), NUM_ROWS)
  assert ids.dtype == np.int64 and ids.min() > 0
  assert 2**33 < ids.max() < NUM_ROWS
