# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Growing vocabularies: keys mapped to rows of a table of fixed size.

A `Vocabulary` is part of the input pipeline: it admits a key that was seen
often enough, assigns it a row (a slot), and evicts keys that are no longer
used. A reassigned row must be reset on the devices by
`antjax.train.state.reset_rows`. `hash_ids` is the stateless alternative, in
which keys share rows.
"""

from collections.abc import Mapping
import dataclasses
import json
import os
import pathlib
from typing import Any, BinaryIO, Literal

import numpy as np

from antjax import paths
from antjax.embedding.key_index import KeyIndex, mix, to_keys

UNKNOWN = 0  # Id of every key without a slot; its row is trained too.


def hash_ids(values: np.ndarray, num_ids: int, *, seed: int = 0) -> np.ndarray:
  """Ids from 1 on by hash, int32 or int64; keys may share a row.

  Ids are the same in every process and version. Two keys share a row with
  probability 1 / (num_ids - 1); of n keys, a share of about 1 - exp(-n /
  (num_ids - 1)) do. Id 0 stays free for unknown keys. Another seed gives an
  independent hash. Values are as for `to_keys`.
  """
  if not 2 <= num_ids <= 2**47:  # The rows that tables may have.
    raise ValueError(
      f'hash_ids(num_ids={num_ids}): must be 2 to 2^47; id 0 is for what is'
      ' unknown.'
    )
  salt = mix(np.array(seed, np.int64))
  hashed = mix(to_keys(values).view(np.uint64) ^ salt)
  dtype = np.int32 if num_ids <= 2**31 else np.int64
  return (hashed % np.uint64(num_ids - 1) + np.uint64(1)).astype(dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocabularyConfig:
  """How keys are admitted and evicted.

  Attributes:
    num_ids: Rows of the table: ids 1 to num_ids - 1 are slots, 0 is unknown.
    min_count: Number of times a key must be seen to get a slot.
    eviction: Rule when all slots are taken. 'none': new keys stay unknown.
      'ttl': keys not seen for `ttl` steps lose their slots. 'lfu': the least
      frequent keys lose their slots to more frequent ones.
    ttl: Number of steps, for 'ttl'.
    max_candidates: Number of keys without a slot whose counts are kept; beyond
      it, those seen longest ago are forgotten.
  """

  num_ids: int
  min_count: int = 1
  eviction: Literal['none', 'ttl', 'lfu'] = 'none'
  ttl: int = 0
  max_candidates: int = 1 << 20

  def __post_init__(self) -> None:
    if not 2 <= self.num_ids <= 2**31:
      raise ValueError(
        f'VocabularyConfig(num_ids={self.num_ids}): must be 2 to 2^31; id 0 is'
        ' for what is unknown.'
      )
    if self.min_count < 1 or self.max_candidates < 1:
      raise ValueError(
        f'VocabularyConfig(min_count={self.min_count}, max_candidates='
        f'{self.max_candidates}): both must be at least 1.'
      )
    if self.eviction not in ('none', 'ttl', 'lfu'):
      raise ValueError(
        f'VocabularyConfig(eviction={self.eviction!r}): use none, ttl or lfu.'
      )
    if (self.eviction == 'ttl') != (self.ttl > 0):
      raise ValueError(
        f'VocabularyConfig(eviction={self.eviction!r}, ttl={self.ttl}): a ttl'
        " of at least 1 step goes with eviction='ttl', and only with that."
      )


@dataclasses.dataclass(frozen=True)
class Update:
  """Result of `Vocabulary.update`.

  Attributes:
    ids: Ids int32, in the shape of the keys.
    reset: Ascending ids int32 [n] that belonged to other keys before. Reset
      their rows and optimizer slots before using the ids.
  """

  ids: np.ndarray
  reset: np.ndarray


class _Store:
  """Rows of keys, with counts and the step at which each was last seen."""

  def __init__(self, capacity: int, first: int = 0):
    self.index = KeyIndex(capacity)
    self.is_used = np.zeros(capacity, bool)
    self.count = np.zeros(capacity, np.int64)
    self.last_seen = np.zeros(capacity, np.int64)
    self.top = first  # No row from here on was ever used.
    self._freed = np.zeros(0, np.int64)  # Below the top, ascending.

  @property
  def num_free(self) -> int:
    return len(self._freed) + len(self.is_used) - self.top

  def add(self, keys, count, last_seen) -> np.ndarray:
    """Gives keys the lowest free rows."""
    again, self._freed = np.split(
      self._freed, [min(len(keys), self._freed.size)]
    )
    old_top, self.top = self.top, self.top + len(keys) - len(again)
    rows = np.concatenate([again, np.arange(old_top, self.top)])
    self.put(keys, rows, count, last_seen)
    return rows

  def put(self, keys, rows, count, last_seen) -> None:
    self.index.insert(keys, rows.astype(np.int32))
    self.is_used[rows] = True
    self.count[rows] = count
    self.last_seen[rows] = last_seen

  def remove(self, rows) -> None:
    self.index.remove(rows.astype(np.int32))
    self.is_used[rows] = False
    self._freed = np.sort(np.concatenate([self._freed, rows]))

  def state(self, prefix: str) -> dict[str, np.ndarray]:
    rows = np.flatnonzero(self.is_used)
    return {
      f'{prefix}_top': np.array(self.top),
      f'{prefix}_row': rows,
      f'{prefix}_key': self.index.keys[rows],
      f'{prefix}_count': self.count[rows],
      f'{prefix}_last_seen': self.last_seen[rows],
    }

  def set_state(self, prefix: str, state: Mapping[str, np.ndarray]) -> None:
    columns = ('key', 'row', 'count', 'last_seen')
    self.put(*(state[f'{prefix}_{name}'] for name in columns))
    first, self.top = self.top, int(state[f'{prefix}_top'])
    self._freed = first + np.flatnonzero(~self.is_used[first : self.top])


class Vocabulary:
  """Key -> id of a table, changing as data arrive.

  Deterministic: the result depends only on the distinct keys of each update and
  their counts, not on their order. Processes that make the same updates have
  the same ids, so let each of them see the keys of all.

  An update takes O(keys) time, plus O(ids) if it needs a slot and none is free.
  Memory is about 45 bytes per id and per candidate.
  """

  def __init__(self, config: VocabularyConfig):
    self.config = config
    self._slots = _Store(config.num_ids, first=UNKNOWN + 1)
    self._candidates = _Store(config.max_candidates)

  def __len__(self) -> int:
    """Number of keys that have an id."""
    return self.config.num_ids - 1 - self._slots.num_free

  def lookup(self, values: np.ndarray) -> np.ndarray:
    """Ids of integers, str or bytes, int32 of the same shape; 0 is unknown."""
    keys = to_keys(values)
    found = self._slots.index.find(keys.ravel())
    return np.maximum(found, UNKNOWN).reshape(keys.shape)

  def update(
    self, values: np.ndarray, step: int, mask: np.ndarray | None = None
  ) -> Update:
    """Counts keys, admits and evicts keys, and looks keys up.

    Args:
      values: Keys of a batch: integers, str or bytes, of any shape.
      step: Number of the step, not less than in the last update.
      mask: bool, in the shape of `values`. False: padding, whose id is -1.
    """
    keys = to_keys(values)
    shown = np.ones(keys.shape, bool) if mask is None else mask.astype(bool)
    distinct, position, count = np.unique(
      keys[shown], return_inverse=True, return_counts=True
    )
    reset = self.count(distinct, count, step)
    ids = np.full(keys.shape, -1, np.int32)
    rows = np.maximum(self._slots.index.find(distinct), UNKNOWN)
    ids[shown] = rows[position]
    return Update(ids, reset)

  def count(
    self, keys: np.ndarray, counts: np.ndarray, step: int
  ) -> np.ndarray:
    """Like `update`, for distinct keys [n] of `to_keys` and their counts [n].

    Returns:
      Ids to reset; see `Update`.
    """
    rows = self._slots.index.find(keys)
    is_known = rows >= 0
    known = rows[is_known]
    self._slots.count[known] += counts[is_known]
    self._slots.last_seen[known] = step
    return self._admit(keys[~is_known], counts[~is_known], step)

  def _admit(self, keys, count, step):
    """Gives slots to the distinct unknown keys that qualify."""
    slots, candidates = self._slots, self._candidates
    seen = candidates.index.find(keys)
    is_seen = seen >= 0
    total = count + np.where(is_seen, candidates.count[seen], 0)
    # By falling count, then by key.
    order = np.lexsort((keys, -total))
    order = order[total[order] >= self.config.min_count]
    if len(order) > slots.num_free:
      self._make_room(total[order], step)
    winners = order[: slots.num_free]
    old_top = slots.top
    given = slots.add(keys[winners], total[winners], step)
    is_left = np.ones(len(keys), bool)
    is_left[winners] = False
    candidates.remove(seen[is_seen & ~is_left])
    candidates.count[seen[is_seen & is_left]] = total[is_seen & is_left]
    candidates.last_seen[seen[is_seen & is_left]] = step
    is_new = is_left & ~is_seen
    self._remember(keys[is_new], total[is_new], step)
    return given[given < old_top].astype(np.int32)

  def _make_room(self, counts, step):
    """Evicts keys for newcomers, whose counts are in descending order."""
    slots = self._slots
    if self.config.eviction == 'none':
      return
    # Keys seen in this step are used by this batch.
    old = np.flatnonzero(slots.is_used & (slots.last_seen < step))
    if self.config.eviction == 'ttl':
      old = old[slots.last_seen[old] <= step - self.config.ttl]
    else:
      rivals = counts[slots.num_free :]
      order = np.lexsort((old, slots.last_seen[old], slots.count[old]))
      old = old[order][: len(rivals)]
      old = old[slots.count[old] < rivals[: len(old)]]
    slots.remove(old)

  def _remember(self, keys, counts, step):
    """Keeps counts of new candidates, replacing the oldest ones."""
    store, most = self._candidates, self.config.max_candidates
    excess = min(len(keys), most) - store.num_free
    if excess > 0:
      rows = np.flatnonzero(store.is_used)
      order = np.lexsort((store.index.keys[rows], store.last_seen[rows]))
      store.remove(rows[order[:excess]])
    store.add(keys[:most], counts[:most], step)

  def keys(self) -> tuple[np.ndarray, np.ndarray]:
    """(keys int64 [n], their ids int32 [n]), by ascending id."""
    rows = np.flatnonzero(self._slots.is_used)
    return self._slots.index.keys[rows], rows.astype(np.int32)

  # A restored vocabulary continues exactly as the saved one would.

  def state(self) -> dict[str, np.ndarray]:
    """The whole state as arrays; the config as JSON text."""
    return {
      'config': np.array(json.dumps(dataclasses.asdict(self.config))),
      **self._slots.state('slot'),
      **self._candidates.state('candidate'),
    }

  @classmethod
  def from_state(cls, state: Mapping[str, Any]) -> 'Vocabulary':
    """Restores the vocabulary from the result of `state()`."""
    new = cls(VocabularyConfig(**json.loads(str(state['config']))))
    new._slots.set_state('slot', state)
    new._candidates.set_state('candidate', state)
    return new

  def save(self, path: str | os.PathLike[str]) -> None:
    """Writes the state to an .npz file, atomically."""
    with paths.replaced(pathlib.Path(path)) as new, new.open('wb') as file:
      self.write(file)

  def write(self, file: BinaryIO, **more: Any) -> None:
    """Writes the state, and optionally further arrays, to an open file."""
    np.savez(file, **self.state(), **more)  # type: ignore[arg-type]

  @classmethod
  def load(cls, path: str | os.PathLike[str]) -> 'Vocabulary':
    """Reads what `save` wrote."""
    with np.load(path) as state:
      return cls.from_state(dict(state))
