# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""With a store or without: the same users, titles and logits, to rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import antjax
from antjax.ctr.bahe import encode, table, towers
from antjax.lm import split
from tests.ctr.bahe import small_clicks

# Texts of other padded lengths and batches, in float32.
ATOL = 2e-5


def texts():
  """Token ids of all behaviours: (flat, offsets); row 0 has none."""
  rng = np.random.default_rng(7)
  lengths = rng.integers(2, 9, small_clicks.NUM_BEHAVIORS)
  lengths[0] = 0
  offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
  return rng.integers(1, 31, offsets[-1]).astype(np.int32), offsets


def without_store(config, params, num_low, encoder, batch):
  """Each behaviour of the batch through the low half, one by one."""
  low = split.LowEncoder(config, num_low)
  own = low.params_of(params)
  tokens, offsets = texts()
  padded = np.zeros((small_clicks.NUM_BEHAVIORS, 8), np.int32)
  mask = np.zeros_like(padded)
  for i in range(small_clicks.NUM_BEHAVIORS):
    found = tokens[offsets[i] : offsets[i + 1]]
    padded[i, : len(found)], mask[i, : len(found)] = found, 1
  vectors = encode.pool(low(own, padded, jnp.asarray(mask)), jnp.asarray(mask))
  return encoder(
    encoder.init_params(params),
    vectors[batch['behaviors']],
    jnp.asarray(batch['behaviors'] > 0),
    vectors[batch['title']],
  )


@pytest.mark.parametrize('config', [small_clicks.LLAMA, small_clicks.BERT])
@pytest.mark.parametrize('num_low', [0, 1, 3])
def test_a_store_changes_nothing(config, num_low):
  params = small_clicks.language_model(config)
  has_places = config.positions == 'learned' and num_low < config.num_layers
  places = small_clicks.MAX_LENGTH if has_places else 0
  encoder = towers.SequenceEncoder(
    split.HighEncoder(config, num_low, places), len(small_clicks.LENGTHS)
  )
  rows = encode.Encoder(
    config,
    params,
    num_low=num_low,
    max_tokens=8,
    devices=jax.local_devices()[:1],
  )(*texts())
  mesh = antjax.make_mesh(intra=4)
  found, _ = table.place(rows, mesh, home='host', max_distinct=40)
  tower = towers.StoreTower(encoder, found)
  batch = small_clicks.batch(6)
  prepared = jax.tree.map(jnp.asarray, tower.prepare(batch, 1))
  with_store = tower(tower.init_params(params), prepared)
  expected = without_store(config, params, num_low, encoder, batch)
  np.testing.assert_allclose(
    with_store.user_BF, expected.user_BF, atol=ATOL, rtol=1e-4
  )
  np.testing.assert_allclose(
    with_store.title_BD, expected.title_BD, atol=ATOL, rtol=1e-4
  )
  assert np.abs(np.asarray(expected.user_BF)).max() > 0.01
