# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Packed texts give what each text gives alone, in all families."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.lm import packed
from antjax.lm.transformer import Transformer
from tests.cases import first_fast
from tests.lm import tiny_models

# Lane -> rows of lengths of texts; the rest of a row is padding.
LANES = {24: [[17, 5], [24]], 16: [[9, 7], [3, 3, 3], [12], [1]]}


def texts_and_lanes(seed=0):
  """(token lists, their (lane, row, start), lanes)."""
  rng = np.random.default_rng(seed)
  texts, places, lanes = [], [], []
  for lane, (width, rows) in enumerate(LANES.items()):
    tokens = np.zeros((len(rows), width), np.int32)
    numbers = np.zeros((len(rows), width), np.int32)
    for i, lengths in enumerate(rows):
      start = 0
      for length in lengths:
        texts.append(rng.integers(1, 61, length).astype(np.int32))
        places.append((lane, i, start))
        tokens[i, start : start + length] = texts[-1]
        numbers[i, start : start + length] = len(texts)
        start += length
    lanes.append(packed.Lane(jnp.asarray(tokens), jnp.asarray(numbers)))
  return texts, places, lanes


@pytest.mark.parametrize(
  'name', first_fast('opt', 'bert', 'llama', 'qwen2', 't5')
)
def test_a_text_has_the_outputs_that_it_has_alone(name):
  config = tiny_models.CONFIGS[name]
  params = tiny_models.params_of(config)
  texts, places, lanes = texts_and_lanes()
  run = jax.jit(packed.hidden)
  x_SD = np.asarray(run(Transformer.of(config, params), lanes))
  tokens = np.stack([np.pad(x, (0, 24 - len(x))) for x in texts])
  alone_BTD = jax.jit(Transformer.hidden)(
    Transformer.of(config, params), tokens, tokens > 0
  )
  first = {0: 0, 1: lanes[0].tokens.size}
  for i, (lane, row, start) in enumerate(places):
    size = len(texts[i])
    slot = first[lane] + row * lanes[lane].tokens.shape[1] + start
    np.testing.assert_allclose(
      x_SD[slot : slot + size], alone_BTD[i, :size], rtol=2e-4, atol=2e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize('name', ['bert', 'llama'])
def test_chunks_change_neither_outputs_nor_gradient(name):
  config = tiny_models.CONFIGS[name]
  params = tiny_models.params_of(config)
  _, _, lanes = texts_and_lanes()

  def loss(params, num_chunks):
    x_SD = packed.hidden(
      Transformer.of(config, params), lanes, num_chunks=num_chunks
    )
    is_token_S = jnp.concatenate([lane.texts.ravel() > 0 for lane in lanes])
    x_SD = jnp.where(is_token_S[:, None], x_SD, 0)
    # Not a sum over slots: a loss that looks at all outputs together.
    return jnp.sum(jnp.tanh(x_SD @ x_SD.T))

  plain = jax.value_and_grad(loss)(params, 1)
  chunked = jax.value_and_grad(loss)(params, 2)
  np.testing.assert_allclose(chunked[0], plain[0], rtol=1e-5)
  leaves = jax.tree.leaves(plain[1])
  # Some leaves have none: a bias of keys moves all scores of a query alike.
  largest = max(np.abs(x).max() for x in leaves)
  for a, b in zip(jax.tree.leaves(chunked[1]), leaves, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * largest)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('name', 'options'),
  [
    ('bert', {'num_layers': 1}),
    ('bert', {}),
    ('llama', {'remat': 'dots'}),
    ('llama', {'num_layers': 4, 'layers_per_step': 2}),
    ('t5', {'remat': 'none'}),
  ],
)
def test_wanted_slots_are_those_of_the_whole_output(name, options):
  config = dataclasses.replace(tiny_models.CONFIGS[name], **options)
  params = tiny_models.params_of(config)
  _, _, lanes = texts_and_lanes()
  slots = jnp.asarray([3, 47, 0, 3])

  def outputs(params, at):
    packed_MD = packed.hidden(Transformer.of(config, params), lanes, at=at)
    padded_BTD = Transformer.of(config, params).hidden(lanes[0].tokens, at=at)
    return packed_MD, padded_BTD.reshape(-1, config.embed_dim)

  def loss(params, is_cut):
    x, y = outputs(params, slots if is_cut else None)
    if not is_cut:
      x, y = x[slots], y[slots]
    # Scaled, as the slope of a tanh near 1 is rounding.
    return jnp.sum(jnp.tanh(x @ y.T / config.embed_dim)), (x, y)

  run = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
  cut, whole = jax.tree.leaves(run(params, True)), run(params, False)
  largest = max(np.abs(x).max() for x in jax.tree.leaves(whole[1]))
  for a, b in zip(cut, jax.tree.leaves(whole), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * largest)


def test_chunks_that_do_not_divide_the_rows_are_refused():
  config = tiny_models.CONFIGS['bert']
  params = tiny_models.params_of(config)
  _, _, lanes = texts_and_lanes()
  with pytest.raises(ValueError, match='make the rows a multiple'):
    packed.hidden(Transformer.of(config, params), lanes, num_chunks=3)
