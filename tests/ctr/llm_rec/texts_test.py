# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Texts of the official recipe, token by token."""

import dataclasses

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from antjax.ctr.llm_rec import texts
from antjax.ctr.texts import Marks, TextMaker
from tests.ctr.llm_rec import small_catalogue
from tests.lm import tiny_models

# Items 1 to 4, each of its own digits.
ROWS = [[], [11, 12], [21, 22, 23], [31], [41, 42, 43, 44, 45]]
CACHE = small_catalogue.Cache([np.array(r, np.int32) for r in ROWS])


def tokens_of(maker, *items):
  tokens, offsets = maker.ragged(np.array([items]))
  assert list(offsets) == [0, len(tokens)]
  return tokens.tolist()


def test_titles_end_alike_and_missing_ones_have_a_name():
  titles = texts.Titles(['', 'Green tea', '', 'Tea; pot'])
  assert titles.texts(0, 4) == ['', 'Green tea; ', 'None; ', 'Tea; pot; ']
  assert titles.texts(2, 3) == ['None; ']
  assert titles.texts(0, 0) == [] and len(titles) == 4


def test_an_item_and_a_user_in_each_family():
  bert = TextMaker(CACHE, Marks((101,), (), 'first'))
  assert tokens_of(bert, 2) == [101, 21, 22, 23]
  assert tokens_of(bert, 3, 1, 0, 0) == [101, 31, 11, 12]
  t5 = TextMaker(CACHE, Marks((), (1,), 'last'))
  assert tokens_of(t5, 2) == [21, 22, 23, 1]
  opt = TextMaker(CACHE, Marks((2,), (2,), 'last'))
  assert tokens_of(opt, 3, 1) == [2, 31, 11, 12, 2]
  assert tokens_of(opt, 0, 0) == []


def test_titles_are_cut_and_of_histories_the_newest_is_kept():
  maker = TextMaker(
    CACHE, Marks((101,), (), 'first'), max_title_tokens=3, max_tokens=6
  )
  assert tokens_of(maker, 4) == [101, 41, 42, 43]
  # 1 + 3 + 2 fit; the oldest item goes as a whole.
  assert tokens_of(maker, 3, 4, 1) == [101, 41, 42, 43, 11, 12]
  assert tokens_of(maker, 1, 2, 4) == [101, 41, 42, 43]
  narrow = TextMaker(CACHE, Marks((101,), (), 'first'), max_tokens=4)
  assert tokens_of(narrow, 1, 4) == [101, 41, 42, 43]
  with pytest.raises(ValueError, match='more than the 1 marks'):
    TextMaker(CACHE, Marks((101,), (), 'first'), max_tokens=1)


def test_texts_are_written_where_they_shall_be():
  maker = TextMaker(CACHE, Marks((7,), (8,), 'last'))
  planned = maker.plan(np.array([[1, 0], [2, 3], [0, 0], [4, 0]]))
  assert planned.lengths.tolist() == [4, 6, 0, 7]
  tokens, numbers = np.zeros(14, np.int32), np.zeros(14, np.int32)
  maker.write(planned, np.array([8, 1, 0, -1]), tokens, numbers, first=5)
  assert tokens.tolist() == [0, 7, 21, 22, 23, 31, 8, 0, 7, 11, 12, 8, 0, 0]
  assert numbers.tolist() == [0, 6, 6, 6, 6, 6, 6, 0, 5, 5, 5, 5, 0, 0]


def tokenizer_of(*special):
  words = {t: i for i, t in enumerate([*special, 'a', '[UNK]'])}
  found = tokenizers.Tokenizer(models.WordLevel(words, unk_token='[UNK]'))
  found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  return found


def test_marks_of_families():
  configs = tiny_models.CONFIGS
  bert = tokenizer_of('[PAD]', '[CLS]')
  assert texts.marks_of(configs['bert'], bert) == Marks((1,), (), 'first')
  end = tokenizer_of('[PAD]', '[X]', '</s>')
  assert texts.marks_of(configs['t5'], end) == Marks((), (2,), 'last')
  assert texts.marks_of(configs['opt'], end) == Marks((2,), (2,), 'last')
  # The official code leaves out the token that OPT's texts begin with.
  published = texts.marks_of(configs['opt'], end, published=True)
  assert published == Marks((), (2,), 'last')
  llama = tokenizer_of('<|endoftext|>')
  assert texts.marks_of(configs['llama'], llama) == Marks((), (0,), 'last')
  with pytest.raises(ValueError, match=r'no token \[CLS\]'):
    texts.marks_of(configs['bert'], end)
  with pytest.raises(ValueError, match='endoftext'):
    texts.marks_of(configs['qwen2'], bert)
  wide = dataclasses.replace(configs['llama'], num_layers=1)
  assert texts.marks_of(wide, llama).num_tokens == 1
