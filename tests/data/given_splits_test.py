# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Splits that the data give: by a column, or by their files."""

import pytest

from antjax.data import event_table, schema_file, table_source
from antjax.data.behavior_examples import ExampleConfig
from antjax.data.view_examples import BehaviorConfig
from tests.data import behavior_fixture, views

_ROWS = """label,c,d,part
1,a,x,train
0,b,x,tr
1,a,y,valid
0,new,z,test
1,b,x,train
0,a,x,test
"""
_COLUMNS = 'columns: {label: int32, c: string, d: string, part: string}\n'
_SCHEMA = _COLUMNS + 'label: label\n'


def prepare(folder, schema, source='log.csv', **options):
  (folder / 'log.yaml').write_text(schema)
  found = event_table.source(
    folder / source, schema_file.load(str(folder / 'log.yaml'))
  )
  config = BehaviorConfig(examples=ExampleConfig(**options))
  return views.write(folder / 'out', found, 'examples', config)[0]


def read(folder):
  found = behavior_fixture.read_back(folder / 'out')
  return {
    split: [(e['label'], *e['ids']) for e in examples]
    for split, examples in found.items()
  }


EXPECTED = {
  'train': [(1, 'a', 'x'), (0, 'b', 'x'), (1, 'b', 'x')],
  'validation': [(1, 'a', '')],
  'test': [(0, '', ''), (0, 'a', 'x')],
}


def test_a_column(tmp_path):
  (tmp_path / 'log.csv').write_text(_ROWS)
  made = prepare(
    tmp_path,
    _SCHEMA + 'split: part\nsplit_values: {train: [train, tr], valid: valid,'
    ' test: test}\n',
  )
  assert read(tmp_path) == EXPECTED
  assert made['unknown_ids'] == {
    'train': {'c': 0, 'd': 0},
    'validation': {'c': 0, 'd': 1},
    'test': {'c': 1, 'd': 1},
  }
  assert [s['unknown'] for s in made['splits'].values()] == [0, 1, 2]
  assert made['config']['examples']['split'] == 'given'


def test_files_of_each_split(tmp_path):
  header, *rows = _ROWS.splitlines()
  parts = {'b/1.csv': 'tr', 'a.csv': 'valid', 'z.csv': 'test'}
  (tmp_path / 'data' / 'b').mkdir(parents=True)
  for name, part in parts.items():
    kept = [row for row in rows if row.split(',')[-1].startswith(part)]
    (tmp_path / 'data' / name).write_text('\n'.join([header, *kept]) + '\n')
  files = 'files: {train: b/*.csv, val: [a.csv], test: z.csv}\nids: [c, d]\n'
  prepare(tmp_path, _SCHEMA + files, 'data')
  assert read(tmp_path) == EXPECTED
  (tmp_path / 'data' / 'z.csv').rename(tmp_path / 'data' / 'y.csv')
  with pytest.raises(
    FileNotFoundError,
    match='data has no z.csv, which the schema names in files: test; it holds'
    ' a.csv, b, y.csv',
  ):
    prepare(tmp_path, _SCHEMA + files, 'data')


def test_numbers_may_be_splits(tmp_path):
  text = _ROWS.replace('part', 'fold').replace('train', '0').replace('tr', '0')
  text = text.replace('valid', '1').replace('test', '2')
  (tmp_path / 'log.csv').write_text(text)
  schema = _SCHEMA.replace('part: string', 'fold: int32')
  prepare(
    tmp_path,
    schema + 'split: fold\nsplit_values: {train: 0, valid: 1, test: [2]}\n',
  )
  assert read(tmp_path) == EXPECTED


def test_an_unknown_split_is_named(tmp_path):
  (tmp_path / 'log.csv').write_text(_ROWS)
  with pytest.raises(
    ValueError,
    match=r'log.csv are malformed \(value 1\).* line 3, column .part.: .tr.;'
    ' needed: train, validation, valid, val, test',
  ):
    prepare(tmp_path, _SCHEMA + 'split: part\n')


def test_histories_hold_events_of_train_where_there_is_no_time(tmp_path):
  rows = ['u,i,label,part', 'a,1,1,test', 'a,2,1,train', 'a,3,1,train']
  rows += ['a,4,1,valid', 'a,5,1,test']
  (tmp_path / 'log.csv').write_text('\n'.join(rows) + '\n')
  schema = (
    'columns: {u: string, i: string, label: int32, part: string}\n'
    'user: u\nitem: i\nlabel: label\nsplit: part\n'
  )
  made = prepare(tmp_path, schema)
  found = behavior_fixture.read_back(tmp_path / 'out')
  histories = {s: [e['histories'][0] for e in x] for s, x in found.items()}
  assert histories == {
    'train': [[], ['2']],
    'validation': [['2', '3']],
    'test': [[], ['2', '3']],
  }
  assert made['splits']['test']['new_item'] == 2


@pytest.mark.parametrize('is_in_time', [False, True])
def test_train_is_told_of_no_event_held_out(tmp_path, is_in_time):
  parts = ['train', 'train', 'valid', 'test']
  parts = parts if is_in_time else ['test', 'train', 'valid', 'train']
  rows = [f'a,{i},1,{part},{i + 1}' for i, part in enumerate(parts)]
  (tmp_path / 'log.csv').write_text('\n'.join(['u,i,label,part,t', *rows]))
  prepare(
    tmp_path,
    'columns: {u: string, i: string, label: int32, part: string, t: int64}\n'
    'user: u\nitem: i\nlabel: label\nsplit: part\ntime: t\n',
  )
  found = behavior_fixture.read_back(tmp_path / 'out')
  histories = {s: [e['histories'][0] for e in x] for s, x in found.items()}
  expected = {'train': [[], ['1']], 'validation': [['1']], 'test': [[]]}
  if is_in_time:
    expected = {
      'train': [[], ['0']],
      'validation': [['0', '1']],
      'test': [['0', '1', '2']],
    }
  assert histories == expected


@pytest.mark.parametrize(
  'more, message',
  [
    ('split: part\nfiles: {train: a}\n', 'files and split both say'),
    ('split_values: {train: a}\n', 'split_values are of a split; name its'),
    ('split: part\nsplit_values: {test: a}\n', 'split_values: .*needed: of tr'),
    ('files: {train: a, dev: b}\n', 'files: .*needed: of train, and of valid'),
    ('files: {train: a, test: [b, a]}\n', 'files: a is given more than once'),
    ('', 'gives no splits, which examples.split=given needs'),
  ],
)
def test_what_cannot_be_is_refused(tmp_path, more, message):
  (tmp_path / 'log.csv').write_text(_ROWS)
  with pytest.raises(ValueError, match=message):
    prepare(tmp_path, _SCHEMA + more, split='given')


def test_files_are_of_a_folder_and_of_one_split(tmp_path):
  (tmp_path / 'a.csv').write_text('x')
  with pytest.raises(ValueError, match='a.csv is a file; the schema names fil'):
    table_source.find_files(tmp_path / 'a.csv', {'train': ['a.csv']})
  with pytest.raises(ValueError, match='a.csv is a file of train and of test'):
    table_source.find_files(tmp_path, {'train': ['*.csv'], 'test': ['a.csv']})
