# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A growing vocabulary of which each process holds a part.

A key's hash names a part and a place in it. The key's slot is one of the next
`num_probes` places, and the row of the table is that of the slot: there is no
index besides. TorchRec's MPZCH lays its keys out in this way. A slot takes 16
bytes: key, count, and when it was last seen.

Parts are of a fixed number, so ids do not depend on the number of processes. A
process holds consecutive parts: 1 / processes of the memory. `train/keys.py`
asks the owners of keys.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import numpy as np

from antjax.embedding.key_index import mix, to_keys
from antjax.embedding.vocabulary import UNKNOWN, VocabularyConfig

# 'seen' is 1 + the step; 0: the slot is free. A slot that has had a key is
# never free again, so a search ends at a free one.
_SLOT = np.dtype([('key', '<i8'), ('count', '<u4'), ('seen', '<u4')])
_MOST = 2**32 - 1
_BLOCK = 1 << 12  # Keys of a part that compete for slots at once.


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeyStoreConfig(VocabularyConfig):
  """How keys are admitted and evicted, and how they are spread.

  Attributes:
    num_parts: Number of parts, at most so many processes share the keys. Each
      has (num_ids - 1) // num_parts slots; rows that remain are not used.
    num_probes: Number of slots that a key may have. It stays unknown if all of
      them are taken and `eviction` frees none, although others may be free.
    unknown_key: Key that stands for what is unknown; it has no slot.
  """

  num_parts: int = 256
  num_probes: int = 128
  unknown_key: int | None = None

  def __post_init__(self) -> None:
    super().__post_init__()
    if not 1 <= self.num_parts < self.num_ids or self.num_probes < 1:
      raise ValueError(
        f'KeyStoreConfig(num_parts={self.num_parts}, num_probes='
        f'{self.num_probes}): both must be at least 1, and num_parts below'
        f' num_ids={self.num_ids}.'
      )


class _Slots:
  """Slots of the parts of one process, and searches in them."""

  def __init__(self, config: KeyStoreConfig, size: int, parts: range):
    self._total, self._size, self._parts = config.num_parts, size, parts
    self._probes = min(config.num_probes, size)
    self.slots = np.zeros(len(parts) * size, _SLOT)

  def part(self, keys: np.ndarray) -> np.ndarray:
    """Part of each key, int64 [n]."""
    return _scaled(mix(keys) >> np.uint64(32), self._total)

  def first(self) -> int:
    """Place of the first slot here among those of all processes."""
    return self._parts.start * self._size

  def _home(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start of each key's part in `slots`, and its home there."""
    start = (self.part(keys) - self._parts.start) * self._size
    return start, _scaled(mix(keys) & np.uint64(_MOST), self._size)

  def find(self, keys: np.ndarray) -> np.ndarray:
    """The places of keys [n] in `slots`, int64 [n]; -1: it has none."""
    places, waiting = np.full(len(keys), -1), np.arange(len(keys))
    start, home = self._home(keys)
    for step in range(self._probes):
      if not waiting.size:
        break
      at = start[waiting] + (home[waiting] + step) % self._size
      slot = self.slots[at]
      is_used = slot['seen'] > 0
      is_hit = is_used & (slot['key'] == keys[waiting])
      places[waiting[is_hit]] = at[is_hit]
      waiting = waiting[is_used & ~is_hit]
    return places

  def add(self, places: np.ndarray, counts: np.ndarray, step: int) -> None:
    """Notes that keys were seen so many times more."""
    total = self.slots['count'][places].astype(np.int64) + counts
    self.set(places, total, step)

  def set(self, places: np.ndarray, counts: np.ndarray, step: int) -> None:
    """Sets the counts of slots."""
    self.slots['count'][places] = np.minimum(counts, _MOST)
    self.slots['seen'][places] = step + 1

  def put(
    self, keys: np.ndarray, counts: np.ndarray, step: int, rule: str, ttl: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Gives slots to new keys [n], of which the first come first.

    Returns:
      (places int64 [n], -1 for none; whether another key had the slot).
    """
    places, is_reused = self._put_free(keys, counts, step), np.zeros(0, bool)
    is_reused = np.zeros(len(keys), bool)
    left = np.flatnonzero(places < 0)
    if rule != 'none' and left.size:
      part = self.part(keys[left])
      left = left[np.argsort(part, kind='stable')]
      edges = np.flatnonzero(np.diff(np.sort(part))) + 1
      # What happens in a part does not depend on other parts.
      for some in np.split(left, edges):
        for i in range(0, len(some), _BLOCK):
          block = some[i : i + _BLOCK]
          found = self._take(keys[block], counts[block], step, rule, ttl)
          places[block], is_reused[block] = found, found >= 0
    return places, is_reused

  def _put_free(self, keys, counts, step) -> np.ndarray:
    places, waiting = np.full(len(keys), -1), np.arange(len(keys))
    start, home = self._home(keys)
    for probe in range(self._probes):
      if not waiting.size:
        break
      at = start[waiting] + (home[waiting] + probe) % self._size
      free = np.flatnonzero(self.slots['seen'][at] == 0)
      _, first = np.unique(at[free], return_index=True)
      won = free[first]
      self._write(at[won], keys[waiting[won]], counts[waiting[won]], step)
      places[waiting[won]] = at[won]
      waiting = np.delete(waiting, won)
    return places

  def _take(self, keys, counts, step, rule, ttl) -> np.ndarray:
    """Evicts the keys of slots for others, all of one part."""
    places, waiting = np.full(len(keys), -1), np.arange(len(keys))
    start, home = self._home(keys)
    probes = np.arange(self._probes)
    windows = start[:, None] + (home[:, None] + probes) % self._size
    while waiting.size:
      window = windows[waiting]
      slot = self.slots[window]
      worth = slot['seen'].astype(np.uint64)
      if rule == 'lfu':
        worth |= slot['count'].astype(np.uint64) << np.uint64(32)
        stays = slot['count'] >= counts[waiting, None]
      else:
        stays = slot['seen'] > max(step + 1 - ttl, 0)
      # Keys seen in this step are used by this batch.
      worth[stays | (slot['seen'] > step)] = np.iinfo(np.uint64).max
      best = worth.argmin(axis=1)
      row = np.arange(len(waiting))
      can = np.flatnonzero(worth[row, best] < np.iinfo(np.uint64).max)
      waiting, at = waiting[can], window[row, best][can]
      _, won = np.unique(at, return_index=True)
      self._write(at[won], keys[waiting[won]], counts[waiting[won]], step)
      places[waiting[won]] = at[won]
      waiting = np.delete(waiting, won)
    return places

  def _write(self, at, keys, counts, step) -> None:
    self.slots['key'][at] = keys
    self.set(at, counts, step)


class KeyStore:
  """Key -> id of a table, changing as data arrive; the keys of some parts.

  Deterministic, as `Vocabulary` is, and independent of the number of processes.
  The least used of the slots that a newcomer may have is freed for it, not the
  least used of all.

  Attributes:
    config: Its configuration.
    parts: The parts that this process holds.
  """

  def __init__(
    self,
    config: KeyStoreConfig,
    index: int | None = None,
    num_processes: int | None = None,
  ):
    """Holds the parts of process `index`, by default of this process."""
    self.config = config
    index = jax.process_index() if index is None else index
    count = jax.process_count() if num_processes is None else num_processes
    self.num_processes = count
    self._most_parts = -(-config.num_parts // count)
    first = index * self._most_parts
    # All processes hold as many, so that their arrays form one array.
    self.parts = range(first, first + self._most_parts)
    size = (config.num_ids - 1) // config.num_parts
    self._stores = {'slots': _Slots(config, size, self.parts)}
    self._slots = self._stores['slots']
    self._candidates: _Slots | None = None
    if config.min_count > 1 or config.eviction == 'lfu':
      size = -(-config.max_candidates // config.num_parts)
      self._candidates = _Slots(config, size, self.parts)
      self._stores['candidates'] = self._candidates

  def __len__(self) -> int:
    """Number of keys of this process that have an id."""
    return int(np.count_nonzero(self._slots.slots['seen']))

  @property
  def nbytes(self) -> int:
    """Bytes that the keys of this process take: 16 per slot."""
    return sum(x.slots.nbytes for x in self._stores.values())

  def owner(self, keys: np.ndarray) -> np.ndarray:
    """The process that holds each key [n] of `to_keys`, int64 [n]."""
    return self._slots.part(keys) // self._most_parts

  def lookup(self, values: np.ndarray) -> np.ndarray:
    """Ids of integers, str or bytes, int32 of the same shape; 0 is unknown.

    Raises:
      ValueError: Another process holds a key.
    """
    keys = to_keys(values)
    flat = keys.ravel()
    part = self._slots.part(flat)
    if not np.all((part >= self.parts.start) & (part < self.parts.stop)):
      raise ValueError(
        f'KeyStore.lookup: this process holds the parts {self.parts}, and keys'
        ' of others are asked for; send them to their `owner`, as a Trainer'
        ' does.'
      )
    ids = self._ids(self._slots.find(flat))
    ids[flat == self.config.unknown_key] = UNKNOWN
    return ids.reshape(keys.shape)

  def _ids(self, places: np.ndarray) -> np.ndarray:
    first = self._slots.first() + UNKNOWN + 1
    return np.where(places < 0, UNKNOWN, places + first).astype(np.int32)

  def count(
    self, keys: np.ndarray, counts: np.ndarray, step: int
  ) -> np.ndarray:
    """Counts and admits distinct keys [n] of this process; see `Vocabulary`.

    Returns:
      Ascending ids int32 that belonged to other keys before.
    """
    if self.config.unknown_key is not None:
      is_key = keys != self.config.unknown_key
      keys, counts = keys[is_key], counts[is_key]
    places = self._slots.find(keys)
    is_known = places >= 0
    self._slots.add(places[is_known], counts[is_known], step)
    return self._admit(keys[~is_known], counts[~is_known], step)

  def _admit(self, keys, counts, step):
    config, candidates = self.config, self._candidates
    total = counts.astype(np.int64)
    seen = np.full(len(keys), -1)
    if candidates is not None:
      seen = candidates.find(keys)
      total += np.where(seen < 0, 0, candidates.slots['count'][seen])
    # By falling count, then by key.
    order = np.lexsort((keys, -total))
    asked = order[total[order] >= config.min_count]
    places, is_reused = self._slots.put(
      keys[asked], total[asked], step, config.eviction, config.ttl
    )
    if candidates is not None:
      is_in = np.zeros(len(keys), bool)
      is_in[asked[places >= 0]] = True
      known, new = seen >= 0, order[(seen[order] < 0) & ~is_in[order]]
      candidates.set(seen[known], total[known], step)
      # Forgotten: the first to be replaced.
      gone = seen[known & is_in]
      candidates.slots['count'][gone], candidates.slots['seen'][gone] = 0, 1
      candidates.put(keys[new], total[new], step, 'oldest', 0)
    return np.sort(self._ids(places[is_reused]))

  def keys(self) -> tuple[np.ndarray, np.ndarray]:
    """(keys int64 [n], their ids int32 [n]) of this process, by id."""
    places = np.flatnonzero(self._slots.slots['seen'])
    return self._slots.slots['key'][places], self._ids(places)

  # A restored store continues exactly as the saved one would.

  def state(self) -> dict[str, np.ndarray]:
    """Name -> uint32 [parts, slots, 4]: views of the memory of this process."""
    return {
      name: x.slots.view(np.uint32).reshape(self._most_parts, -1, 4)
      for name, x in self._stores.items()
    }

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Takes the result of `state` of a store with this config and process."""
    for name, mine in self.state().items():
      mine[...] = state[name]


def _scaled(hashed: np.ndarray, size: int) -> np.ndarray:
  """Numbers below 2^32 to numbers below `size`, int64."""
  return (hashed * np.uint64(size) >> np.uint64(32)).astype(np.int64)
