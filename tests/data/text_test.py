# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Texts: what is read, what is rejected, and packing without loss."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antjax.data import shakespeare, text
from antjax.shards.dataset import LeasedDataset, merge_states
from antjax.shards.ledger_client import LocalLedgerClient
from antjax.shards.ledger_spec import LedgerSpec


class Documents:
  """Records of `text.SCHEMA` in memory; token values are all different."""

  def __init__(self, lengths):
    starts = np.cumsum([0, *lengths])
    self.records = [
      {
        'tokens': np.arange(1 + a, 1 + b, dtype=np.int32),
        'num_tokens': np.int32(b - a),
      }
      for a, b in zip(starts[:-1], starts[1:], strict=True)
    ]

  def __len__(self):
    return len(self.records)

  def read(self, start, stop):
    return self.records[start:stop]


@settings(max_examples=60)
@given(
  st.lists(st.integers(1, 40), min_size=1, max_size=12),
  st.integers(2, 17),
  st.data(),
)
def test_packing_loses_and_repeats_nothing(lengths, seq_len, data):
  source = text.PackedSource(Documents(lengths), seq_len)
  assert len(source) == -(-sum(lengths) // seq_len)
  counted = text.PackedSource(
    Documents(lengths), seq_len, lengths=Documents(lengths)
  )
  assert len(counted) == len(source)
  every = source.read(0, len(source))
  tokens = np.concatenate([r['tokens'] for r in every])
  segments = np.concatenate([r['segment_ids'] for r in every])
  np.testing.assert_array_equal(
    tokens[segments > 0], np.arange(1, 1 + sum(lengths))
  )
  assert not tokens[segments == 0].any()
  owner = np.repeat(np.arange(len(lengths)), lengths)
  for i, record in enumerate(every):
    here = owner[i * seq_len : (i + 1) * seq_len]
    # Segments are the documents, counted from 1 in each sequence.
    expected = np.unique(here, return_inverse=True)[1] + 1
    np.testing.assert_array_equal(record['segment_ids'][: len(here)], expected)
    for segment in np.unique(expected):
      positions = record['positions'][: len(here)][expected == segment]
      np.testing.assert_array_equal(positions, np.arange(len(positions)))
  # Any block reads the same.
  start = data.draw(st.integers(0, len(source)))
  stop = data.draw(st.integers(start, len(source)))
  for record, whole in zip(
    source.read(start, stop), every[start:stop], strict=True
  ):
    for name, value in record.items():
      np.testing.assert_array_equal(value, whole[name])
      assert value.dtype == np.int32


def test_a_stopped_reader_goes_on_where_it_was():
  """Over an epoch's end too, on another number of processes."""
  lengths = [30, 5, 61, 17, 40, 22]
  source = text.PackedSource(Documents(lengths), 8)

  def loader(worker, num_workers):
    spec = LedgerSpec(len(source), 2, seed=3, num_epochs=2)
    client = LocalLedgerClient(spec, worker=worker, num_workers=num_workers)
    return iter(LeasedDataset(source, client))

  first = [loader(p, 2) for p in range(2)]
  seen = [next(it)['tokens'] for _ in range(7) for it in first]
  merged = merge_states([it.get_state() for it in first])
  last = loader(0, 1)
  last.set_state(merged)
  seen += [record['tokens'] for record in last]
  tokens = np.sort(np.concatenate(seen))
  tokens = tokens[tokens > 0]
  np.testing.assert_array_equal(
    tokens, np.repeat(np.arange(1, 1 + sum(lengths)), 2)
  )


def test_wrong_sizes_are_refused():
  with pytest.raises(ValueError, match='seq_len=1'):
    text.PackedSource(Documents([3]), 1)
  with pytest.raises(ValueError, match='no tokens'):
    text.PackedSource(Documents([]), 8)
  with pytest.raises(ValueError, match='needed 0 <= start'):
    text.PackedSource(Documents([3]), 8).read(0, 2)


def test_padding_adds_sequences_without_targets():
  source = text.PackedSource(Documents([7]), 4)
  padded = text.pad_sequences(source.read(0, 2), 3)
  assert len(padded) == 3 and not padded[2]['segment_ids'].any()
  assert len(text.pad_sequences(source.read(0, 2), 2)) == 2


def test_reader_names_what_it_rejects(tmp_path):
  (tmp_path / 'a.txt').write_text('\ufeffOne.\r\nTwo.\n', encoding='utf-8')
  (tmp_path / 'b.txt').write_bytes(b'caf\xe9')
  (tmp_path / 'c.txt').write_text(' \n')
  (tmp_path / 'd.txt').write_bytes(b'ab\0cd')
  (tmp_path / 'deep').mkdir()
  pq.write_table(
    pa.table({'text': ['x', None, 'y ']}), tmp_path / 'deep' / 'e.parquet'
  )
  pq.write_table(pa.table({'body': ['x']}), tmp_path / 'f.parquet')
  pq.write_table(pa.table({'text': [1]}), tmp_path / 'g.parquet')
  (tmp_path / 'h.parquet').write_bytes(b'PAR1 no')
  (tmp_path / 'i.csv').write_text('not for us')
  reader = text.DocumentReader(tmp_path)
  assert list(reader) == ['One.\nTwo.', 'x', 'y']
  assert reader.num_documents == 3
  found = [
    (r.path.removeprefix(f'{tmp_path}/'), r.record, r.reason[:12])
    for r in reader.rejected
  ]
  assert found == [
    ('b.txt', None, 'not UTF-8 at'),
    ('c.txt', None, 'empty'),
    ('d.txt', None, 'holds zero b'),
    ('deep/e.parquet', 1, 'no value'),
    ('f.parquet', None, "no column 't"),
    ('g.parquet', None, "column 'text"),
    ('h.parquet', None, 'no whole Par'),
  ]
  assert list(reader) == ['One.\nTwo.', 'x', 'y']  # And once more.
  assert len(reader.rejected) == 7


def test_paragraphs_are_documents(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text('One\nmore.\n\n  \nTwo.\n\nThree.')
  reader = text.DocumentReader(path, documents='paragraph')
  assert list(reader) == ['One\nmore.', 'Two.', 'Three.']
  with pytest.raises(FileNotFoundError, match=r'no \*.txt'):
    text.DocumentReader(tmp_path / 'none')


def test_scenes_of_a_play():
  play = (
    '# Hamlet\n\n## ACT I\n\n### SCENE I. Elsinore.\n\n_Enter two_\n\n'
    "**BERNARDO**  \nWho's there?\n\n\n\n**FRANCISCO**  \nNay\\--stand.\n\n"
    '### SCENE II. A room.\n\n**KING**  \nThough yet.  \n'
  )
  assert list(shakespeare.scenes(play)) == [
    'Hamlet, ACT I, SCENE I. Elsinore.\n\nEnter two\n\n'
    "BERNARDO:\nWho's there?\n\nFRANCISCO:\nNay--stand.",
    'Hamlet, ACT I, SCENE II. A room.\n\nKING:\nThough yet.',
  ]
