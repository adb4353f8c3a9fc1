# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""MLPs, experts and pooling, against loops."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.layers import mlp, pooling
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


IDS_BK = np.array([[3, 1, -1], [2, -1, -1], [-1, -1, -1], [0, 1, 2]])
# float32 sums of three terms.
ROUNDING = 1e-6


def given(seed=0):
  rng = np.random.default_rng(seed)
  vectors = rng.normal(size=(4, 3, 5)).astype(np.float32)
  vectors[IDS_BK < 0] = np.nan  # Padding may hold anything.
  weights = rng.normal(size=(4, 3)).astype(np.float32)
  weights[IDS_BK < 0] = 7
  return vectors, weights


@pytest.mark.parametrize('how', ['mean', 'sum'])
def test_weights_scale_each_value(how):
  vectors, weights = given()
  found = pooling.pool(vectors, IDS_BK, how, weights)
  for row, vector, weight, result in zip(IDS_BK, vectors, weights, found):
    used = row >= 0
    want = (vector[used] * weight[used, None]).sum(0)
    if how == 'mean' and used.any():
      want = want / weight[used].sum()
    np.testing.assert_allclose(result, want, rtol=1e-4, atol=ROUNDING)


def test_equal_weights_change_no_mean_and_zero_weights_give_no_nan():
  vectors, _ = given()
  plain = pooling.pool(vectors, IDS_BK)
  same = pooling.pool(vectors, IDS_BK, 'mean', np.full(IDS_BK.shape, 3.0))
  np.testing.assert_allclose(same, plain, rtol=1e-5, atol=ROUNDING)
  clean = np.nan_to_num(vectors)

  def total(weights):
    return pooling.pool(clean, IDS_BK, 'mean', weights).sum()

  value, grad = jax.value_and_grad(total)(jnp.zeros(IDS_BK.shape))
  assert value == 0
  assert np.all(np.isfinite(grad))


def test_each_feature_has_its_own_way():
  vectors, weights = given()
  names = {'a': vectors, 'b': vectors, 'c': vectors}
  found = pooling.pool_features(
    names,
    dict.fromkeys(names, IDS_BK),
    {'a': 'sum', 'c': 'sum'},
    {'c': weights},
  )
  np.testing.assert_array_equal(
    found['a'], pooling.pool(vectors, IDS_BK, 'sum')
  )
  np.testing.assert_array_equal(found['b'], pooling.pool(vectors, IDS_BK))
  np.testing.assert_array_equal(
    found['c'], pooling.pool(vectors, IDS_BK, 'sum', weights)
  )


def test_weights_that_do_not_fit_are_refused():
  vectors, weights = given()
  with pytest.raises(ValueError, match='need weights of that shape'):
    pooling.pool(vectors, IDS_BK, 'sum', weights[:2])
  with pytest.raises(ValueError, match='one id a row'):
    pooling.pool_features(
      {'a': vectors[:, 0]}, {'a': IDS_BK[:, 0]}, 'sum', {'a': weights}
    )


@pytest.mark.parametrize('how', ['mean', 'sum'])
def test_pool_ignores_padding_whatever_its_vector(how):
  vectors = jnp.asarray([[[1.0, 2.0], [3.0, 6.0], [jnp.nan, 9.0]]])
  pooled = pooling.pool(vectors, jnp.asarray([[4, 0, -1]]), how)
  total = np.asarray([[4.0, 8.0]])
  np.testing.assert_allclose(pooled, total / 2 if how == 'mean' else total)


def test_pool_of_no_value_is_zero():
  pooled = pooling.pool(jnp.ones((1, 2, 3)), jnp.full((1, 2), -1))
  np.testing.assert_array_equal(pooled, np.zeros((1, 3)))


def test_pool_refuses_unknown_kind_and_other_shapes():
  with pytest.raises(ValueError, match="use 'mean' or 'sum'"):
    pooling.pool(jnp.ones((1, 2, 3)), jnp.zeros((1, 2), int), 'max')
  with pytest.raises(ValueError, match='need ids'):
    pooling.pool(jnp.ones((1, 2, 3)), jnp.zeros((2, 1), int))


def test_pool_features_takes_one_hot_and_multi_hot():
  ids = {'item': jnp.asarray([1, -1]), 'genres': jnp.asarray([[0, 1], [2, -1]])}
  vectors = {'item': jnp.ones((2, 3)), 'genres': 2 * jnp.ones((2, 2, 3))}
  pooled = pooling.pool_features(vectors, ids, 'sum')
  np.testing.assert_array_equal(pooled['item'], [[1.0] * 3, [0.0] * 3])
  np.testing.assert_array_equal(pooled['genres'], [[4.0] * 3, [2.0] * 3])
  with pytest.raises(ValueError, match="ids of 'item'"):
    pooling.pool_features({'item': jnp.ones(3)}, {'item': jnp.asarray(1)})


@pytest.mark.parametrize('norm', ['batch', 'layer'])
def test_norms_stand_before_activations_as_by_numpy(norm):
  layer = mlp.MLP(3, (4, 2), activate_last=False, rngs=nnx.Rngs(0))
  mlp.restyle(layer, norm, 'silu', rngs=nnx.Rngs(1))
  assert len(layer.norms) == 1  # The last layer has no activation.
  x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
  first, last = layer.layers
  hidden = np.asarray(first(x))
  weight = np.array([1, 1, 1, 1, 0, 0], np.float32)
  axis, chosen = (0, slice(4)) if norm == 'batch' else (1, slice(None))
  mean = hidden[chosen].mean(axis, keepdims=True)
  var = hidden[chosen].var(axis, keepdims=True)
  mlp.start_training(layer, 0.0, jax.random.key(0), jnp.asarray(weight))
  scaled = (hidden - mean) / np.sqrt(var + layer.norms[0].epsilon)
  np.testing.assert_allclose(
    layer(x), last(jax.nn.silu(scaled)), rtol=1e-3, atol=1e-5
  )
  if norm == 'batch':
    np.testing.assert_allclose(
      layer.norms[0].mean[...], 0.1 * mean[0], rtol=1e-4, atol=1e-6
    )


def test_unknown_norms_and_activations_are_refused():
  layer = mlp.MLP(3, (4,), rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match="norm='group': use one of none"):
    mlp.restyle(layer, 'group', 'relu', rngs=nnx.Rngs(0))
