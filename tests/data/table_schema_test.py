# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Layouts of known click data, and schema files."""

import json

import numpy as np
import pytest
import yaml

from antjax.data import datasets, schema_file, table_source, view_tasks
from antjax.data.task_spans import TaskConfig
from tests.cases import first_fast
from tests.data import behavior_fixture, views
from tests.data.views import read


def make(out, source, schema):
  config = TaskConfig(cold_share=0.3, query_size=4, min_rows=8)
  return views.write_tasks(out, source, schema, config)


def first_record(out):
  return read(out, 'train')[0]


def write_criteo(path, header):
  """Invented rows: 13 counts, some missing, and 26 categories."""
  delimiter = ',' if header else '\t'
  lines = []
  if header:
    names = [f'I{i}' for i in range(1, 14)] + [f'C{i}' for i in range(1, 27)]
    lines.append(','.join(['label', *names]))
  for row in range(60):
    counts = [str(row - 1), '', *(str(i * row % 50) for i in range(11))]
    hashes = [f'{(row % (i + 2)) * 2654435761 % 2**32:08x}' for i in range(25)]
    fields = [str(row % 3 // 2), *counts, *hashes, '']
    lines.append(delimiter.join(fields))
  path.write_text('\n'.join(lines) + '\n')
  return path


@pytest.mark.parametrize('header', first_fast(False, True))
def test_criteo(tmp_path, header):
  source = write_criteo(tmp_path / 'train.txt', header)
  schema = datasets.criteo(table_source.first_line(source))
  description = make(tmp_path / 'out', source, schema)
  assert description['counts']['rows'] == 60
  assert description['task_feature'] == 'C1'
  assert len(description['features']) == 26
  record = first_record(tmp_path / 'out')
  assert (record['I2'] == 0).all()  # Missing counts.
  assert (record['C26'] == 1).all()  # A missing category is a value.
  expected = np.sign(record['timestamp'] - 1) * np.log1p(
    abs(record['timestamp'] - 1)
  )
  np.testing.assert_allclose(record['I1'], expected, rtol=1e-6)


@pytest.mark.parametrize('is_encoded', first_fast(False, True))
def test_avazu(tmp_path, is_encoded):
  names = 'C1 banner_pos site_id site_domain site_category app_id app_domain'
  names += ' app_category device_id device_ip device_model device_type'
  names = f'{names} device_conn_type C14 C15 C16 C17 C18 C19 C20 C21'.split()
  header = ['id', 'click', 'hour', *names]
  if is_encoded:
    header = ['label', *(f'feat_{i}' for i in range(1, 23))]
  lines = [','.join(header)]
  for row in range(60):
    fields = [str(row % 2), str(14102100 + row % 5)]
    fields += [f'{(row % 3) * 7919 % 251:x}' for _ in names]
    if not is_encoded:
      fields = [str(10**19 + row), *fields]
    lines.append(','.join(fields))
  source = tmp_path / 'train.csv'
  source.write_text('\n'.join(lines) + '\n')
  schema = datasets.avazu(table_source.first_line(source))
  description = make(tmp_path / 'out', source, schema)
  counts = description['counts']
  assert (counts['rows'], counts['tasks'], counts['cold_tasks']) == (60, 3, 1)
  assert counts['rejected_lines'] == 0
  assert description['task_feature'] == ('feat_4' if is_encoded else 'site_id')
  assert len(description['features']) == (22 if is_encoded else 21)
  record = first_record(tmp_path / 'out')
  first = 0 if is_encoded else 14102100
  assert record['timestamp'][0] == first
  assert (np.diff(record['timestamp']) >= 0).all()


def test_ali_ccp(tmp_path):
  header = 'click,purchase,101,121,205,301,109_14,D109_14,D508'
  lines = [header]
  for row in range(60):
    lines.append(f'{row % 2},{row % 4 // 3},{row % 4},1,{row},{row % 3},7,0.5,')
  source = tmp_path / 'train.csv'
  source.write_text('\n'.join(lines) + '\n')
  schema = datasets.ali_ccp(header, '301')
  with pytest.raises(ValueError, match='60 of 60 lines'):
    make(tmp_path / 'out', source, schema)
  source.write_text(
    '\n'.join([header, *(f'{x}0.25' for x in lines[1:])]) + '\n'
  )
  description = make(tmp_path / 'out', source, schema)
  assert list(description['features']) == ['101', '121', '205', '301', '109_14']
  assert description['numeric'] == ['D109_14', 'D508']
  assert description['counts']['tasks'] == 3
  assert datasets.ali_ccp(header).task == '101'


@pytest.mark.parametrize(
  'layout', [datasets.ali_ccp, datasets.avazu, datasets.criteo]
)
def test_another_layout_is_named(layout):
  with pytest.raises(ValueError, match="begins with 'user,item'.*--schema"):
    layout('user,item')


def test_schema_files(tmp_path):
  value = {
    'rating': 'stars',
    'task': 'user',
    'columns': {
      'user': 'int64',
      'film': 'string',
      'length': {'type': 'float32', 'empty': 90},
      'stars': 'float32',
      'note': 'string',
    },
    'ignore': ['note'],
    'log': ['length'],
  }
  (tmp_path / 'films.json').write_text(json.dumps(value))
  (tmp_path / 'films.yaml').write_text(
    'rating: stars\ntask: user\nignore: [note]\nlog: [length]\n'
    'columns:\n  user: int64\n  film: string\n'
    '  length: {type: float32, empty: 90}\n  stars: float32\n  note: string\n'
  )
  schema = schema_file.load(str(tmp_path / 'films.json'))
  assert schema == schema_file.load(str(tmp_path / 'films.yaml'))
  assert schema.features == ('user', 'film')
  assert schema.numeric == ('length',)
  assert schema.empty == {'length': 90.0}
  assert schema.name == 'films'


def _columns(**more):
  return {'columns': {'user': 'string', 'click': 'int32', **more}}


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'label': 'tap'}, "'tap' is no column; the columns are user, item, p"),
    ({'time': 'item'}, "column 'item' is text; a number is needed"),
    ({'ids': ['user', 'click']}, 'more than one of them: click'),
    ({'log': ['item']}, 'log names columns that are not numeric'),
    ({'labels': ['click']}, 'labels are further ones: name the first'),
    ({'labels': ['item']}, "column 'item' is text; a number is needed"),
    (
      {'labels': ['price'], 'numeric': ['price']},
      "'price' is used more than once",
    ),
    ({'ids': []}, 'no column is a feature'),
    ({'task': 'price'}, "the task 'price' is a float32; text or an integer"),
    (_columns(Id='int32'), 'Id is'),
    (_columns(__a='int32'), '__a'),
    (_columns(User='int32'), 'user and User differ in case only'),
    (
      _columns(n={'type': 'int32', 'empty': 0.5}),
      "0.5 cannot stand for an empty field of the int32 'n'",
    ),
    (
      _columns(n={'type': 'string', 'empty': 0}),
      "empty field of the string 'n'",
    ),
    (
      _columns(n={'type': 'int32', 'empty': None}) | {'numeric': ['n']},
      "only a numeric feature of floats may be missing, not the int32 'n'",
    ),
    (
      _columns(user={'type': 'string', 'separator': '|'}),
      'only a feature of the type string that is not the task',
    ),
    (
      _columns(n={'type': 'int32', 'separator': '|'}),
      "column 'n' has a separator; only a feature of the type string",
    ),
    (
      _columns(n={'type': 'string', 'separator': ''}),
      "the separator of 'n' is empty",
    ),
    ({'columns': {'task': 'string', 'click': 'text'}}, "the type 'text'; nee"),
    ({'colums': {}}, 'unknown: colums; known: columns'),
    ({'columns': None}, 'needed: columns; docs/data.md'),
  ],
)
def test_a_wrong_schema_is_refused(tmp_path, changes, message):
  value = {
    'label': 'click',
    'task': 'user',
    'columns': {'user': 'string', 'item': 'string', 'price': 'float32'}
    | {'click': 'int32'},
  }
  path = tmp_path / 's.json'
  path.write_text(json.dumps(value | changes))
  with pytest.raises(ValueError, match=message):
    view_tasks.TaskView().check(schema_file.load(str(path)))


def test_a_schema_that_is_no_file_or_not_readable(tmp_path):
  with pytest.raises(FileNotFoundError, match='docs/data.md shows'):
    schema_file.load(str(tmp_path / 'none.yaml'))
  (tmp_path / 's.yaml').write_text('a: [b\nc')
  with pytest.raises(ValueError, match='is neither JSON nor YAML'):
    schema_file.load(str(tmp_path / 's.yaml'))


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('columns: [a, b]', 'columns: .* needed: column: type'),
    ('ids: item', 'ids: .item.; needed: a list of columns'),
    ('ignore: 3', 'ignore: 3; needed: a list'),
    ('delimiter: 5', 'delimiter: 5; needed: one character'),
    ('delimiter: ""', 'needed: one character'),
    ('quote: ab', 'quote: .ab.; needed: one character'),
    ('header: "no"', 'header: .no.; needed: true or false'),
    (
      'columns: {click: int32, user: {type: float32, empty: none}}',
      'needed: numbers or null as empty',
    ),
    (
      'columns: {click: int32, user: {type: string, separator: 3}}',
      'needed: texts as separator',
    ),
    (
      'columns: {click: int32, user: {type: string, seperator: "|"}}',
      'of a column, only type, empty, separator',
    ),
  ],
)
def test_a_file_of_wrong_types_is_refused(tmp_path, text, message):
  path = tmp_path / 's.yaml'
  columns = 'columns: {click: int32, user: string}\n'
  if text.startswith('columns'):
    columns = ''
  path.write_text(f'{columns}label: click\ntask: user\n{text}\n')
  with pytest.raises(ValueError, match=message):
    schema_file.load(str(path))


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('label: a\ntask: b\nlabel: c\n', r"s: 'label' is in line 1 .* line 3;"),
    (
      'columns:\n  a: int32\n  b: string\n  a: string\n',
      "'a' is in line 2 and again in line 4; needed: each name once",
    ),
    ('{"columns": {\n"1": "int32",\n"1": "string"}}', "'1' is in line 2 .* 3;"),
  ],
)
def test_a_name_that_comes_twice_is_refused(tmp_path, text, message):
  (tmp_path / 's').write_text(text)
  with pytest.raises(ValueError, match=message):
    schema_file.load(str(tmp_path / 's'))


def test_names_may_be_numbers(tmp_path):
  path = tmp_path / 's.yaml'
  path.write_text(
    'columns: {1: int32, 101: string, 7: float32}\nlabel: 1\ntask: 101\n'
    'numeric: [7]\n'
  )
  schema = schema_file.load(str(path))
  assert schema.task == '101' and schema.features == ('101',)
  assert schema.numeric == ('7',)


def load_log(tmp_path, **changes):
  """Loads the fixture's schema with entries changed; None drops one."""
  value = yaml.safe_load(behavior_fixture.SCHEMA) | changes
  path = tmp_path / 'log.json'
  path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))
  return schema_file.load(str(path))


def test_a_file_says_what_columns_of_a_log_are_for(tmp_path):
  schema = load_log(tmp_path)
  assert schema.name == 'log'
  assert schema.label_column == 'stars'
  assert schema.used == [
    *('user', 'item', 'when', 'stars', 'searches', 'city', 'age')
  ]
  assert schema.empty == {'age': -1}
  assert schema.items.source == str(tmp_path / 'items.parquet')
  assert schema.items.ids == ('shelf',)
  without = load_log(tmp_path, rating=None, positive_from=None, histories='all')
  assert not without.label_column


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'user': 'who'}, "'who' is no column; the columns are user, item, when"),
    ({'text': 'name'}, "'name' is no column; .*shelf, grams"),
    ({'item': ''}, 'items need an item'),
    ({'users': 'user'}, 'unknown: users; known: .*columns'),
    ({'time': 'city'}, "'city' is text; a number is needed"),
    ({'numeric': ['city']}, "'city' is text; a number is needed"),
    ({'texts': ['age']}, "'age' is float32; texts are strings"),
    ({'ids': ['city', 'city']}, "'city' is used more than once"),
    ({'label': 'when'}, 'only one of them makes the label'),
    ({'rating': None}, 'positive_from is of a rating'),
    ({'positive_from': '4'}, "positive_from: '4'; needed: a number"),
    ({'histories': 'some'}, "'some'; needed: all, outcome, domain or none"),
    ({'histories': 'domain'}, 'histories=domain needs a domain'),
    ({'histories': 'none', 'texts': []}, 'there is no sequence at all'),
    (
      {
        'columns': {'item': {'type': 'string', 'separator': ';'}}
        | dict.fromkeys(('user', 'city', 'searches'), 'string')
        | dict.fromkeys(('when', 'stars', 'age'), 'float32')
      },
      'would not say of which',
    ),
    ({'history_names': ['liked']}, 'histories=outcome needs 2 of them'),
    ({'item_columns': ['when']}, 'names columns that are no feature'),
    ({'items': {'source': 'x', 'item': 'id'}}, 'items: needed: .*columns'),
    (
      {
        'text': 'b',
        'items': {'source': 'x', 'item': 'a', 'columns': {'b': 'string'}},
      },
      "'a' is no column of items; they are b",
    ),
    (
      {
        'text': '__item',
        'items': {
          'source': 'x',
          'item': 'a',
          'columns': {'a': 'string', '__item': 'string'},
        },
      },
      '__item is the name of a field of our own; rename it',
    ),
    ({'rating': None, 'positive_from': None}, 'outcome needs a label'),
  ],
)
def test_what_a_log_cannot_be_is_named(tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    load_log(tmp_path, **changes)
