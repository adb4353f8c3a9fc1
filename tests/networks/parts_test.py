# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Normalisation, tasks in a row, and fields of texts and images."""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.networks import fusion, load, moments
from antjax.networks.star import PartitionedNorm
from antjax.networks.tasks import AITM, Chain, ESMM, logit_of_both
from tests.cases import first_fast
from tests.networks.small_inputs import CONFIG, inputs, labels, learn, SIZES


def by_hand(flat, chosen):
  rows = np.asarray(flat, np.float64)[chosen]
  return rows.mean(axis=0), rows.var(axis=0)


def test_moments_add_up_over_batches():
  x = inputs(60)._replace(weight_B=jnp.asarray([1.0] * 50 + [0.0] * 10))
  parts = [
    moments.moments_of(jax.tree.map(lambda a, s=s: a[s], x), 3)
    for s in (slice(20), slice(20, 60))
  ]
  sums = jax.tree.map(lambda a, b: np.add(a, b, dtype=np.float64), *parts)
  found = moments.finish(sums)
  counts = np.arange(60) < 50
  for d in range(3):
    mean, variance = by_hand(x.flat, counts & (np.asarray(x.scenario_B) == d))
    np.testing.assert_allclose(found.mean_SX[d], mean, atol=1e-5)
    np.testing.assert_allclose(found.variance_SX[d], variance, atol=1e-5)


def test_moments_of_a_batch_are_those_of_its_rows():
  x = inputs(60)._replace(weight_B=jnp.asarray([1.0] * 50 + [0.0] * 10))
  found = moments.of_batch(x, 3)
  finished = moments.finish(moments.moments_of(x, 3))
  np.testing.assert_allclose(found.mean_SX, finished.mean_SX, atol=1e-5)
  np.testing.assert_allclose(found.variance_SX, finished.variance_SX, atol=1e-4)


def test_a_scenario_of_one_row_gets_the_moments_of_all():
  scenario_B = jnp.asarray([0] * 9 + [2])  # None of scenario 1, one of 2.
  x = inputs(10)._replace(scenario_B=scenario_B)
  finished = moments.finish(moments.moments_of(x, 3))
  mean, variance = by_hand(x.flat, slice(None))
  for found in (moments.of_batch(x, 3), finished):
    for d in (1, 2):
      np.testing.assert_allclose(found.mean_SX[d], mean, atol=1e-5)
      np.testing.assert_allclose(found.variance_SX[d], variance, atol=1e-5)


def test_there_are_no_moments_of_nothing():
  x = inputs(6)._replace(weight_B=jnp.zeros(6))
  with pytest.raises(ValueError, match='no row was counted'):
    moments.finish(moments.moments_of(x, 3))
  norm = PartitionedNorm(3, SIZES.flat_width)
  assert np.isfinite(norm(x)).all()


def test_esmm_is_the_product_of_probabilities():
  a, b = np.meshgrid(np.linspace(-8, 8, 9), np.linspace(-8, 8, 9))
  p = 1 / (1 + np.exp(-a)) / (1 + np.exp(-b))
  found = logit_of_both(jnp.asarray(a, jnp.float32), jnp.asarray(b))
  np.testing.assert_allclose(found, np.log(p / (1 - p)), rtol=1e-4, atol=1e-5)
  far = logit_of_both(jnp.asarray([80.0, -80.0]), jnp.asarray([90.0, 5.0]))
  np.testing.assert_allclose(far, [80.0, -80.00671], rtol=1e-5)


TWO_TASKS = dataclasses.replace(SIZES, num_outputs=2)


@pytest.mark.parametrize('kind', first_fast(ESMM, AITM))
def test_both_tasks_are_learned(kind):
  config = CONFIG.of(kind)
  made = nnx.jit(lambda: kind(TWO_TASKS, config, rngs=nnx.Rngs(0)))()
  graphdef, state = nnx.split(made)
  x, click = inputs(), labels()
  both = jnp.stack([click, click * labels(seed=2)], axis=1)

  def loss(params):
    model = nnx.merge(graphdef, params)
    return model.loss(model(x), both).mean()

  losses, sizes = learn(loss, nnx.to_pure_dict(state))
  assert losses[-1] < 0.05
  assert all(size[0] > 0 for size in jax.tree.leaves(sizes))


def test_conversions_after_no_click_do_not_count():
  model = ESMM(TWO_TASKS, CONFIG.of(ESMM), rngs=nnx.Rngs(0))
  logits = Chain(jnp.asarray([[0.3, 0.1]]), jnp.asarray([[0.3, 0.2]]))
  alone, both = (
    model.loss(logits, jnp.asarray([[0.0, second]])) for second in (1.0, 0.0)
  )
  np.testing.assert_array_equal(alone, both)


def test_a_task_that_is_likelier_than_the_one_before_costs():
  model = AITM(TWO_TASKS, CONFIG.of(AITM), rngs=nnx.Rngs(0))
  found, y = jnp.asarray([[0.0, 1.0], [1.0, 0.0]]), jnp.ones((2, 2))
  p = 1 / (1 + np.exp(-1.0))
  entropies = np.log(2) - np.log(p)
  expected = entropies + np.array([0.6 * (p - 0.5), 0])
  np.testing.assert_allclose(model.loss(found, y), expected, rtol=1e-5)


def test_several_labels_are_needed():
  with pytest.raises(ValueError, match='esmm learns two labels or more'):
    load.make('esmm', SIZES, CONFIG, rngs=nnx.Rngs(0))


@pytest.mark.parametrize('way', ['concat', 'gated', 'per_scenario'])
def test_fusion_adds_fields(way):
  x = inputs(8)
  rng = np.random.default_rng(0)
  vectors = {
    'title': jnp.asarray(rng.normal(size=(8, 7)), jnp.float16),
    'image': jnp.asarray(rng.normal(size=(8, 9)), jnp.float32).at[3].set(0),
  }
  widths = {'title': 7, 'image': 9}
  graphdef, state = nnx.split(
    nnx.jit(lambda: fusion.Fusion(SIZES, widths, way, rngs=nnx.Rngs(0)))()
  )
  params = jax.tree.map(lambda a: a + 0.1, nnx.to_pure_dict(state))
  fuse = nnx.merge(graphdef, params)
  found = fuse(x, vectors)
  assert fuse.sizes.num_fields == SIZES.num_fields + 2
  assert found.fields_BFD.shape == (8, fuse.sizes.num_fields, SIZES.dim)
  np.testing.assert_array_equal(found.fields_BFD[:, :5], x.fields_BFD)
  np.testing.assert_array_equal(found.fields_BFD[3, 6], 0)  # No image there.
  if way == 'concat':
    gate = np.ones((8, 2, SIZES.dim))
  else:
    seen = x.flat if way == 'gated' else x.fields_BFD[:, SIZES.scenario_field]
    score = seen @ params['gate']['kernel'] + params['gate']['bias'][None]
    gate = 2 / (1 + np.exp(-np.asarray(score))).reshape(8, 2, SIZES.dim)
  for i, name in enumerate(widths):
    mapped = np.asarray(vectors[name], np.float32)
    mapped = mapped @ np.asarray(params['maps'][name]['kernel'])
    np.testing.assert_allclose(
      found.fields_BFD[:, 5 + i], gate[:, i] * mapped, rtol=1e-4, atol=1e-5
    )

  def squares(p):
    return jnp.sum(jnp.square(nnx.merge(graphdef, p)(x, vectors).fields_BFD))

  grads = jax.jit(jax.grad(squares))(params)
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))


def test_all_fusions_start_alike():
  x, vectors = inputs(8), {'title': jnp.ones((8, 7))}
  found = [
    fusion.Fusion(SIZES, {'title': 7}, way, rngs=nnx.Rngs(0))(x, vectors)
    for way in ('concat', 'gated', 'per_scenario')
  ]
  for other in found[1:]:
    np.testing.assert_allclose(found[0].fields_BFD, other.fields_BFD)


def test_fusion_refuses_what_does_not_fit():
  with pytest.raises(ValueError, match="fusion='sum': use concat, gated"):
    fusion.Fusion(SIZES, {'title': 7}, 'sum', rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match='one or more vectors'):
    fusion.Fusion(SIZES, {}, rngs=nnx.Rngs(0))
  fuse = fusion.Fusion(SIZES, {'title': 7}, rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match=r"needed are \{'title': 7\}"):
    fuse(inputs(8), {'image': jnp.ones((8, 7))})
