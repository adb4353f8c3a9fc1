# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Dense, cross and target-attention layers against plain numpy forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.layers import cross, dense, target_attention


def random(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def numpy_tree(params):
  return jax.tree.map(np.array, params)


def relu_mlp(layers, x):
  for layer in layers:
    x = np.maximum(x @ layer['kernel'] + layer['bias'], 0)
  return x


def test_mlp():
  params = dense.init_mlp(jax.random.key(0), 5, (7, 3))
  params[0]['bias'] = params[0]['bias'] + 0.3
  x = random(4, 5)
  expected = relu_mlp(numpy_tree(params), x)
  np.testing.assert_allclose(dense.mlp(params, x), expected, rtol=1e-5)
  with pytest.raises(ValueError, match='must all be positive'):
    dense.init_mlp(jax.random.key(0), 5, (0,))


@pytest.mark.parametrize('rank', [0, 2])
def test_cross_layers(rank):
  params = cross.init(jax.random.key(1), 6, 3, rank)
  x = x0 = random(4, 6)
  for layer in numpy_tree(params):
    layer['bias'] += 0.2
    kernel = layer['down'] @ layer['up'] if rank else layer['kernel']
    x = x0 * (x @ kernel + layer['bias']) + x
  params = jax.tree.map_with_path(
    lambda path, p: p + 0.2 if 'bias' in str(path) else p, params
  )
  np.testing.assert_allclose(cross.cross(params, x0), x, rtol=1e-4, atol=1e-5)


def test_cross_layers_refuse_a_negative_rank():
  with pytest.raises(ValueError, match='rank=-1'):
    cross.init(jax.random.key(1), 6, 3, -1)


def test_target_attention():
  params = target_attention.init(jax.random.key(2), 3, (5,))
  query, keys = random(2, 3), random(2, 4, 3, seed=1)
  is_there = np.array([[1, 1, 1, 0], [0, 0, 0, 0]], bool)
  own = numpy_tree(params)
  expected = np.zeros((2, 3), np.float32)
  for b in range(2):
    for m in range(4):
      if is_there[b, m]:
        q, k = query[b], keys[b, m]
        hidden = relu_mlp(own['mlp'], np.concatenate([q, k, q - k, q * k]))
        score = hidden @ own['out']['kernel'] + own['out']['bias']
        expected[b] += score * k / 4
  found = target_attention.attend(params, query, keys, jnp.asarray(is_there))
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
  # An empty history is 0, whatever its keys are; and has no gradient.
  keys[1] = np.nan
  grads = jax.grad(
    lambda k: target_attention.attend(
      params, query, k, jnp.asarray(is_there)
    ).sum()
  )(jnp.asarray(keys))
  assert np.all(np.asarray(grads[0, 3]) == 0)
