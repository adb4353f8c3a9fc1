# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The tokenizer: without loss, the same again, and its marks its own."""

import pytest

from antjax.lm import tokenizer

TEXTS = ['To be, or not to be: that is the question.', 'Who is there? Nay.'] * 9


def test_any_text_comes_back(tmp_path):
  made = tokenizer.learn(TEXTS, 300)
  assert 257 < made.vocab_size <= 300 and made.document == 0
  path = tmp_path / tokenizer.FILE_NAME
  made.save(path)
  loaded = tokenizer.load(path)
  texts = [*TEXTS[:2], 'Ünï\ncödé \U0001f600\t\0', '', ' two  spaces ']
  texts.append(f'a {tokenizer.DOCUMENT} b')
  ids = loaded.encode(texts)
  assert ids == made.encode(texts)
  assert [loaded.decode(i) for i in ids] == texts
  assert all(made.document not in i for i in ids)
  assert loaded.decode([0, *ids[0], 0]) == texts[0]
  assert len(ids[0]) < len(texts[0])


def test_the_order_of_texts_does_not_matter(tmp_path):
  marks = []
  for name, texts in (('a', TEXTS), ('b', TEXTS[::-1])):
    tokenizer.learn(texts, 290).save(tmp_path / name)
    marks.append(tokenizer.fingerprint(tmp_path / name))
  assert marks[0] == marks[1]
  tokenizer.learn(TEXTS, 280).save(tmp_path / 'c')
  assert tokenizer.fingerprint(tmp_path / 'c') != marks[0]


def test_what_is_no_tokenizer_is_refused(tmp_path):
  with pytest.raises(ValueError, match='at least 257'):
    tokenizer.learn(TEXTS, 256)
  with pytest.raises(FileNotFoundError, match='prepare_text'):
    tokenizer.load(tmp_path / 'none.json')
  (tmp_path / 'x.json').write_text('{}')
  with pytest.raises(ValueError, match='is no tokenizer'):
    tokenizer.load(tmp_path / 'x.json')
