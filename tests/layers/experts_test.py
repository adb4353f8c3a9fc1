# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Experts against MLPs one by one."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.layers.mlp import Experts, mix, MLP


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
