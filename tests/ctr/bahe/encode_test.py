# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Texts encoded by lengths are as if each were alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.ctr.bahe import encode
from antjax.ctr.bahe.encode import Encoder
from antjax.lm import split
from tests.lm import tiny_models

MAX_TOKENS = 20


def texts(seed=0):
  """Tokens and offsets of 40 texts of 0 to 20 tokens."""
  lengths = np.random.RandomState(seed).choice((0, 1, 4, 7, 13, 20), 40)
  offsets = np.concatenate([[0], np.cumsum(lengths)])
  tokens = np.random.RandomState(seed + 1).randint(0, 61, offsets[-1])
  return tokens.astype(np.int32), offsets


def alone(config, params, num_low, tokens, offsets):
  low = split.LowEncoder(config, num_low)
  own = low.params_of(params)
  run = jax.jit(lambda row: low(own, row).mean(axis=1))
  result = np.zeros((len(offsets) - 1, config.embed_dim), np.float32)
  for i, (start, stop) in enumerate(zip(offsets, offsets[1:])):
    if start < stop:
      result[i] = run(jnp.asarray(tokens[None, start:stop]))[0]
  return result


@pytest.mark.parametrize(
  'name, num_low',
  [
    ('bert', 2),
    ('llama', 0),
    *(
      pytest.param(name, k, marks=pytest.mark.slow)
      for name in ('bert', 'llama', 'opt', 't5', 'qwen2')
      for k in (0, 1, 3)
    ),
  ],
)
def test_lengths_do_not_show(name, num_low):
  config = tiny_models.CONFIGS[name]
  params = tiny_models.params_of(config)
  tokens, offsets = texts()
  encoder = Encoder(
    config,
    params,
    num_low=num_low,
    max_tokens=MAX_TOKENS,
    tokens_per_batch=48,
    devices=jax.devices()[:1],
  )
  actual = encoder(tokens, offsets)
  expected = alone(config, params, num_low, tokens, offsets)
  # All layers of Llama before its final norm are far from 1.
  atol = 1e-5 * max(1, np.abs(expected).max())
  np.testing.assert_allclose(actual, expected, atol=atol)
  assert not actual[np.diff(offsets) == 0].any()


def test_devices_share_a_batch():
  assert jax.local_device_count() == 8
  config = tiny_models.CONFIGS['bert']
  params = tiny_models.params_of(config)
  tokens, offsets = texts()
  options = {'num_low': 1, 'max_tokens': MAX_TOKENS, 'tokens_per_batch': 24}
  all_of_them = Encoder(config, params, **options)
  one = Encoder(config, params, **options, devices=jax.devices()[:1])
  np.testing.assert_allclose(
    all_of_them(tokens, offsets), one(tokens, offsets), atol=1e-5
  )


def test_bfloat16_is_near():
  config = tiny_models.CONFIGS['bert']
  params = tiny_models.params_of(config)
  tokens, offsets = texts()
  options = {
    'num_low': 1,
    'max_tokens': MAX_TOKENS,
    'devices': jax.devices()[:1],
  }
  exact = Encoder(config, params, **options)(tokens, offsets)
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  near = Encoder(config, half, **options)(tokens, offsets)
  assert near.dtype == np.float32
  assert 1e-4 < np.abs(near - exact).max() < 0.1


def test_pooling_ignores_what_padding_gave():
  x = jnp.asarray([[[1.0, 2], [3, 4], [np.nan, 7]], [[np.inf] * 2] * 3])
  mask = jnp.asarray([[1, 1, 0], [0, 0, 0]])
  assert encode.pool(x, mask).tolist() == [[2, 3], [0, 0]]


def test_texts_that_are_too_long_are_refused():
  config = tiny_models.CONFIGS['bert']
  params = tiny_models.params_of(config)
  with pytest.raises(ValueError, match='the model has 40 learned positions'):
    Encoder(config, params, num_low=1, max_tokens=41)
  encoder = Encoder(config, params, num_low=1, max_tokens=4)
  with pytest.raises(ValueError, match='text 1 has 5 tokens; max_tokens is 4'):
    encoder(np.zeros(8, np.int32), np.array([0, 3, 8]))


def test_no_texts_are_no_vectors():
  config = tiny_models.CONFIGS['bert']
  params = tiny_models.params_of(config)
  encoder = Encoder(config, params, num_low=1, max_tokens=4)
  assert encoder(np.zeros(0, np.int32), np.zeros(1, np.int64)).shape == (0, 32)
