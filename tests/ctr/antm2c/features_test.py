# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Rare ids, bags and times, beside plain NumPy."""

import numpy as np
import pytest

from antjax.ctr.antm2c import times
from antjax.ctr.antm2c.bags import Bag, Uses
from antjax.ctr.antm2c.features import ClickFeatures, Frequent
from antjax.ctr.antm2c.fields import FieldConfig

IDS = {
  'user': np.array([1, 1, 2, 3, 3]),
  'item': np.array([4, 4, 4, 0, 2]),
  'title': np.array([1, 2, 2, 3, 2]),
  'scenario': np.array([0, 0, 1, 1, 1]),
  'city': np.array([1, 1, 1, 1, 2]),
}
NUM_IDS = {'user': 5, 'item': 6, 'title': 5, 'city': 3}
PRICES = np.array([[1.0], [2.0], [3.0], [4.0], [5.0]])


def chunks():
  for part in (slice(0, 2), slice(2, 5)):
    yield {name: ids[part] for name, ids in IDS.items()}, PRICES[part]


def fit(**config):
  return ClickFeatures.fit(
    FieldConfig(**config), NUM_IDS, chunks, len(PRICES), ('price',)
  )


def test_all_ids_are_kept_by_default():
  features = fit(numbers=('log',))
  found = features(IDS, PRICES)
  assert [*found] == ['user', 'item', 'title', 'scenario', 'city']
  assert features.num_ids == NUM_IDS and features.titles is None
  assert all((found[name] == ids).all() for name, ids in IDS.items())


def test_rare_ids_share_the_unknown_row():
  features = fit(min_count=2, crosses=('user*city',), numbers=('bins',))
  found = features(IDS, PRICES)
  assert found['user'].tolist() == [1, 1, 0, 2, 2]
  assert found['item'].tolist() == [1, 1, 1, 0, 0]
  assert found['city'].tolist() == [1, 1, 1, 1, 0]
  assert found['title'].tolist() == IDS['title'].tolist()
  # Of titles, 0 is padding and 1 the unknown one.
  assert features.titles.tolist() == [0, 1, 2, 1, 1]
  assert found['user_x_city'].tolist() == [1, 1, 0, 0, 0]
  assert found['price'].tolist() == [1, 2, 3, 4, 5]
  assert features.num_ids == {
    **{'user': 3, 'item': 2, 'title': 3, 'city': 2},
    **{'user_x_city': 2, 'price': 6},
  }


def test_rare_ids_share_buckets():
  ids = np.repeat(np.arange(1, 101), np.where(np.arange(1, 101) % 10, 1, 3))
  counts = np.bincount(ids, minlength=102)
  found = Frequent.fit(counts, FieldConfig(min_count=2, hash_buckets=7))
  assert found.num_ids == 1 + 7 + 10 and found.ids_V[0] == 0
  assert found.ids_V[10:101:10].tolist() == list(range(8, 18))
  rare = np.delete(found.ids_V[1:], np.arange(9, 100, 10))
  counts = np.bincount(rare, minlength=8)
  assert counts[0] == 0 and counts[1:].min() > 4 and len(counts) == 8


def test_a_bag_has_the_values_that_training_knows():
  events = np.array([2, 3, 2, 4, 5, 2], np.int32)
  uses = Uses(len(events))
  uses.add(np.array([0, 0]), np.array([2, 2]))
  uses.add(np.array([2]), np.array([4]))
  bag = Bag.fit(
    *(1, events, uses),
    num_behaviors=7,
    min_count=1,
    max_pieces=3,
  )
  # 5 and the last 2 are of no training click; 0 is padding.
  assert bag.ids_V.tolist() == [-1, -1, 0, 1, 2, -1, -1] and bag.num_ids == 3
  often = Bag.fit(
    *(1, events, uses),
    num_behaviors=7,
    min_count=3,
    max_pieces=3,
  )
  assert often.ids_V.tolist() == [-1, -1, 0, -1, -1, -1, -1]


def test_times_are_hours_weekdays_and_gaps():
  # 2024-02-29 was a Thursday.
  start = 1_709_164_800
  user = np.array([5, 3, 5, 5, 3, 5])
  time = start + np.array([3600, 0, 3600 + 7, 3600, 86_400, 3600 + 7 + 8])
  found = times.columns(('hour', 'weekday', 'gap'), user, time)
  assert found['time_hour'].tolist() == [1, 0, 1, 1, 0, 1]
  assert found['time_weekday'].tolist() == [3, 3, 3, 3, 4, 3]
  # Both clicks of one moment are first ones.
  day = 1 + int(np.log2(86_401))
  assert found['time_gap'].tolist() == [0, 0, 1 + 3, 0, day, 1 + 3]
  with pytest.raises(ValueError, match='from 0 to 5; needed are seconds'):
    times.columns(('hour',), user, np.arange(6))


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'time': ('hour', 'month')}, 'month unknown; use some of hour'),
    ({'bags': ('words=max',)}, "'words=max'; needed: one of mean, sum, att"),
    ({'hash_buckets': 3}, 'it must be at least 2'),
    ({'num_bins': 1}, 'num_bins=1: must be at least 2'),
  ],
)
def test_wrong_settings_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    FieldConfig(**fields)
