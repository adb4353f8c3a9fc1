# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows times their group's matrix: sorted, unsorted, on devices."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from antjax.layers import grouped
from antjax.mesh.mesh import BATCH_AXES, make_mesh

NUM_ROWS, SIZE_IN, SIZE_OUT = 512, 5, 3


def reference(x, kernel, group):
  """A product a row, in float64."""
  return np.stack(
    [row @ kernel[:, g] for row, g in zip(x.astype(float), group, strict=True)]
  )


def gradients(x, kernel, group, dy):
  dx = np.stack([d @ kernel[:, g].T for d, g in zip(dy, group, strict=True)])
  dkernel = np.zeros(kernel.shape)
  for row, g, d in zip(x, group, dy, strict=True):
    dkernel[:, g] += np.outer(row, d)
  return dx, dkernel


def problem(num_groups, num_rows=NUM_ROWS):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(num_rows, SIZE_IN)).astype(np.float32)
  shape = SIZE_IN, num_groups, SIZE_OUT
  kernel = rng.normal(size=shape).astype(np.float32)
  dy = rng.normal(size=(num_rows, SIZE_OUT)).astype(np.float32)
  return x, kernel, dy


def assert_right(x, kernel, group, dy):
  y, vjp = jax.vjp(
    lambda x, kernel: grouped.product(x, kernel, jnp.asarray(group)), x, kernel
  )
  near = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-4)
  near(y, reference(x, kernel, group))
  for found, expected in zip(
    vjp(jnp.asarray(dy)), gradients(x, kernel, group, dy), strict=True
  ):
    near(found, expected)


# Rows of each group: beginnings at, before and behind the edges of blocks,
# several in one block, groups without rows.
SIZES = [
  [200, 100, 212],
  [64, 64, 384],
  [512, 0, 0],
  [0, 0, 512],
  [0, 512, 0],
  [1, 1, 510],
  [510, 1, 1],
  [63, 2, 447],
]


@pytest.mark.parametrize('sizes', SIZES, ids=str)
def test_sorted_rows_take_their_own_matrix(sizes):
  group = np.repeat(np.arange(3), sizes).astype(np.int32)
  x, kernel, dy = problem(3)
  assert grouped.blocks(NUM_ROWS, 3) == 8
  assert_right(x, kernel, group, dy)


def test_rows_in_any_order_are_right():
  group = np.random.default_rng(1).integers(0, 3, NUM_ROWS).astype(np.int32)
  x, kernel, dy = problem(3)
  assert_right(x, kernel, group, dy)


@pytest.mark.parametrize(('num_groups', 'num_rows'), [(1, 512), (3, 509)])
def test_rows_that_form_no_blocks_are_right(num_groups, num_rows):
  assert grouped.blocks(num_rows, num_groups) == 0
  x, kernel, dy = problem(num_groups, num_rows)
  group = np.sort(np.random.default_rng(1).integers(0, num_groups, num_rows))
  assert_right(x, kernel, group.astype(np.int32), dy)


@pytest.mark.parametrize('num_rows', [NUM_ROWS, 100])
@pytest.mark.parametrize(
  'dtypes', [('float32', 'bfloat16'), ('bfloat16', 'float32'), 2 * ('float16',)]
)
def test_dtypes_are_promoted_and_gradients_have_their_own(dtypes, num_rows):
  x, kernel, _ = problem(3, num_rows)
  x, kernel = jnp.asarray(x, dtypes[0]), jnp.asarray(kernel, dtypes[1])
  group = jnp.arange(num_rows, dtype=jnp.int32) * 3 // num_rows
  y, vjp = jax.vjp(lambda x, k: grouped.product(x, k, group), x, kernel)
  assert y.dtype == jnp.promote_types(*dtypes)
  dx, dkernel = vjp(jnp.ones_like(y))
  assert (dx.dtype, dkernel.dtype) == (x.dtype, kernel.dtype)
  exact = reference(np.float64(x), np.float64(kernel), group)
  np.testing.assert_allclose(np.float64(y), exact, rtol=0.01, atol=0.05)


def test_many_groups_take_few_products():
  num_groups = 20
  group = np.sort(np.random.default_rng(1).integers(0, num_groups, 2048))
  x, kernel, dy = problem(num_groups, 2048)
  assert grouped.blocks(2048, num_groups) == 32
  assert_right(x, kernel, group.astype(np.int32), dy)


def test_sorted_rows_are_multiplied_by_one_matrix_and_beginnings():
  """Counts the rows that are multiplied, in the branch of sorted rows."""
  x, kernel, _ = problem(3)
  group = jnp.zeros(NUM_ROWS, jnp.int32)
  jaxpr = jax.make_jaxpr(grouped.product)(x, kernel, group)

  def branches(jaxpr):
    for eqn in jaxpr.eqns:
      if eqn.primitive.name == 'cond':
        yield from (branch.jaxpr for branch in eqn.params['branches'])
      for value in eqn.params.values():
        if hasattr(value, 'jaxpr'):
          yield from branches(value.jaxpr)

  def rows(jaxpr, times=1):
    found = 0
    for eqn in jaxpr.eqns:
      if eqn.primitive.name == 'dot_general':
        sizes = eqn.invars[0].aval.shape[0], eqn.invars[1].aval.shape[1]
        found += times * sizes[0] * sizes[1] // SIZE_OUT
      if eqn.primitive.name == 'scan':
        found += rows(eqn.params['jaxpr'].jaxpr, eqn.params['length'])
    return found

  with_all, by_blocks = map(rows, branches(jaxpr.jaxpr))
  assert with_all == 3 * NUM_ROWS
  assert by_blocks == NUM_ROWS + 2 * NUM_ROWS // 8


def test_devices_have_rows_of_their_own():
  """In a typed shard_map: each device's rows are sorted, or are not."""
  mesh = make_mesh(intra=4)
  x, kernel, dy = problem(2, 8 * 256)
  parts = [np.sort(p) for p in np.split(np.arange(8 * 256) * 7 % 2, 8)]
  parts[3] = parts[3][::-1]
  group = np.concatenate(parts).astype(np.int32)
  assert grouped.blocks(256, 2) == 4

  @functools.partial(
    jax.shard_map,
    mesh=mesh,
    in_specs=(P(BATCH_AXES), P(), P(BATCH_AXES), P(BATCH_AXES)),
    out_specs=(P(BATCH_AXES), (P(BATCH_AXES), P())),
  )
  def run(x, kernel, group, dy):
    y, vjp = jax.vjp(lambda x, k: grouped.product(x, k, group), x, kernel)
    return y, vjp(dy)

  y, (dx, dkernel) = jax.jit(run)(x, kernel, group, dy)
  near = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-4)
  near(y, reference(x, kernel, group))
  expected = gradients(x, kernel, group, dy)
  near(dx, expected[0])
  near(dkernel, expected[1])
