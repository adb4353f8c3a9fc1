# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Schema files of logs of behaviour: what they say, and what they cannot."""

import json

import pytest
import yaml

from antjax.data import schema_file
from tests.data import behavior_fixture


def load(tmp_path, **changes):
  """Loads the fixture's schema with entries changed; None drops one."""
  value = yaml.safe_load(behavior_fixture.SCHEMA) | changes
  path = tmp_path / 'log.json'
  path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}))
  return schema_file.load(str(path))


def test_a_file_says_what_columns_are_for(tmp_path):
  schema = load(tmp_path)
  assert schema.name == 'log'
  assert schema.label_column == 'stars'
  assert schema.used == [
    *('user', 'item', 'when', 'stars', 'searches', 'city', 'age')
  ]
  assert schema.empty == {'age': -1}
  assert schema.items.source == str(tmp_path / 'items.parquet')
  assert schema.items.ids == ('shelf',)
  without = load(tmp_path, rating=None, positive_from=None, histories='all')
  assert not without.label_column


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'user': 'who'}, "'who' is no column; the columns are user, item, when"),
    ({'text': 'name'}, "'name' is no column; .*shelf, grams"),
    ({'columns': None}, 'needed: columns; docs/data.md'),
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
    (
      {'history_names': ['liked']},
      'histories=outcome needs 2 of them',
    ),
    ({'item_columns': ['when']}, 'names columns that are no feature'),
    ({'columns': {'user': 'text', 'item': 'int64'}}, "has the type 'text'"),
    ({'delimiter': ''}, 'delimiter: .*needed: one character'),
    ({'items': {'source': 'x', 'item': 'id'}}, 'items: needed: .*columns'),
    (
      {
        'text': 'b',
        'items': {'source': 'x', 'item': 'a', 'columns': {'b': 'string'}},
      },
      "'a' is no column of items; they are b",
    ),
    ({'rating': None, 'positive_from': None}, 'outcome needs a label'),
  ],
)
def test_what_cannot_be_is_named(tmp_path, changes, message):
  with pytest.raises(ValueError, match=message):
    load(tmp_path, **changes)
