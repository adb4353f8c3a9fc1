# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Generation: the cache changes nothing, and draws come from the right set."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.layers.functional import Functional
from antjax.lm import generate, transformer
from antjax.lm.transformer import Transformer

CONFIG = transformer.Config(
  vocab_size=61,
  num_layers=2,
  embed_dim=32,
  num_heads=4,
  num_kv_heads=2,
  mlp_dim=48,
)
# One compilation for all tests: 2 prompts of 5 tokens at most, 6 more.
GREEDY = jax.jit(
  functools.partial(generate.generate, num_tokens=6, end_token=None)
)


@pytest.fixture(scope='module')
def model():
  params = Functional(Transformer, CONFIG).init(jax.random.key(0))
  params = jax.tree.map(lambda x: x * 5 if x.ndim > 1 else x, params)
  return Transformer.of(CONFIG, params)


def test_greedy_tokens_are_those_of_the_whole_model(model):
  prompts = np.asarray([[3, 14, 15, 9, 2], [6, 53, 58, 0, 0]], np.int32)
  lengths = np.asarray([5, 3], np.int32)
  tokens = GREEDY(model, prompts, lengths, jax.random.key(0))
  logits = jax.jit(Transformer.logits)
  for row, length, made in zip(prompts, lengths, tokens, strict=True):
    text = np.zeros((1, 11), np.int32)
    text[0, :length] = row[:length]
    for i in range(6):  # Later tokens are not seen: zeros do.
      scores = logits(model, text)[0, length + i - 1]
      assert made[i] == np.argmax(scores)
      text[0, length + i] = made[i]
  assert len(set(np.asarray(tokens).ravel().tolist())) > 3


@pytest.mark.slow
def test_a_sequence_ends_with_its_end_token(model):
  prompts = np.asarray([[3, 14, 15, 9, 2]], np.int32)
  lengths = np.asarray([5], np.int32)
  free = GREEDY(model, prompts, lengths, jax.random.key(0))[0]
  end = int(free[2])
  run = jax.jit(
    functools.partial(generate.generate, num_tokens=6, end_token=end)
  )
  ended = run(model, prompts, lengths, jax.random.key(0))[0]
  first = int(np.argmax(np.asarray(free) == end))
  np.testing.assert_array_equal(ended[: first + 1], free[: first + 1])
  assert np.all(ended[first:] == end)


@pytest.mark.parametrize(
  'options, allowed',
  [
    ({'temperature': 0.0}, {4}),
    ({'temperature': 1.0, 'top_k': 2, 'top_p': 1.0}, {4, 1}),
    ({'temperature': 1.0, 'top_p': 0.75}, {4, 1}),
    ({'temperature': 1.0, 'top_p': 0.001}, {4}),
    ({'temperature': 1.0, 'top_p': 1.0}, {0, 1, 2, 3, 4}),
    ({'temperature': 1.0, 'top_k': 3, 'top_p': 0.99}, {4, 1, 2}),
  ],
)
def test_draws_come_from_the_allowed_tokens(options, allowed):
  probs = jnp.asarray([0.05, 0.25, 0.12, 0.05, 0.53])
  scores = jnp.broadcast_to(jnp.log(probs), (400, 5))
  drawn = generate.choose(
    scores, jax.random.key(1), generate.Sampling(**options)
  )
  assert set(np.asarray(drawn).tolist()) == allowed


def test_temperature_sharpens():
  scores = jnp.broadcast_to(jnp.asarray([0.0, 1.0]), (4000, 2))
  share = [
    float(
      jnp.mean(
        generate.choose(
          scores,
          jax.random.key(2),
          generate.Sampling(temperature=t, top_p=1.0),
        )
      )
    )
    for t in (0.5, 1.0, 2.0)
  ]
  expected = [1 / (1 + np.exp(-1 / t)) for t in (0.5, 1.0, 2.0)]
  np.testing.assert_allclose(share, expected, atol=0.03)  # 4 deviations.


@pytest.mark.parametrize(
  'options', [{'temperature': -1.0}, {'top_k': -1}, {'top_p': 0.0}]
)
def test_wrong_options_are_refused(options):
  with pytest.raises(ValueError, match='must'):
    generate.Sampling(**options)
