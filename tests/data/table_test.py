# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables become the tasks that a plain loop makes of them."""

import collections
import dataclasses
import decimal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from antjax.data import event_table, output_folder, schema_file, table_raw
from antjax.data.view_tasks import TaskConfig
from tests.data import table_fixture, views
from tests.data.views import read

CONFIG = TaskConfig(
  cold_share=0.3,
  query_size=4,
  min_rows=8,
  max_support=9,
  test_share=0.2,
  max_rows=11,
  min_count=2,
)


@pytest.fixture(name='rows', scope='module')
def _rows():
  return table_fixture.make_rows()


@pytest.fixture(name='source')
def _source(rows, tmp_path):
  return table_fixture.write(tmp_path / 'clicks.csv', rows)


def make(out, source, schema=table_fixture.SCHEMA, config=CONFIG, **options):
  return views.write_tasks(out, source, schema, config, **options)


def vocabulary(out, feature):
  table = pq.read_table(out / 'tasks' / f'ids_{feature}.parquet')
  return dict(zip(table[feature].to_pylist(), table['id'].to_pylist()))


def num_test(num_rows):
  return max(int(num_rows * 0.2), 4) if num_rows >= 8 else 0


def test_tasks_are_those_of_a_plain_loop(rows, source, tmp_path):
  out = tmp_path / 'out'
  description = make(out, source)
  tasks = list(table_fixture.by_task(rows).values())
  loaded = {split: read(out, split) for split in ('train', 'warm', 'task_cold')}
  warm = {int(r['task']) for r in loaded['train']}
  cold = {*range(len(tasks))} - warm
  assert len(cold) == round(0.3 * len(tasks)) > 0
  assert description['counts'] == {
    'rows': 900,
    'rejected_lines': 0,
    'rows_without_user_or_item': 0,
    'events_of_unknown_items': 0,
    'rows_beyond_float32': 0,
    'tasks': len(tasks),
    'cold_tasks': len(cold),
  }
  users = list(table_fixture.by_task(rows))
  in_train = [
    (users[t], *row)
    for t in warm
    for row in tasks[t][: len(tasks[t]) - num_test(len(tasks[t]))]
  ]
  ids = {}
  for column, feature in enumerate(('user', 'item')):
    counts = collections.Counter(row[column] for row in in_train)
    frequent = sorted(value for value, count in counts.items() if count >= 2)
    ids[feature] = {value: i for i, value in enumerate(frequent, 1)}
    assert vocabulary(out, feature) == ids[feature]
    assert description['features'][feature] == {
      'num_ids': len(frequent) + 1,
      'max_values': 1,
    }
  assert len(ids['item']) < len({row[1] for row in rows})  # Some are unknown.

  def check(record, part):
    task = int(record['task'])
    user = ids['user'].get(users[task], 0)
    assert record['user'].tolist() == [user] * len(part)
    assert record['item'].tolist() == [ids['item'].get(p[0], 0) for p in part]
    np.testing.assert_allclose(record['price'], [p[1] for p in part], rtol=1e-6)
    assert record['timestamp'].tolist() == [p[2] for p in part]
    assert record['click'].tolist() == [p[3] for p in part]

  for split, chosen in (('train', warm), ('warm', warm), ('task_cold', cold)):
    expected = []
    for task in sorted(chosen):
      part = tasks[task]
      last = len(part) - num_test(len(part))
      if split == 'train':
        expected += [
          (task, part[a : min(a + 11, last)], 0) for a in range(0, last, 11)
        ]
      else:
        expected += [
          (task, part[max(a - 9, 0) : a + 4], len(part[a : a + 4]))
          for a in range(last, len(part), 4)
        ]
    assert len(loaded[split]) == len(expected) > 0
    assert description['splits'][split]['records'] == len(expected)
    for record, (task, part, num_query) in zip(loaded[split], expected):
      assert (record['task'], record['num_query']) == (task, num_query)
      check(record, part)


def test_a_folder_says_what_is_in_it(source, tmp_path):
  description = make(tmp_path / 'out', source)
  out = tmp_path / 'out' / 'tasks'
  assert description == output_folder.load_description(out)
  expected = {
    'kind': 'click',
    'label': 'click',
    'numeric': ['price'],
    'task_feature': 'user',
    'scenarios': ['warm', 'task_cold'],
    'format': 'arrow',
  }
  assert {name: description[name] for name in expected} == expected
  block = output_folder.open_split(out, 'train', as_blocks=True).read(0, 5)
  assert set(block.rows) == {'timestamp', 'click', 'user', 'item', 'price'}
  source = event_table.source(source, table_fixture.SCHEMA)
  again = views.write(tmp_path / 'out', source, 'tasks', CONFIG)
  assert again == (description, False)


def test_formats_files_and_parquet_give_the_same(rows, source, tmp_path):
  halves = tmp_path / 'halves'
  halves.mkdir()
  table_fixture.write(halves / 'a.csv', rows[:400])
  table_fixture.write(halves / 'b.csv', rows[400:])
  options = pa.csv.ConvertOptions(
    strings_can_be_null=False, column_types={'click': pa.int64()}
  )
  pq.write_table(
    pa.csv.read_csv(source, convert_options=options), tmp_path / 'c.parquet'
  )
  made = {
    'one': make(tmp_path / 'one', source),
    'halves': make(tmp_path / 'halves_out', halves),
    'parquet': make(tmp_path / 'parquet', tmp_path / 'c.parquet'),
    'records': make(tmp_path / 'records', source, file_format='array_record'),
  }
  counts = [d['counts'] for d in made.values()]
  assert counts == counts[:1] * 4
  for split in ('train', 'warm', 'task_cold'):
    expected = read(tmp_path / 'one', split)
    for out in ('halves_out', 'parquet', 'records'):
      for a, b in zip(expected, read(tmp_path / out, split), strict=True):
        for name in a:
          np.testing.assert_array_equal(a[name], b[name], f'{out} {name}')


def test_order_random_is_seeded(source, tmp_path):
  config = dataclasses.replace(CONFIG, order='random')
  make(tmp_path / 'a', source, config=config)
  make(tmp_path / 'b', source, config=config)
  other = dataclasses.replace(config, seed=1)
  make(tmp_path / 'c', source, config=other)
  files = [(tmp_path / n / 'tasks' / 'train.arrow').read_bytes() for n in 'abc']
  assert files[0] == files[1] != files[2]
  times = [r['timestamp'] for r in read(tmp_path / 'a', 'train')]
  assert any((np.diff(t) < 0).any() for t in times)


def test_rows_that_do_not_parse_are_set_aside_and_named(rows, tmp_path):
  source = table_fixture.write(tmp_path / 'clicks.csv', rows)
  bad = ['u1,i1,1.5', 'u1,i1,cheap,3,1', 'u1,i1,,x3,1', 'u1,i1,,3,1,9']
  lines = source.read_text().splitlines()
  for at, line in zip((5, 50, 500, 700), bad):
    lines.insert(at, line)
  source.write_text('\n'.join(lines) + '\n')
  with pytest.raises(ValueError, match='4 of 904 lines of .* are malformed'):
    make(tmp_path / 'strict', source)
  out = tmp_path / 'out'
  description = make(out, source, max_rejected_share=0.01)
  assert description['counts']['rejected_lines'] == 4
  assert description['counts']['rows'] == 904
  found = views.rejected(out)
  assert [int(r['line']) for r in found] == [6, 51, 501, 701]
  assert [r['text'] for r in found] == bad
  assert [r['column'] for r in found[1:3]] == ['price', 'when']
  make(tmp_path / 'clean', table_fixture.write(tmp_path / 'good.csv', rows))
  for split in ('train', 'warm'):
    for a, b in zip(read(out, split), read(tmp_path / 'clean', split)):
      np.testing.assert_array_equal(a['item'], b['item'])


def test_empty_values_of_parquet_are_set_aside_and_named(tmp_path):
  table = pa.table(
    {
      'user': ['a'] * 30 + [None] + ['b'] * 30,
      'item': [f'i{i % 7}' for i in range(61)],
      'price': [None if i % 5 else 1.0 for i in range(61)],
      'when': [str(i) if i != 40 else 'noon' for i in range(61)],
      'click': [i % 2 for i in range(61)],
    }
  )
  pq.write_table(table, tmp_path / 'c.parquet')
  with pytest.raises(ValueError, match='2 of 61 rows of .* are malformed'):
    make(tmp_path / 'strict', tmp_path / 'c.parquet')
  out = tmp_path / 'out'
  description = make(out, tmp_path / 'c.parquet', max_rejected_share=0.1)
  assert description['counts']['rows'] == 61
  assert description['counts']['rejected_lines'] == 2
  found = [(r['line'], r['column']) for r in views.rejected(out)]
  assert found == [('31', 'user'), ('41', 'when')]


def test_a_column_of_parquet_may_be_called_line(tmp_path):
  columns = {'user': 'string', 'line': 'int64', 'click': 'int32'}
  schema = schema_file.make(columns, label='click', task='user', time='line')
  values = [100 * i for i in range(20)]
  table = pa.table(
    {
      'user': ['a'] * 21,
      'line': pa.array([None, *values]),
      'click': [i % 2 for i in range(21)],
    }
  )
  pq.write_table(table, tmp_path / 'c.parquet')
  out = tmp_path / 'out'
  make(out, tmp_path / 'c.parquet', schema, max_rejected_share=0.5)
  (record,) = read(out, 'train')[:1]
  assert record['timestamp'][:4].tolist() == [0, 100, 200, 300]
  found = [(r['line'], r['column']) for r in views.rejected(out)]
  assert found == [('1', 'line')]


def test_all_files_of_parquet_are_listed_and_nothing_rounded(rows, tmp_path):
  folder = tmp_path / 'parts'
  folder.mkdir()
  names = table_fixture.SCHEMA.columns
  for i in range(2):
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    columns['price'] = [float(x or 0) for x in columns['price']]
    columns['click'] = [float(x) for x in columns['click']]
    columns['click'][7 + i] = 0.7  # A cast would make it 1.
    columns['price'][20] = float('nan')
    pq.write_table(pa.table(columns), folder / f'{i}.parquet')
  out = tmp_path / 'out'
  description = make(out, folder, max_rejected_share=0.5)
  assert description['counts']['rejected_lines'] == 4
  found = [(r['file'], r['line'], r['column']) for r in views.rejected(out)]
  assert [(name[-9:], *rest) for name, *rest in found] == [
    ('0.parquet', '8', 'click'),
    ('0.parquet', '21', 'price'),
    ('1.parquet', '9', 'click'),
    ('1.parquet', '21', 'price'),
  ]


def test_texts_and_decimals_of_parquet_are_not_rounded(tmp_path):
  tenths = decimal.Decimal('0.1')
  table = pa.table(
    {
      'user': ['a'] * 40,
      'item': [i % 7 for i in range(40)],
      'price': ['1e2', ' ', *['2.5'] * 37, '0x1'],
      'when': ['7', '2.5', *map(str, range(37)), '1_0'],
      'click': [(10 if i != 20 else 9) * tenths for i in range(40)],
    }
  )
  pq.write_table(table, tmp_path / 'c.parquet')
  out = tmp_path / 'out'
  description = make(out, tmp_path / 'c.parquet', max_rejected_share=0.5)
  assert description['counts']['rejected_lines'] == 3
  found = [(r['line'], r['column']) for r in views.rejected(out)]
  assert found == [('2', 'when'), ('21', 'click'), ('40', 'when')]


@pytest.mark.parametrize('log', [[], ['price']])
def test_numbers_too_large_for_a_record_are_refused(tmp_path, log):
  columns = {'user': 'string', 'price': 'float64', 'click': 'int32'}
  schema = schema_file.make(columns, label='click', task='user', log=log)
  lines = [f'u,{i}e297,{i % 2}' for i in range(20)]
  path = tmp_path / 'c.csv'
  path.write_text('\n'.join(['user,price,click', *lines]) + '\n')
  if not log:
    with pytest.raises(ValueError, match='19 of 20 rows .*list it under log'):
      make(tmp_path / 'out', path, schema)
    return
  make(tmp_path / 'out', path, schema)
  price = read(tmp_path / 'out', 'train')[0]['price'][:4]
  expected = [0, *(297 * np.log(10) + np.log([1, 2, 3]))]
  np.testing.assert_allclose(price, expected, rtol=1e-6)


def test_times_with_fractions_are_cut(tmp_path):
  columns = {'user': 'string', 'item': 'string', 'when': 'float64'}
  schema = schema_file.make(
    {**columns, 'click': 'int32'}, label='click', task='user', time='when'
  )
  lines = [f'u,{i},{i - 10.5},{i % 2}' for i in range(20)]
  path = tmp_path / 'c.csv'
  path.write_text('\n'.join(['user,item,when,click', *lines]) + '\n')
  make(tmp_path / 'out', path, schema)
  (record,) = read(tmp_path / 'out', 'train')[:1]
  assert record['timestamp'][:4].tolist() == [-11, -10, -9, -8]


def test_numbers_that_are_none_are_set_aside(tmp_path):
  schema = schema_file.make(
    {'user': 'string', 'price': 'float32', 'stars': 'float32'},
    rating='stars',
    task='user',
    name='ratings',
  )
  path = tmp_path / 'r.csv'
  good = ['u,1,4', 'u,-.5,3.0', 'u,1e3,5']
  bad = ['u,nan,3', 'u,1,nan', 'u,inf,3', 'u,1e99,3', 'u,,3', 'u,0x1,3']
  path.write_text('\n'.join(['user,price,stars', *good, *bad, '']))
  description = make(tmp_path / 'out', path, schema, max_rejected_share=0.9)
  assert description['counts']['rows'] == 9
  assert description['counts']['rejected_lines'] == 6
  found = [(r['line'], r['column']) for r in views.rejected(tmp_path / 'out')]
  columns = ['price', 'stars', 'price', 'price', 'price', 'price']
  assert found == [(str(i), c) for i, c in enumerate(columns, 5)]
  for i, label in enumerate(['9.0', '3.5']):
    path.write_text(f'user,price,stars\nu,1,4\nu,1,{label}\n')
    message = f"rating 'stars' is {label}; tasks need 1 to 5, and whole"
    with pytest.raises(ValueError, match=message):
      make(tmp_path / f'other{i}', path, schema)


@pytest.mark.parametrize('name', ['c[1].parquet', 'c[1].csv'])
def test_names_of_files_and_folders_are_no_patterns(rows, name, tmp_path):
  folder = tmp_path / 'out[1]*'
  folder.mkdir()
  source = table_fixture.write(folder / 'c[1].csv', rows)
  neighbour = folder / name.replace('[1]', '1')
  if name.endswith('.csv'):
    neighbour.write_text('other\n')
  else:
    table = pyarrow.csv.read_csv(source)
    pq.write_table(table, folder / name)
    pq.write_table(table.slice(0, 10), neighbour)
  options = {'max_rejected_share': 1.0}
  assert make(folder / 'o[2]', folder / name, **options)['counts']['rows'] > 10


@pytest.mark.parametrize(
  ('names', 'message'),
  [
    (['a.csv', 'b.csv.gz', 'c.CSV.BZ2'], 'files b.csv.gz, c.CSV.BZ2, which'),
    (['a.parquet.zst'], 'files a.parquet.zst, which are not read; unpack'),
    (['a.CSV', 'b.Parquet'], 'both text and Parquet'),
  ],
)
def test_no_file_is_left_out_silently(tmp_path, names, message):
  for name in names:
    (tmp_path / name).touch()
  with pytest.raises(ValueError, match=message):
    table_raw.find_files(tmp_path)


def test_suffixes_in_capitals_and_packed_files_that_are_there(tmp_path):
  for name in ('a.CSV', 'b.csv', 'b.csv.gz', 'notes.gz'):
    (tmp_path / name).touch()
  found = [p.name for p in table_raw.find_files(tmp_path)]
  assert found == ['a.CSV', 'b.csv']
  assert table_raw.find_files(tmp_path / 'a.CSV') == [tmp_path / 'a.CSV']


@pytest.mark.parametrize('name', ['c.parquet', 'c.csv'])
def test_numbers_beyond_an_int64_are_set_aside(name, tmp_path):
  columns = {'user': 'string', 'item': 'int64', 'when': 'float64'}
  schema = schema_file.make(
    {**columns, 'click': 'int32'}, label='click', task='user', time='when'
  )
  wild = {3: (1e300, 3.0), 5: (2.0**63, 5.0), 7: (7.0, 1e30), 8: (-1e30, 8.0)}
  rows = [wild.get(i, (i, i + 0.5)) for i in range(40)]
  table = pa.table(
    {
      'user': ['u'] * 40,
      'item': pa.array([item for item, _ in rows], 'float64'),
      'when': pa.array([when for _, when in rows], 'float64'),
      'click': [i % 2 for i in range(40)],
    }
  )
  if name == 'c.parquet':
    pq.write_table(table, tmp_path / name)
  else:
    lines = [
      f'u,{item:.0f},{when},{i % 2}' for i, (item, when) in enumerate(rows)
    ]
    (tmp_path / name).write_text(
      '\n'.join(['user,item,when,click', *lines, ''])
    )
  out = tmp_path / 'out'
  description = make(out, tmp_path / name, schema, max_rejected_share=0.5)
  assert description['counts']['rows'] == 40
  found = [(r['line'], r['column'], r['reason']) for r in views.rejected(out)]
  first = 1 + (name == 'c.csv')
  assert found == [
    (str(i + first), 'when' if i == 7 else 'item', 'cast') for i in wild
  ]


def test_names_of_columns_do_not_matter(rows, source, tmp_path):
  """Not where they are those of steps between, or of no file's name."""
  names = {'item': 'a b', 'user': '0', 'price': 'rank', 'when': 'key'}
  text = source.read_text()
  heading, rest = text.split('\n', 1)
  new = ','.join(names.get(name, name) for name in heading.split(','))
  other = tmp_path / 'other.csv'
  other.write_text(f'{new}\n{rest}')
  schema = schema_file.make(
    {
      '0': 'string',
      'a b': 'string',
      'rank': {'type': 'float32', 'empty': 0},
      'key': 'int64',
      'click': 'int32',
    },
    label='click',
    task='0',
    time='key',
    ids=['a b', '0'],
    log=['rank'],
    name='clicks',
  )
  make(tmp_path / 'one', source)
  description = make(tmp_path / 'out', other, schema)
  for split in ('train', 'warm', 'task_cold'):
    pairs = zip(
      read(tmp_path / 'one', split),
      read(tmp_path / 'out', split),
      strict=True,
    )
    for a, b in pairs:
      for name in a:
        np.testing.assert_array_equal(a[name], b[names.get(name, name)], name)
  for old, new in names.items():
    if old in ('item', 'user'):
      file = description['files'][f'ids_{new}']['path']
      values = pq.read_table(tmp_path / 'out' / 'tasks' / file)[new].to_pylist()
      assert values == list(vocabulary(tmp_path / 'one', old))


def test_what_does_not_fit_the_schema_is_refused(rows, source, tmp_path):
  wrong = table_fixture.write(
    tmp_path / 'w.csv', [*rows, ('u1', 'i', '', 3, 2)]
  )
  with pytest.raises(ValueError, match="label 'click' is 2; needed is 0 or 1"):
    make(tmp_path / 'out', wrong)
  source.write_text('user,item,cost,when,click\n')
  with pytest.raises(ValueError, match='columns user, item, cost.*; needed: u'):
    make(tmp_path / 'out', source)
  source.write_text('user,item,price,when,click\n')
  with pytest.raises(ValueError, match='hold no row at all'):
    make(tmp_path / 'out', source)
  pq.write_table(pa.table({'user': ['a']}), tmp_path / 'c.parquet')
  with pytest.raises(ValueError, match='has no column when, click, item, pr'):
    make(tmp_path / 'out', tmp_path / 'c.parquet')
  with pytest.raises(ValueError, match='holds both text and Parquet'):
    make(tmp_path / 'out', tmp_path)
  (tmp_path / 'd.parquet').write_bytes(b'PAR1 and then nothing')
  with pytest.raises(ValueError, match='d.parquet is no Parquet file'):
    make(tmp_path / 'out', tmp_path / 'd.parquet')
  (tmp_path / 'd.parquet').unlink()
  with pytest.raises(FileNotFoundError, match='none does not exist'):
    make(tmp_path / 'out', tmp_path / 'none')
  assert not (tmp_path / 'out').exists()
  assert not list(tmp_path.glob('.*'))


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'cold_share': 1.0}, 'needed 0 <= cold_share, test_share < 1'),
    ({'min_rows': 4}, 'needed 0 < query_size < min_rows'),
    ({'max_rows': 0}, 'max_rows, min_count and max_values must be positive'),
  ],
)
def test_a_wrong_config_is_refused(changes, message):
  options = {'query_size': 4, 'min_rows': 8, **changes}
  with pytest.raises(ValueError, match=message):
    TaskConfig(**options)
