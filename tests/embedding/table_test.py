# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables split over 8 devices behave like one dense table on one device."""

import functools
import logging

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from antjax.embedding import layout, pooled
from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import Adagrad, Adam, RowWiseAdagrad, SGD
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import BATCH_AXES, make_mesh
from tests.cases import first_fast
from tests.embedding import pooled_test

# Gradients of a row are summed over devices in another order.
SUM_ORDER_ATOL = 1e-5
FEATURES = {'item': 'item', 'seen': 'item', 'city': 'city', 'word': 'word'}

_INTRA = pytest.param('intra', marks=pytest.mark.slow)
EXCHANGED = pytest.mark.parametrize('level', ['global', _INTRA])
LEVELS = pytest.mark.parametrize('level', ['global', _INTRA, 'none'])


@functools.cache
def make_tables(level='global', intra=4, optimizer=None, **kw):
  optimizer = optimizer or RowWiseAdagrad(0.1)
  return EmbeddingTables(
    [
      TableSpec('item', 100, 4, level, optimizer, init_scale=1.0),
      TableSpec('city', 37, 4, level, optimizer, init_scale=1.0),
      TableSpec('word', 21, 3, level, optimizer, init_scale=1.0),
    ],
    FEATURES,
    mesh=make_mesh(intra=intra),
    **kw,
  )


def make_ids(seed=0, skewed=False):
  rng = np.random.default_rng(seed)
  seen = rng.integers(-1, 100, (16, 2))
  if skewed:  # Every id belongs to owner 1 of 8.
    seen = rng.integers(0, 12, (16, 2)) * 8 + 1
  return {
    'support': {
      'item': (rng.zipf(1.3, (16, 5)) - 2).clip(-1, 99),
      'city': rng.integers(-1, 37, (16,)),
    },
    'query': {'seen': seen, 'word': rng.integers(-1, 21, (16, 2, 2))},
  }


@functools.cache
def _init_fn(tables):
  return jax.jit(tables.init, out_shardings=tables.shardings())


def start(tables, seed=0):
  return _init_fn(tables)(jax.random.key(seed))


def canonical(tables, state):
  """Name -> (table, slots), as numpy, true size."""
  out = tables.to_canonical(state)
  return {
    name: jax.tree.map(lambda x: np.array(x)[: spec.num_embeddings], out[name])
    for name, spec in tables.specs.items()
  }


def loss(vectors):
  """Any function with a different gradient for each place."""
  leaves = jax.tree.leaves(vectors)
  return sum(jnp.sum(jnp.sin(v) * (i + 1)) for i, v in enumerate(leaves))


@functools.cache
def make_step(tables):
  def local(state, ids, routing, step):
    rows, rounds = tables.fetch(state, routing)
    vectors = tables.lookup(rows, ids)
    grads = jax.grad(lambda rows: loss(tables.lookup(rows, ids)))(rows)
    active = step >= 0
    state = tables.push(state, routing, rounds, grads, step, active)
    return state, vectors

  specs, batch = tables.partition_specs(), P(BATCH_AXES)
  return jax.jit(
    jax.shard_map(
      local,
      mesh=tables.mesh,
      in_specs=(specs, batch, batch, P()),
      out_specs=(specs, batch),
    ),
    donate_argnums=0,
  )


@jax.jit
@functools.partial(jax.grad, has_aux=True)
def dense_grads(whole, ids):
  def one(path, i):
    table = whole[FEATURES[path[-1].key]]
    return jnp.where((i >= 0)[..., None], table[jnp.maximum(i, 0)], 0)

  vectors = jax.tree.map_with_path(one, ids)
  return loss(vectors), vectors


def dense_step(tables, dense, ids, step):
  """The same step on whole tables, touched rows only."""
  whole = {name: part['table'] for name, part in dense.items()}
  grads, vectors = dense_grads(whole, ids)
  new = {}
  for name, spec in tables.specs.items():
    touched = np.zeros(spec.num_embeddings, bool)
    for path, i in jax.tree.leaves_with_path(ids):
      if FEATURES[path[-1].key] == name:
        touched[i[i >= 0]] = True
    updates, slots = spec.optimizer.update(
      grads[name], dense[name]['slots'], whole[name], jnp.int32(step)
    )
    table = whole[name] + updates

    def keep(a, b, touched=touched):
      return np.where(touched.reshape(-1, *[1] * (b.ndim - 1)), a, b)

    new[name] = {
      'table': keep(table, dense[name]['table']),
      'slots': jax.tree.map(keep, slots, dense[name]['slots']),
    }
  return new, vectors


def assert_close(actual, expected):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=SUM_ORDER_ATOL, atol=SUM_ORDER_ATOL
    ),
    actual,
    expected,
  )


OPTIMIZERS = [SGD(0.1), Adagrad(0.1), RowWiseAdagrad(0.1), Adam(0.1)]


@LEVELS
@pytest.mark.parametrize(
  'optimizer',
  [pytest.param(o, marks=pytest.mark.slow) for o in OPTIMIZERS[:3]]
  + OPTIMIZERS[3:],
  ids=lambda o: type(o).__name__,
)
def test_steps_equal_a_dense_table(level, optimizer):
  tables = make_tables(level, 4, optimizer)
  state, step = start(tables), make_step(tables)
  dense = canonical(tables, state)
  for i in range(2):
    ids = make_ids(i)
    indices, routing = tables.prepare(ids, 8)
    state, vectors = step(state, indices, routing, jnp.int32(i))
    dense, expected = dense_step(tables, dense, ids, i)
    assert_close(vectors, expected)
    assert_close(canonical(tables, state), dense)


@pytest.mark.slow
@pytest.mark.parametrize('intra', [1, 2, 8])
@EXCHANGED
def test_any_group_size(level, intra):
  tables = make_tables(level, intra)
  state = start(tables)
  dense, _ = dense_step(tables, canonical(tables, state), make_ids(), 0)
  indices, routing = tables.prepare(make_ids(), 8)
  state, _ = make_step(tables)(state, indices, routing, jnp.int32(0))
  assert_close(canonical(tables, state), dense)


@EXCHANGED
@pytest.mark.parametrize('factor', first_fast(0.3, 0.05, 8))
def test_skew_takes_more_rounds_and_loses_nothing(level, factor):
  tables = make_tables(level, capacity_factor=factor)
  state, ids = start(tables), make_ids(skewed=True)
  dense, expected = dense_step(tables, canonical(tables, state), ids, 0)
  indices, routing = tables.prepare(ids, 8)
  stack = next(s for s in routing if s.endswith('_4'))
  num_rounds = 16 // 2 ** int(routing[stack]['shift'].min())
  if factor < 1:
    assert num_rounds > 1
  state, vectors = make_step(tables)(state, indices, routing, jnp.int32(0))
  assert_close(vectors, expected)
  assert_close(canonical(tables, state), dense)


def test_untouched_rows_stay_bit_identical():
  tables = make_tables('global', 4, OPTIMIZERS[3])
  state = start(tables)
  before = canonical(tables, state)
  ids = jax.tree.map(lambda i: np.full_like(i, -1), make_ids())
  ids['support']['item'][:, 0] = np.arange(16) * 2
  indices, routing = tables.prepare(ids, 8)
  state, _ = make_step(tables)(state, indices, routing, jnp.int32(0))
  after = canonical(tables, state)
  changed = np.any(after['item']['table'] != before['item']['table'], axis=1)
  np.testing.assert_array_equal(np.flatnonzero(changed), np.arange(16) * 2)
  for name in ('city', 'word'):
    jax.tree.map(np.testing.assert_array_equal, before[name], after[name])


@LEVELS
def test_inactive_step_changes_nothing(level):
  tables = make_tables(level, 4, OPTIMIZERS[3])
  state = start(tables)
  before = canonical(tables, state)
  indices, routing = tables.prepare(make_ids(), 8)
  state, _ = make_step(tables)(state, indices, routing, jnp.int32(-1))
  jax.tree.map(np.testing.assert_array_equal, before, canonical(tables, state))


@LEVELS
@pytest.mark.parametrize('intra', first_fast(2, 8))
def test_new_rows_and_canonical_order_do_not_depend_on_the_mesh(level, intra):
  reference = make_tables('global', 4)
  tables = make_tables(level, intra)
  state = start(tables)
  jax.tree.map(
    np.testing.assert_array_equal,
    canonical(reference, start(reference)),
    canonical(tables, state),
  )
  back = jax.jit(lambda s: tables.from_canonical(tables.to_canonical(s)))(state)
  jax.tree.map(np.testing.assert_array_equal, state, back)


def test_compiled_step_is_sparse_and_in_place():
  tables = EmbeddingTables(
    [TableSpec('item', 50_000, 16, 'global')],
    {'item': 'item'},
    mesh=make_mesh(intra=4),
  )
  state = start(tables)
  indices, routing = tables.prepare({'item': np.arange(64)}, 8)
  compiled = (
    make_step(tables).lower(state, indices, routing, jnp.int32(0)).compile()
  )
  text = compiled.as_text()
  assert text.count(' all-to-all(') == 3
  assert ' all-gather(' not in text
  assert '[50000,16]' not in text  # A whole table, or its dense gradient.
  assert 'input_output_alias={ {0}: (0' in text
  assert '{1}: (1' in text.split('input_output_alias=')[1][:200]
  # Nothing of a shard's size is made beside the shard itself.
  shard_bytes = 50_000 // 8 * 16 * 4
  assert compiled.memory_analysis().temp_size_in_bytes < shard_bytes // 2


def test_small_tables_are_replicated_and_large_ones_are_not(caplog):
  with caplog.at_level(logging.INFO, logger='absl'):
    tables = EmbeddingTables(
      [TableSpec('small', 100, 8), TableSpec('large', 100_000, 8)],
      {'a': 'small', 'b': 'large'},
      mesh=make_mesh(intra=4),
    )
  assert 'small [100]; level none' in caplog.text
  assert 'large [100000]; level global' in caplog.text
  # 12,500 rows of 8 floats and one accumulator each.
  assert tables.bytes_per_device() == {
    'none_8': 100 * 36,
    'global_8': 12_500 * 36,
  }


@pytest.mark.parametrize(
  ('ids', 'message'),
  [
    ({'item': np.full((8,), 100)}, "has id 100; table 'item' has 100 rows"),
    ({'color': np.zeros((8,), int)}, "feature 'color' is unknown"),
    ({'item': np.zeros((8,))}, 'ids must be integers'),
  ],
)
def test_bad_ids_are_refused(ids, message):
  with pytest.raises(ValueError, match=message):
    make_tables().prepare(ids, 8)


def test_more_distinct_rows_than_max_unique_are_refused():
  tables = make_tables(max_unique=4)
  with pytest.raises(ValueError, match='needs 5 distinct rows'):
    tables.prepare({'item': np.arange(40)}, 8)


@pytest.mark.parametrize(
  ('specs', 'features', 'message'),
  [
    ([TableSpec('a', 4, 2)] * 2, {}, 'names repeat'),
    ([TableSpec('a', 4, 2)], {'x': 'b'}, "looks up table 'b'"),
  ],
)
def test_bad_descriptions_are_refused(specs, features, message):
  with pytest.raises(ValueError, match=message):
    EmbeddingTables(specs, features, mesh=make_mesh(intra=4))


def test_bad_table_specs_are_refused():
  with pytest.raises(ValueError, match='must be positive'):
    TableSpec('a', 0, 4)
  with pytest.raises(ValueError, match='unknown level'):
    TableSpec('a', 4, 4, 'group')


@pytest.mark.slow
def test_columns_of_one_feature_look_up_a_table_each():
  """As the same ids given feature by feature, in values and in updates."""
  ids = make_ids()
  item, city = ids['query']['seen'][:, 0], ids['support']['city']
  specs = [
    TableSpec('item', 100, 4, 'global'),
    TableSpec('city', 37, 4, 'global'),
  ]
  mesh = make_mesh(intra=4)
  apart = EmbeddingTables(specs, {'item': 'item', 'city': 'city'}, mesh=mesh)
  together = EmbeddingTables(specs, {'both': ('item', 'city')}, mesh=mesh)
  results = []
  for tables, ids in (
    (apart, {'item': item, 'city': city}),
    (together, {'both': np.stack([item, city], axis=1)}),
  ):
    indices, routing = tables.prepare(ids, 8)
    state = start(tables)
    rows = jax.jit(
      jax.shard_map(
        lambda s, i, r, t=tables: t.lookup(t.fetch(s, r)[0], i),
        mesh=mesh,
        in_specs=(tables.partition_specs(), P(BATCH_AXES), P(BATCH_AXES)),
        out_specs=P(BATCH_AXES),
      )
    )(state, indices, routing)
    results.append(rows)
  np.testing.assert_array_equal(results[0]['item'], results[1]['both'][:, 0])
  np.testing.assert_array_equal(results[0]['city'], results[1]['both'][:, 1])
  assert np.abs(results[1]['both']).max() > 0


@pytest.mark.parametrize(
  ('ids', 'message'),
  [
    (np.zeros((8, 3), np.int32), r'shape \(8, 3\); its last dim must be 2'),
    (np.array([[0, 37]] * 8), "id 37; table 'city' has 37 rows"),
    (np.array([[100, 0]] * 8), "id 100; table 'item' has 100 rows"),
  ],
)
def test_bad_columns_are_refused(ids, message):
  tables = EmbeddingTables(
    [TableSpec('item', 100, 4), TableSpec('city', 37, 4)],
    {'both': ('item', 'city')},
    mesh=make_mesh(intra=4),
  )
  with pytest.raises(ValueError, match=message):
    tables.prepare({'both': ids}, 8)


def test_columns_need_one_stack():
  with pytest.raises(ValueError, match='are in 2 stacks'):
    EmbeddingTables(
      [TableSpec('item', 100, 4), TableSpec('city', 37, 8)],
      {'both': ('item', 'city')},
      mesh=make_mesh(intra=4),
    )


def test_new_rows_do_not_depend_on_the_block_they_are_made_in(monkeypatch):
  expected = canonical(make_tables(), start(make_tables()))
  monkeypatch.setattr(layout, '_INIT_BLOCK', 4)
  other = make_tables.__wrapped__()  # Compiled anew.
  found = canonical(other, start(other))
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.slow
@EXCHANGED
def test_a_narrow_payload_rounds_what_travels_and_nothing_else(level):
  tables = make_tables(level, 4, SGD(1.0), payload_dtype=jnp.bfloat16)
  state = start(tables)
  before = canonical(tables, state)['item']['table']
  # Each row is used by one device: its gradient is no sum.
  ids = {'item': np.arange(96).reshape(8, 12)}
  indices, routing = tables.prepare(ids, 8)
  step = make_step(tables).lower(state, indices, routing, jnp.int32(0))
  assert 'xui16>' in step.as_text()  # The messages.
  state, vectors = step.compile()(state, indices, routing, jnp.int32(0))
  rounded = np.float32(before[:96].astype(jnp.bfloat16))
  np.testing.assert_array_equal(vectors['item'].reshape(96, 4), rounded)
  after = canonical(tables, state)['item']['table']
  grads, exact = before[:96] - after[:96], np.cos(rounded)
  np.testing.assert_allclose(grads, exact, rtol=2**-8, atol=1e-6)
  assert np.abs(grads - exact).max() > 1e-4  # They were rounded.
  np.testing.assert_array_equal(after[96:], before[96:])


def test_bags_are_summed_in_one_call_for_a_stack(monkeypatch):
  calls = []

  def kernel(rows_RD, index_N, weights_N, starts_G):
    calls.append(len(starts_G) - 1)
    return pooled_test.plain(rows_RD, index_N, weights_N, starts_G)

  monkeypatch.setattr(pooled, 'kernel_for', lambda dim, kind: kernel)
  plain = make_tables('none', intra=8)
  tables = make_tables('none', intra=8, engine='kernel', sums=('seen',))
  ids = make_ids()['query'] | {'city': np.arange(4)}
  rows = {
    name: leaf['table']
    for name, leaf in start(plain).items()
    if 'table' in leaf
  }

  def lookup(tables, rows):
    index, _ = tables.prepare(ids, 1)
    return tables.lookup(rows, index)

  def summed(rows):
    found = lookup(plain, rows)
    return found | {'seen': found['seen'].sum(axis=1)}

  found = lookup(tables, rows)
  # 16 bags of two items and 4 cities; words are in another stack.
  assert calls == [20]
  of = functools.partial(
    jax.tree.map, functools.partial(np.allclose, atol=1e-6)
  )
  assert all(jax.tree.leaves(of(found, summed(rows))))
  grads = [
    jax.grad(lambda rows, fn=fn: loss(fn(rows)))(rows)
    for fn in (functools.partial(lookup, tables), summed)
  ]
  assert all(jax.tree.leaves(of(*grads)))
