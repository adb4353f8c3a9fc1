# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A made-up log over domains, and its sequences in plain Python."""

import collections
import csv
import gzip
import json
import pathlib
import random

import numpy as np
import pyarrow.parquet as pq

from antjax.data import event_amazon, output_folder
from antjax.data.view_sequences import SequenceConfig
from tests.data import views

DOMAINS = ('Toys', 'Arts')  # Not in the order of their names.


class Log:
  """Ratings of items that are in one or both of the domains.

  Times repeat, so do items, in a row and apart; some items have no title, some
  are in no domain at all.
  """

  def __init__(self, num_users=40, num_items=30, num_ratings=500, seed=0):
    rng = random.Random(seed)
    items = [f'B{i:03d}' for i in range(num_items)]
    self.meta = {
      domain: [
        {'asin': item, 'title': self._title(rng, item), 'also': ['x']}
        for item in items
        if rng.random() < 0.55
      ]
      for domain in DOMAINS
    }
    # One item twice in a domain: the first row with a title counts.
    twice = self.meta['Toys'][0]['asin']
    self.meta['Toys'].insert(0, {'asin': twice, 'title': ' '})
    self.ratings = {
      domain: [
        (
          items[min(int(rng.expovariate(0.12)), num_items - 1)],
          f'u{int(rng.paretovariate(0.7)) % num_users}',
          float(rng.randint(1, 5)),
          rng.randint(0, 25),
        )
        for _ in range(num_ratings // 2)
      ]
      for domain in DOMAINS
    }
    rows = self.ratings['Toys']
    rows.append(rows[0])  # The same event twice.

  @staticmethod
  def _title(rng, item):
    return rng.choice((f' {item}\n thing', f'caf\xe9 "{item}"', f'{item}', ''))

  def write_amazon(self, folder: pathlib.Path) -> pathlib.Path:
    """Writes Metadata/meta_<Domain>.json.gz and Ratings/<Domain>.csv."""
    for name in ('Metadata', 'Ratings'):
      (folder / name).mkdir(parents=True)
    for domain in DOMAINS:
      lines = [json.dumps(row) for row in self.meta[domain]]
      path = folder / 'Metadata' / f'meta_{domain}.json.gz'
      path.write_bytes(gzip.compress('\n'.join(lines).encode() + b'\n'))
      with open(folder / 'Ratings' / f'{domain}.csv', 'w', newline='') as file:
        csv.writer(file, lineterminator='\n').writerows(self.ratings[domain])
    return folder

  def items(self) -> dict[str, tuple[str, str]]:
    """Item -> (domain, title)."""
    found: dict[str, tuple[str, str]] = {}
    for domain in DOMAINS:
      for row in self.meta[domain]:
        title = ' '.join(row['title'].split())
        old = found.get(row['asin'])
        if old is None or (not old[1] and title):
          found[row['asin']] = (domain, title)
    return found

  def events(self) -> list[tuple[str, str, int, float]]:
    """(user, item, time, rating) of both domains."""
    return [
      (user, item, time, rating)
      for domain in DOMAINS
      for item, user, rating, time in self.ratings[domain]
    ]

  def sequences(self, k: int, untitled='drop') -> dict[str, list[str]]:
    """User -> items in time, users in the order of their names."""
    items = self.items()
    events = [
      e
      for e in self.events()
      if e[1] in items and (untitled == 'keep' or items[e[1]][1])
    ]
    while k > 1:
      kept = events
      for column in (0, 1):
        sizes = collections.Counter(e[column] for e in kept)
        kept = [e for e in kept if sizes[e[column]] >= k]
      if len(kept) == len(events):
        break
      events = kept
    found = collections.defaultdict(list)
    for user, item, *_ in sorted(
      events, key=lambda e: (e[0], e[2], e[1], e[3])
    ):
      if not found[user] or found[user][-1] != item:
        found[user].append(item)
    return {user: found[user] for user in sorted(found)}


def prepare(folder, out, *, domains=DOMAINS, share=0.001, **options):
  """Prepares what `write_amazon` has written."""
  names = ('k_core', 'untitled', 'drop_repeats', 'without_events')
  given = {name: options.pop(name) for name in names if name in options}
  config = SequenceConfig(**{'k_core': 5, **given})
  return views.write(
    out,
    event_amazon.source(folder, domains),
    'sequences',
    config,
    max_rejected_share=share,
    **options,
  )


def read_back(out) -> dict[str, list[str]]:
  """User -> items, as `Log.sequences`, from the files alone."""
  out = output_folder.find_view(out, 'sequences')
  keys = pq.read_table(out / 'items.parquet')['key'].to_pylist()
  users = pq.read_table(out / 'users.parquet')['key'].to_pylist()
  events, offsets = np.load(out / 'events.npy'), np.load(out / 'offsets.npy')
  assert len(users) == len(offsets) - 1
  return {
    user: [keys[i] for i in events[offsets[u] : offsets[u + 1]]]
    for u, user in enumerate(users)
  }
