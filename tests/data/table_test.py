# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Tables become the tasks that a plain loop makes of them."""

import collections
import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from antjax.data import event_table, output_folder, schema_file
from antjax.data.task_spans import TaskConfig
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


@pytest.fixture(name='prepared', scope='module')
def _prepared(rows, tmp_path_factory):
  """(folder, description) of the rows as they are."""
  folder = tmp_path_factory.mktemp('prepared')
  source = table_fixture.write(folder / 'clicks.csv', rows)
  return folder / 'out', make(folder / 'out', source)


def vocabulary(out, feature):
  table = pq.read_table(out / 'tasks' / f'ids_{feature}.parquet')
  return dict(zip(table[feature].to_pylist(), table['id'].to_pylist()))


def num_test(num_rows):
  return max(int(num_rows * 0.2), 4) if num_rows >= 8 else 0


def test_tasks_are_those_of_a_plain_loop(rows, prepared):
  out, description = prepared
  tasks = list(table_fixture.by_task(rows).values())
  loaded = {split: read(out, split) for split in ('train', 'warm', 'task_cold')}
  warm = {int(r['task']) for r in loaded['train']}
  cold = {*range(len(tasks))} - warm
  assert len(cold) == round(0.3 * len(tasks)) > 0
  assert description['counts'] == {
    'rows': 900,
    'rejected_lines': 0,
    'events_of_unknown_items': 0,
    'tasks': len(tasks),
    'cold_tasks': len(cold),
  }
  users = list(table_fixture.by_task(rows))
  values = pq.read_table(out / 'tasks' / 'task_values.parquet')
  assert values['task'].to_pylist() == [*range(len(users))]
  assert values[table_fixture.SCHEMA.task_column].to_pylist() == users
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


def test_a_folder_says_what_is_in_it(source, prepared):
  out, description = prepared[0] / 'tasks', prepared[1]
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
  again = views.write(prepared[0], source, 'tasks', CONFIG)
  assert again == (description, False)


def test_formats_files_and_parquet_give_the_same(
  rows, source, prepared, tmp_path
):
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
    'one': prepared[1],
    'halves': make(tmp_path / 'halves_out', halves),
    'parquet': make(tmp_path / 'parquet', tmp_path / 'c.parquet'),
    'records': make(tmp_path / 'records', source, file_format='array_record'),
  }
  counts = [d['counts'] for d in made.values()]
  assert counts == counts[:1] * 4
  for split in ('train', 'warm', 'task_cold'):
    expected = read(prepared[0], split)
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


def test_rows_that_do_not_parse_are_set_aside_and_named(
  rows, prepared, tmp_path
):
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
  for split in ('train', 'warm'):
    for a, b in zip(read(out, split), read(prepared[0], split)):
      np.testing.assert_array_equal(a['item'], b['item'])


@pytest.mark.parametrize('log', [[], ['price']])
def test_numbers_too_large_for_a_record_are_refused(tmp_path, log):
  columns = {'user': 'string', 'price': 'float64', 'click': 'int32'}
  schema = schema_file.make(columns, label='click', task='user', log=log)
  lines = [f'u,{i}e297,{i % 2}' for i in range(20)]
  path = tmp_path / 'c.csv'
  path.write_text('\n'.join(['user,price,click', *lines]) + '\n')
  if not log:
    with pytest.raises(ValueError, match='19 of 20 .*float64 below 3.4e.38'):
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


def test_ratings_off_the_levels_are_refused(tmp_path):
  columns = {'user': 'string', 'price': 'float32', 'stars': 'float32'}
  schema = schema_file.make(columns, rating='stars', task='user')
  path = tmp_path / 'r.csv'
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


def test_names_of_columns_do_not_matter(source, prepared, tmp_path):
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
  description = make(tmp_path / 'out', other, schema)
  for split in ('train', 'warm', 'task_cold'):
    found = read(tmp_path / 'out', split)
    for a, b in zip(read(prepared[0], split), found, strict=True):
      for name in a:
        np.testing.assert_array_equal(a[name], b[names.get(name, name)], name)
  for old, new in names.items():
    if old in ('item', 'user'):
      file = description['files'][f'ids_{new}']['path']
      values = pq.read_table(tmp_path / 'out' / 'tasks' / file)[new].to_pylist()
      assert values == list(vocabulary(prepared[0], old))


def test_nothing_is_left_of_what_does_not_fit_the_schema(rows, tmp_path):
  wrong = table_fixture.write(
    tmp_path / 'w.csv', [*rows, ('u1', 'i', '', 3, 2)]
  )
  with pytest.raises(ValueError, match="label 'click' is 2; needed is 0 or 1"):
    make(tmp_path / 'out', wrong)
  with pytest.raises(FileNotFoundError, match='none does not exist'):
    make(tmp_path / 'out', tmp_path / 'none')
  assert not (tmp_path / 'out').exists()
  assert not list(tmp_path.glob('.*'))


@pytest.mark.parametrize(
  'changes, message',
  [
    (
      {'cold_share': 1.0},
      'needed 0 <= cold_share, cold_item_share, test_share',
    ),
    ({'min_rows': 4}, 'needed 0 < query_size < min_rows'),
    ({'max_rows': 0}, 'max_rows, min_count and max_values must be positive'),
  ],
)
def test_a_wrong_config_is_refused(changes, message):
  options = {'query_size': 4, 'min_rows': 8, **changes}
  with pytest.raises(ValueError, match=message):
    TaskConfig(**options)
