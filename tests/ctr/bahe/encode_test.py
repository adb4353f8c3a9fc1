# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Texts encoded by lengths, alone or through a store, are the same."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import antjax
from antjax.ctr.bahe import encode, table, towers
from antjax.ctr.bahe.encode import Encoder
from antjax.lm import split
from antjax.lm.transformer import Transformer
from tests.cases import first_fast, slow_but
from tests.ctr.bahe import small_clicks
from tests.lm import tiny_models

MAX_TOKENS = 20


def texts(seed=0):
  """Tokens and offsets of 40 texts of 0 to 20 tokens."""
  lengths = np.random.RandomState(seed).choice((0, 1, 4, 7, 13, 20), 40)
  offsets = np.concatenate([[0], np.cumsum(lengths)])
  tokens = np.random.RandomState(seed + 1).randint(0, 61, offsets[-1])
  return tokens.astype(np.int32), offsets


def model_of(name, dtype=jnp.float32):
  config = tiny_models.CONFIGS[name]
  params = jax.tree.map(
    lambda x: x.astype(dtype), tiny_models.params_of(config)
  )
  return Transformer.of(config, params)


def alone(model, num_low, tokens, offsets):
  low = split.LowEncoder(model, num_low)
  run = jax.jit(lambda row: low(row).mean(axis=1))
  result = np.zeros((len(offsets) - 1, model.config.embed_dim), np.float32)
  for i, (start, stop) in enumerate(zip(offsets, offsets[1:])):
    if start < stop:
      result[i] = run(jnp.asarray(tokens[None, start:stop]))[0]
  return result


@pytest.mark.parametrize(
  'name, num_low',
  slow_but(
    [
      ('bert', 2),
      *itertools.product(('bert', 'llama', 'opt', 't5', 'qwen2'), (0, 1, 3)),
    ],
    ('llama', 0),
  ),
)
def test_lengths_do_not_show(name, num_low):
  model = model_of(name)
  tokens, offsets = texts()
  encoder = Encoder(
    model,
    num_low=num_low,
    max_tokens=MAX_TOKENS,
    tokens_per_batch=48,
    devices=jax.devices()[:1],
  )
  actual = encoder(tokens, offsets)
  expected = alone(model, num_low, tokens, offsets)
  # All layers of Llama before its final norm are far from 1.
  atol = 1e-5 * max(1, np.abs(expected).max())
  np.testing.assert_allclose(actual, expected, atol=atol)
  assert not actual[np.diff(offsets) == 0].any()


@pytest.mark.slow
def test_devices_share_a_batch():
  assert jax.local_device_count() == 8
  model = model_of('bert')
  tokens, offsets = texts()
  options = {'num_low': 1, 'max_tokens': MAX_TOKENS, 'tokens_per_batch': 24}
  all_of_them = Encoder(model, **options)
  one = Encoder(model, **options, devices=jax.devices()[:1])
  np.testing.assert_allclose(
    all_of_them(tokens, offsets), one(tokens, offsets), atol=1e-5
  )


def test_bfloat16_is_near():
  model = model_of('bert')
  tokens, offsets = texts()
  options = {
    'num_low': 1,
    'max_tokens': MAX_TOKENS,
    'devices': jax.devices()[:1],
  }
  exact = Encoder(model, **options)(tokens, offsets)
  half = model_of('bert', jnp.bfloat16)
  near = Encoder(half, **options)(tokens, offsets)
  assert near.dtype == np.float32
  assert 1e-4 < np.abs(near - exact).max() < 0.1


def test_pooling_ignores_what_padding_gave():
  x = jnp.asarray([[[1.0, 2], [3, 4], [np.nan, 7]], [[np.inf] * 2] * 3])
  mask = jnp.asarray([[1, 1, 0], [0, 0, 0]])
  assert encode.pool(x, mask).tolist() == [[2, 3], [0, 0]]


def test_texts_that_are_too_long_are_refused():
  model = model_of('bert')
  with pytest.raises(ValueError, match='the model has 40 learned positions'):
    Encoder(model, num_low=1, max_tokens=41)
  encoder = Encoder(model, num_low=1, max_tokens=4)
  with pytest.raises(ValueError, match='text 1 has 5 tokens; max_tokens is 4'):
    encoder(np.zeros(8, np.int32), np.array([0, 3, 8]))


def test_no_texts_are_no_vectors():
  model = model_of('bert')
  encoder = Encoder(model, num_low=1, max_tokens=4)
  assert encoder(np.zeros(0, np.int32), np.zeros(1, np.int64)).shape == (0, 32)


# Texts of other padded lengths and batches, in float32.
STORE_ATOL = 2e-5


def behavior_tokens():
  """Token ids of all behaviors: (flat, offsets); row 0 has none."""
  rng = np.random.default_rng(7)
  lengths = rng.integers(2, 9, small_clicks.NUM_BEHAVIORS)
  lengths[0] = 0
  offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
  return rng.integers(1, 31, offsets[-1]).astype(np.int32), offsets


def without_store(low, encoder, batch):
  """Each behavior of the batch through the low half, one by one."""
  tokens, offsets = behavior_tokens()
  padded = np.zeros((small_clicks.NUM_BEHAVIORS, 8), np.int32)
  mask = np.zeros_like(padded)
  for i in range(small_clicks.NUM_BEHAVIORS):
    found = tokens[offsets[i] : offsets[i + 1]]
    padded[i, : len(found)], mask[i, : len(found)] = found, 1

  @jax.jit
  def encoded(low, encoder):
    vectors = encode.pool(low(padded, mask), jnp.asarray(mask))
    return encoder.encode(
      vectors[batch['behaviors']],
      jnp.asarray(batch['behaviors'] > 0),
      vectors[batch['title']],
    )

  return encoded(low, encoder)


LLAMA, BERT = small_clicks.LLAMA, small_clicks.BERT


@pytest.mark.parametrize(
  'config, num_low',
  [
    (LLAMA, 0),
    *first_fast((LLAMA, 3), (BERT, 0), (BERT, 1), (LLAMA, 1), (BERT, 3)),
  ],
)
def test_a_store_changes_nothing(config, num_low):
  whole = small_clicks.whole(config)
  has_places = config.positions == 'learned' and num_low < config.num_layers
  places = small_clicks.MAX_LENGTH if has_places else 0
  high = split.HighEncoder(whole, num_low, places)
  rows = encode.Encoder(
    whole,
    num_low=num_low,
    max_tokens=8,
    devices=jax.local_devices()[:1],
  )(*behavior_tokens())
  mesh = antjax.make_mesh(intra=4)
  found, _ = table.place(rows, mesh, home='host', max_distinct=40)
  tower = towers.StoreTower(high, len(small_clicks.LENGTHS), found)
  batch = small_clicks.batch(6)
  prepared = tower.prepare(batch, 1)
  with_store = jax.jit(tower)(prepared)
  expected = without_store(split.LowEncoder(whole, num_low), tower, batch)
  np.testing.assert_allclose(
    with_store.user_BF, expected.user_BF, atol=STORE_ATOL, rtol=1e-4
  )
  np.testing.assert_allclose(
    with_store.title_BD, expected.title_BD, atol=STORE_ATOL, rtol=1e-4
  )
  assert np.abs(np.asarray(expected.user_BF)).max() > 0.01
