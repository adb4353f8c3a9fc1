# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Every optimizer of optax does under every code what it does on one device."""

import functools
import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.mesh.mesh import make_mesh
from antjax.mesh.paro import VALID_CODES
from antjax.train.trainer import Trainer
from tests.cases import first_fast, slow_but

_RATE = 1e-2
_NAMES = (
  'adabelief adadelta adagrad adam adamax adamaxw adamw adan amsgrad fromage'
  ' lamb lars lion nadam nadamw novograd optimistic_adam_v2'
  ' optimistic_gradient_descent radam rmsprop rprop sgd sign_sgd signum'
  ' sm3 yogi'
).split()
_CONTRIB = (
  'acprop ademamix adopt cocob dadapt_adamw dog dowg madgrad momo momo_adam'
  ' muon prodigy schedule_free_sgd simplified_ademamix'
).split()
_MORE = {
  'adafactor': lambda: optax.adafactor(_RATE, min_dim_size_to_factor=4),
  'block_rms': lambda: optax.chain(
    optax.clip_by_block_rms(0.01), optax.sgd(_RATE)
  ),
  'centralize': lambda: optax.chain(optax.centralize(), optax.adam(_RATE)),
  'plateau': lambda: optax.chain(
    optax.adam(_RATE), optax.contrib.reduce_on_plateau(patience=1, factor=0.1)
  ),
  'apply_if_finite': lambda: optax.apply_if_finite(optax.adam(_RATE), 3),
  'flatten': lambda: optax.flatten(optax.adam(_RATE)),
  'galore': lambda: optax.contrib.galore(_RATE, rank=2),
  'lbfgs': lambda: optax.lbfgs(_RATE, memory_size=3, linesearch=None),
  'mechanize': lambda: optax.contrib.mechanize(optax.adam(_RATE)),
  'multi_steps': lambda: optax.MultiSteps(optax.adam(_RATE), 2),
  'sam': lambda: optax.contrib.sam(
    optax.sgd(_RATE), optax.sgd(_RATE), sync_period=2
  ),
  'split_real_and_imaginary': lambda: optax.contrib.split_real_and_imaginary(
    optax.adam(_RATE)
  ),
  'schedule_free': lambda: optax.contrib.schedule_free_adamw(_RATE),
  'noisy_sgd': lambda: optax.noisy_sgd(_RATE, key=0),
  'polyak_sgd': lambda: optax.polyak_sgd(max_learning_rate=_RATE),
  'ema': lambda: optax.chain(optax.adam(_RATE), optax.ema(0.9)),
  # Parts that no other one here has, and that look at a whole leaf or at all.
  'norms': lambda: optax.chain(
    optax.adaptive_grad_clip(0.1, eps=0.5),
    optax.clip_by_global_norm(0.5),
    optax.scale_by_param_block_norm(),
    optax.scale_by_param_block_rms(),
    optax.normalize_by_update_norm(),
    optax.add_noise(1e-3, 0.5, key=0),
    optax.scale(-_RATE),
  ),
}
# Those that a step cannot serve, and what it says.
_REFUSED = {
  'lbfgs': (optax.lbfgs, 'value_fn.*a line search'),
  'lookahead': (
    lambda: optax.lookahead(optax.sgd(_RATE), 2, 0.5),
    'lookahead, which wants a tree of its own',
  ),
  'dpsgd': (
    lambda: optax.contrib.differentially_private_aggregate(1.0, 0.1, key=0),
    r'w \(4,\) for \(3, 4\).*gradient of each example',
  ),
  'sophia': (lambda: optax.contrib.sophia(_RATE), 'obj_fn must be provided'),
}
# What optimizers are made of.
_PARTS = (
  'adaptive_grad_clip add_decayed_weights add_noise apply_every centralize'
  ' chain clip clip_by_block_rms clip_by_global_norm conditionally_mask'
  ' conditionally_transform differentially_private_aggregate ema freeze'
  ' hutchinson_estimator_diag_hessian identity inject_hyperparams'
  ' inject_stateful_hyperparams keep_params_nonnegative masked'
  ' measure_with_ema monitor multi_transform named_chain normalize'
  ' normalize_by_update_norm partition reduce_on_plateau scale'
  ' selective_transform set_to_zero snapshot stateless'
  ' stateless_with_tree_map trace with_extra_args_support zero_nans'
).split()
_CASES = itertools.product([*_NAMES, *_CONTRIB, *_MORE], VALID_CODES)
_FAST = ('muon', 'IIG')


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


@functools.cache
def _on_one_device(name):
  trainer, state = _trained(_optimizer(name))
  return trainer.params(state), jax.tree.map(_numbers, trainer.opt_state(state))


@pytest.mark.parametrize(('name', 'code'), slow_but(_CASES, _FAST))
def test_every_optimizer_is_that_of_one_device(name, code):
  trainer, state = _trained(_optimizer(name), code, 8)
  # Signs of gradients near 0, and steps divided by small ones, amplify the
  # order of sums.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
    (
      trainer.params(state),
      jax.tree.map(_numbers, trainer.opt_state(state)),
    ),
    _on_one_device(name),
  )


def test_no_optimizer_of_optax_is_left_out():
  known = {*_NAMES, *_CONTRIB, *_MORE, *_REFUSED, *_PARTS}
  # As 'schedule_free'; deprecated for 'optimistic_adam_v2'.
  known |= {'schedule_free_adamw', 'optimistic_adam'}
  # Functions that do not say what they return, which is something else.
  known |= {'matrix_inverse_pth_root', 'schedule_free_eval_params'}
  known |= {'sigmoid_binary_cross_entropy'}
  public = {
    name
    for module in (optax, optax.contrib, optax.transforms)
    for name, x in vars(module).items()
    if inspect.isfunction(x)
    and (told := inspect.signature(x).return_annotation)
    and (told is inspect.Signature.empty or 'Transform' in str(told))
    and not name.startswith(('scale_by_', 'update_', '_'))
  }
  assert {'adam', 'dog', 'muon'} <= public
  assert not public - known


@pytest.mark.parametrize('name', _REFUSED)
def test_what_a_step_cannot_serve_is_refused(name):
  make, message = _REFUSED[name]
  trainer = Trainer(
    lambda p, b, rng: b @ p['w'].sum(0), make(), mesh=make_mesh(intra=4)
  )
  state = trainer.init({'w': np.ones((3, 4), np.float32)})
  with pytest.raises(ValueError, match=message):
    trainer.step(state, np.ones((8, 4), np.float32))


@pytest.mark.parametrize('name', first_fast('sm3', 'muon'))
def test_a_leaf_without_elements_is_left_to_no_optimizer(name):
  trainer = Trainer(_loss, _optimizer(name), mesh=make_mesh(intra=4))
  state = trainer.init(_params() | {'none': np.zeros((0, 3), np.float32)})
  state, metrics = trainer.step(state, next(_batches(1)))
  assert np.isfinite(metrics['loss'])
  assert trainer.params(state)['none'].shape == (0, 3)


def test_averages_beside_frozen_leaves():
  trainer = Trainer(
    _loss,
    _optimizer('schedule_free'),
    mesh=make_mesh(intra=4),
    trainable=lambda name: name != 'out',
  )
  state = trainer.init(_params())
  trained = trainer.params(state, trained_only=True)
  averaged = optax.contrib.schedule_free_eval_params(
    trainer.opt_state(state), trained
  )
  assert averaged['out'] is None and averaged['in'].shape == (5, 13)


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
  # What is not trained is the state's own.
  rest = averaged | {'bias': None}
  found = trainer.predict(state, [batch], predict_fn, params=rest)
  mixed = averaged | {'bias': trainer.params(state)['bias']}
  np.testing.assert_allclose(
    found['prediction'], _loss(mixed, batch, None), rtol=1e-4
  )
  with pytest.raises(ValueError, match='params have the shapes'):
    trainer.predict(state, [batch], predict_fn, params={'in': batch['x']})
