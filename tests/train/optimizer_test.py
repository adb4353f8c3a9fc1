# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The optimizer of dense parameters: what decays, and the schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from antjax.layers.functional import Functional
from antjax.lm import transformer
from antjax.lm.transformer import Transformer
from antjax.train import optimizer

CONFIG = transformer.Config(
  vocab_size=11, num_layers=2, embed_dim=8, num_heads=2, mlp_dim=8
)


@pytest.mark.slow
def test_norms_do_not_decay():
  params = Functional(Transformer, CONFIG).init(jax.random.key(0))
  marks = optimizer.decays(params)
  assert not marks['final_norm']
  assert not marks['layers']['attention_norm']
  assert not marks['layers']['mlp_norm']
  assert sum(jax.tree.leaves(marks)) == len(jax.tree.leaves(marks)) - 3
  made = optimizer.OptimizerConfig(weight_decay=1.0, warmup_steps=0).build(10)
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = made.update(zeros, made.init(params), params)
  new = optax.apply_updates(params, updates)
  np.testing.assert_array_equal(new['final_norm'], params['final_norm'])
  assert np.all(np.abs(new['embed']) < np.abs(params['embed']))


def test_frozen_leaves_are_left_out():
  """The Trainer gives None in their place."""
  params = {'a_norm': jnp.ones(3), 'b': None, 'c': jnp.ones(3)}
  assert optimizer.decays(params) == {'a_norm': False, 'b': None, 'c': True}


def test_schedule_warms_up_and_falls():
  config = optimizer.OptimizerConfig(
    learning_rate=1.0, warmup_steps=4, final_share=0.1
  )
  rates = np.asarray([config.schedule(20)(i) for i in range(21)])
  np.testing.assert_allclose(rates[:5], [0.2, 0.4, 0.6, 0.8, 1.0], rtol=1e-5)
  assert np.all(np.diff(rates[4:]) < 0)
  np.testing.assert_allclose(rates[20], 0.1, rtol=1e-5)
  config.schedule(1)  # Shorter than the warm-up.


def test_adagrad_is_that_of_its_equation():
  config = optimizer.OptimizerConfig(
    kind='adagrad', decay='none', warmup_steps=0, learning_rate=0.1, clip_norm=0
  )
  made, x = config.build(9), jnp.array([1.0, -2.0, 3.0])
  state, expected, total = made.init(x), np.asarray(x), np.zeros(3)
  for step in range(3):
    g = np.array([0.5, -1.0, 2.0]) * (step + 1)
    updates, state = made.update(jnp.asarray(g), state, x)
    x, total = x + updates, total + g**2
    expected = expected - 0.1 * g / np.sqrt(total)
  np.testing.assert_allclose(x, expected, rtol=1e-5)


@pytest.mark.parametrize(
  'options',
  [
    {'learning_rate': 0.0},
    {'warmup_steps': -1},
    {'final_share': 2.0},
    {'clip_norm': -1.0},
    {'lm_learning_rate': 0.0},
    {'first_share': -0.1},
  ],
)
def test_wrong_options_are_refused(options):
  (name,) = options
  with pytest.raises(ValueError, match=name):
    optimizer.OptimizerConfig(**options)
