# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows of bfloat16: right on average, the same on any mesh."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from antjax.embedding import rounding
from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import SGD
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import BATCH_AXES, make_mesh
from tests.cases import first_fast

NUM_STEPS = 4096


def test_a_row_becomes_a_neighbor_and_is_right_on_average():
  rng = np.random.default_rng(0)
  x = np.concatenate([rng.normal(size=6), [1 + 2.0**-9, -3e-5, 0, 1.5]])
  x = x.astype(np.float32)
  ids = jnp.full(NUM_STEPS, 7, jnp.int32)
  seeds = rounding.seeds(ids, None, jnp.uint32(5), jnp.arange(NUM_STEPS))
  found = rounding.at_random(jnp.tile(x, (NUM_STEPS, 1)), seeds)
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
  kept = rounding.at_random(odd, seeds[:1]).astype(jnp.float32)
  np.testing.assert_array_equal(kept, odd)


def _trained(level, intra, num_steps=3):
  """Rows after steps whose sums are exact in any order."""
  optimizer = SGD(2.0**-9)
  tables = EmbeddingTables(
    [
      TableSpec('item', 40, 4, level, optimizer, 1.0, 'bfloat16'),
      TableSpec('city', 11, 4, level, optimizer, 1.0, 'bfloat16'),
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
    {n: np.asarray(x['table'], np.float32)[:11] for n, x in found.items()}
    for found in (before, tables.to_canonical(state))
  ]


@pytest.mark.parametrize(
  ('level', 'intra'),
  first_fast(('none', 4), ('intra', 4), ('global', 2)),
)
def test_rows_do_not_depend_on_where_they_are(level, intra):
  before, expected = _trained('global', 8)
  start, found = _trained(level, intra)
  for name in expected:
    np.testing.assert_array_equal(start[name], before[name])
    np.testing.assert_array_equal(found[name], expected[name])
    assert (found[name] != before[name]).any()


def test_an_unknown_dtype_is_refused():
  with pytest.raises(ValueError, match="unknown dtype 'int8'"):
    TableSpec('a', 4, 4, dtype='int8')
