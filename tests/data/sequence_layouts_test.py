# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What each layout of sequences reads, and what it sets aside."""

import gzip
import json
import lzma

import numpy as np
import pytest

from antjax.data import (
  event_amazon,
  event_food_kitchen,
  event_movielens,
  event_table,
  schema_file,
  view_sequences,
)
from antjax.data.sequence_data import SequenceData
from antjax.data.view_sequences import SequenceConfig
from tests.data import (
  behavior_fixture,
  movielens_fixture,
  sequence_fixture,
  views,
)
from tests.data.views import rejected


def prepare(out, source, share=0.001):
  config = SequenceConfig(k_core=0)
  return views.write(out, source, 'sequences', config, max_rejected_share=share)


def test_bad_lines_of_amazon_are_listed_by_name(tmp_path):
  log = sequence_fixture.Log()
  source = log.write_amazon(tmp_path / 'amazon')
  path = source / 'Metadata' / 'meta_Toys.json.gz'
  lines = gzip.decompress(path.read_bytes()).decode()
  bad = '{"asin": "B9", "title": \n{"title": "no name"}\n[1, 2]\n'
  path.write_bytes(gzip.compress((lines + bad).encode()))
  ratings = source / 'Ratings' / 'Arts.csv'
  text = ratings.read_text() + 'B000,u1,5.0\nB000,,4.0,3\nB000,u1,x,3\n'
  ratings.write_text(text)
  sequence_fixture.prepare(source, tmp_path / 'out', k_core=0, share=0.5)
  found = rejected(tmp_path / 'out')
  whys = sorted(row['message'].splitlines()[0] for row in found)
  assert len(whys) == 6
  assert sum('no JSON' in why for why in whys) == 1
  assert sum('names no item' in why for why in whys) == 2
  assert sum(why == 'no value' for why in whys) == 1
  assert sum('"x"' in why for why in whys) == 1
  data = SequenceData.open(tmp_path / 'out')
  assert data.description['counts']['rejected_lines'] == 6
  expected = log.sequences(0)
  assert sequence_fixture.read_back(tmp_path / 'out') == expected
  with pytest.raises(ValueError, match='more than max_rejected_share=0.001'):
    sequence_fixture.prepare(source, tmp_path / 'other', k_core=0)


def test_files_of_amazon_are_found_or_missed_by_name(tmp_path):
  source = sequence_fixture.Log().write_amazon(tmp_path / 'amazon')
  names = [one.name for one in event_amazon.find_files(source)]
  assert names == ['Arts', 'Toys']
  with pytest.raises(
    FileNotFoundError, match='Games has no meta_Games.json.gz'
  ):
    event_amazon.find_files(source, ['Games'])
  (source / 'Arts.csv').write_text('')
  with pytest.raises(ValueError, match='domain Arts has 2 of Arts.csv'):
    event_amazon.find_files(source)
  with pytest.raises(FileNotFoundError, match='holds no meta_<Domain>.json.gz'):
    event_amazon.find_files(tmp_path / 'amazon' / 'Ratings')


# Food and Kitchen of LLMCDSR.

FOOD = ['tea', 'oat  milk', 'rye']
KITCHEN = ['pan', 'pot', '']
USERS = {
  'train_A': [[0, 1, 2]],
  'train_B': [[3, 4, 3, 3], [4, 3, 4]],
  'train_overlap': [[0, 3, 1, 4]],
  'valid': [[2, 3, 0]],
  'test': [[4, 0], [1, 5, 2]],
}


def write_food_kitchen(folder):
  folder.mkdir()
  for name, titles in (('A', FOOD), ('B', KITCHEN)):
    lines = [
      json.dumps({'asin': f'{name}{i}', 'index': i, 'title': title})
      for i, title in enumerate(titles)
    ]
    path = folder / f'items_{name}.jsonl.xz'
    path.write_bytes(lzma.compress('\n'.join(lines).encode()))
  for name, rows in USERS.items():
    text = ''.join(
      f'{i}\t{",".join(map(str, row))}\n' for i, row in enumerate(rows, 1)
    )
    if name == 'valid':  # As it is when it was unpacked.
      (folder / f'{name}.txt').write_text(text)
    else:
      path = folder / f'{name}.txt.xz'
      path.write_bytes(lzma.compress(text.encode()))
  return folder


def test_food_kitchen_with_either_split(tmp_path):
  source = write_food_kitchen(tmp_path / 'source')
  events = event_food_kitchen.source(source)
  prepare(tmp_path / 'out', events)
  data = SequenceData.open(tmp_path / 'out', split='source')
  assert data.titles == ['', 'tea', 'oat milk', 'rye', 'pan', 'pot']
  assert data.domain_names == ['Food', 'Kitchen']
  found = sequence_fixture.read_back(tmp_path / 'out')
  assert found == {
    'test:1': ['B1', 'A0'],
    'test:2': ['A1', 'A2'],  # Without the item that has no title.
    'train_A:1': ['A0', 'A1', 'A2'],
    'train_B:1': ['B0', 'B1', 'B0'],  # Without the repeat.
    'train_B:2': ['B1', 'B0', 'B1'],
    'train_overlap:1': ['A0', 'B0', 'A1', 'B1'],
    'valid:1': ['A2', 'B0', 'A0'],
  }
  names = list(found)
  user, position = data.examples('test')
  assert [names[u] for u in user] == ['test:1', 'test:2']
  assert position.tolist() == [1, 1]
  user, position = data.examples('validation')
  assert [names[u] for u in user] == ['valid:1']
  user, _ = data.examples('train')
  assert {names[u].split(':')[0] for u in user} == {
    'train_A',
    'train_B',
    'train_overlap',
  }
  # Each event of training users, of nobody else.
  assert data.counts.tolist() == [0, 2, 2, 1, 4, 4]
  held_out = SequenceData.open(tmp_path / 'out')
  assert len(held_out.examples('test')[0]) == 5  # Who has three events.
  np.testing.assert_array_equal(held_out.num_domains, [2, 1, 1, 1, 1, 2, 2])


def test_bad_lines_of_food_kitchen(tmp_path):
  source = write_food_kitchen(tmp_path / 'source')
  (source / 'valid.txt').write_text('1\t0,1\n2 0,1\n3\t0,99\n')
  events = event_food_kitchen.source(source)
  with pytest.raises(ValueError, match='2 of 9 lines of .* are malformed'):
    prepare(tmp_path / 'out', events)
  description, _ = prepare(tmp_path / 'out', events, share=0.5)
  assert description['counts']['rejected_lines'] == 2
  found = rejected(tmp_path / 'out')
  assert [(row['line'], row['text']) for row in found] == [
    ('2', '2 0,1'),
    ('3', '3\t0,99'),
  ]
  assert 'item 99; there are 6' in found[1]['message']
  (source / 'test.txt.xz').unlink()
  with pytest.raises(
    FileNotFoundError, match='neither test.txt nor test.txt.xz'
  ):
    event_food_kitchen.find_files(source)


# MovieLens-1M.


def test_films_have_their_first_genre_as_domain(tmp_path):
  fixture = movielens_fixture.Fixture()
  source = fixture.write_original(tmp_path / 'source')
  events = event_movielens.source(source)
  description, _ = prepare(tmp_path / 'out', events)
  data = SequenceData.open(tmp_path / 'out')
  titles = {number: (title, genres) for number, title, genres in fixture.items}
  expected = {}
  for user, number, stars, time in fixture.ratings:
    expected.setdefault(str(user), []).append((time, titles[number][0], stars))
  found = sequence_fixture.read_back(tmp_path / 'out')
  assert found == {
    user: [title for _, title, _ in sorted(rows)]
    for user, rows in expected.items()
  }
  genres = dict(titles.values())
  for key, title, domain in zip(
    data.keys[1:], data.titles[1:], data.domains[1:]
  ):
    assert data.domain_names[domain] == genres[key][0]
    if not key.startswith('Caf'):
      assert title == key
    else:
      assert title == 'The Caf\xe9 (L\xe4rm ) (1980)'
  assert data.domain_names == sorted(data.domain_names)
  assert 'doi.org' in description['acknowledgement']


# Any log.


@pytest.mark.parametrize('labelled', [True, False])
def test_a_log_by_its_schema_file(tmp_path, labelled):
  log = behavior_fixture.Log()
  schema = behavior_fixture.SCHEMA if labelled else behavior_fixture.UNLABELLED
  source = log.write(tmp_path / 'log', schema)
  schema = schema_file.load(str(source / 'log.yaml'))
  events = event_table.source(source / 'log.csv', schema)
  description, _ = prepare(tmp_path / 'out', events)
  titles = {
    i['id']: ' '.join(i['title'].replace('\0', '').split()) for i in log.items
  }
  shelves = {i['id']: i['shelf'] for i in log.items}
  expected = {}
  for number, row in enumerate(log.rows):
    if titles[row['item']] and (row['stars'] >= 4 or not labelled):
      expected.setdefault(row['user'], []).append(
        (row['when'], str(row['item']), number)
      )
  wanted = {}
  for user, rows in expected.items():
    items = [item for _, item, _ in sorted(rows)]
    pairs = zip([None, *items], items)
    wanted[user] = [item for before, item in pairs if item != before]
  assert sequence_fixture.read_back(tmp_path / 'out') == wanted
  data = SequenceData.open(tmp_path / 'out')
  for key, domain in zip(data.keys[1:], data.domains[1:]):
    name = shelves[int(key)] if not labelled else 'all'
    assert data.domain_names[domain] == name
  disliked = sum(row['stars'] < 4 for row in log.rows)
  counts = description['counts']
  assert counts['events_not_liked'] == (disliked if labelled else 0)


def test_a_log_may_say_whose_part_a_user_is_and_what_a_title_is(tmp_path):
  columns = dict.fromkeys(('user', 'item', 'part', 'name'), 'string')
  schema = schema_file.make(
    columns | {'liked': 'int32'},
    user='user',
    item='item',
    title='name',
    split='part',
    label='liked',
    liked_only=False,
  )
  path = tmp_path / 'log.csv'
  rows = ['a,i1,train,One,1', 'a,i2,train,Two,0', 'b,i2,test,Two,1']
  text = '\n'.join(['user,item,part,name,liked', *rows, ''])
  path.write_text(text)
  prepare(tmp_path / 'out', event_table.source(path, schema))
  assert sequence_fixture.read_back(tmp_path / 'out') == {
    'a': ['i1', 'i2'],
    'b': ['i2'],
  }
  data = SequenceData.open(tmp_path / 'out', split='source')
  assert data.titles == ['', 'One', 'Two']
  assert data.user_split.tolist() == [0, 2]
  path.write_text(text + 'b,i1,train,One,1\n')
  with pytest.raises(ValueError, match="user 'b' has not one part in 'part'"):
    prepare(tmp_path / 'other', event_table.source(path, schema))


def test_a_log_without_users_has_no_sequences(tmp_path):
  (tmp_path / 'log.yaml').write_text('columns: {what: string}\nitem: what\n')
  schema = schema_file.load(str(tmp_path / 'log.yaml'))
  with pytest.raises(ValueError, match='sequences need a user and an item'):
    view_sequences.SequenceView().check(schema)
