# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A key store does what loops would do, in however many parts it is held."""

import collections

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from antjax.embedding.key_index import mix
from antjax.embedding.key_store import KeyStore, KeyStoreConfig


class Reference:
  """The rule of `KeyStore`, key by key."""

  def __init__(self, config):
    self.config = config
    self.slots, self.candidates = {}, {}  # place -> [key, count, last seen]
    self.has_candidates = config.min_count > 1 or config.eviction == 'lfu'

  def window(self, key, num_slots):
    """The places that a key may have."""
    hashed = int(mix(np.array([key], np.int64))[0])
    size = num_slots // self.config.num_parts
    part = (hashed >> 32) * self.config.num_parts >> 32
    home = (hashed & 0xFFFFFFFF) * size >> 32
    probes = min(self.config.num_probes, size)
    return part, [part * size + (home + i) % size for i in range(probes)]

  def put(self, store, new, num_slots, step, rule):
    """Puts (key, count) into a store; places that others had."""
    size = num_slots // self.config.num_parts
    windows = {key: self.window(key, num_slots)[1] for key, _ in new}
    waiting = list(new)
    for probe in range(min(self.config.num_probes, size)):
      for pair in list(waiting):
        place = windows[pair[0]][probe]
        if place not in store:
          store[place] = [*pair, step]
          waiting.remove(pair)
    reused = []
    while rule != 'none' and waiting:
      chosen = {}
      for key, count in waiting:
        can = [p for p in windows[key] if self.may_go(store[p], count, step)]
        if can:
          # Of equal ones the nearest: `can` is in their order.
          first = 1 if rule == 'lfu' else 2
          best = min(can, key=lambda p: store[p][first:])
          chosen.setdefault(best, []).append((key, count))
      for place, pairs in chosen.items():
        store[place] = [*pairs[0], step]
        reused.append(place)
      lost = [pair for pairs in chosen.values() for pair in pairs[1:]]
      waiting = [pair for pair in waiting if pair in lost]
    return reused

  def may_go(self, slot, count, step):
    if slot[2] == step:
      return False
    if self.config.eviction == 'lfu' and count is not None:
      return slot[1] < count
    return slot[2] <= step - self.config.ttl

  def update(self, keys, step):
    num_slots = self.config.num_ids - 1
    num_slots -= num_slots % self.config.num_parts
    at = {slot[0]: place for place, slot in self.slots.items()}
    new = collections.Counter()
    for key, count in collections.Counter(keys).items():
      if key == self.config.unknown_key:
        continue
      if key in at:
        self.slots[at[key]][1] += count
        self.slots[at[key]][2] = step
      else:
        new[key] = count
    queue = sorted(new.items(), key=lambda x: (-x[1], x[0]))
    queue = [x for x in queue if x[1] >= self.config.min_count]
    rule = self.config.eviction
    reused = self.put(self.slots, queue, num_slots, step, rule)
    return sorted(1 + place for place in reused)

  def ids(self, keys):
    at = {slot[0]: 1 + place for place, slot in self.slots.items()}
    return [at.get(key, 0) for key in keys]


@st.composite
def configs(draw):
  # Candidates have a test of their own.
  eviction = draw(st.sampled_from(['none', 'ttl']))
  num_parts = draw(st.integers(1, 3))
  return KeyStoreConfig(
    num_ids=draw(st.integers(num_parts + 1, 14)),
    num_parts=num_parts,
    num_probes=draw(st.integers(1, 5)),
    eviction=eviction,
    ttl=draw(st.integers(1, 4)) if eviction == 'ttl' else 0,
    unknown_key=draw(st.sampled_from([None, 0])),
  )


# Zipf-like: some keys come again, many do not.
KEYS = st.one_of(st.integers(0, 3), st.integers(-20, 20), st.just(2**62))


def update(stores, keys, step):
  """What a Trainer does with the stores of all its processes."""
  keys = np.array(keys, np.int64)
  distinct, counts = np.unique(keys, return_counts=True)
  owner, ids, reset = stores[0].owner(keys), np.zeros(len(keys), int), []
  of_distinct = stores[0].owner(distinct)
  for i, store in enumerate(stores):
    mine = of_distinct == i
    reset += store.count(distinct[mine], counts[mine], step).tolist()
    ids[owner == i] = store.lookup(keys[owner == i])
  return ids.tolist(), reset


def spread(config, num):
  return [KeyStore(config, i, num) for i in range(num)]


@settings(max_examples=100, deadline=None)
@given(
  configs(),
  st.lists(st.lists(KEYS, max_size=12), max_size=12),
  st.integers(1, 4),
)
def test_does_what_loops_would_however_it_is_held(config, batches, num):
  whole, reference = [KeyStore(config, 0, 1)], Reference(config)
  stores = spread(config, num)
  for step, keys in enumerate(batches):
    got = update(whole, keys, step)
    assert update(stores, keys, step) == got
    reset = reference.update(keys, step)
    assert got == (reference.ids(keys), reset)
  keys, ids = (np.concatenate(x) for x in zip(*(s.keys() for s in stores)))
  assert dict(zip(ids.tolist(), keys.tolist(), strict=True)) == {
    1 + place: slot[0] for place, slot in reference.slots.items()
  }


@pytest.mark.parametrize('num', [1, 3])
def test_frequent_keys_win_and_candidates_are_remembered(num):
  config = KeyStoreConfig(
    num_ids=65, num_parts=4, min_count=2, eviction='lfu', max_candidates=400
  )
  stores = spread(config, num)
  assert update(stores, [5, 7, 7], 0)[0][0] == 0  # Seen once.
  ids, _ = update(stores, [5], 1)
  assert ids[0] > 0  # Twice, over two steps.
  rng = np.random.default_rng(0)
  frequent, num_reset = np.arange(1000, 1040), 0
  for step in range(2, 40):
    rare = rng.integers(2000, 9000, 60)
    _, reset = update(stores, [*frequent, *frequent, *rare], step)
    assert reset == sorted(set(reset))
    num_reset += len(reset)
  ids = np.array(update(stores, frequent, 40)[0])
  assert np.all(ids > 0) and len(np.unique(ids)) == len(frequent)
  assert 0 < num_reset < 200


@pytest.mark.parametrize('share', [0.5, 0.9])
def test_a_slot_takes_16_bytes_and_few_keys_find_none(share):
  config = KeyStoreConfig(num_ids=1 + (1 << 18), num_parts=64)
  keys = np.random.default_rng(0).integers(0, 2**63, int(share * 2**18))
  whole = KeyStore(config, 0, 1)
  whole.count(np.sort(keys), np.ones(len(keys), int), 1)
  assert whole.nbytes == 16 * (config.num_ids - 1)
  assert len(whole) >= (0.99 if share > 0.6 else 1) * len(keys)
  ids = whole.lookup(keys)
  known = ids[ids > 0]
  assert len(np.unique(known)) == len(known) == len(whole)
  # A process of four holds a quarter.
  assert sum(x.nbytes for x in spread(config, 4)) == whole.nbytes
  assert KeyStore(config, 2, 4).nbytes == whole.nbytes // 4


def test_a_store_goes_on_from_its_state_in_other_processes():
  config = KeyStoreConfig(
    num_ids=41, num_parts=6, min_count=2, eviction='lfu', max_candidates=60
  )
  rng = np.random.default_rng(0)
  batches = rng.integers(0, 90, (20, 30))
  two, whole = spread(config, 2), spread(config, 1)
  for step in range(10):
    assert update(two, batches[step], step) == update(
      whole, batches[step], step
    )
  parts = {
    name: np.concatenate([x.state()[name] for x in two])
    for name in two[0].state()
  }
  three = spread(config, 3)
  for i, store in enumerate(three):
    mine = {name: x[2 * i : 2 * i + 2] for name, x in parts.items()}
    store.set_state(mine)
  for step in range(10, 20):
    ids = update(three, batches[step], step)
    assert ids == update(whole, batches[step], step)


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match='num_parts below num_ids=5'):
    KeyStoreConfig(num_ids=5, num_parts=5)
  store = KeyStore(KeyStoreConfig(num_ids=9, num_parts=4), 0, 2)
  with pytest.raises(ValueError, match='keys of others are asked for'):
    store.lookup(np.arange(20))
