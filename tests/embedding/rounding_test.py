# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows of bfloat16 and int8: right on average, the same on any mesh."""

from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

from antjax.embedding import rounding
from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import RowWiseAdagrad, SGD
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import BATCH_AXES, make_mesh
from antjax.train.trainer import Trainer
from tests.cases import first_fast

NUM_STEPS = 4096


def test_a_row_becomes_a_neighbor_and_is_right_on_average():
  rng = np.random.default_rng(0)
  x = np.concatenate([rng.normal(size=6), [1 + 2.0**-9, -3e-5, 0, 1.5]])
  x = x.astype(np.float32)
  ids = jnp.full(NUM_STEPS, 7, jnp.int32)
  seeds = rounding.seeds(ids, None, jnp.uint32(5), jnp.arange(NUM_STEPS))
  found = rounding.to_kept(jnp.tile(x, (NUM_STEPS, 1)), 'bfloat16', seeds)
  assert found.dtype == jnp.bfloat16
  found = np.asarray(found, np.float64)
  below = (x.view(np.uint32) >> 16 << 16).view(np.float32).astype(np.float64)
  unit = 2.0 ** (np.floor(np.log2(np.abs(np.where(x == 0, 1, x)))) - 7)
  above = below + np.where(x == below, 0, np.sign(x) * unit)
  assert ((found == below) | (found == above)).all()
  # Five standard errors of a coin.
  np.testing.assert_array_less(
    np.abs(found.mean(axis=0) - x), 5 * unit / 2 / NUM_STEPS**0.5 + 1e-30
  )
  assert (found[:, -2:] == [0, 1.5]).all()
  odd = jnp.array([[jnp.inf, -jnp.inf, jnp.nan]])
  kept = rounding.to_float(rounding.to_kept(odd, 'bfloat16', seeds[:1]))
  np.testing.assert_array_equal(kept, odd)


def test_an_int8_row_is_right_on_average():
  rng = np.random.default_rng(0)
  x = np.append(rng.normal(size=6), [0.75, -3e-5, 0, 127 / 64])
  x = x.astype(np.float32)  # Its unit is 2^-6.
  ids = jnp.full(NUM_STEPS, 7, jnp.int32)
  seeds = rounding.seeds(ids, None, jnp.uint32(5), jnp.arange(NUM_STEPS))
  kept = _random(np.tile(x, (NUM_STEPS, 1)), seeds)
  assert kept.dtype == jnp.int8 and kept.shape == (NUM_STEPS, 11)
  assert (kept[:, -1] == -6).all()
  found = np.asarray(rounding.to_float(kept), np.float64)
  assert (np.abs(found - x) < 2.0**-6).all()
  assert (found * 64 == np.round(found * 64)).all()
  # Five standard errors of a coin, and half a step of the noise.
  np.testing.assert_array_less(
    np.abs(found.mean(axis=0) - x),
    2.0**-6 * (5 / 2 / NUM_STEPS**0.5 + 2.0**-16),
  )
  assert (found[:, [6, 8, 9]] == [0.75, 0, 127 / 64]).all()


@given(
  st.lists(
    st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False),
    min_size=5,
    max_size=5,
  ),
  st.integers(0, 2**32 - 1),
)
def test_what_int8_represents_stays(row, seed):
  x = jnp.array([row], jnp.float32)
  near = rounding.to_float(_near(x))
  unit = np.abs(row).max() / 63
  bound = unit / 2 + 2.0**-62  # The smallest unit is 2^-63.
  assert (np.abs(np.asarray(near[0], np.float64) - row) <= bound).all()
  seed = jnp.array([seed], jnp.uint32)
  np.testing.assert_array_equal(rounding.to_float(_random(near, seed)), near)


_near = jax.jit(lambda x: rounding.to_kept(x, 'int8', None))
_random = jax.jit(lambda x, seed: rounding.to_kept(x, 'int8', seed))


@pytest.mark.parametrize('bad', [np.nan, np.inf, 3.4e38])
def test_an_int8_row_without_a_number_is_nan(bad):
  x = jnp.array([[1.0, bad, 2.0], [1.0, 0.5, 2.0]])
  found = rounding.to_float(_near(x))
  assert jnp.isnan(found[0]).all() and (found[1] == x[1]).all()


def _trained(level, intra, num_steps=3, dtype='bfloat16'):
  """Rows after steps whose sums are exact in any order."""
  optimizer = SGD(2.0**-9)
  tables = EmbeddingTables(
    [
      TableSpec('item', 40, 4, level, optimizer, 1.0, dtype),
      TableSpec('city', 11, 4, level, optimizer, 1.0, dtype),
    ],
    {'item': 'item', 'city': 'city'},
    mesh=make_mesh(intra=intra),
  )
  init = jax.jit(tables.init, out_shardings=tables.shardings())
  state = init(jax.random.key(0))

  def local(state, ids, routing, step):
    rows, rounds = tables.fetch(state, routing)
    assert {x.dtype for x in rows.values()} == {jnp.dtype('float32')}

    def loss(rows):
      found = tables.lookup(rows, ids)
      return sum(jnp.sum(v * (i + 1)) for i, v in enumerate(found.values()))

    grads = jax.grad(loss)(rows)
    return tables.push(state, routing, rounds, grads, step, jnp.bool_(True))

  specs, batch = tables.partition_specs(), P(BATCH_AXES)
  run = jax.jit(
    jax.shard_map(
      local,
      mesh=tables.mesh,
      in_specs=(specs, batch, batch, P()),
      out_specs=specs,
    )
  )
  rng = np.random.default_rng(3)
  before = tables.to_canonical(state)
  for step in range(num_steps):
    ids = {
      'item': rng.integers(0, 39, (16, 3)),
      'city': rng.integers(-1, 11, (16,)),
    }
    indices, routing = tables.prepare(ids, 8)
    state = run(state, indices, routing, jnp.int32(step))
  return [
    {
      n: np.asarray(rounding.to_float(x['table']))[:11]
      for n, x in found.items()
    }
    for found in (before, tables.to_canonical(state))
  ]


@pytest.mark.parametrize(
  ('level', 'intra', 'dtype'),
  first_fast(
    ('none', 4, 'bfloat16'),
    ('intra', 4, 'bfloat16'),
    ('global', 2, 'bfloat16'),
    ('none', 4, 'int8'),
    ('intra', 4, 'int8'),
  ),
)
def test_rows_do_not_depend_on_where_they_are(level, intra, dtype):
  before, expected = _trained('global', 8, dtype=dtype)
  start, found = _trained(level, intra, dtype=dtype)
  for name in expected:
    np.testing.assert_array_equal(start[name], before[name])
    np.testing.assert_array_equal(found[name], expected[name])
    assert (found[name] != before[name]).any()


def test_an_unknown_dtype_is_refused():
  with pytest.raises(ValueError, match="unknown dtype 'int4'"):
    TableSpec('a', 4, 4, dtype='int4')


# Loss of the last steps, relative to that of float32 rows.
LOSS_BOUND = 0.02


@pytest.mark.slow
def test_losses_are_those_of_float32_in_a_quarter_of_the_memory():
  """Factors of a matrix, learned row by row."""
  rng = np.random.default_rng(0)
  left, right = (rng.normal(size=(n, 4)) / 2 for n in (300, 200))
  rows, columns = rng.integers(0, 300, 24_000), rng.integers(0, 200, 24_000)
  label = (left @ right.T)[rows, columns] + 0.3 * rng.normal(size=24_000)
  losses, size = {}, {}
  for dtype in ('float32', 'bfloat16', 'int8'):
    tables = EmbeddingTables(
      [
        TableSpec(n, m, 32, 'global', RowWiseAdagrad(0.1), 0.2, dtype)
        for n, m in (('left', 300), ('right', 200))
      ],
      {'left': 'left', 'right': 'right'},
      mesh=make_mesh(intra=1, devices=jax.devices()[:1]),
    )

    def loss_fn(params, rows, batch, rng, tables=tables):
      del rng
      x = tables.lookup(rows, batch['ids'])
      found = (x['left'] * x['right']).sum(axis=-1) + params['bias']
      return jnp.square(found - batch['y'])

    trainer = Trainer(loss_fn, optax.sgd(0.1), mesh=tables.mesh, tables=tables)
    state = trainer.init({'bias': np.zeros((), np.float32)})
    seen = losses[dtype] = []
    for i in range(2 * 24_000 // 400):
      part = slice(i * 400 % 24_000, i * 400 % 24_000 + 400)
      batch = {
        'ids': {'left': rows[part], 'right': columns[part]},
        'y': label[part].astype(np.float32),
      }
      state, metrics = trainer.step(state, batch)
      seen.append(float(metrics['loss']))
    size[dtype] = sum(x['table'].nbytes for x in state.tables.values())
  last = {n: np.mean(x[-30:]) for n, x in losses.items()}
  assert last['float32'] < 0.5 * losses['float32'][0]
  assert last['int8'] == pytest.approx(last['float32'], rel=LOSS_BOUND)
  assert last['bfloat16'] == pytest.approx(last['float32'], rel=LOSS_BOUND)
  assert size == {'float32': 64_000, 'bfloat16': 32_000, 'int8': 16_500}
