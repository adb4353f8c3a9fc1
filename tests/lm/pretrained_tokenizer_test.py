# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tokenizers of pretrained models: from JSON and from GGUF the same."""

import json

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from antjax.lm import pretrained_tokenizer
from tests.lm import gguf_test

TEXTS = ['The cat sat on the mat.', "It's 2026, isn't it?", 'Über  größe\n\nx']
END = '<|end|>'


@pytest.fixture(scope='module')
def made():
  """A byte-level BPE as SmolLM2's, with the texts' merges."""
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Digits(individual_digits=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
  )
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.train_from_iterator(
    TEXTS * 3,
    trainers.BpeTrainer(
      vocab_size=300,
      special_tokens=[END],
      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
      show_progress=False,
    ),
  )
  return tokenizer


def write_gguf(path, tokenizer, **changes):
  model = json.loads(tokenizer.to_str())['model']
  tokens = sorted(model['vocab'], key=model['vocab'].get)
  merges = [m if isinstance(m, str) else ' '.join(m) for m in model['merges']]
  entries = {
    'model': 'gpt2',
    'pre': 'smollm',
    'tokens': tokens,
    'merges': merges,
    'token_type': [3 if token == END else 1 for token in tokens],
    **changes,
  }
  gguf_test.write(
    path,
    {f'tokenizer.ggml.{key}': value for key, value in entries.items()},
    {'x': (np.zeros(4, np.float32), 'F32')},
  )


def test_a_gguf_file_gives_the_same_tokens(made, tmp_path):
  write_gguf(tmp_path / 'x.gguf', made)
  read = pretrained_tokenizer.load_tokenizer(tmp_path)
  for text in TEXTS:
    assert read.encode(text).ids == made.encode(text).ids
    assert read.decode(read.encode(text).ids) == text
  end = made.token_to_id(END)
  assert read.encode(f'cat{END}').ids[-1] == end
  assert read.decode([*read.encode('cat').ids, end]) == 'cat'


def test_a_folder_s_tokenizer_neither_cuts_nor_pads(made, tmp_path):
  limited = tokenizers.Tokenizer.from_str(made.to_str())
  limited.enable_truncation(3)
  limited.enable_padding(length=64)
  limited.save(str(tmp_path / 'tokenizer.json'))
  read = pretrained_tokenizer.load_tokenizer(tmp_path)
  assert read.encode(TEXTS[0]).ids == made.encode(TEXTS[0]).ids


def test_what_is_no_tokenizer_is_refused(made, tmp_path):
  with pytest.raises(FileNotFoundError, match='no tokenizer.json and 0'):
    pretrained_tokenizer.load_tokenizer(tmp_path)
  path = tmp_path / 'x.gguf'
  write_gguf(path, made, pre='bloom')
  with pytest.raises(ValueError, match="known are 'gpt2' with 'default'"):
    pretrained_tokenizer.load_tokenizer(path)
  write_gguf(path, made, merges=['zz zz'])
  with pytest.raises(ValueError, match='its merges do not fit'):
    pretrained_tokenizer.load_tokenizer(path)
  (tmp_path / 'tokenizer.json').write_text('{}')
  with pytest.raises(ValueError, match='is no tokenizer'):
    pretrained_tokenizer.load_tokenizer(tmp_path)


def test_a_tokenizer_beyond_the_model_s_vocabulary_is_refused(made, tmp_path):
  made.save(str(tmp_path / 'tokenizer.json'))
  num_ids = made.get_vocab_size()
  # A model's vocabulary may be padded.
  for vocab_size in (num_ids, num_ids + 7):
    pretrained_tokenizer.load_tokenizer(tmp_path, vocab_size)
  with pytest.raises(
    ValueError, match=f'has ids up to {num_ids - 1}.*vocab_size=20 needs.* 19'
  ):
    pretrained_tokenizer.load_tokenizer(tmp_path, 20)
