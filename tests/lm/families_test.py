# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What holds for every family: packing, padding, generation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.lm import generate, transformer
from antjax.lm.transformer import Transformer
from tests.cases import slow_but
from tests.lm import tiny_models

# fp32 sums in another order.
ATOL = 2e-5
FAST = ('bert', 't5')
CONFIGS = tiny_models.CONFIGS | tiny_models.FAMILIES
# Dynamic frequencies change while a text grows, its cached keys do not.
GROWING = ('llama dynamic', 'phi3 long')
CAUSAL = [
  name
  for name, config in CONFIGS.items()
  if config.causal and name not in (*GROWING, 'opt post')
]


@pytest.mark.parametrize('name', slow_but(CONFIGS, *FAST))
def test_packed_and_padded_texts_are_as_if_alone(name):
  config = CONFIGS[name]
  params = tiny_models.params_of(config)
  tokens = tiny_models.TOKENS[0]
  lengths = (4, 7, 5)  # A place of padding follows.
  segments = np.repeat([1, 2, 3, 0], [*lengths, 1])[None].astype(np.int32)
  hidden = jax.jit(Transformer.hidden)
  model = Transformer.of(config, params)
  packed = hidden(model, tokens[None], segments)[0]
  # Each alone, padded on the left and on the right.
  for side in ('left', 'right'):
    rows, mask = np.zeros((2, 3, 9), np.int32)
    ends = np.cumsum(lengths)
    places = [
      slice(9 - n, 9) if side == 'left' else slice(0, n) for n in lengths
    ]
    for row, (place, n, end) in enumerate(zip(places, lengths, ends)):
      rows[row, place] = tokens[end - n : end]
      mask[row, place] = 1
    alone = hidden(model, rows, mask)
    for row, (place, n, end) in enumerate(zip(places, lengths, ends)):
      np.testing.assert_allclose(
        alone[row, place], packed[end - n : end], atol=ATOL
      )
  assert np.all(np.isfinite(packed))


@pytest.mark.parametrize('name', slow_but(CAUSAL, 'gemma3_text'))
def test_generation_is_that_of_the_whole_model(name):
  config = CONFIGS[name]
  params = tiny_models.params_of(config)
  if config.norm_place == 'post':  # Or its last one decides every token.
    params['layers']['mlp_norm_bias'] *= 0
  model = Transformer.of(config, params)
  prompts = tiny_models.TOKENS[:2, :5]
  lengths = np.asarray([5, 3], np.int32)
  run = jax.jit(functools.partial(generate.generate, num_tokens=6))
  made = np.asarray(run(model, prompts, lengths, jax.random.key(0)))
  texts = np.zeros((2, 11), np.int32)
  for row, length in enumerate(lengths):
    texts[row, :length] = prompts[row, :length]
    texts[row, length : length + 6] = made[row]
  scores = np.asarray(jax.jit(Transformer.logits)(model, texts))
  for row, length in enumerate(lengths):
    expected = scores[row, length - 1 : length + 5].argmax(axis=-1)
    np.testing.assert_array_equal(made[row], expected)
  assert len(set(made.ravel().tolist())) > 1


def test_encoders_have_no_logits_and_learned_positions_an_end():
  bert, opt = tiny_models.CONFIGS['bert'], tiny_models.CONFIGS['opt']
  tokens = jnp.zeros((1, 41), jnp.int32)
  with pytest.raises(ValueError, match='the model is an encoder'):
    Transformer.of(bert, tiny_models.params_of(bert)).logits(tokens[:, :4])
  model = Transformer.of(opt, tiny_models.params_of(opt))
  with pytest.raises(ValueError, match='41 tokens: the model has 40'):
    model.hidden(tokens)
  with pytest.raises(ValueError, match='45 tokens: the model has 40'):
    generate.generate(
      model,
      tokens[:, :5],
      jnp.asarray([5]),
      jax.random.key(0),
      num_tokens=40,
    )
  with pytest.raises(ValueError, match='token_types were given'):
    model.hidden(tokens[:, :4], token_types=tokens[:, :4])


@pytest.mark.parametrize(
  'change, message',
  [
    ({'positions': 'learned'}, 'needs max_positions'),
    ({'positions': 'relative', 'relative_buckets': 200}, 'above it'),
    ({'token_types': -1}, 'token_types must not be negative'),
  ],
)
def test_configs_that_do_not_fit_are_refused(change, message):
  with pytest.raises(ValueError, match=message):
    transformer.Config(vocab_size=9, **change)
