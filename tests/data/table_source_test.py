# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Text and Parquet files of a table give the same rows and the same faults."""

import csv
import dataclasses
import decimal
import gzip
import lzma
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from antjax.data import rejects, table_source

COLUMNS = {
  'user': 'string',
  'tags': 'string',
  'price': 'float32',
  'when': 'float64',
  'count': 'int64',
  'click': 'int32',
}


def columns(kinds=COLUMNS, used=None, **options):
  defaults = {
    'label': 'click',
    'limits': {'when': 2.0**63},
    'needed': [],
    'empty': {'price': 0} if 'price' in kinds else {},
    'separator': {'tags': '|'} if 'tags' in kinds else {},
    'delimiter': ',',
    'header': True,
    'quote': '"',
    'encoding': 'utf-8',
    'nulls': (),
    'lists': {},
  }
  return types.SimpleNamespace(
    split_column='',
    labels=(),
    columns=kinds,
    used=used or [*kinds],
    **(defaults | options),
  )


@dataclasses.dataclass
class Found:
  table: pa.Table
  counts: table_source.RowCounts
  bad: list[tuple[str, int, str]]  # File, line, column.

  @property
  def rows(self):
    return [tuple(row.values()) for row in self.table.to_pylist()]


@pytest.fixture(name='read')
def _read(tmp_path):
  def read(source, schema=None, share=0.9):
    folder = tmp_path / f'parts-{len(list(tmp_path.iterdir()))}'
    folder.mkdir()
    bad = rejects.Rejects(folder / 'rejected.csv', share)
    counts = table_source.read(
      table_source.find_files(source), schema or columns(), folder, bad
    )
    parts = [pq.read_table(path) for path in folder.glob('*.parquet')]
    table = pa.concat_tables(parts).sort_by(table_source.ROW)
    listed = []
    if bad.path.exists():
      with open(bad.path, newline='', encoding='utf-8') as file:
        listed = [
          (row['file'].rsplit('/', 1)[-1], int(row['line']), row['column'])
          for row in csv.DictReader(file)
        ]
    return Found(table, counts, listed)

  return read


def test_text_and_parquet_give_the_same(read, tmp_path):
  lines = ['a,x|y,1.5,0.5,3,1', 'b,,,-2,-4,0', '"c,d",z,1e2,7,5,1']
  (tmp_path / 'a.csv').write_text('\n'.join([','.join(COLUMNS), *lines]))
  text = read(tmp_path / 'a.csv')
  assert text.rows == [
    ('a', ['x', 'y'], 1.5, 0.5, 3, 1, 0),
    ('b', [], 0.0, -2.0, -4, 0, 1),
    ('c,d', ['z'], 100.0, 7.0, 5, 1, 2),
  ]
  ways = {
    'typed': {
      'user': ['a', 'b', 'c,d'],
      'tags': [['x', 'y'], [], ['z']],
      'price': [1.5, None, 100],
      'when': [0.5, -2, 7],
      'count': [3, -4, 5],
      'click': [True, False, True],
    },
    'texts': {
      'user': pa.array(['a', 'b', 'c,d']).dictionary_encode(),
      'tags': pa.array(['x|y', '', 'z'], pa.large_string()),
      'price': ['1.5', ' ', '1e2'],
      'when': ['.5', '-2', ' 7'],
      'count': ['3', '-4', '+5'],
      'click': ['1', '0', '1'],
    },
    'wide': {
      'user': ['a', 'b', 'c,d'],
      'tags': ['x|y', '', 'z'],
      'price': pa.array([1.5, None, 100], pa.float64()),
      'when': pa.array([0.5, -2, 7], pa.float32()),
      'count': pa.array([3, -4, 5], pa.float64()),
      'click': [decimal.Decimal(n) for n in ('1.0', '0.0', '1.0')],
    },
  }
  for name, arrays in ways.items():
    pq.write_table(pa.table(arrays), tmp_path / f'{name}.parquet')
    found = read(tmp_path / f'{name}.parquet')
    assert found.table.equals(text.table), name
    assert found.counts.rows == 3 and not found.bad
  ints = pa.table({'user': [7], 'tags': [[1, 2]], 'click': [1]})
  pq.write_table(ints, tmp_path / 'ints.parquet')
  kinds = {'user': 'string', 'tags': 'string', 'click': 'int32'}
  assert read(tmp_path / 'ints.parquet', columns(kinds)).rows == [
    ('7', ['1', '2'], 1, 0)
  ]


BAD = {  # Column -> values that are none of its type.
  'user': [None],
  'tags': [None, ['a', None]],
  'price': [float('nan'), float('inf'), 1e39, '1_0', '0x1', 'x'],
  'when': [None, 1e300, 2.0**63, '', 'noon', ' '],
  'count': [None, 0.7, 2.0**63, '2.5', '0x1', 2**63, decimal.Decimal('0.5')],
  'click': [None, 2**31, 0.5, '1.0'],
}


@pytest.mark.parametrize(
  'column, value', [(c, v) for c, values in BAD.items() for v in values]
)
def test_what_is_no_value_is_set_aside_and_nothing_rounded(
  read, tmp_path, column, value
):
  good = {
    'user': 'a',
    'tags': ['t'],
    'price': 1,
    'when': 1,
    'count': 1,
    'click': 1,
  }
  values = {name: [one] * 4 for name, one in good.items()}
  if isinstance(value, str):
    values[column] = [str(good[column])] * 4
  elif isinstance(value, (float, decimal.Decimal)):
    values[column] = [type(value)(good[column])] * 4
  values[column][2] = value
  kinds = {}
  if isinstance(value, int) and value == 2**63:
    kinds[column] = pa.uint64()
  pq.write_table(
    pa.table({n: pa.array(v, kinds.get(n)) for n, v in values.items()}),
    tmp_path / 'a.parquet',
  )
  found = read(tmp_path / 'a.parquet')
  assert found.bad == [('a.parquet', 3, column)]
  assert found.table[table_source.ROW].to_pylist() == [0, 1, 3]
  with pytest.raises(
    ValueError, match='1 of 4 rows of .*the first is row 3, column '
  ):
    read(tmp_path / 'a.parquet', share=0.1)


def test_all_files_are_read_in_their_order_and_listed(read, tmp_path):
  kinds = {'user': 'string', 'line': 'int64', 'click': 'int32'}
  folder = tmp_path / 'in[1]*'
  folder.mkdir()
  for i in range(2):
    table = {
      'user': [f'{i}-{n}' for n in range(5)],
      'line': pa.array([None if n == i else n for n in range(5)]),
      'other': [[]] * 5,  # Not looked at.
      'click': [0] * 5,
    }
    pq.write_table(pa.table(table), folder / f'{i}.parquet', row_group_size=2)
  found = read(folder, columns(kinds, used=['user', 'click', 'line']))
  assert found.bad == [('0.parquet', 1, 'line'), ('1.parquet', 2, 'line')]
  expected = [f'{i}-{n}' for i in range(2) for n in range(5) if n != i]
  assert found.table['user'].to_pylist() == expected
  assert found.table.column_names == ['user', 'click', 'line', '__row']
  assert found.table['__row'].to_pylist() == [1, 2, 3, 4, 5, 7, 8, 9]
  assert (found.counts.rows, found.counts.good) == (10, 8)


def test_floats_as_texts_are_written_alike(read, tmp_path):
  table = {'user': [1.0, 2.5, 1e22], 'click': [0, 0, 0]}
  pq.write_table(pa.table(table), tmp_path / 'a.parquet')
  kinds = {'user': 'string', 'click': 'int32'}
  found = read(tmp_path / 'a.parquet', columns(kinds))
  assert found.table['user'].to_pylist() == ['1.0', '2.5', '1e+22']


def test_whole_floats_beside_empty_ones_and_other_kinds_of_columns(
  read, tmp_path
):
  # As pandas writes integers of which some are missing.
  table = {
    'user': pa.array([b'a', b'b', b'\xff'], pa.binary()),
    'tags': pa.array([[1, 2]] * 3, pa.list_(pa.int64(), 2)),
    'count': [1.6e15, None, 2.0],
    'click': [0, 0, 0],
  }
  pq.write_table(pa.table(table), tmp_path / 'a.parquet')
  kinds = {n: k for n, k in COLUMNS.items() if n in table}
  found = read(tmp_path / 'a.parquet', columns(kinds))
  assert found.rows == [('a', ['1', '2'], 1_600_000_000_000_000, 0, 0)]
  assert [bad[1:] for bad in found.bad] == [(2, 'count'), (3, 'user')]


@pytest.mark.parametrize(
  'arrays, message',
  [
    ({'tags': [[0.5]]}, "'tags' holds lists of double; needed are lists of"),
    ({'when': [[1]]}, "'when' holds lists; needed is a value in each row, or"),
    (
      {'when': pa.array([0], pa.timestamp('s'))},
      'convert "1970.*; the type time reads it',
    ),
    ({'price': [{'a': 1}]}, "'price' is struct<a: int64>; needed: float32"),
    ({'click': [2]}, "label 'click' is 2; needed is 0 or 1"),
  ],
)
def test_columns_of_other_types_are_refused(read, tmp_path, arrays, message):
  table = {
    'user': ['u'],
    'tags': [['a']],
    'price': [1.0],
    'when': [1],
    'count': [1],
    'click': [1],
  }
  pq.write_table(pa.table(table | arrays), tmp_path / 'a.parquet')
  with pytest.raises(ValueError, match=f'a.parquet.*{message}'):
    read(tmp_path / 'a.parquet')


def test_what_does_not_fit_the_schema_is_refused(read, tmp_path):
  path = tmp_path / 'a.csv'
  kinds = {'user': 'string', 'click': 'int32'}
  schema = columns(kinds)
  path.write_text('user,click\nu,1\nu,2\n')
  with pytest.raises(
    ValueError, match="label 'click' is 2; needed is 0 or 1. It is in row 2 of"
  ):
    read(path, schema)
  for text in ('user,click\n', 'user,click\nu,x\n'):
    path.write_text(text)
    with pytest.raises(ValueError, match='holds? no row that can'):
      read(path, schema, share=1)
  path.write_text('user,clicks\nu,1\n')
  with pytest.raises(
    ValueError,
    match='columns user, clicks; needed: user, click. It lacks click. Not'
    ' needed: clicks',
  ):
    read(path, schema)
  path.write_text('click,user\n1,u\n')
  with pytest.raises(ValueError, match='needed: user, click. The order is'):
    read(path, schema)
  path.write_text('user,click\nNaN,1\nu,1\n')
  with pytest.raises(
    ValueError, match="is line 2, column 'user': 'NaN' stands for no value; wri"
  ):
    read(path, columns(kinds, needed=['user']), share=0)
  pq.write_table(pa.table({'user': ['a']}), tmp_path / 'b.parquet')
  with pytest.raises(ValueError, match='has no column click; it has user'):
    read(tmp_path / 'b.parquet', schema)
  (tmp_path / 'c.parquet').write_bytes(b'PAR1 and then nothing')
  with pytest.raises(ValueError, match='c.parquet is no Parquet file'):
    read(tmp_path / 'c.parquet', schema)


def test_parquet_is_read_without_holding_all_of_it(tmp_path):
  total, folder = 800_000, tmp_path / 'parts'
  folder.mkdir()
  names = [f'x{i}' for i in range(8)]
  table = pa.table({name: np.arange(total) for name in names})
  file = tmp_path / 'a.parquet'
  pq.write_table(table, file, row_group_size=50_000, compression='none')
  schema = columns(dict.fromkeys(names, 'int64'), label='')
  before, held = pa.total_allocated_bytes(), []

  class Watching(rejects.Rejects):
    def add(self, *args):
      held.append(pa.total_allocated_bytes() - before)
      super().add(*args)

  bad = Watching(folder / 'rejected.csv', 0)
  counts = table_source.read({file: ''}, schema, folder, bad, threads=1)
  assert counts.good == total
  assert len(held) > 10 and max(held) < table.nbytes / 2


def test_large_files_go_through_threads(read, tmp_path):
  num = 200_000
  values = {'user': np.arange(num) % 7, 'click': np.arange(num) % 2}
  pq.write_table(pa.table(values), tmp_path / 'a.parquet')
  kinds = {'user': 'int32', 'click': 'int32'}
  found = read(tmp_path / 'a.parquet', columns(kinds))
  for name, expected in values.items():
    np.testing.assert_array_equal(found.table[name].to_numpy(), expected)


@pytest.mark.parametrize(
  'names, message',
  [
    (['a.csv', 'b.csv.lz4', 'c.CSV.ZIP'], 'files b.csv.lz4, c.CSV.ZIP, which'),
    (
      ['a.parquet.zst'],
      'files a.parquet.zst, which are not read; need',
    ),
    (['a.CSV', 'b.Parquet'], 'both text and Parquet'),
  ],
)
def test_no_file_is_left_out_silently(tmp_path, names, message):
  for name in names:
    (tmp_path / name).touch()
  with pytest.raises(ValueError, match=message):
    table_source.find_files(tmp_path)


def test_files_are_found_or_missed_by_name(tmp_path):
  for name in ('a.CSV', 'b.csv', 'b.csv.gz', 'c.tsv.bz2', 'notes.gz'):
    (tmp_path / name).touch()
  found = [p.name for p in table_source.find_files(tmp_path)]
  assert found == ['a.CSV', 'b.csv', 'c.tsv.bz2']
  assert [*table_source.find_files(tmp_path / 'a.CSV')] == [tmp_path / 'a.CSV']
  with pytest.raises(FileNotFoundError, match='none does not exist'):
    table_source.find_files(tmp_path / 'none')
  with pytest.raises(ValueError, match='must end in .csv, .tsv, .txt or'):
    table_source.find_files(tmp_path / 'notes.gz')
  (tmp_path / 'empty').mkdir()
  with pytest.raises(FileNotFoundError, match='holds no file that ends in'):
    table_source.find_files(tmp_path / 'empty')
  for name in ('antm2c_10m_part1', 'antm2c_10m_part0', '_SUCCESS', '.part'):
    (tmp_path / 'empty' / name).touch()
  parts = [p.name for p in table_source.find_files(tmp_path / 'empty')]
  assert parts == ['antm2c_10m_part0', 'antm2c_10m_part1']
  part = tmp_path / 'empty' / parts[0]
  assert [*table_source.find_files(part)] == [part]


def test_first_lines(tmp_path):
  (tmp_path / 'a.csv').write_bytes(b'\xef\xbb\xbfx,y\r\n1,2\r\n')
  assert table_source.first_line(tmp_path / 'a.csv') == 'x,y'
  (tmp_path / 'a.csv.xz').write_bytes(lzma.compress(b'x,y\n1,2\n'))
  assert table_source.first_line(tmp_path / 'a.csv.xz') == 'x,y'
  pq.write_table(pa.table({'u': [1], 'v': [2]}), tmp_path / 'a.parquet')
  assert table_source.first_line(tmp_path / 'a.parquet') == 'u,v'


def test_columns_that_are_not_used_may_hold_anything(read, tmp_path):
  (tmp_path / 'a.csv').write_text(','.join(COLUMNS) + '\nu,x|y,?,,1.5,\n')
  found = read(tmp_path / 'a.csv', columns(used=['user'], label=''))
  assert found.rows == [('u', 0)] and not found.bad


def test_patterns_and_folders_of_partitions(read, tmp_path):
  kinds = {
    'user': 'string',
    'price': 'float32',
    'day': 'int32',
    'click': 'int32',
  }
  text = 'user,price,click\n{},1.5,1\n'
  for day in (2, 1):
    folder = tmp_path / 'log' / f'day={day}' / 'country=a%20b'
    folder.mkdir(parents=True)
    (folder / 'part-0.csv').write_text(text.format(f'u{day}'))
  found = read(tmp_path / 'log', columns(kinds))
  names = ('user', 'price', 'click', 'day')
  expected = [('u1', 1.5, 1, 1), ('u2', 1.5, 1, 2)]
  assert found.table.select(names).to_pylist() == [
    dict(zip(names, row)) for row in expected
  ]
  pattern = tmp_path / 'log' / 'day=*' / '*' / 'part-*.csv'
  assert read(pattern, columns(kinds)).table.equals(found.table)
  (tmp_path / 'log' / 'day=2').rename(tmp_path / 'log' / 'day=x')
  with pytest.raises(ValueError, match='day=x: Could not convert "x" in "day"'):
    read(tmp_path / 'log', columns(kinds))


def test_nulls_and_a_column_without_a_name(read, tmp_path):
  kinds = {'Unnamed: 0': 'int64', 'user': 'string', 'price': 'float32'}
  kinds |= {'when': 'int64', 'click': 'int32'}
  (tmp_path / 'a.csv').write_text(
    ',user,price,when,click\n0,a,NA,3,1\n1,\\N,2,4,0\n2,b,,NA,1\n3,c,x,4,1\n'
  )
  schema = columns(
    kinds, nulls=('NA', r'\N'), needed=['user'], used=[*kinds][1:]
  )
  found = read(tmp_path / 'a.csv', schema)
  assert found.rows == [('a', 0.0, 3, 1, 0)]
  assert [(line, name) for _, line, name in found.bad] == [
    (3, 'user'),
    (4, 'when'),
    (5, 'price'),
  ]


def test_a_wrong_type_shows_in_the_first_rows(read, tmp_path):
  kinds = {'user': 'int64', 'click': 'int32'}
  lines = ['user,click', *(f'u{i},1' for i in range(1100))]
  with gzip.open(tmp_path / 'a.csv.gz', 'wt') as file:
    file.write('\n'.join(lines) + '\n')
  with pytest.raises(
    ValueError,
    match="column 'user' is at fault in 1100 of the first 1100 lines: Could not"
    ' convert "u0" .* Correct its type in the schema',
  ):
    read(tmp_path / 'a.csv.gz', columns(kinds))
