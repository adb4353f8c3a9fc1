# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Updates of rows that several lists name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.embedding import optimizer as optimizer_lib

NUM_ROWS = 40


def rising_lists(num_lists, size, seed=0):
  """Lists [L, C] of distinct rising ids; NUM_ROWS stands for none."""
  rng = np.random.default_rng(seed)
  ids = np.full((num_lists, size), NUM_ROWS, np.int32)
  for row in ids:
    count = rng.integers(0, size + 1)
    row[:count] = np.sort(rng.choice(NUM_ROWS, count, replace=False))
  return ids


@pytest.mark.parametrize('num_lists', [1, 2, 5, 8, 9, 16])
def test_first_mention_of_each_id(num_lists):
  """By searches (few lists) and by a sort (many)."""
  ids = rising_lists(num_lists, 7)
  first = np.asarray(jax.jit(optimizer_lib.first_mentions)(ids))
  flat = ids.reshape(-1)
  expected = [np.flatnonzero(flat == i)[0] for i in flat]
  used = flat < NUM_ROWS
  np.testing.assert_array_equal(first[used], np.array(expected)[used])
  # What stands for no row never leads to one.
  assert np.all(flat[first[~used]] == NUM_ROWS)


@pytest.mark.parametrize('num_lists', [1, 3, 12])
@pytest.mark.parametrize(
  'optimizer',
  [
    optimizer_lib.SGD(0.1),
    optimizer_lib.Adagrad(0.1),
    optimizer_lib.RowWiseAdagrad(0.1),
    optimizer_lib.Adam(0.1),
    optimizer_lib.L2(optimizer_lib.Adam(0.1), 0.05),
  ],
  ids=lambda o: type(o).__name__,
)
def test_a_row_takes_one_step_with_its_whole_gradient(optimizer, num_lists):
  ids = rising_lists(num_lists, 9, seed=3)
  rng = np.random.default_rng(1)
  grads = rng.normal(size=(ids.size, 4)).astype(np.float32)
  table = rng.normal(size=(NUM_ROWS, 4)).astype(np.float32)
  slots = optimizer.init(NUM_ROWS, 4)
  new, new_slots = jax.jit(
    lambda *a: optimizer_lib.apply_to_rows(optimizer, *a)
  )(table, slots, ids, grads, jnp.int32(2))
  dense = np.zeros((NUM_ROWS + 1, 4), np.float32)
  np.add.at(dense, ids.reshape(-1), grads)
  touched = np.isin(np.arange(NUM_ROWS), ids)
  want, want_slots = optimizer_lib.apply_to_table(
    optimizer, table, slots, dense[:NUM_ROWS], touched, jnp.int32(2)
  )
  # Sums of a few float32 gradients in another order.
  np.testing.assert_allclose(new, want, atol=1e-6)
  for name, slot in want_slots.items():
    np.testing.assert_allclose(new_slots[name], slot, atol=1e-6)
  np.testing.assert_array_equal(new[~touched], table[~touched])
  assert 0 < touched.sum() < NUM_ROWS


def test_rowwise_adagrad_is_that_of_its_equation():
  """a_i += mean(g_i^2), x_i -= rate g_i / (sqrt(a_i) + eps), row by row."""
  optimizer = optimizer_lib.RowWiseAdagrad(0.1, eps=1e-3)
  rng = np.random.default_rng(2)
  table = jnp.asarray(rng.normal(size=(NUM_ROWS, 4)), jnp.float32)
  expected, sums = np.asarray(table, np.float64), np.zeros(NUM_ROWS)
  slots = optimizer.init(NUM_ROWS, 4)
  for step in range(4):
    ids = rising_lists(3, 9, seed=step)
    grads = rng.normal(size=(ids.size, 4)).astype(np.float32)
    table, slots = optimizer_lib.apply_to_rows(
      optimizer, table, slots, ids, grads, jnp.int32(step)
    )
    for row in range(NUM_ROWS):
      g = grads[ids.reshape(-1) == row].sum(axis=0, dtype=np.float64)
      sums[row] += np.mean(g**2)
      expected[row] -= 0.1 * g / (np.sqrt(sums[row]) + 1e-3)
  # Sums of float32 gradients.
  np.testing.assert_allclose(table, expected, atol=1e-6)
  np.testing.assert_allclose(slots['accumulator'], sums, rtol=1e-5)


def test_a_row_pays_its_penalty_for_the_steps_since_it_was_touched():
  """To first order that of a penalty on the whole table in each step."""
  rate, weight = 1e-3, 0.5
  optimizer = optimizer_lib.L2(optimizer_lib.SGD(rate), weight)
  rows = jnp.array([[1.0, -2.0], [3.0, 4.0]])
  slots = optimizer.init(2, 2)
  no_grads = jnp.zeros((2, 2))
  for step, touched in enumerate([(1, 0), (0, 0), (0, 1), (1, 0)]):
    rows, slots = optimizer_lib.apply_to_table(
      optimizer, rows, slots, no_grads, jnp.array(touched, bool), step
    )
  decay = 1 - rate * weight
  want = np.array([[1.0, -2.0], [3.0, 4.0]]) * decay ** np.array([[4], [3]])
  np.testing.assert_allclose(rows, want, rtol=2e-6)
  assert slots['paid'].tolist() == [4, 3]
