# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sums in int8 lose nothing over time: what is left out comes later."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from antjax.collectives import narrow
from antjax.mesh.mesh import BATCH_AXES, make_mesh

SHAPE = (3, 16, 37)  # Blocks of no round size, along the middle dim.
NUM_ROUNDS = 40


@functools.partial(jax.jit, static_argnums=0)
def _sums(kind, x_B, left):
  """Sums of [8, ...] over `intra`, a device's own in each row."""

  def local(x, left):
    x, left = x[0], jax.tree.map(lambda a: a[0], left)
    fn = getattr(narrow, kind)
    residual = left if kind == 'all_reduce' else left[0]
    total, residual = fn(x, 'intra', 1, 'int8', residual)
    if kind == 'scatter_sum':
      total = jax.lax.all_gather(total, 'intra', axis=1, tiled=True)
      residual = residual, left[1]
    return jax.tree.map(lambda a: a[None], (total, residual))

  specs = P(BATCH_AXES)
  return jax.shard_map(
    local,
    mesh=make_mesh(intra=4),
    in_specs=specs,
    out_specs=specs,
    check_vma=False,
  )(x_B, left)


@pytest.mark.parametrize('kind', ['scatter_sum', 'all_reduce'])
def test_what_is_left_out_is_sent_later(kind):
  rng = np.random.default_rng(0)
  # Heavy tails: some elements are far below a step of their block.
  x = rng.normal(size=(8, *SHAPE)).astype(np.float32) ** 5
  left = (jnp.zeros((8, *SHAPE)), jnp.zeros((8, 3, 4, 37)))
  want = x.reshape(2, 4, *SHAPE).sum(1).repeat(4, axis=0)
  total, firsts = np.zeros_like(want, np.float64), None
  for _ in range(NUM_ROUNDS):
    got, left = _sums(kind, x, left)
    total += np.asarray(got, np.float64)
    firsts = np.asarray(got) if firsts is None else firsts
  once = np.abs(firsts - want).max()
  error = np.abs(total / NUM_ROUNDS - want).max()
  assert once > 0
  # One step's error, not of all rounds, remains in the sum of all.
  assert error < 2 * once / NUM_ROUNDS


def test_sent_values_that_are_not_finite_stay_so():
  rows = jnp.array([[1.0, jnp.nan, 2.0], [jnp.inf, 0.0, 1.0]])
  got = narrow._from_bytes(narrow._to_bytes(rows), 3)
  assert not np.isfinite(got).all(axis=1).any()


def test_bytes_of_a_row_are_a_quarter_and_a_scale():
  assert narrow.num_bytes(1024, 'int8') == 1024 + 4 * 4
  assert narrow.num_bytes(300, 'int8') == 300 + 2 * 4
  assert narrow.num_bytes(300, 'bfloat16') == 600
