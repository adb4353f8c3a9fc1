# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""launch/prepare_text: odd corpora, and what a refusal says and leaves."""

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antjax.data import output_folder, records, text
from antjax.jobs.lm import prepare_text


@pytest.fixture
def source(tmp_path):
  folder = tmp_path / 'source'
  folder.mkdir()
  return folder


def prepare(source, **settings):
  settings = {
    'source': str(source),
    'out': str(source.parent / 'out'),
    'documents': 'paragraph',
    'vocab_size': 260,
    'validation_share': 0.3,
  } | settings
  config = prepare_text.Config(**settings)
  return prepare_text.prepare(config, say=lambda text: None)


def paragraphs(num):
  return '\n\n'.join(f'paragraph {i} of some' for i in range(num))


def test_a_corpus_of_nothing_says_what_is_wrong_with_it(source):
  (source / 'a.txt').write_text(' \n')
  with pytest.raises(ValueError, match=r'1 of 1 documents were rej.*a.txt'):
    prepare(source)
  assert not (source.parent / 'out' / output_folder.DESCRIPTION).exists()


def test_a_refusal_leaves_the_list_of_what_was_rejected(source):
  (source / 'a.txt').write_text(paragraphs(20))
  (source / 'bad.txt').write_bytes(b'\xff')
  with pytest.raises(ValueError, match='1 of 21 documents were rejected'):
    prepare(source)
  kept = source.parent / 'out' / output_folder.REJECTED
  assert 'bad.txt,,not UTF-8 at byte 0' in kept.read_text()
  description, made = prepare(source, max_rejected_share=0.1)
  assert made and description['rejected'] == 1
  assert 'bad.txt,,not UTF-8 at byte 0' in kept.read_text()


def test_one_document_has_no_second_part(source):
  (source / 'a.txt').write_text(paragraphs(20))
  with pytest.raises(ValueError, match='--documents=paragraph makes more'):
    prepare(source, documents='file')


def test_rows_without_text_are_named(source):
  rows = [f'row {i}' for i in range(20)] + [None, '', ' ']
  pq.write_table(pa.table({'text': rows}), source / 'a.parquet')
  with pytest.raises(
    ValueError, match=r'3 of 23 .* record 20: no value; .* record 21: empty'
  ):
    prepare(source)
  description, _ = prepare(source, max_rejected_share=0.2)
  splits = description['splits'].values()
  assert sum(part['documents'] for part in splits) == 20


def test_a_single_word_of_a_million_letters(source):
  # To learn of it as a whole would take half an hour.
  (source / 'a.txt').write_text(paragraphs(20) + '\n\n' + 'ab' * 500_000)
  description, _ = prepare(source)
  out = source.parent / 'out'
  read = 0
  for split in prepare_text.SPLITS:
    path = out / description['files'][split]['path']
    packed = text.PackedSource(records.open_source(path, text.SCHEMA), 64)
    read += packed.num_tokens
    assert len(packed.read(0, len(packed))) == len(packed)
  assert read == sum(p['tokens'] for p in description['splits'].values())


def test_the_folder_to_make_is_not_among_the_texts(source):
  (source / 'a.txt').write_text(paragraphs(20))
  with pytest.raises(ValueError, match=re.escape('is inside of source=')):
    prepare(source, out=str(source / 'out'))
