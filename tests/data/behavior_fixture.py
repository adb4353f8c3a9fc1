# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A made-up log of behavior, and what has to become of it, in plain Python."""

import bisect
import csv
import pathlib
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from antjax.data import (
  behavior_text,
  behavior_vocabulary,
  event_table,
  output_folder,
  schema_file,
)
from antjax.data.behavior_examples import ExampleConfig
from antjax.data.view_examples import BehaviorConfig
from tests.data import views

NORMALIZER = behavior_text.Normalizer()
SPLITTER = behavior_text.Splitter(max_behaviors=3, max_chars=20)
_WORDS = (
  'order takeout',
  'pay\u3000bills',
  'caf\xe9',
  'cafe\u0301',
  'BOOK hotel',
)
_ODD_TEXTS = ('', ' \n;', '\U0001f600', 'a, "quoted"; b\nc', 'x' * 50 + ';y')
BY_TIME = ExampleConfig()
SCHEMA = """
columns: {user: string, item: int64, when: int64, stars: float32, city: string,
  searches: string, age: {type: float32, empty: -1}}
user: user
item: item
time: when
rating: stars
positive_from: 4
histories: outcome
text: title
texts: [searches]
ids: [city]
numeric: [age]
items:
  source: items.parquet
  columns: {id: int64, title: string, shelf: string, grams: float32}
  item: id
  ids: [shelf]
  numeric: [grams]
"""
# Of the same log, with nothing said about what was liked.
UNLABELLED = SCHEMA.replace('rating: stars\npositive_from: 4\n', '').replace(
  'histories: outcome', 'histories: domain\ndomain: shelf'
)


class Log:
  """Rows of some users, at times that repeat, and the items."""

  def __init__(self, num_rows=300, num_users=20, num_items=40, seed=0):
    rng = random.Random(seed)
    self.items = [
      {
        'id': 1000 + i,
        'title': f'Item  {i % (num_items - 3)}' if i else '\0 ',
        'shelf': f'shelf {i % 3}',
        'grams': float(i),
      }
      for i in range(num_items)
    ]

    def searches():
      if rng.random() < 0.2:
        return rng.choice(_ODD_TEXTS)
      return ';'.join(rng.choices(_WORDS, k=rng.randint(0, 5)))

    self.rows = [
      {
        'user': f'u{int(rng.paretovariate(0.6)) % num_users}',
        'item': rng.choice(self.items)['id'],
        'when': rng.randint(0, 40),
        'stars': float(rng.randint(1, 5)),
        'city': rng.choice(('Oslo', 'Bergen', '')),
        'searches': searches(),
        'age': rng.choice((20.0, 55.5, -1.0)),
      }
      for _ in range(num_rows)
    ]

  def write(self, folder: pathlib.Path, schema=SCHEMA) -> pathlib.Path:
    """Writes log.csv, items.parquet and log.yaml; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / 'log.csv', 'w', newline='', encoding='utf-8') as file:
      writer = csv.DictWriter(file, list(self.rows[0]), lineterminator='\n')
      writer.writeheader()
      for row in self.rows:
        writer.writerow({**row, 'age': '' if row['age'] < 0 else row['age']})
    pq.write_table(pa.Table.from_pylist(self.items), folder / 'items.parquet')
    (folder / 'log.yaml').write_text(schema, encoding='utf-8')
    return folder

  def expected(self):
    """Returns the examples of all splits, in their order, labels by stars.

    As `read_back` gives them: user, item, title, label, time, history of each
    sequence, features.
    """
    titles, shelves, grams = (
      {item['id']: item[name] for item in self.items}
      for name in ('title', 'shelf', 'grams')
    )
    found = []
    by_user: dict[str, list] = {}
    for number, row in enumerate(self.rows):
      title = NORMALIZER(titles[row['item']]) or '[UNK]'
      event = (row['when'], number, row['stars'] >= 4, title)
      by_user.setdefault(row['user'], []).append(event)
    for row in self.rows:
      past = sorted(e for e in by_user[row['user']] if e[0] < row['when'])
      pieces = SPLITTER.split(row['searches'], NORMALIZER).texts
      found.append(
        {
          'user': row['user'],
          'item': str(row['item']),
          'title': NORMALIZER(titles[row['item']]) or '[UNK]',
          'label': float(row['stars'] >= 4),
          'time': row['when'],
          'histories': [
            [e[3] for e in past if e[2]],
            [e[3] for e in past if not e[2]],
            pieces,
          ],
          'ids': [row['city'], shelves[row['item']]],
          'numeric': [row['age'], grams[row['item']]],
        }
      )
    order = sorted(range(len(found)), key=lambda i: (found[i]['time'], i))
    return [found[i] for i in order]

  def splits(self, examples, config=BY_TIME):
    """Cuts the examples of `expected` by time."""
    times = [e['time'] for e in examples]
    ends = []
    for share in (config.validation_from, config.test_from):
      last = times[min(int(np.ceil(share * len(times))), len(times)) - 1]
      ends.append(bisect.bisect_right(times, last))
    first, second = ends
    return {
      'train': examples[:first],
      'validation': examples[first:second],
      'test': examples[second:],
    }


def prepare(folder, out, examples=BY_TIME, **options):
  """Runs the whole preparation on what `Log.write` has written."""
  schema = schema_file.load(str(folder / 'log.yaml'))
  source = event_table.source(next(folder.glob('log.*[vt]')), schema)
  config = BehaviorConfig(
    normalizer=NORMALIZER, splitter=SPLITTER, examples=examples
  )
  return views.write(out, source, 'examples', config, **options)


def read_back(out):
  """Returns split -> examples as texts, in their order."""
  out = output_folder.find_view(out, 'examples')
  description = output_folder.load_description(out)
  vocabulary = behavior_vocabulary.BehaviorVocabulary.open(out / 'behaviors')
  texts = vocabulary.texts(0, len(vocabulary))
  events = [
    np.load(out / 'events' / f'{sequence["name"]}.npy', mmap_mode='r')
    for sequence in description['sequences']
  ]

  def values(name):
    table = pq.read_table(out / f'ids_{name}.parquet')
    return ['', *table['value'].to_pylist()]

  users, items = values('user'), values('item')
  features = [values(f'feature_{i}') for i in range(len(description['ids']))]
  found = {}
  for split in description['splits']:
    source = output_folder.open_split(out, split)
    found[split] = [
      {
        'user': users[r['user']],
        'item': items[r['item']],
        'title': texts[r['title']],
        'label': float(r['label']),
        'time': int(r['time']),
        'histories': [
          [texts[i] for i in e[a:b]]
          for e, a, b in zip(events, r['starts'], r['stops'], strict=True)
        ],
        'ids': [f[i] for f, i in zip(features, r['ids'], strict=True)],
        'numeric': r['numeric'].tolist(),
        'is_new_user': bool(r['is_new_user']),
        'is_new_item': bool(r['is_new_item']),
        'user_count': int(r['user_count']),
        'item_count': int(r['item_count']),
      }
      for r in source.read(0, len(source))
    ]
  return found
