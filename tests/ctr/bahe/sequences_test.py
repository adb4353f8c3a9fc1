# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The high half over sequences: pooling, fusion, cuts, and the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.ctr.bahe import towers
from antjax.layers import functional
from antjax.lm import split
from antjax.lm.transformer import Transformer
from tests.cases import first_fast
from tests.ctr.bahe import small_clicks

# Rows padded and not: other orders of sums, in float32.
ATOL = 2e-5


def inputs(seed=0):
  """Histories of 2 users: full and short, one place and none; titles."""
  rng = np.random.default_rng(seed)
  x_BNMD = rng.normal(size=(2, 2, 6, 16)).astype(np.float32)
  lengths = np.array([[6, 2], [1, 0]])
  is_there = np.arange(6) < lengths[..., None]
  title_BD = rng.normal(size=(2, 16)).astype(np.float32)
  return jnp.asarray(x_BNMD), jnp.asarray(is_there), jnp.asarray(title_BD)


def make(*args, **options):
  encoder = small_clicks.encoder(*args, **options)
  encoder.null[...] = jnp.arange(32, dtype=jnp.float32).reshape(2, 16)
  return encoder


def run(encoder, *args):
  return jax.jit(encoder.encode)(*args)


@pytest.mark.parametrize('pooling', first_fast('mean', 'last'))
@pytest.mark.parametrize(
  'config',
  first_fast(small_clicks.BERT, small_clicks.LLAMA),
  ids=['bert', 'llama'],
)
def test_each_sequence_goes_through_the_high_layers_alone(config, pooling):
  encoder = make(config, pooling=pooling)
  x, is_there, title = inputs()
  found = run(encoder, x, is_there, title)
  high = jax.jit(encoder.high)

  def alone(rows):
    out = high(rows[None])[0]
    return out[-1] if pooling == 'last' else out.mean(axis=0)

  expected = [
    jnp.concatenate([alone(x[0, 0]), alone(x[0, 1, :2])]),
    jnp.concatenate([alone(x[1, 0, :1]), encoder.null[1]]),
  ]
  np.testing.assert_allclose(found.user_BF, jnp.stack(expected), atol=ATOL)
  for b in range(2):
    np.testing.assert_allclose(
      found.title_BD[b], alone(title[b : b + 1]), atol=ATOL
    )
  np.testing.assert_allclose(
    found.history_BNMD[0, 1, :2],
    high(x[0, 1, :2][None])[0],
    atol=ATOL,
  )


@pytest.mark.slow
def test_what_padding_holds_changes_nothing_and_has_no_gradient():
  encoder = make(small_clicks.BERT)
  x, is_there, title = inputs()
  merge, params = functional.split(encoder)

  def total(params, x):
    user_BF = merge(params).encode(x, is_there, title).user_BF
    return jnp.sum(jnp.sin(user_BF))

  other = jnp.where(is_there[..., None], x, 100.0)
  grad = jax.jit(jax.grad(total, (0, 1)))
  both = [grad(params, each) for each in (x, other)]
  for grads in both:
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grads))
    padding = jnp.where(is_there[..., None], 0, grads[1])
    np.testing.assert_array_equal(padding, 0)
  np.testing.assert_allclose(both[0][0]['null'], both[1][0]['null'], atol=ATOL)
  # Only the second user's second sequence is empty.
  moved = np.asarray(both[0][0]['null'] != 0).any(axis=1)
  np.testing.assert_array_equal(moved, [False, True])


def test_early_fusion_puts_the_title_behind_the_last_behavior():
  config = small_clicks.LLAMA
  encoder = make(config, fusion='early', pooling='last')
  x, is_there, title = inputs()
  found = run(encoder, x, is_there, title)
  rows = jnp.concatenate([x[0, 1, :2], title[:1]])
  high = jax.jit(encoder.high)
  expected = high(rows[None])[0, -1]
  np.testing.assert_allclose(found.user_BF[0, 16:], expected, atol=ATOL)
  # A user without behaviors is the title alone: no null vector.
  alone = high(title[1:][None])[0, -1]
  np.testing.assert_allclose(found.user_BF[1, 16:], alone, atol=ATOL)


@pytest.mark.parametrize('config', [small_clicks.LLAMA, small_clicks.BERT])
def test_a_cut_above_all_layers_pools_what_is_cached(config):
  encoder = make(config, num_low=config.num_layers)
  if config.positions == 'learned':
    whole = small_clicks.whole(config)
    high = split.HighEncoder(whole, config.num_layers)
    encoder = towers.SequenceEncoder(high, 2)
  x, is_there, title = inputs()
  found = run(encoder, x, is_there, title)
  assert not hasattr(encoder.high, 'layers')
  kept = x
  if config.norm_place == 'pre':  # The final norm is the high half's.
    norm = encoder.high.final_norm[...]
    scale = jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + config.norm_eps)
    kept = x * scale * jnp.broadcast_to(norm, x.shape)
  np.testing.assert_allclose(
    found.user_BF[0, :16], kept[0, 0].mean(axis=0), atol=ATOL
  )
  np.testing.assert_allclose(found.user_BF[1, :16], kept[1, 0, 0], atol=ATOL)


def test_a_cut_below_all_layers_is_the_whole_model_on_vectors():
  """Behaviors of one token each: the whole model over those tokens."""
  config = small_clicks.LLAMA
  encoder = make(config, num_low=0, pooling='last')
  params = small_clicks.language_model(config)
  tokens = jnp.asarray([[3, 9, 4, 1, 7, 2]])
  x = params['embed'][tokens]
  found = run(
    encoder,
    jnp.stack([x, x], axis=1),
    jnp.ones((1, 2, 6), bool),
    x[:, 0],
  )
  hidden = jax.jit(Transformer.hidden)
  expected = hidden(Transformer.of(config, params), tokens)[0, -1]
  np.testing.assert_allclose(found.user_BF[0, :16], expected, atol=ATOL)
