# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Clipping and loss scaling see the whole gradient under every code."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import antjax
from antjax.train import loss_scale as loss_scale_lib
from antjax.train.loss_scale import INITIAL, MOST, PERIOD
from tests.cases import slow_but

NUM_GROUPS, MAX_NORM = 2, 0.1


def loss_fn(params, batch, rng):
  del rng
  return jnp.sum(batch['x'] * params['w'][None], axis=-1) * batch['factor']


def batch_of(factor=1.0, dtype=np.float32):
  """Group 0 has gradients 100 times those of group 1, and elsewhere."""
  x = np.zeros((8, 16), dtype)
  x[:4, :8] = 100
  x[4:, 8:] = 1
  return {'x': x, 'factor': np.full(8, factor, dtype)}


def trainer_of(code, optimizer, **kwargs):
  return antjax.Trainer(
    loss_fn,
    optimizer,
    mesh=antjax.make_mesh(intra=4),
    paro=code,
    min_shard_size=1,
    **kwargs,
  )


@pytest.mark.parametrize('code', slow_but(antjax.VALID_CODES, 'NII', 'GGG'))
def test_norm_and_clip_factor_are_those_of_the_whole_gradient(code):
  """Not of a group's: PaRO's published code clips NII before the groups meet.

  There the large gradient of group 0 would be cut to the norm of group 1's.
  """
  tx = optax.chain(optax.clip_by_global_norm(MAX_NORM), optax.sgd(1.0))
  trainer = trainer_of(code, tx)
  state = trainer.init({'w': np.zeros(16, np.float32)})
  state, metrics = trainer.step(state, batch_of())
  grad = batch_of()['x'].mean(axis=0)
  norm = np.linalg.norm(grad)
  np.testing.assert_allclose(metrics['grad_norm'], norm, rtol=1e-6)
  w = np.asarray(trainer.params(state)['w'])
  np.testing.assert_allclose(w, -grad * MAX_NORM / norm, rtol=1e-5)

  groups = batch_of()['x'].reshape(NUM_GROUPS, -1, 16).mean(axis=1)
  clipped = [g * min(1, MAX_NORM / np.linalg.norm(g)) for g in groups]
  assert np.abs(w + np.mean(clipped, axis=0)).max() > 0.01


@pytest.mark.parametrize('code', ['NNN', 'NII', 'IIG', 'GGG'])
def test_a_step_that_overflows_on_one_device_is_left_out_everywhere(code):
  trainer = trainer_of(code, optax.adam(0.1), loss_scale='dynamic')
  state = trainer.init({'w': np.ones(16, np.float32)})
  bad = batch_of()
  bad['x'][0, 0] = np.float32(3e38)  # Times the scale: infinite.
  before = np.asarray(trainer.params(state)['w'])
  state, metrics = trainer.step(state, bad)
  assert not np.isfinite(metrics['grad_norm'])
  np.testing.assert_array_equal(trainer.params(state)['w'], before)
  assert float(state.opt_state.scale) == INITIAL / 2
  assert int(state.opt_state.inner[0].count) == 0
  state, metrics = trainer.step(state, batch_of())
  assert float(metrics['loss_scale']) == INITIAL / 2
  assert int(state.opt_state.inner[0].count) == 1
  assert np.all(np.asarray(trainer.params(state)['w']) < before)
  assert int(state.step) == 2


def test_float16_gradients_too_small_for_it_come_through_scaled():
  def step(loss_scale):
    trainer = trainer_of(
      'IIG', optax.sgd(1.0), loss_scale=loss_scale, compute_dtype=jnp.float16
    )
    state = trainer.init({'w': np.zeros(16, np.float32)})
    state, _ = trainer.step(state, batch_of(1e-10))
    return np.asarray(trainer.params(state)['w'])

  want = -1e-10 * batch_of()['x'].mean(axis=0)
  np.testing.assert_allclose(step('dynamic')[8:], want[8:], rtol=1e-2)
  assert not step(None)[8:].any()


def test_scale_doubles_after_a_period_and_halves_at_once():
  state = loss_scale_lib.with_loss_scale(optax.sgd(1.0)).init(jnp.ones(2))
  adjust = jax.jit(loss_scale_lib.adjust)
  for _ in range(PERIOD):
    assert float(state.scale) == INITIAL
    state = adjust(state, True)
  assert float(state.scale) == 2 * INITIAL
  assert int(state.num_good) == 0
  assert float(adjust(state, False).scale) == INITIAL
  last = state._replace(scale=jnp.float32(MOST), num_good=jnp.int32(PERIOD - 1))
  assert float(adjust(last, True).scale) == MOST


@pytest.mark.parametrize('code', ['NNN', 'NNG'])
def test_a_sum_that_overflows_on_the_wire_is_left_out_too(code):
  how = antjax.Collectives('ho_ring', payload_dtype='float16')
  trainer = trainer_of(
    code, optax.sgd(1e-3), loss_scale='dynamic', collectives=how
  )
  state = trainer.init({'w': np.zeros(16, np.float32)})
  num_skipped = 0
  for _ in range(12):
    state, metrics = trainer.step(state, batch_of())
    w = np.asarray(trainer.params(state)['w'])
    assert np.isfinite(w).all()
    num_skipped += not np.isfinite(metrics['grad_norm'])
  # 400 times the scale: float16 ends at 65504, float32 does not.
  assert 0 < num_skipped < 12
  want = -1e-3 * (12 - num_skipped) * batch_of()['x'].mean(axis=0)
  np.testing.assert_allclose(w, want, rtol=1e-2)


@pytest.mark.parametrize('loss_scale', [0, -1.0, float('inf')])
def test_a_scale_that_is_none_is_refused(loss_scale):
  with pytest.raises(ValueError, match='must be positive'):
    trainer_of('NNN', optax.sgd(1.0), loss_scale=loss_scale)
