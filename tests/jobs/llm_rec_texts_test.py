# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Vectors of texts: what they are, which end is cut, and when they are kept."""

import jax.numpy as jnp
import numpy as np
import pytest

from antjax.jobs.llm_rec.baselines import TitleEncoder
from antjax.lm.transformer import Transformer
from tests.ctr.bahe import small_vocabulary


@pytest.fixture(name='model', scope='module')
def _model(tmp_path_factory):
  folder = tmp_path_factory.mktemp('model')
  return folder, *small_vocabulary.write_model(folder)


@pytest.mark.slow
def test_a_vector_is_the_mean_over_the_newest_tokens(model):
  folder, config, params = model
  texts = ['w1 w2', '', 'w3 w4 w5 w6 w7 w8']
  found = TitleEncoder(str(folder), 6)(texts)
  assert not found[1].any()
  # Of six words four have room between [CLS] and [SEP]: the last ones.
  for row, words in ((0, [1, 2]), (2, [5, 6, 7, 8])):
    tokens = jnp.array([[2, *(4 + w for w in words), 3]])
    hidden = Transformer.of(config, params).hidden(tokens)
    expected = np.asarray(hidden)[0].mean(axis=0)
    np.testing.assert_allclose(found[row], expected, rtol=2e-4, atol=2e-5)


def test_a_tokenizer_of_more_ids_than_the_model_s_is_refused(tmp_path):
  small_vocabulary.write_model(tmp_path)
  words = [f'w{i}' for i in range(100)]
  small_vocabulary.write_tokenizer(tmp_path, words)
  with pytest.raises(ValueError, match='ids up to 103.*vocab_size=61'):
    TitleEncoder(str(tmp_path), 6)


def test_vectors_are_kept_for_the_same_texts_only(model, tmp_path):
  encoder = TitleEncoder(str(model[0]), 6)
  texts = ['w1 w2', 'w3']
  first = encoder.kept(texts, tmp_path, 'titles')
  (path,) = tmp_path.iterdir()
  np.save(path, first + 1)  # So that reading it shows.
  np.testing.assert_array_equal(
    encoder.kept(texts, tmp_path, 'titles'), first + 1
  )
  other = encoder.kept(texts[::-1], tmp_path, 'titles')
  np.testing.assert_allclose(other, first[::-1], rtol=1e-5)
  TitleEncoder(str(model[0]), 5).kept(texts, tmp_path, 'titles')
  assert len([*tmp_path.iterdir()]) == 3
