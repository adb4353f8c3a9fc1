# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A vocabulary in memory, and a tiny model folder with a tokenizer."""

import pathlib

import tokenizers
from tokenizers import models, pre_tokenizers, processors

from antjax.lm import pretrained, pretrained_tokenizer
from tests.lm import tiny_models

WORDS = [f'w{i}' for i in range(50)]


class Vocabulary:
  """What antjax.data.behavior_vocabulary gives, from a list."""

  normalizer = 'nfkc-1'

  def __init__(self, texts):
    self._texts = ['', '[UNK]', *texts]

  def __len__(self):
    return len(self._texts)

  def texts(self, start, stop):
    assert 0 <= start <= stop <= len(self)
    return self._texts[start:stop]


def texts(num_texts, max_words=14, first=0):
  """Distinct texts of 2 to max_words + 1 words; the first word is a number."""
  result = []
  for i in range(first, first + num_texts):
    words = [WORDS[i % 50], WORDS[i // 50 % 50], WORDS[i // 2500 % 50]]
    words += [WORDS[(i * 7 + j) % 50] for j in range(i % max_words)]
    result.append(' '.join(words))
  return result


def write_model(folder, name='bert', seed=0):
  """Makes a folder with a model of `tiny_models` and a tokenizer."""
  folder = pathlib.Path(folder)
  config = tiny_models.CONFIGS[name]
  params = tiny_models.params_of(config)
  if seed:
    params['embed'] = params['embed'] + seed
  pretrained.save_pretrained(folder, config, params)
  write_tokenizer(folder)
  return config, params


def write_tokenizer(folder, words=WORDS):
  """Writes a tokenizer.json with BERT's template."""
  tokens = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', *words]
  tokenizer = tokenizers.Tokenizer(
    models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token='[UNK]')
  )
  tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  tokenizer.post_processor = processors.TemplateProcessing(
    single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)]
  )
  tokenizer.save(str(pathlib.Path(folder) / pretrained_tokenizer.FILE_NAME))
