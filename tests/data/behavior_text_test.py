# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Normalising and splitting texts: examples, and what holds for any text."""

from hypothesis import given
from hypothesis import strategies as st
import ibis
import pyarrow as pa
import pytest

from antjax.data import behavior_pieces, behavior_text
from antjax.data.behavior_text import Normalizer, Splitter

ANY_TEXT = st.text(max_size=60) | st.text(
  alphabet=' \t\n\0\x85;|aA\u0130\u0307\ufb01\u3000\U0001f600\u0301e',
  max_size=40,
)


@pytest.mark.parametrize(
  'text, expected',
  [
    ('', ''),
    (' \t\n\u3000', ''),
    ('  Order\ttakeout \n', 'Order takeout'),
    ('\uff33tarbucks\u3000\ufb01ne', 'Starbucks fine'),  # Full width, ligature.
    ('e\u0301', '\xe9'),
    ('a\0b\x7fc\x1b', 'a b c'),
    (
      '\U0001f600 \U0001f468\u200d\U0001f469',
      '\U0001f600 \U0001f468\u200d\U0001f469',
    ),
    ('x' * 100_000, 'x' * 100_000),
  ],
)
def test_normalises(text, expected):
  assert Normalizer()(text) == expected


def test_lower_is_a_choice_with_a_name_of_its_own():
  assert Normalizer()('CAF\xc9') == 'CAF\xc9'
  assert Normalizer(lower=True)('CAF\xc9') == 'caf\xe9'
  for normalizer in (Normalizer(), Normalizer(lower=True)):
    assert behavior_text.from_name(normalizer.name) == normalizer
  with pytest.raises(ValueError, match='nfkc-0.*made by another version'):
    behavior_text.from_name('nfkc-0')


@given(ANY_TEXT, st.booleans())
def test_normalising_twice_changes_nothing(text, lower):
  once = Normalizer(lower=lower)(text)
  assert Normalizer(lower=lower)(once) == once
  assert once == once.strip()
  assert '  ' not in once
  assert not any(c < ' ' or '\x7f' <= c <= '\x9f' for c in once)


def split(text, **options):
  return Splitter(**options).split(text, Normalizer())


@pytest.mark.parametrize(
  'text, options, expected',
  [
    ('', {}, []),
    (';;| \n\t;', {}, []),
    (' pay ; pay;book  hotel ', {}, ['pay', 'pay', 'book hotel']),
    ('a\nb\tc|d', {}, ['a', 'b', 'c', 'd']),
    ('a;b-c]d', {'separators': '-]'}, ['a;b', 'c', 'd']),
    ('a;b', {'separators': ''}, ['a;b']),
    ('a1b22c', {'pattern': r'(\d)+'}, ['a', 'b', 'c']),
    ('ab', {'pattern': 'x*'}, ['a', 'b']),  # Matches of no characters cut too.
    ('\uff1b;a', {}, [';', 'a']),  # Split as it is, then normalised.
  ],
)
def test_splits(text, options, expected):
  assert split(text, **options).texts == expected


def test_keeps_the_last_or_the_first_and_counts_the_others():
  found = split('a;;b;c;d', max_behaviors=2)
  assert (found.texts, found.num_dropped) == (['c', 'd'], 2)
  found = split('a;;b;c;d', max_behaviors=2, keep='first')
  assert (found.texts, found.num_dropped) == (['a', 'b'], 2)
  found = split('abc def;abcd', max_chars=4)
  assert (found.texts, found.num_cut) == (['abc', 'abcd'], 1)


@given(
  ANY_TEXT,
  st.integers(0, 3),
  st.integers(0, 5),
  st.sampled_from(['first', 'last']),
  st.sampled_from(['', r'[;|]', r'\s+', 'x*']),
)
def test_any_text_gives_whole_normalised_pieces(
  text, max_behaviors, max_chars, keep, pattern
):
  options = {'pattern': pattern, 'keep': keep}
  every = split(text, max_chars=0, **options)
  found = split(
    text, max_behaviors=max_behaviors, max_chars=max_chars, **options
  )
  assert len(every.texts) == len(found.texts) + found.num_dropped
  assert not max_behaviors or len(found.texts) <= max_behaviors
  start = found.num_dropped if keep == 'last' else 0
  kept = every.texts[start : start + len(found.texts)]
  for whole, piece in zip(kept, found.texts):
    assert piece and Normalizer()(piece) == piece
    assert whole.startswith(piece)
    assert not max_chars or len(piece) <= max_chars
  assert found.num_cut == sum(
    len(whole) > len(piece) for whole, piece in zip(kept, found.texts)
  )


@pytest.mark.parametrize(
  'options, message',
  [
    ({'max_chars': -1}, 'must not be negative; 0 means no limit'),
    ({'max_behaviors': -2}, 'max_behaviors=-2'),
    ({'pattern': '('}, r"pattern='\(' is no regular expression"),
    ({'keep': 'newest'}, "needed: 'first' or 'last'"),
  ],
)
def test_wrong_options_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    Splitter(**options)


def test_the_engine_gives_what_the_functions_give():
  texts = ['', ' A\0\tB;;\U0001f600 ', 'x' * 3000, ';', 'e\u0301;\xe9']
  con = ibis.duckdb.connect(threads=2)
  table = con.create_table('t', ibis.memtable(pa.table({'text': texts})))
  normalizer, splitter = Normalizer(), Splitter(max_chars=9, max_behaviors=1)
  found = table.select(
    'text',
    title=behavior_pieces.title_column(con, table.text, normalizer, splitter),
    pieces=behavior_pieces.pieces_column(con, table.text, normalizer, splitter),
  ).to_pyarrow()
  con.disconnect()
  assert sorted(found['text'].to_pylist()) == sorted(texts)
  for row in found.to_pylist():
    pieces = splitter.split(row['text'], normalizer)
    assert row['title'] == splitter.cut(normalizer(row['text']))
    assert row['pieces'] == pieces._asdict()
