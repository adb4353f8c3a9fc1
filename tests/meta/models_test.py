# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the models and of rating levels."""

from flax import nnx
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.meta import models


def vectors(names, rows=5, dim=4):
  rng = np.random.default_rng(0)
  return {
    name: jnp.asarray(rng.normal(size=(rows, dim)), jnp.float32)
    for name in names
  }


@pytest.mark.parametrize('num_outputs', [1, 5])
@pytest.mark.parametrize('kind', ['dlrm', 'melu'])
def test_one_output_or_several_a_row(kind, num_outputs):
  make, config = {
    'dlrm': (models.DLRM, models.DLRMConfig),
    'melu': (models.MeLU, models.MeLUConfig),
  }[kind]
  model = make(
    config(features=('a', 'b'), embedding_dim=4, num_outputs=num_outputs),
    rngs=nnx.Rngs(0),
  )
  shape = (5,) if num_outputs == 1 else (5, 5)
  assert model(vectors('ab')).shape == shape


def test_dlrm_sees_numeric_inputs_through_its_bottom():
  config = models.DLRMConfig(features=('a',), embedding_dim=4, num_numeric=2)
  model = models.DLRM(config, rngs=nnx.Rngs(0))
  zero, one = (model(vectors('a'), jnp.full((5, 2), x)) for x in (0.0, 1.0))
  assert not np.allclose(zero, one)
  with pytest.raises(ValueError, match='numeric_BN'):
    model(vectors('a'))


def test_the_offset_moves_the_output():
  def output(offset):
    config = models.MeLUConfig(
      features=('a',), embedding_dim=4, output_offset=offset
    )
    return models.MeLU(config, rngs=nnx.Rngs(0))(vectors('a'))

  np.testing.assert_allclose(output(3.0) - output(0.0), 3.0, rtol=1e-5)


@pytest.mark.parametrize('features', [(), ('a', 'a')])
def test_bad_features_are_refused(features):
  with pytest.raises(ValueError, match='the names must differ'):
    models.MeLU(models.MeLUConfig(features=features), rngs=nnx.Rngs(0))


def test_an_interaction_needs_two_vectors():
  with pytest.raises(ValueError, match='interact=False'):
    models.DLRM(models.DLRMConfig(features=('a',)), rngs=nnx.Rngs(0))


def test_levels_give_the_best_guess_for_each_error():
  levels = models.RatingLevels()
  shares = np.asarray(
    [
      [0.1, 0.1, 0.1, 0.3, 0.4],
      [0.6, 0.1, 0.1, 0.1, 0.1],
      [0.0, 0.0, 0.0, 0.0, 1.0],
    ]
  )
  guess = levels.predictions(jnp.log(shares + 1e-12))
  ratings = np.arange(1, 6)
  np.testing.assert_allclose(guess['prediction'], shares @ ratings, rtol=1e-5)
  errors = (shares[:, :, None] * np.abs(ratings[:, None] - ratings)).sum(1)
  np.testing.assert_array_equal(guess['median'], ratings[errors.argmin(1)])


def test_the_loss_is_the_cross_entropy_of_the_nearest_level():
  logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)))
  loss = models.RatingLevels().loss(logits, jnp.asarray([1.0, 3.4, 9.0]))
  log_shares = nnx.log_softmax(logits)
  np.testing.assert_allclose(
    loss, [-log_shares[0, 0], -log_shares[1, 2], -log_shares[2, 4]], rtol=1e-6
  )


@pytest.mark.parametrize('kind', ['dlrm', 'melu'])
def test_features_may_have_widths_of_their_own(kind):
  make, config = {
    'dlrm': (models.DLRM, models.DLRMConfig),
    'melu': (models.MeLU, models.MeLUConfig),
  }[kind]
  model = make(
    config(features=('a', 'b'), embedding_dim=4, feature_dims=(4, 2)),
    rngs=nnx.Rngs(0),
  )
  mixed = {**vectors('a'), **vectors('b', dim=2)}
  assert model(mixed).shape == (5,)
  if kind == 'dlrm':
    # The same as a model of one width that gets the mapped vector.
    plain = models.DLRM(
      models.DLRMConfig(features=('a', 'b'), embedding_dim=4),
      rngs=nnx.Rngs(0),
    )
    plain.top, plain.head = model.top, model.head
    mapped = {**mixed, 'b': mixed['b'] @ model.project['b'].kernel}
    np.testing.assert_allclose(model(mixed), plain(mapped), rtol=1e-6)


def test_widths_must_match_the_features():
  with pytest.raises(ValueError, match='one width is needed for each'):
    models.MeLU(
      models.MeLUConfig(features=('a', 'b'), feature_dims=(4,)),
      rngs=nnx.Rngs(0),
    )
