# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Token ids are made once, in order, and never for another vocabulary."""

import json

import numpy as np
import pytest

from antjax.lm import token_cache
from antjax.lm.token_cache import TokenCache
from tests.ctr.bahe import small_vocabulary
from tests.ctr.bahe.small_vocabulary import Vocabulary

TEXTS = ['w0 w1', 'w2', 'w3 nothing w4 w5 w6 w7 w8']


@pytest.fixture
def model(tmp_path):
  folder = tmp_path / 'model'
  folder.mkdir()
  small_vocabulary.write_tokenizer(folder)
  return folder


def rows(cache):
  parts = np.split(cache.tokens, cache.offsets[1:-1])
  return [part.tolist() for part in parts]


def test_rows_are_the_texts(tmp_path, model):
  cache = TokenCache.build(tmp_path, Vocabulary(TEXTS), model, max_tokens=7)
  expected = [
    [],  # Padding has no tokens, not even special ones.
    [2, 1, 3],
    [2, 4, 5, 3],
    [2, 6, 3],
    [2, 7, 1, 8, 9, 10, 3],  # Cut, with its end.
  ]
  assert rows(cache) == expected
  assert cache.lengths.tolist() == [0, 3, 4, 3, 7]
  assert len(cache) == 5
  assert cache.tokens.dtype == np.int32 and cache.offsets.dtype == np.int64
  tokens, lengths = cache.padded(np.array([4, 0, 3, 4]), 5)
  assert lengths.tolist() == [5, 0, 3, 5]
  assert tokens.tolist() == [
    [2, 7, 1, 8, 9],
    [0] * 5,
    [2, 6, 3, 0, 0],
    [2, 7, 1, 8, 9],
  ]


def test_an_append_tokenizes_only_what_is_new(tmp_path, model, monkeypatch):
  first = TokenCache.build(tmp_path, Vocabulary(TEXTS), model)
  seen = []
  tokenize = token_cache.RowTokenizer.__call__
  monkeypatch.setattr(
    token_cache.RowTokenizer,
    '__call__',
    lambda self, texts: seen.extend(texts) or tokenize(self, texts),
  )
  monkeypatch.setattr(token_cache, '_BLOCK', 2)
  new = ['w9', 'w8', 'w7 w6', 'w5', 'w4']
  again = TokenCache.build(tmp_path, Vocabulary(TEXTS + new), model)
  assert seen == new
  assert rows(again)[:5] == rows(first)
  assert rows(again)[-1] == [2, 8, 3]
  seen.clear()
  TokenCache.build(tmp_path, Vocabulary(TEXTS + new), model)
  assert not seen
  whole = TokenCache.build(tmp_path / 'new', Vocabulary(TEXTS + new), model)
  assert rows(whole) == rows(again)


def test_what_a_killed_append_left_does_not_count(tmp_path, model):
  TokenCache.build(tmp_path, Vocabulary(TEXTS), model)
  (folder,) = [p.parent for p in tmp_path.rglob(token_cache.MANIFEST)]
  for name in ('tokens.bin', 'offsets.bin'):
    with open(folder / name, 'ab') as file:
      file.write(b'\7' * 31)
  assert rows(TokenCache.open(folder))[-1][-1] == 3
  whole = TokenCache.build(tmp_path, Vocabulary([*TEXTS, 'w9']), model)
  assert rows(whole)[-2][0] == 2 and rows(whole)[-1] == [2, 13, 3]


def test_each_tokenizer_and_length_has_a_cache(tmp_path, model):
  a = TokenCache.build(tmp_path, Vocabulary(TEXTS), model)
  b = TokenCache.build(tmp_path, Vocabulary(TEXTS), model, max_tokens=5)
  small_vocabulary.write_tokenizer(model, words=['w0', 'w2'])
  c = TokenCache.build(tmp_path, Vocabulary(TEXTS), model)
  assert a.tokenizer == b.tokenizer != c.tokenizer
  assert [len(rows(x)[4]) for x in (a, b)] == [9, 5]
  assert rows(c)[2] == [2, 4, 1, 3]


def test_another_vocabulary_is_refused(tmp_path, model):
  TokenCache.build(tmp_path, Vocabulary(TEXTS), model)
  with pytest.raises(ValueError, match='of another vocabulary'):
    TokenCache.build(tmp_path, Vocabulary(['x', *TEXTS]), model)
  with pytest.raises(ValueError, match='of another vocabulary|older'):
    TokenCache.build(tmp_path, Vocabulary(TEXTS[:1]), model)
  other = Vocabulary(TEXTS)
  other.normalizer = 'lower-2'
  with pytest.raises(ValueError, match="'nfkc-1'; these are of 'lower-2'"):
    TokenCache.build(tmp_path, other, model)


def test_another_vocabulary_that_begins_alike_is_refused(tmp_path, model):
  texts = small_vocabulary.texts(1200)
  TokenCache.build(tmp_path, Vocabulary(texts), model)
  TokenCache.build(tmp_path, Vocabulary([*texts, 'new']), model)
  other = Vocabulary([*texts[:1100], 'another', *texts[1101:], 'new'])
  with pytest.raises(ValueError, match='of another vocabulary, which begins'):
    TokenCache.build(tmp_path, other, model)


def test_damage_has_a_name(tmp_path, model):
  TokenCache.build(tmp_path, Vocabulary(TEXTS), model)
  (path,) = tmp_path.rglob(token_cache.MANIFEST)
  good = json.loads(path.read_text())
  for text in ('', '{}', '[1]', json.dumps({**good, 'version': 9})):
    path.write_text(text)
    with pytest.raises(ValueError, match='is no list of token ids'):
      TokenCache.open(path.parent)
  path.write_text(json.dumps({**good, 'num_tokens': 10**6}))
  with pytest.raises(ValueError, match='shorter than'):
    TokenCache.open(path.parent)
  with pytest.raises(FileNotFoundError, match='holds no token ids'):
    TokenCache.open(tmp_path)


def test_no_room_for_text_is_refused(tmp_path, model):
  with pytest.raises(ValueError, match='adds 2 special tokens'):
    TokenCache.build(tmp_path, Vocabulary(TEXTS), model, max_tokens=2)
