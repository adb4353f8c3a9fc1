# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Every optimizer of optax does under every code what it does on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.mesh.mesh import make_mesh
from antjax.mesh.paro import VALID_CODES
from antjax.train.trainer import Trainer

_RATE = 1e-2
_NAMES = (
  'adabelief adadelta adagrad adam adamax adamaxw adamw adan amsgrad fromage'
  ' lamb lars lion nadam nadamw novograd optimistic_adam_v2'
  ' optimistic_gradient_descent radam rmsprop rprop sgd sign_sgd'
  ' sm3 yogi'
).split()
_CONTRIB = 'acprop ademamix adopt dog dowg madgrad momo prodigy muon'.split()
_MORE = {
  'adafactor': lambda: optax.adafactor(_RATE, min_dim_size_to_factor=4),
  'block_rms': lambda: optax.chain(
    optax.clip_by_block_rms(0.01), optax.sgd(_RATE)
  ),
  'centralize': lambda: optax.chain(optax.centralize(), optax.adam(_RATE)),
  'plateau': lambda: optax.chain(
    optax.adam(_RATE), optax.contrib.reduce_on_plateau(patience=1, factor=0.1)
  ),
  'schedule_free': lambda: optax.contrib.schedule_free_adamw(_RATE),
  'noisy_sgd': lambda: optax.noisy_sgd(_RATE, key=0),
  'polyak_sgd': lambda: optax.polyak_sgd(max_learning_rate=_RATE),
  'ema': lambda: optax.chain(optax.adam(_RATE), optax.ema(0.9)),
}
# Some, of those that look at shapes and of those that wrap another one.
_LOOK_AT_SHAPES = ('adafactor', 'muon', 'schedule_free')


def _optimizer(name):
  if name in _MORE:
    return _MORE[name]()
  if name in _NAMES:
    make = getattr(optax, name)
  else:
    make = getattr(optax.contrib, name)
  return make(learning_rate=_RATE)


def _params():
  rng = np.random.default_rng(0)

  def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)

  return {'in': normal(5, 13), 'out': normal(13, 3), 'bias': normal(11)[:3]}


def _loss(params, batch, rng):
  del rng
  h = jnp.tanh(batch['x'] @ params['in']) @ params['out']
  return jnp.mean(jnp.square(h + params['bias'][None] - batch['y']), axis=1)


def _batches(num):
  rng = np.random.default_rng(1)
  for _ in range(num):
    yield {
      'x': rng.normal(size=(16, 5)).astype(np.float32),
      'y': rng.normal(size=(16, 3)).astype(np.float32),
    }


def _trained(optimizer, code='NNN', num_devices=1):
  devices = jax.devices()[:num_devices]
  trainer = Trainer(
    _loss,
    optimizer,
    mesh=make_mesh(intra=min(4, num_devices), devices=devices),
    paro=code,
    min_shard_size=2,
  )
  state = trainer.init(_params())
  for batch in _batches(4):
    state, _ = trainer.step(state, batch)
  return trainer, state


def _numbers(x):
  is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
  return jax.random.key_data(x) if is_key else x


def _assert_equal(name, code):
  optimizer = _optimizer(name)
  one, one_state = _trained(optimizer)
  trainer, state = _trained(optimizer, code, 8)
  # Signs of gradients near 0, and steps divided by small ones, amplify the
  # order of sums.
  for here, there in (
    (trainer.params(state), one.params(one_state)),
    (trainer.opt_state(state), one.opt_state(one_state)),
  ):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(
        _numbers(a), _numbers(b), rtol=2e-3, atol=2e-4
      ),
      here,
      there,
    )


@pytest.mark.parametrize('name', _LOOK_AT_SHAPES)
def test_one_that_looks_at_shapes_sees_the_users(name):
  _assert_equal(name, 'IIG')


@pytest.mark.slow
@pytest.mark.parametrize('code', VALID_CODES)
@pytest.mark.parametrize('name', [*_NAMES, *_CONTRIB, *_MORE])
def test_every_optimizer_is_that_of_one_device(name, code):
  _assert_equal(name, code)


def test_evaluation_with_averaged_parameters():
  trainer, state = _trained(_optimizer('schedule_free'), 'IIG', 8)
  averaged = optax.contrib.schedule_free_eval_params(
    trainer.opt_state(state), trainer.params(state)
  )

  def predict_fn(params, batch, rng):
    return {'prediction': _loss(params, batch, rng)}

  batch = next(_batches(1))
  found = trainer.predict(state, [batch], predict_fn, params=averaged)
  np.testing.assert_allclose(
    found['prediction'], _loss(averaged, batch, None), rtol=1e-4
  )
  own = trainer.predict(state, [batch], predict_fn)
  assert not np.allclose(own['prediction'], found['prediction'], rtol=1e-4)
  with pytest.raises(ValueError, match='params have the shapes'):
    trainer.predict(state, [batch], predict_fn, params={'in': batch['x']})
