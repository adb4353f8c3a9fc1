# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Sums of rows by bags: by XLA, by kernels, and their gradients."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.embedding import pooled, pooled_gpu

NUM_ROWS = 7
# A bag without entries, one of padding, repeated rows, rows that are not there.
INDICES = [
  np.asarray([[0, 3, 3], [-1, -1, -1], [6, 7, 1], [3, -1, 99]], np.int32),
  np.asarray([[[2], [3]], [[-1], [6]]], np.int32),
]
needs_mosaic = pytest.mark.skipif(
  sys.version_info < (3, 12), reason="this JAX's Mosaic GPU has no interpreter"
)


def plain(rows_RD, index_N, weights_N, starts_G):
  """A kernel's definition."""
  places_1N, index_1N = jnp.arange(index_N.size)[None], index_N[None]
  is_there_GN = places_1N >= starts_G[:-1, None]
  is_there_GN &= places_1N < starts_G[1:, None]
  is_there_GN &= (index_1N >= 0) & (index_1N < len(rows_RD))
  factors_N = jnp.ones(index_N.size) if weights_N is None else weights_N
  rows_ND = rows_RD[jnp.clip(index_N, 0, len(rows_RD) - 1)]
  sums_GD = jnp.where(is_there_GN, factors_N[None], 0) @ rows_ND
  return sums_GD.astype(rows_RD.dtype)


def on_gpu(*args):
  from jax.experimental.pallas import mosaic_gpu as plgpu

  return pooled_gpu.sums(*args, interpret=plgpu.InterpretGPUParams())


both_kernels = pytest.mark.parametrize(
  ('kernel', 'dim'),
  [(plain, 3), pytest.param(on_gpu, 128, marks=needs_mosaic)],
)


def inputs(dim, dtype=jnp.float32):
  rng = np.random.default_rng(dim)
  rows = jnp.asarray(rng.normal(size=(NUM_ROWS, dim)), dtype)
  weights = [jnp.asarray(rng.normal(size=x.shape), dtype) for x in INDICES]
  return rows, weights


def expected_of(rows, weights):
  rows = np.asarray(rows, np.float64)
  found = []
  for i, index in enumerate(INDICES):
    is_there = (index >= 0) & (index < NUM_ROWS)
    factors = is_there * (1 if weights is None else np.asarray(weights[i]))
    vectors = rows[np.clip(index, 0, NUM_ROWS - 1)]
    found.append((vectors * factors[..., None]).sum(axis=-2))
  return found


@pytest.mark.parametrize('is_weighted', [False, True])
@pytest.mark.parametrize(
  ('kernel', 'dim', 'dtype'),
  [
    ('xla', 3, jnp.float32),
    ('xla', 3, jnp.bfloat16),
    (plain, 3, jnp.float32),
    pytest.param(on_gpu, 128, jnp.float32, marks=needs_mosaic),
    pytest.param(on_gpu, 256, jnp.bfloat16, marks=needs_mosaic),
  ],
)
def test_sums_by_bags(kernel, dim, dtype, is_weighted):
  rows, weights = inputs(dim, dtype)
  weights = weights if is_weighted else None
  found = pooled.pool_rows(rows, INDICES, weights, engine=kernel)
  error = 1e-6 if dtype == jnp.float32 else 1e-2
  for x, wanted in zip(found, expected_of(rows, weights), strict=True):
    assert x.dtype == dtype and x.shape == wanted.shape
    np.testing.assert_allclose(
      np.asarray(x, np.float32), wanted, rtol=error, atol=error
    )


@needs_mosaic
def test_rows_that_are_not_there_do_not_matter():
  rows, _ = inputs(128)
  rows = rows.at[0].set(jnp.nan).at[-1].set(jnp.inf)
  (found,) = pooled.pool_rows(
    rows, [np.asarray([[1, -1, 2], [-1, NUM_ROWS, 1]], np.int32)], engine=on_gpu
  )
  np.testing.assert_allclose(found, [rows[1] + rows[2], rows[1]], rtol=1e-6)


def loss(engine, rows, weights):
  found = pooled.pool_rows(rows, INDICES, weights, engine=engine)
  return sum(jnp.sum(jnp.sin(x) ** 2) for x in found)


def after_a_step(engine, rows, weights):
  """As a meta-learned loss: derivatives of it are of the second order."""
  steps = jax.grad(functools.partial(loss, engine), (0, 1))(rows, weights)
  rows, weights = jax.tree.map(lambda x, d: x - 0.1 * d, (rows, weights), steps)
  return loss(engine, rows, weights)


@both_kernels
def test_gradients_are_those_of_xla(kernel, dim):
  of = [
    jax.grad(functools.partial(loss, engine), (0, 1))(*inputs(dim))
    for engine in (kernel, 'xla')
  ]
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), *of)


@pytest.mark.parametrize(
  ('kernel', 'dim'),
  [
    (plain, 3),
    pytest.param(on_gpu, 128, marks=[needs_mosaic, pytest.mark.slow]),
  ],
)
def test_gradients_of_second_order_are_those_of_xla(kernel, dim):
  of = [
    jax.grad(functools.partial(after_a_step, engine), (0, 1))(*inputs(dim))
    for engine in (kernel, 'xla')
  ]
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), *of)


def test_gradients_of_unweighted_bags_of_second_order():
  rows, _ = inputs(3)

  def after_a_step(engine, rows):
    step = jax.grad(lambda x: loss(engine, x, None))(rows)
    return loss(engine, rows - 0.1 * step, None)

  of = [
    jax.grad(functools.partial(after_a_step, e))(rows) for e in (plain, 'xla')
  ]
  np.testing.assert_allclose(*of, atol=1e-5)


def test_many_entries_of_a_row_are_summed_in_runs():
  index = np.random.default_rng(0).integers(-1, 3, (150, 2)).astype(np.int32)
  grads = [
    jax.grad(
      lambda rows, e=engine: jnp.sum(
        jnp.sin(pooled.pool_rows(rows, [index], engine=e)[0])
      )
    )(jnp.ones((4, 2)))
    for engine in (plain, 'xla')
  ]
  np.testing.assert_allclose(*grads, rtol=1e-5)


def test_which_kernel_a_device_has():
  assert pooled.kernel_for(128, jax.devices()[0].device_kind) is None
  assert pooled.kernel_for(128, 'NVIDIA H100 80GB HBM3') is pooled_gpu.sums
  assert pooled.kernel_for(48, 'NVIDIA H100 80GB HBM3') is None
  assert pooled.kernel_for(128, 'NVIDIA A100-SXM4-40GB') is None
  assert pooled.kernel_for(256, 'TPU v6 lite') is not None
  assert pooled.kernel_for(256, 'TPU v5 lite') is None


def test_what_does_not_fit_is_said():
  rows, weights = inputs(3)
  with pytest.raises(ValueError, match='unknown; use xla or kernel'):
    pooled.pool_rows(rows, INDICES, engine='fast')
  with pytest.raises(ValueError, match=r'need weights of that shape; got'):
    pooled.pool_rows(rows, INDICES, weights[::-1])
