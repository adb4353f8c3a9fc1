# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Experts against MLPs one by one; target attention by hand."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.layers import target_attention
from antjax.layers.experts import Experts, mix


def random(*shape, seed=0):
  x = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(x, jnp.float32)


@pytest.mark.parametrize('widths', [(5,), (5, 4, 3)])
def test_experts_are_mlps_side_by_side(widths):
  experts, x = Experts(3, 6, widths, rngs=nnx.Rngs(0)), random(7, 6)
  found = experts(x)
  assert found.shape == (7, 3, widths[-1])
  kernel = np.asarray(experts.first.kernel[...]).reshape(6, 3, widths[0])
  for e in range(3):
    y = np.maximum(np.asarray(x) @ kernel[:, e], 0)
    for layer in experts.rest:
      y = np.maximum(y @ np.asarray(layer[e].kernel[...]), 0)
    np.testing.assert_allclose(found[:, e], y, rtol=1e-5, atol=1e-6)


def test_no_product_is_batched_over_experts():
  experts = Experts(3, 6, (5, 4), rngs=nnx.Rngs(0))
  graphdef, state = nnx.split(experts)
  text = str(
    jax.make_jaxpr(jax.grad(lambda s, x: jnp.sum(nnx.merge(graphdef, s)(x))))(
      state, random(7, 6)
    )
  )
  assert 'dot_general' in text
  # dimension_numbers=((contracting), (batch)): the second pair is empty.
  assert text.count('dot_general[') == text.count('([], []))')


def test_a_mixture_is_weighed_by_softmax():
  score, found = random(4, 3), random(4, 3, 2, seed=1)
  weight = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
  np.testing.assert_allclose(
    mix(score, found), np.einsum('be,beo->bo', weight, found), rtol=1e-5
  )


@pytest.mark.parametrize(
  'arguments', [(0, 6, (5,)), (2, 0, (5,)), (2, 6, ()), (2, 6, (5, 0))]
)
def test_experts_of_no_size_are_refused(arguments):
  with pytest.raises(ValueError, match='give at least one expert'):
    Experts(*arguments, rngs=nnx.Rngs(0))


def test_target_attention_weighs_what_is_there():
  module = target_attention.TargetAttention(3, (5,), rngs=nnx.Rngs(0))
  query, keys = random(2, 3), random(2, 4, 3, seed=1)
  is_there = jnp.asarray([[True] * 3 + [False], [False] * 4])
  (layer,), out = module.mlp.layers, module.out
  expected = np.zeros((2, 3), np.float32)
  for m in range(3):
    q, k = np.asarray(query[0]), np.asarray(keys[0, m])
    hidden = np.concatenate([q, k, q - k, q * k]) @ layer.kernel[...]
    score = np.maximum(hidden, 0) @ np.asarray(out.kernel[...])
    expected[0] += score * k / 4
  found = module(query, keys, is_there)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
  # An empty history is 0, whatever its keys are; and has no gradient.
  keys = keys.at[1].set(jnp.nan)
  np.testing.assert_array_equal(module(query, keys, is_there)[1], 0)
  grads = jax.grad(lambda k: module(query, k, is_there).sum())(keys)
  np.testing.assert_array_equal(grads[0, 3], 0)
