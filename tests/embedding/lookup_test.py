# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows by index and their sums, by a scatter and by sorted segments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.embedding import lookup

NUM_ROWS = 6


@pytest.mark.parametrize(
  'index',
  [[3, 3, 1, 6, 3, 0, 9, 1], [2], [5] * 9, [6, 7], [0, 1, 2, 3, 4, 5]],
)
def test_sums_by_segments_are_those_of_the_scatter(index):
  index = np.asarray(index, np.int32)
  rows = np.random.default_rng(0).normal(size=(len(index), 3))
  rows = rows.astype(np.float32)
  expected = np.zeros((NUM_ROWS, 3))
  for i, row in zip(index, rows, strict=True):
    if i < NUM_ROWS:
      expected[i] += row
  for add in (lookup._add_segments, lookup._scatter, lookup.add_rows):
    found = jax.jit(add, static_argnums=0)(NUM_ROWS, rows, index)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_gradients_of_both_orders_are_those_of_plain_indexing():
  rng = np.random.default_rng(1)
  table = jnp.asarray(rng.normal(size=(NUM_ROWS, 3)))
  index = jnp.asarray([[0, 5, 5], [2, 0, 5]])

  def loss(take, table):
    return jnp.sum(jnp.sin(take(table, index)) ** 2)

  def after_a_step(take, table):
    return loss(take, table - 0.1 * jax.grad(lambda t: loss(take, t))(table))

  def plain(table, index):
    return table[index]

  for fn in (loss, after_a_step):
    mine, expected = (
      jax.value_and_grad(lambda t, take=take: fn(take, t))(table)
      for take in (lookup.take_rows, plain)
    )
    jax.tree.map(np.testing.assert_array_equal, mine, expected)


def test_tasks_side_by_side():
  rng = np.random.default_rng(2)
  tables = jnp.asarray(rng.normal(size=(4, NUM_ROWS, 3)))
  index = jnp.asarray(rng.integers(0, 8, (4, 5)))
  grads = jax.vmap(jax.grad(lambda t, i: jnp.sum(lookup.take_rows(t, i) ** 2)))
  segments = jax.vmap(lambda x, i: lookup._add_segments(NUM_ROWS, x, i))
  rows = jax.vmap(lookup.take_rows)(tables, index)
  found = grads(tables, index)
  np.testing.assert_allclose(segments(2 * rows, index), found, atol=1e-6)


def test_one_entry_of_each_row():
  x = jnp.arange(24.0).reshape(2, 3, 4)
  index = jnp.asarray([[3, 0, 1], [2, 2, 0]])
  expected = np.take_along_axis(np.asarray(x), index[..., None], 2)[..., 0]
  np.testing.assert_array_equal(lookup.pick(x, index), expected)
  rows = lookup.pick(x, jnp.asarray([2, 0]))
  np.testing.assert_array_equal(rows, np.stack([x[0, 2], x[1, 0]]))


@pytest.mark.parametrize('size', [1, 7, 8, 100])
def test_counts_beside_automatic_axes_are_those_of_searchsorted(size):
  rng = np.random.default_rng(size)
  ids = np.sort(rng.integers(0, size, size)).astype(np.int32)
  bounds = np.arange(-1, size + 2, dtype=np.int32)
  mesh = jax.make_mesh((1,), ('model',), (jax.sharding.AxisType.Auto,))
  with jax.set_mesh(mesh):
    found = lookup.num_below(ids, bounds)
  np.testing.assert_array_equal(found, np.searchsorted(ids, bounds))
