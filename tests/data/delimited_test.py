# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Strict reading of delimited text."""

import csv

import pytest

from antjax.data import delimited, prepare

COLUMNS = {'user': 'int32', 'item': 'string', 'rating': 'float32'}


@pytest.fixture(name='con')
def _con():
  con = prepare.connect(threads=2)
  yield con
  con.disconnect()


@pytest.fixture(name='read')
def _read(con, tmp_path):
  def read(content, name='r.tsv', **options):
    path = tmp_path / name
    path.write_bytes(content)
    options = {'delimiter': '\t', 'max_rejected_share': 0.5, **options}
    return delimited.read_delimited(
      con, path, COLUMNS, rejected_path=tmp_path / 'rejected.csv', **options
    )

  return read


def rows(table):
  order = list(table.columns)
  return [
    tuple(r.values()) for r in table.order_by(order).to_pyarrow().to_pylist()
  ]


def rejected(tmp_path):
  with open(tmp_path / 'rejected.csv', newline='') as file:
    return list(csv.DictReader(file))


def test_good_lines(con, read, tmp_path):
  table = read(b'1\ta "b\t3\r\n2\t\xc3\xa9::|\t4.5\r\n')
  assert rows(table) == [(1, 'a "b', 3.0), (2, '\xe9::|', 4.5)]
  assert delimited.num_rejected(con) == 0
  assert not (tmp_path / 'rejected.csv').exists()


def test_long_delimiter_and_latin_1(read):
  table = read(b'1::caf\xe9::3\n', delimiter='::', encoding='latin-1')
  assert rows(table) == [(1, 'caf\xe9', 3.0)]


@pytest.mark.parametrize(
  ('line', 'reason', 'message'),
  [
    (b'2\tb', 'missing columns', 'Found: 2'),
    (b'2\tb\t3\t4', 'too many columns', 'Found: 4'),
    (b'2\tb\tx', 'cast', 'Could not convert "x"'),
    (b'\tb\t3', 'cast', 'Could not convert "" in "user"'),
    (b'2\tb\t', 'cast', 'Could not convert ""'),
    (b'2.5\tb\t3', 'cast', 'Could not convert "2.5" in "user" to int32'),
    (b'99999999999\tb\t3', 'cast', '99999999999'),
    (b'2\t\xff\xfe\t3', 'invalid encoding', 'not utf-8'),
  ],
)
def test_malformed_line(con, read, tmp_path, line, reason, message):
  table = read(b'1\ta\t3\n' + line + b'\n3\tc\t1\n')
  assert rows(table) == [(1, 'a', 3.0), (3, 'c', 1.0)]
  assert delimited.num_rejected(con) == 1
  (entry,) = rejected(tmp_path)
  assert entry['file'] == str(tmp_path / 'r.tsv')
  assert entry['line'] == '2'
  assert entry['reason'] == reason
  assert message in entry['message']
  if b'\xff' not in line:
    assert entry['text'].rstrip('\n') == line.decode()


def test_too_many_malformed_lines(read, tmp_path):
  content = b'1\ta\t3\n2\tb\n' + b'4\td\t5\n' * 998
  assert len(rows(read(content, max_rejected_share=0.001))) == 999
  with pytest.raises(ValueError) as error:
    read(content, name='s.tsv', max_rejected_share=0.0009)
  text = str(error.value)
  assert '\n' not in text
  assert f'1 of 1000 lines of {tmp_path / "s.tsv"} are malformed' in text
  assert 'more than max_rejected_share=0.0009' in text
  assert 'the first is line 2: Expected Number of Columns: 3 Found: 2' in text
  assert str(tmp_path / 'rejected.csv') in text
  assert [e['line'] for e in rejected(tmp_path)] == ['2', '2']  # Both files'.


def test_line_with_two_faults_counts_once(con, read, tmp_path):
  read(b'1\ta\t3\nx\tb\ty\n3\tc\t1\n')
  assert delimited.num_rejected(con) == 1
  assert {e['line'] for e in rejected(tmp_path)} == {'2'}


def test_line_numbers_in_a_large_file(read, tmp_path):
  """Threads read pieces of the file; line numbers count from its start."""
  lines = [b'%d\titem %d\t3' % (i, i) for i in range(400_000)]
  bad = [10, 150_000, 250_001, 399_999]
  for i in bad:
    lines[i] = b'broken'
  table = read(b'\n'.join(lines) + b'\n')
  assert table.count().to_pyarrow().as_py() == len(lines) - len(bad)
  assert [int(e['line']) for e in rejected(tmp_path)] == [i + 1 for i in bad]


def test_bad_integers_among_other_faults(con, read, tmp_path):
  """Each line is listed once, whoever found the fault."""
  table = read(
    b'u\ti\tr\r\n1\ta\t3\r\n1.5\tb\t3\r\n\r\n1.5\tb\tx\r\n1.5\tb\r\n'
    b'1e3\tc\t3\r\n2\t"d\t3\r\n-\t\xff\t3\r\n\\N\td\t3\r\n1\td\t\\N\r\n',
    header=['u', 'i', 'r'],
    max_rejected_share=1.0,
  )
  assert rows(table) == [(1, 'a', 3.0), (2, '"d', 3.0)]
  lines = {e['line']: e['column'] for e in rejected(tmp_path)}
  assert lines == {
    '3': 'user',
    '5': 'user',
    '6': 'rating',
    '7': 'user',
    '9': 'item',
    '10': 'user',
    '11': 'rating',
  }
  assert delimited.num_rejected(con) == 7


def test_bad_integer_in_a_quoted_file(read, tmp_path):
  table = read(b'1\t"a\nb"\t3\n1.5\tc\t3\n2\td\t3\n', quote='"')
  assert rows(table) == [(1, 'a\nb', 3.0), (2, 'd', 3.0)]
  assert [e['line'] for e in rejected(tmp_path)] == ['3']


def test_integers_that_fit_exactly(read):
  table = read(b'2147483647\ta\t1\n-2147483648\tb\t1\n+7\tc\t1\n007\td\t1\n')
  assert sorted(r[0] for r in rows(table)) == [-(2**31), 7, 7, 2**31 - 1]


def test_unclosed_quote(read, tmp_path):
  """All that follows would be one field: that is never a few lines lost."""
  content = b'1\ta\t3\n' * 50 + b'2\t"b\t4\n' + b'3\tc\t5\n' * 50
  with pytest.raises(ValueError, match='quote in line 51 is never closed'):
    read(content, quote='"', max_rejected_share=1.0)
  assert len(rejected(tmp_path)) == 1


def test_closed_quotes(read):
  table = read(b'1\t"a\tb ""c"""\t3\n', quote='"')
  assert rows(table) == [(1, 'a\tb "c"', 3.0)]


def test_header(read, tmp_path):
  table = read(b'u\ti\tr\n1\ta\t3\n', header=['u', 'i', 'r'])
  assert rows(table) == [(1, 'a', 3.0)]
  with pytest.raises(ValueError) as error:
    read(b'u\tx\tr\n1\ta\t3\n', header=['u', 'i', 'r'])
  assert str(error.value) == (
    f'read_delimited: {tmp_path / "r.tsv"} has the columns u, x, r; needed:'
    ' u, i, r.'
  )


def test_a_header_may_be_quoted(read):
  table = read(
    b'"u"\t"i"\t"r"\r\n1\t"a"\t3\r\n', quote='"', header=['u', 'i', 'r']
  )
  assert rows(table) == [(1, 'a', 3.0)]


def test_a_byte_order_mark_is_no_text(con, read, tmp_path):
  content = b'\xef\xbb\xbf1\ta\t3\n2\tb\tx\n'
  assert rows(read(content)) == [(1, 'a', 3.0)]
  content = b'\xef\xbb\xbfu\ti\tr\n1\ta\t3\n2\tb\tx\n'
  table = read(content, name='s.tsv', header=['u', 'i', 'r'])
  assert rows(table) == [(1, 'a', 3.0)]
  assert [(e['line'], e['column']) for e in rejected(tmp_path)] == [
    ('2', 'rating'),
    ('3', 'rating'),
  ]


@pytest.mark.parametrize(
  'line',
  [b'2\t"b"c\tx', b'2\tb"c\tx', b'2\t"b\tx', b'x\ta\x00b\t3'],
)
def test_a_line_of_odd_quotes_and_numbers_counts_once(con, read, line):
  """Whoever finds the fault: DuckDB, or the search for bad numbers."""
  content = b'1\ta\t3\n' + line + b'\n3\t"c"\t1\n'
  try:
    table = read(content, quote='"', max_rejected_share=1.0)
  except ValueError as error:
    assert 'never closed' in str(error)
    return
  assert (1, 'a', 3.0) in rows(table)
  assert delimited.num_rejected(con) == 3 - len(rows(table))


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'u\ti\tr\n' + b'1\ta\t3\r\n' * 9 + b'1\ta\t3\n' * 9, 'LF here and CRLF'),
    (b'u\ti\tr\r1\ta\t3\r', 'a line end CR without LF'),
  ],
)
def test_line_ends_of_two_kinds_are_refused(read, content, message):
  with pytest.raises(ValueError, match=message):
    read(content, quote='"', header=['u', 'i', 'r'])


def test_empty_numbers_are_exact(con, tmp_path):
  (tmp_path / 'a.csv').write_text(',\n1,2\n')
  table = delimited.read_delimited(
    con,
    tmp_path / 'a.csv',
    {'a': 'int64', 'b': 'float64'},
    delimiter=',',
    empty={'a': 12345678, 'b': 0.123456789},
    rejected_path=tmp_path / 'rejected.csv',
  )
  found = table.to_pyarrow().to_pylist()
  assert {'a': 12345678, 'b': 0.123456789} in found and len(found) == 2


def test_names_of_files_are_no_patterns(con, read, tmp_path):
  (tmp_path / 'r1.tsv').write_bytes(b'9\tz\t9\n')
  assert rows(read(b'1\ta\t3\n2\tb\n', name='r[1].tsv')) == [(1, 'a', 3.0)]
  assert delimited.num_rejected(con) == 1
  assert [e['file'] for e in rejected(tmp_path)] == [str(tmp_path / 'r[1].tsv')]


def test_malformed_lines_of_a_relative_path_count(con, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'r.tsv').write_bytes(b'1\ta\t3\n2\tb\n')
  with pytest.raises(ValueError, match='1 of 2 lines of .* are malformed'):
    delimited.read_delimited(
      con, 'r.tsv', COLUMNS, delimiter='\t', rejected_path='rejected.csv'
    )


@pytest.mark.parametrize(
  ('line', 'column'),
  [(b'"7\n"\tb\t3', 'user'), (b'7\tb\t3.40282350e38', None)],
)
def test_odd_numbers_are_the_same_to_both_readers(read, tmp_path, line, column):
  found = rows(
    read(b'x\ta\t3\n' + line + b'\n', quote='"', max_rejected_share=1)
  )
  assert len(found) == (column is None)
  assert [e['column'] for e in rejected(tmp_path)][1:] == (
    [column] if column else []
  )


def test_a_long_text_beside_a_bad_number(read, tmp_path):
  long = b'a' * 200_000
  table = read(b'1\t' + long + b'\t3\nx\tb\t3\n', quote='"')
  assert rows(table) == [(1, long.decode(), 3.0)]
  assert [e['line'] for e in rejected(tmp_path)] == ['2']


def test_missing_file(con, tmp_path):
  with pytest.raises(FileNotFoundError, match='no such file: .*none.tsv'):
    delimited.read_delimited(
      con,
      tmp_path / 'none.tsv',
      COLUMNS,
      delimiter='\t',
      rejected_path=tmp_path / 'rejected.csv',
    )


def test_empty_numbers_that_mean_something(con, tmp_path):
  path = tmp_path / 'a.csv'
  good = ['1,,5', ',2.5,', '3,-1e2,.5', '+4,7.,1']
  bad = [
    'x,1,1',
    '1,1e99,1',
    '1,nan,1',
    '1.5,1,1',
    '1,1_0,1',
    '99999999999,1,1',
  ]
  path.write_text('\n'.join([*good, *bad]) + '\n')
  table = delimited.read_delimited(
    con,
    path,
    {'a': 'int32', 'b': 'float32', 'c': 'float64'},
    delimiter=',',
    empty={'a': -1, 'b': 0, 'c': 0.25},
    max_rejected_share=0.9,
    rejected_path=tmp_path / 'rejected.csv',
  )
  found = table.to_pyarrow().to_pylist()
  assert [tuple(row.values()) for row in found] == [
    (1, 0, 5),
    (-1, 2.5, 0.25),
    (3, -100, 0.5),
    (4, 7, 1),
  ]
  assert delimited.num_rejected(con) == len(bad)
