# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the MLP, the dot interaction and pooling."""

from flax import nnx
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.layers.interaction import dot_interaction
from antjax.layers.mlp import MLP
from antjax.layers.pooling import pool, pool_features


def test_dot_interaction_is_every_pair_once():
  vectors = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
  expected = [
    (vectors[:, i] * vectors[:, j]).sum(-1) for i in range(4) for j in range(i)
  ]
  np.testing.assert_allclose(
    dot_interaction(vectors), np.stack(expected, 1), rtol=1e-5, atol=1e-6
  )


def test_dot_interaction_needs_two_features():
  with pytest.raises(ValueError, match='at least two feature vectors'):
    dot_interaction(jnp.zeros((5, 1, 3)))


@pytest.mark.parametrize('how', ['mean', 'sum'])
def test_pool_ignores_padding_whatever_its_vector(how):
  vectors = jnp.asarray([[[1.0, 2.0], [3.0, 6.0], [jnp.nan, 9.0]]])
  pooled = pool(vectors, jnp.asarray([[4, 0, -1]]), how)
  total = np.asarray([[4.0, 8.0]])
  np.testing.assert_allclose(pooled, total / 2 if how == 'mean' else total)


def test_pool_of_no_value_is_zero():
  pooled = pool(jnp.ones((1, 2, 3)), jnp.full((1, 2), -1))
  np.testing.assert_array_equal(pooled, np.zeros((1, 3)))


def test_pool_refuses_unknown_kind_and_other_shapes():
  with pytest.raises(ValueError, match="use 'mean' or 'sum'"):
    pool(jnp.ones((1, 2, 3)), jnp.zeros((1, 2), int), 'max')
  with pytest.raises(ValueError, match='need ids'):
    pool(jnp.ones((1, 2, 3)), jnp.zeros((2, 1), int))


def test_pool_features_takes_one_hot_and_multi_hot():
  ids = {'item': jnp.asarray([1, -1]), 'genres': jnp.asarray([[0, 1], [2, -1]])}
  vectors = {'item': jnp.ones((2, 3)), 'genres': 2 * jnp.ones((2, 2, 3))}
  pooled = pool_features(vectors, ids, 'sum')
  np.testing.assert_array_equal(pooled['item'], [[1.0] * 3, [0.0] * 3])
  np.testing.assert_array_equal(pooled['genres'], [[4.0] * 3, [2.0] * 3])
  with pytest.raises(ValueError, match="ids of 'item'"):
    pool_features({'item': jnp.ones(3)}, {'item': jnp.asarray(1)})


def test_mlp_activates_all_layers_but_the_last_on_request():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.float32)
  active = MLP(3, (4, 2), rngs=nnx.Rngs(0))
  linear = MLP(3, (4, 2), activate_last=False, rngs=nnx.Rngs(0))
  assert active.out_features == 2
  assert linear(x).min() < 0
  np.testing.assert_allclose(active(x), nnx.relu(linear(x)))


@pytest.mark.parametrize('widths', [(), (4, 0)])
def test_mlp_refuses_bad_widths(widths):
  with pytest.raises(ValueError, match='every width'):
    MLP(3, widths, rngs=nnx.Rngs(0))
