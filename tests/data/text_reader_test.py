# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The strict reader of text: every field is read, every bad line is told."""

import bz2
import csv
import gzip
import lzma
import os
import pathlib
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antjax.data import csv_blocks, rejects, text_reader
from antjax.data.csv_blocks import Dialect
from antjax.data.strict_columns import Column
from antjax.data.text_reader import TextLayout

COLUMNS = {
  'user': Column(kind='int32'),
  'item': Column(),
  'rating': Column(kind='float32'),
}
QUOTED = Dialect('\t', '"')
PLAIN = Dialect('\t', '')


@pytest.fixture(name='read')
def _read(tmp_path):
  def read(
    *contents,
    columns=COLUMNS,
    dialect=PLAIN,
    header=None,
    file_bits=0,
    share=0.5,
    suffix='',
    **options,
  ):
    """Returns the rows in their order, counts, and the rejected lines."""
    files = []
    for number, content in enumerate(contents):
      files.append(tmp_path / f'r{number}.tsv{suffix}')
      files[-1].write_bytes(content)
    folder = pathlib.Path(tempfile.mkdtemp(dir=tmp_path))
    bad = rejects.Rejects(tmp_path / 'rejected.csv', share)
    bad.path.unlink(missing_ok=True)
    counts = text_reader.read(
      files,
      TextLayout(
        columns=columns, dialect=dialect, header=header, file_bits=file_bits
      ),
      folder,
      bad,
      **options,
    )
    rows = []
    for path in folder.iterdir():
      rows += pq.read_table(path).to_pylist()
    rows.sort(key=lambda row: row['__row'])
    assert counts.good == len(rows)
    assert counts.rejected_lines == bad.num_rows == counts.rejected.total()
    found = [tuple(row.values())[:-1] for row in rows]
    return found, counts, rejected(tmp_path)

  return read


def rejected(tmp_path):
  if not (tmp_path / 'rejected.csv').exists():
    return []
  with open(tmp_path / 'rejected.csv', newline='', encoding='utf-8') as file:
    return [*csv.DictReader(file)]


def lines(bad):
  return [int(entry['line']) for entry in bad]


def test_good_lines_of_all_files_in_their_order(read):
  rows, counts, bad = read(
    b'1\ta "b\t3\r\n2\t\xc3\xa9::|\t4.5\r\n', b'3\tc\t1', threads=2
  )
  assert rows == [(1, 'a "b', 3.0), (2, '\xe9::|', 4.5), (3, 'c', 1.0)]
  assert not bad and counts.rows == 3


# What is wrong with a line, whatever the format: (line, column, reason, part
# of the message).
BAD = [
  (b'2\tb', '', 'columns', '2 columns; needed: 3'),
  (b'2\tb\t3\t4', '', 'columns', '4 columns; needed: 3'),
  (b'2\tb\tx', 'rating', 'cast', 'Could not convert "x" in "rating" to float3'),
  (b'\tb\t3', 'user', 'cast', 'Could not convert "" in "user"'),
  (b'2\tb\t', 'rating', 'cast', 'Could not convert ""'),
  (b'2.5\tb\t3', 'user', 'cast', 'Could not convert "2.5" in "user" to int32'),
  (b'99999999999\tb\t3', 'user', 'cast', '99999999999'),
  (b'2147483648\tb\t3', 'user', 'cast', '2147483648'),
  (b'1e3\tb\t3', 'user', 'cast', '1e3'),
  (b'0x10\tb\t3', 'user', 'cast', '0x10'),
  (b'1_0\tb\t3', 'user', 'cast', '1_0'),
  (b'\xd9\xa1\tb\t3', 'user', 'cast', '\u0661'),
  (b'\\N\tb\t3', 'user', 'cast', '\\N'),
  (b'2\tb\t1e99', 'rating', 'cast', '1e99'),
  (b'2\tb\t3.5e38', 'rating', 'cast', '3.5e38'),
  (b'2\tb\tnan', 'rating', 'cast', 'nan'),
  (b'2\tb\t-inf', 'rating', 'cast', '-inf'),
  (b'2\tb\t0x1p3', 'rating', 'cast', '0x1p3'),
  (b'2\t\xff\xfe\t3', 'item', 'encoding', 'not utf-8'),
  (b'\xff\tb\t3', 'user', 'encoding', 'not utf-8'),
  (b'x\tb\ty', 'user', 'cast', '"x"'),  # Two faults are one line.
  (b'2\ta\rb\t3', '', 'quote', 'a line end CR without LF'),
]


@pytest.mark.parametrize('quote', ['', '"'])
@pytest.mark.parametrize('line, column, reason, message', BAD)
def test_a_malformed_line(read, tmp_path, line, column, reason, message, quote):
  content = b'1\ta\t3\n\n' + line + b'\n3\tc\t1\n'
  rows, counts, (entry,) = read(content, dialect=Dialect('\t', quote))
  assert rows == [(1, 'a', 3.0), (3, 'c', 1.0)]
  assert counts.rejected == {reason: 1}
  assert entry['file'] == str(tmp_path / 'r0.tsv')
  assert int(entry['line']) == 3  # The empty one counts, and is skipped.
  assert (entry['column'], entry['reason']) == (column, reason)
  assert message in entry['message']
  if b'\xff' not in line:
    assert entry['text'] == line.decode()


def test_all_of_them_at_once_and_cut_anywhere(read):
  content = b'u\ti\tr\r\n' + b'\r\n'.join(
    b'1\ta\t3\r\n' + line for line, *_ in BAD
  )
  for block_bytes in (7, 100, 1 << 22):
    rows, _, bad = read(
      content, header=['u', 'i', 'r'], share=1.0, block_bytes=block_bytes
    )
    assert rows == [(1, 'a', 3.0)] * len(BAD)
    assert lines(bad) == [3 + 2 * i for i in range(len(BAD))]
    assert [entry['reason'] for entry in bad] == [b[2] for b in BAD]


@pytest.mark.parametrize(
  'line, message',
  [
    (b'2\t"b"c\t3', csv_blocks.CLOSES),
    (b'2\tb"c\t3', csv_blocks.OPENS),
    (b'2\t"b\t3', csv_blocks.UNCLOSED),
  ],
)
def test_a_quote_that_is_none_costs_its_line_alone(read, line, message):
  """An unclosed one, too: what follows is read again, never swallowed."""
  good = b'1\ta\t3\n' * 50
  rows, counts, (entry,) = read(good + line + b'\n' + good, dialect=QUOTED)
  assert rows == [(1, 'a', 3.0)] * 100
  assert (entry['line'], entry['reason']) == ('51', 'quote')
  assert message in entry['message']


@pytest.mark.parametrize(
  'text, user, rating',
  [
    ('2147483647\ta\t1', 2**31 - 1, 1),
    ('-2147483648\ta\t1', -(2**31), 1),
    ('+7\ta\t+1', 7, 1),
    ('007\ta\t-0', 7, 0),
    ('-' + '0' * 5000 + '7\ta\t1', -7, 1),
    ('7\ta\t1.', 7, 1),
    ('7\ta\t.5', 7, 0.5),
    ('7\ta\t-1e2', 7, -100),
    ('7\ta\t1e-50', 7, 0),
    ('7\ta\t3.40282350e38', 7, float(np.finfo(np.float32).max)),
    (' 7\ta\t1 ', 7, 1),  # As spreadsheet programs pad them.
  ],
)
@pytest.mark.parametrize('other', ['', 'x\tb\ty\n'])
def test_numbers_whatever_stands_beside_them(read, text, user, rating, other):
  """Columns with an unreadable number go another way than those without."""
  rows, _, bad = read((other + text + '\n').encode())
  assert rows == [(user, 'a', rating)]
  assert len(bad) == bool(other)


def test_empty_numbers_that_mean_something(read):
  columns = {
    'a': Column(kind='int64', empty=12345678),
    'b': Column(kind='float32', empty=0),
    'c': Column(kind='float64', empty=0.123456789),
  }
  good = ['1,,5', ',2.5,', '3,-1e2,.5', '4, ,1']
  bad = ['x,1,1', '1,1e99,1', '1,nan,1', '1.5,1,1', '1,1,99999999999e999']
  for number, text in enumerate(('\n'.join(good), '\n'.join(good + bad))):
    rows, counts, found = read(
      text.encode(), columns=columns, dialect=Dialect(), share=0.9
    )
    assert rows == [
      (1, 0, 5),
      (12345678, 2.5, 0.123456789),
      (3, -100, 0.5),
      (4, 0, 1),
    ]
    assert counts.filled == {'a': 1, 'b': 2, 'c': 1}
    assert len(found) == number * len(bad)


def test_values_blanks_limits_times_and_lists(read):
  columns = {
    'label': Column(kind='int8', values=('0', '1')),
    'user': Column(is_needed=True),
    'when': Column(kind='float64', limit=2.0**63),
    'time': Column(kind='time'),
    'tags': Column(separator='|'),
  }
  good = '1,u,1.5,2023-08-03 00:00:01,a|b\n0,v,-2,2023/8/3 9:05,\n'
  cases = [
    ('2,u,1,2023/8/3 9:05,', 'label', 'value', "'2'; needed: 0, 1"),
    (',u,1,2023/8/3 9:05,', 'label', 'value', "''; needed: 0, 1"),
    ('1,,1,2023/8/3 9:05,', 'user', 'empty', 'no value'),
    ('1,\u3000 ,1,2023/8/3 9:05,', 'user', 'empty', 'no value'),
    ('1,u,1e300,2023/8/3 9:05,', 'when', 'cast', '1e300'),
    ('1,u,1,soon,', 'time', 'time', 'soon'),
    ('1,u,1,2023-02-30 00:00:00,', 'time', 'time', '02-30'),
  ]
  text = good + ''.join(f'{line}\n' for line, *_ in cases)
  rows, _, bad = read(
    text.encode(), columns=columns, dialect=Dialect(), share=0.9
  )
  assert rows == [
    (1, 'u', 1.5, 1691020801, ['a', 'b']),
    (0, 'v', -2, 1691053500, []),
  ]
  for entry, (_, column, reason, message) in zip(bad, cases, strict=True):
    assert (entry['column'], entry['reason']) == (column, reason)
    assert message in entry['message']
  columns['time'] = Column(kind='time', empty=7)
  rows, counts, bad = read(
    text.encode(), columns=columns, dialect=Dialect(), share=0.9
  )
  assert [row[3] for row in rows[2:]] == [7, 7] and counts.filled['time'] == 2
  assert len(bad) == len(cases) - 2


@pytest.mark.parametrize('block_bytes', [64, 1 << 22])
def test_long_delimiters(read, block_bytes):
  content = b'1::caf\xe9::3\n2::a:b::4\n3::\x1f::5\n4::\xff\n' * 9
  rows, _, bad = read(
    content, dialect=Dialect('::', '', 'latin-1'), block_bytes=block_bytes
  )
  expected = [(1, 'caf\xe9', 3.0), (2, 'a:b', 4.0), (3, '\x1f', 5.0)]
  assert rows == expected * 9
  assert {e['text'] for e in bad} == {'4::\xff'} and len(bad) == 9
  content = b'1::"a::b"::3\n2::"a\n""b"::4\n3::a:"b"::5\n4::"b":::6\n'
  rows, _, bad = read(
    content, dialect=Dialect('::', '"'), block_bytes=block_bytes
  )
  assert rows == [(1, 'a::b', 3.0), (2, 'a\n"b', 4.0)]
  assert lines(bad) == [4, 5]


def test_closed_quotes_and_lines_of_records(read):
  content = b'1\t"a\tb ""c"""\t3\n1\t"a\nb"\t3\n1.5\tc\t3\n"7\n"\td\t3\n'
  rows, _, bad = read(content, dialect=QUOTED)
  assert rows == [(1, 'a\tb "c"', 3.0), (1, 'a\nb', 3.0)]
  assert lines(bad) == [4, 5]


def test_headers(read, tmp_path):
  header = ['u', 'i', 'r']
  rows, counts, _ = read(b'u\ti\tr\n1\ta\t3\n', header=header)
  assert rows == [(1, 'a', 3.0)] and counts.rows == 1
  content = b'"u"\t"i"\t"r"\r\n1\t"a"\t3\r\n'
  rows, _, _ = read(content, dialect=QUOTED, header=header)
  assert rows == [(1, 'a', 3.0)]
  for content, found in (
    (b'u\tx\tr\n1\ta\t3\n', 'u, x, r'),
    (b'1\ta\t3\n', '1, a, 3'),
    (b'u\ti\n', 'u, i'),
    (b'', ''),
  ):
    with pytest.raises(ValueError) as error:
      read(content, header=header)
    assert str(error.value).startswith(
      f'{tmp_path / "r0.tsv"} has the columns {found}; needed: u, i, r. It lack'
    )
  for content in (b'"u\ti\tr\n1\ta\t3\n', b'u' * 200_000 + b'\n'):
    with pytest.raises(ValueError, match='has the columns .*u.*; needed: u, '):
      read(content, header=header, dialect=QUOTED)
  with pytest.raises(ValueError, match='a line end CR without LF; needed a'):
    read(b'u\ti\tr\r1\ta\t3\r', header=header)


def test_line_ends_of_two_kinds(read):
  content = b'u\ti\tr\n' + b'1\ta\t3\r\n' * 9 + b'1\ta\t3\n' * 9
  rows, _, bad = read(content, header=['u', 'i', 'r'])
  assert rows == [(1, 'a', 3.0)] * 18 and not bad


def test_a_byte_order_mark_is_no_text(read):
  content = b'\xef\xbb\xbf1\ta\t3\n2\tb\tx\n'
  for block_bytes in (1, 2, 100):
    rows, _, bad = read(content, block_bytes=block_bytes)
    assert rows == [(1, 'a', 3.0)] and lines(bad) == [2]
  content = b'\xef\xbb\xbfu\ti\tr\n1\ta\t3\n2\tb\tx\n'
  rows, _, bad = read(content, header=['u', 'i', 'r'])
  assert rows == [(1, 'a', 3.0)] and lines(bad) == [3]


def test_too_many_malformed_lines(read, tmp_path):
  content = b'1\ta\t3\n2\tb\n' + b'4\td\t5\n' * 998
  rows, _, _ = read(content, share=0.001)
  assert len(rows) == 999
  with pytest.raises(ValueError) as error:
    read(content, share=0.0009)
  text = str(error.value)
  assert '\n' not in text
  assert f'1 of 1000 lines of {tmp_path / "r0.tsv"} are malformed' in text
  assert '(columns 1), more than max_rejected_share=0.0009' in text
  assert 'the first is line 2: 2 columns; needed: 3' in text
  assert str(tmp_path / 'rejected.csv') in text
  assert lines(rejected(tmp_path)) == [2]
  # Each file has to keep to it; both are listed.
  with pytest.raises(ValueError, match='1 of 2 lines of .*r1.tsv are'):
    read(content, b'1\ta\t3\n2\tb\n', share=0.1)
  assert lines(rejected(tmp_path)) == [2, 2]


def test_too_many_are_refused_as_soon_as_that_is_sure(read, tmp_path):
  content = b'x\ta\t3\n' * 40 + b'1\ta\t3\n' * 40_000
  with pytest.raises(ValueError, match=r'\d+ of \d+ lines of .* so far are'):
    read(content, share=0.0001, block_bytes=70, threads=1)
  assert len(rejected(tmp_path)) < 40
  rows, counts, _ = read(content, share=0.001)
  assert counts.rejected_lines == 40 and len(rows) == 40_000


def test_line_numbers_in_a_large_file(read):
  """Threads parse pieces of the file; line numbers count from its start."""
  content = [b'%d\titem %d\t3' % (i, i) for i in range(100_000)]
  bad_lines = [10, 50_000, 75_001, 99_999]
  for i in bad_lines:
    content[i] = b'broken'
  rows, _, bad = read(b'\n'.join(content) + b'\n', block_bytes=1 << 16)
  assert len(rows) == len(content) - len(bad_lines)
  assert [row[0] for row in rows] == sorted({*range(100_000)} - {*bad_lines})
  assert lines(bad) == [i + 1 for i in bad_lines]


def test_numbers_of_rows(tmp_path, read):
  """They count over all files, or do not depend on the others."""
  contents = [b'u\ti\tr\n1\ta\t3\nx\n2\tb\t4\n', b'u\ti\tr\n3\tc\t5\n']
  for options, expected in (
    ({}, [0, 2, 3]),
    ({'file_bits': 40}, [1, 3, 2**40 + 1]),
  ):
    found = []

    def keep(table, path, found=found):
      found += table['__row'].to_pylist()
      return table

    read(*contents, header=['u', 'i', 'r'], finish=keep, **options)
    assert sorted(found) == expected


def test_what_is_written_may_be_another_table(read):
  def finish(table, path):
    return table.rename_columns({'user': path.name}).drop_columns('item')

  rows, _, _ = read(b'1\ta\t3\n', finish=finish)
  assert rows == [(1, 3.0)]
  rows, counts, _ = read(b'', finish=finish)  # Its types are there still.
  assert not rows and not counts.rows


@pytest.mark.parametrize(
  'suffix, pack',
  [
    ('.gz', gzip.compress),
    ('.xz', lzma.compress),
    ('.bz2', bz2.compress),
    ('.zst', lambda text: pa.compress(text, 'zstd', asbytes=True)),
  ],
)
def test_packed_files(read, suffix, pack):
  content = b'1\ta\t3\n' * 1000 + b'2\tb\n'
  packed = pack(content)
  rows, _, bad = read(packed, suffix=suffix, block_bytes=100)
  assert len(rows) == 1000 and lines(bad) == [1001]
  for damaged in (packed[:-12], packed[:20] + b'\0\0\0\0' + packed[24:]):
    with pytest.raises(ValueError, match=r'r0.tsv\.\w+ is damaged .*again'):
      read(damaged, suffix=suffix)


def test_a_long_text_beside_a_bad_number(read):
  long = 'a' * 200_000
  content = f'1\t{long}\t3\nx\t{long}\t3\n'.encode()
  rows, _, bad = read(content, dialect=QUOTED)
  assert rows == [(1, long, 3.0)]
  assert lines(bad) == [2] and len(bad[0]['text']) == 2000
  with pytest.raises(ValueError, match='the record in line 1 is longer than'):
    read(content, block_bytes=1000, max_record_bytes=1000)


def test_a_file_that_changes_meanwhile_is_refused(read, tmp_path):
  def finish(table, path):
    os.utime(path, (0, 0))
    return table

  with pytest.raises(RuntimeError, match='r0.tsv changed while it was read; t'):
    read(b'1\ta\t3\n' * 100, finish=finish, block_bytes=10, threads=1)


def test_names_of_files_are_no_patterns_and_files_may_be_missing(tmp_path):
  (tmp_path / 'r1.tsv').write_bytes(b'9\tz\t9\n')
  (tmp_path / 'r[1].tsv').write_bytes(b'1\ta\t3\n2\tb\n')
  layout = TextLayout(columns=COLUMNS, dialect=PLAIN)
  bad = rejects.Rejects(tmp_path / 'rejected.csv', 0.5)
  counts = text_reader.read([tmp_path / 'r[1].tsv'], layout, tmp_path, bad)
  assert (counts.rows, counts.rejected_lines) == (2, 1)
  assert rejected(tmp_path)[0]['file'] == str(tmp_path / 'r[1].tsv')
  with pytest.raises(FileNotFoundError, match='no such file: .*none.tsv'):
    text_reader.read([tmp_path / 'none.tsv'], layout, tmp_path, bad)


@pytest.mark.parametrize(
  'options, message',
  [
    ({'delimiter': ''}, 'ASCII characters that end no line'),
    ({'delimiter': '\n'}, 'ASCII characters that end no line'),
    ({'delimiter': '\u3001'}, 'ASCII characters that end no line'),
    ({'quote': '""'}, 'one character that is not the delimiter'),
    ({'quote': ','}, 'one character that is not the delimiter'),
  ],
)
def test_dialects_that_cannot_be(options, message):
  with pytest.raises(ValueError, match=message):
    Dialect(**options)


def test_times_are_iso_8601(read):
  texts = {
    '2023-08-03': 1691020800,
    '2023-08-03T00:00:01Z': 1691020801,
    '2023-08-03 02:00+02:00': 1691020800,
    '2023-08-03T00:00:00.900': 1691020800,
    '2023-08-03 00:00:02': 1691020802,
  }
  columns = {'when': Column(kind='time')}
  text = '\n'.join([*texts, '20230803', '2023-13-03', ''])
  rows, _, bad = read(
    text.encode(), columns=columns, dialect=Dialect(), share=0.9
  )
  assert [row[0] for row in rows] == [*texts.values()]
  assert [entry['line'] for entry in bad] == ['6', '7']
  assert "'20230803'; needed: ISO 8601" in bad[0]['message']
