# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Texts of histories, beside the same put together by hand."""

import numpy as np
import pytest

from antjax.ctr.bahe import full_text
from antjax.ctr.texts import Marks

CLS, SEP = 90, 91
BERT = Marks((90,), num_special=1)
LLAMA = Marks((), separator=(80, 81))


class Cache:
  """A TokenCache in memory, of rows given."""

  def __init__(self, rows):
    self.tokens = np.array([t for row in rows for t in row], np.int32)
    self.offsets = np.cumsum([0, *map(len, rows)])


def join(rows, histories, num_tokens, marks):
  return full_text.text_maker(Cache(rows), num_tokens, marks).padded(histories)


def by_hand(rows, history, num_tokens, marks):
  """What a `TextMaker` says it does, one token after the other."""
  lead = marks.num_special
  bodies = [rows[i][lead:] for i in history if i and len(rows[i]) > lead]
  leads = [rows[i][:lead] for i in history if i and len(rows[i]) > lead]
  text = []
  for body, first in zip(reversed(bodies), reversed(leads)):
    inner = [*body, *marks.separator, *text[lead:]] if text else list(body)
    if len(first) + len(inner) > num_tokens:
      if not text:
        text = [*first, *inner][:num_tokens]
      break
    text = [*first, *inner]
  return text


@pytest.mark.parametrize('marks', [BERT, LLAMA])
@pytest.mark.parametrize('num_tokens', [3, 8, 13, 40])
def test_text_is_the_newest_whole_behaviors(marks, num_tokens):
  rng = np.random.default_rng(num_tokens)
  rows = [[], [1, 2]]
  for _ in range(12):
    body = rng.integers(3, 70, rng.integers(1, 7)).tolist()
    rows.append([CLS, *body, SEP] if marks is BERT else body)
  rows[1] = [CLS, 1, SEP] if marks is BERT else [1]
  histories = np.zeros((50, 6), np.int32)
  for history in histories:
    length = rng.integers(0, 7)
    history[:length] = rng.integers(1, len(rows), length)
  text, lengths = join(rows, histories, num_tokens, marks)
  assert text.shape == (50, num_tokens)
  for row, length, history in zip(text, lengths, histories):
    expected = by_hand(rows, history, num_tokens, marks)
    assert row[:length].tolist() == expected
    assert not row[length:].any()


def test_a_history_without_tokens_is_empty():
  rows = [[], [5], []]
  text, lengths = join(
    rows, np.array([[2, 2, 0], [0, 0, 0]], np.int32), 4, LLAMA
  )
  assert not text.any()
  assert lengths.tolist() == [0, 0]


def test_no_room_beside_special_tokens_is_refused():
  with pytest.raises(ValueError, match='1 are special ones in front'):
    join([[]], np.zeros((1, 1), np.int32), 1, BERT)
