# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Blocks of whole records: compared with Python's csv, and with faults."""

import csv
import io

from hypothesis import given
from hypothesis import strategies as st
import pytest

from antjax.data import csv_blocks

_TEXTS = st.text(alphabet='ab,"\n\r \u4e2d', max_size=6)


def read(path, **options):
  """Returns good records, (line, message) of faults, and their numbers."""
  records, faults, numbers = [], [], []
  for block in csv_blocks.read_blocks(path, **options):
    records += [
      block.data[a:b].tobytes() for a, b in zip(block.starts, block.stops)
    ]
    assert b''.join(records[len(records) - len(block.starts) :]) == (
      block.records().tobytes()
    )
    faults += [(block.line(f.start), f.message) for f in block.faults]
    numbers += block.numbers().tolist()
  return records, faults, numbers


def read_text(tmp_path, text, **options):
  path = tmp_path / 'file.csv'
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  records, faults, numbers = read(path, **options)
  return [r.decode() for r in records], faults, numbers


@given(
  rows=st.lists(st.lists(_TEXTS, min_size=2, max_size=3), max_size=12),
  block_bytes=st.integers(1, 40),
  end=st.sampled_from(['\n', '\r\n']),
  has_last_end=st.booleans(),
)
def test_well_formed_records_are_those_of_pythons_csv(
  tmp_path_factory, rows, block_bytes, end, has_last_end
):
  out = io.StringIO(newline='')
  # It would leave a CR without quotes.
  has_cr = any('\r' in text for row in rows for text in row)
  quoting = csv.QUOTE_ALL if has_cr else csv.QUOTE_MINIMAL
  csv.writer(out, lineterminator=end, quoting=quoting).writerows(rows)
  text = out.getvalue()
  if not has_last_end:
    text = text.removesuffix(end)
  path = tmp_path_factory.mktemp('csv') / 'file.csv'
  path.write_bytes(text.encode())
  records, faults, numbers = read(path, block_bytes=block_bytes)
  found = [
    next(csv.reader(io.StringIO(r.decode(), newline=''))) for r in records
  ]
  assert found == rows and not faults
  assert numbers == [*range(len(rows))]


@pytest.mark.parametrize('block_bytes', [1, 7, 16, 1 << 20])
@pytest.mark.parametrize(
  'text, good, bad',
  [
    ('a,b"c,d\n1,2\n', ['1,2\n'], [(1, csv_blocks.OPENS)]),
    ('1,2\n"a"b,c\n3,4\n', ['1,2\n', '3,4\n'], [(2, csv_blocks.CLOSES)]),
    # A quote that is never closed meets the next field that has one.
    (
      '1,2\n"a,b\n3,4\n5,"x"\n',
      ['1,2\n', '3,4\n', '5,"x"\n'],
      [(2, csv_blocks.CLOSES)],
    ),
    # Empty texts in quotes look like doubled quotes inside of the open one.
    (
      '"a,b\n3,""\n5,"x"\n',
      ['3,""\n', '5,"x"\n'],
      [(1, csv_blocks.CLOSES)],
    ),
    ('1,2\n3,"4\n5,6\n', ['1,2\n', '5,6\n'], [(2, csv_blocks.UNCLOSED)]),
    ('1,"2', [], [(1, csv_blocks.UNCLOSED)]),
    ('1,2\r3,4\n5,6\n', ['5,6\n'], [(1, csv_blocks.LONE_CR)]),
    ('1,"2\r3"\n5,6\n', ['1,"2\r3"\n', '5,6\n'], []),
    # The first line of the record was text already: it is not read again.
    (
      '"a\nb",c"d\n1,2\n',
      ['1,2\n'],
      [(1, csv_blocks.OPENS)],
    ),
    ('\n\r\n1,2\n\n', ['1,2\n'], []),
    ('', [], []),
    ('\ufeff1,2', ['1,2\n'], []),
    (
      'a"\nb"\nc"\n1,2\n',
      ['1,2\n'],
      [(n, csv_blocks.OPENS) for n in (1, 2, 3)],
    ),
  ],
)
def test_a_fault_costs_its_record_alone(tmp_path, block_bytes, text, good, bad):
  records, faults, numbers = read_text(tmp_path, text, block_bytes=block_bytes)
  assert (records, faults) == (good, bad)
  assert len(numbers) == len(good) and numbers == sorted({*numbers})
  if good and bad:
    assert max(numbers) < len(good) + len(bad)


def test_a_quote_that_is_open_for_long_is_never_closed(tmp_path):
  lines = [f'{i},text\n' for i in range(1000)]
  text = '0,"never\n' + ''.join(lines)
  found = read_text(tmp_path, text, block_bytes=256, max_record_bytes=64)
  assert found[0] == lines and found[1] == [(1, csv_blocks.UNCLOSED)]
  assert found[2] == [*range(1, 1001)]


def test_a_line_without_an_end_is_refused(tmp_path):
  with pytest.raises(ValueError, match='the record in line 2 is longer than'):
    read_text(
      tmp_path, 'a,b\n' + 'x' * 1000, block_bytes=64, max_record_bytes=64
    )


def test_lines_and_texts_of_spans(tmp_path):
  (tmp_path / 'file.csv').write_text('a,"b\nc"\n\nd,e"\nf,\u4e2d\n')
  blocks = csv_blocks.read_blocks(tmp_path / 'file.csv')
  (block,) = blocks
  assert [block.line(int(a)) for a in block.starts] == [1, 5]
  spans = zip(block.starts, block.stops)
  assert [block.text(a, b) for a, b in spans] == ['a,"b\nc"', 'f,\u4e2d']
  assert [block.text(f.start, f.stop) for f in block.faults] == ['d,e"']
  assert block.num_records == 3


@given(
  lines=st.lists(
    st.lists(_TEXTS, min_size=2, max_size=3), min_size=1, max_size=8
  ),
  damage=st.lists(
    st.tuples(st.integers(0, 10_000), st.sampled_from([*b'",\n\rx'])),
    min_size=1,
    max_size=4,
  ),
  block_bytes=st.integers(1, 40),
)
def test_damaged_files_are_cut_alike_whatever_the_blocks(
  tmp_path_factory, lines, damage, block_bytes
):
  out = io.StringIO(newline='')
  csv.writer(out, lineterminator='\n', quoting=csv.QUOTE_ALL).writerows(lines)
  data = bytearray(out.getvalue().encode())
  for place, byte in damage:
    data[place % len(data)] = byte
  path = tmp_path_factory.mktemp('csv') / 'file.csv'
  path.write_bytes(data)
  whole = read(path)
  assert read(path, block_bytes=block_bytes) == whole
  records, faults, numbers = whole
  assert numbers == sorted({*numbers})
  assert not numbers or numbers[-1] < len(records) + len(faults)
  for record in records:
    # Without faults: its quotes pair up, and all of it is one record.
    text = record.decode(errors='surrogateescape')
    assert len([*csv.reader(io.StringIO(text, newline=''))]) == 1
