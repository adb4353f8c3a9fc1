# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which rows of a table are on the devices, and at which place.

The rows of the next batches are known. Room is made by rows that none of them
needs, the least recently used ones first, and then by those needed last
(Belady's rule).
"""

from collections import deque
from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from antjax.embedding.routing import PAD

_SHARE = 8  # One in so many places is chosen for eviction at once.


@dataclasses.dataclass(frozen=True)
class RowMove:
  """Rows that make room, and the rows that take their places or free ones."""

  evicted: np.ndarray  # Ids of rows changed on the devices, int64 [m].
  from_places: np.ndarray  # Their places, int64 [m].
  loaded: np.ndarray  # Ids int64 [n], rising.
  to_places: np.ndarray  # Their places, int64 [n].


class RowCache:
  """Places of a table's rows; a batch's rows are all there at its step."""

  def __init__(self, name: str, num_rows: int, num_places: int):
    self._name = name
    # Place + 1 of each id; if on no device: 0, or minus the last known batch to
    # use it. Pages never written take no memory.
    self._place = np.zeros(num_rows, np.int32)
    self.ids = np.full(num_places, -1, np.int64)  # By place; -1: free.
    self._used = np.full(num_places, -1, np.int64)  # Batch of the last use.
    self.is_changed = np.zeros(num_places, bool)  # Since it was written home.
    # Last known batch to use it.
    self._until = np.full(num_places, -1, np.int64)
    self._num_taken = 0  # Places below are taken.
    self._now = 0  # Number of batches placed.
    self._ahead = deque[np.ndarray]()  # Ids of the next batches.
    # Places to evict next, if not used since: (places, last uses).
    none: Any = np.zeros(0, np.int64)
    self._next = none, none

  def see(self, ids: np.ndarray) -> np.ndarray:
    """Remembers a coming batch, ids [n] with PAD; returns some to be fetched.

    They are on no device, and no batch seen before needs them.
    """
    ids = ids[ids >= 0]
    self._ahead.append(ids)
    number = self._now + len(self._ahead)
    found = self._place[ids]
    is_here = found > 0
    self._until[found[is_here] - 1] = number
    self._place[ids[~is_here]] = -number
    return ids[found == 0]

  def forget_ahead(self) -> None:
    """Forgets the coming batches."""
    for ids in self._ahead:
      self._place[ids[self._place[ids] < 0]] = 0
    self._ahead.clear()
    self._until[:] = -1

  def place(
    self, ids: np.ndarray, is_training: bool
  ) -> tuple[np.ndarray, RowMove]:
    """Places int32 [n] of ids [n]; PAD stays PAD.

    The move must be made before the batch's step.

    Raises:
      ValueError: The batch has more distinct rows than there are places.
    """
    self._now += 1
    if self._ahead:
      self._ahead.popleft()
    is_id = ids >= 0
    # PAD reads some entry, which is replaced.
    places = np.where(is_id, self._place[ids] - 1, PAD)
    is_lacking = is_id & (places < 0)
    self._used[places[places >= 0]] = self._now
    loaded = np.sort(ids[is_lacking])  # Far faster than np.unique.
    loaded = loaded[np.diff(loaded, prepend=-1) > 0]
    to_places, num_free = self._make_room(len(loaded), ids)
    gone = to_places[num_free:]
    evicted, until = self.ids[gone], self._until[gone]
    self._place[evicted] = np.where(until > self._now, -until, 0)
    self._until[to_places] = -self._place[loaded]
    self._place[loaded] = to_places + 1
    self.ids[to_places], self._used[to_places] = loaded, self._now
    is_kept = self.is_changed[gone]
    move = RowMove(evicted[is_kept], gone[is_kept], loaded, to_places)
    self.is_changed[to_places] = False
    if loaded.size:
      places[is_lacking] = self._place[ids[is_lacking]] - 1
    if is_training:
      self.is_changed[places[is_id]] = True
    return places.astype(np.int32), move

  def _make_room(self, num: int, ids: np.ndarray) -> tuple[np.ndarray, int]:
    """Places for rows that the batch lacks; the first ones are free ones."""
    start = self._num_taken
    self._num_taken = min(start + num, len(self.ids))
    parts = [np.arange(start, self._num_taken)]
    self._used[parts[0]] = self._now
    num_free = len(parts[0])
    lacking = num - num_free
    while lacking:
      if not len(self._next[0]):
        self._choose(lacking)
      found, uses = self._next
      if not len(found):
        break
      found, uses = found[: 2 * lacking], uses[: 2 * lacking]
      is_old = (self._used[found] == uses) & (self._until[found] <= self._now)
      at = np.flatnonzero(is_old)[:lacking]
      seen = len(found) if len(at) < lacking else at[-1] + 1
      self._next = self._next[0][seen:], self._next[1][seen:]
      self._used[found[at]] = self._now
      parts.append(found[at])
      lacking -= len(at)
    if lacking:
      parts.append(self._latest(lacking, ids))
    return np.concatenate(parts), num_free

  def _choose(self, num: int) -> None:
    """Chooses the places to evict next among those that nothing needs."""
    used = self._used[: self._num_taken]
    is_idle = (used < self._now) & (self._until[: self._num_taken] <= self._now)
    idle = np.flatnonzero(is_idle)
    num = max(num, len(self.ids) // _SHARE)
    if num < len(idle):
      idle = idle[np.argpartition(used[idle], num)[:num]]
    idle = idle[np.argsort(used[idle], kind='stable')]
    self._next = idle, used[idle].copy()

  def _latest(self, num: int, ids: np.ndarray) -> np.ndarray:
    """Places of the rows that are needed last, of those not needed now."""
    needed = np.full(len(self.ids), self._now + len(self._ahead) + 1)
    for number in reversed(range(len(self._ahead))):
      at = self._place[self._ahead[number]] - 1
      needed[at[at >= 0]] = self._now + 1 + number
    needed[self._used == self._now] = -1
    if num > np.count_nonzero(needed >= 0):
      least = len(np.unique(ids[ids >= 0]))
      raise ValueError(
        f'EmbeddingTables(home=...): a batch needs {least} distinct rows of'
        f' table {self._name!r}, and device_rows={len(self.ids)} of them fit on'
        f' the devices. Set device_rows to {least} or more; several times as'
        ' many let frequent rows stay.'
      )
    return np.argsort(-needed, kind='stable')[:num]

  # In checkpoints.

  def state(self) -> dict[str, np.ndarray]:
    """What `of_state` needs, once all changed rows were written home."""
    return {'ids': self.ids.copy(), 'used': self._used - self._now}

  @classmethod
  def of_state(
    cls, name: str, num_rows: int, state: Mapping[str, np.ndarray]
  ) -> 'RowCache':
    """A cache from the result of `state`; it knows no coming batch."""
    new = cls(name, num_rows, len(state['ids']))
    new.ids[:], new._used[:] = state['ids'], state['used']
    new._num_taken = int(np.count_nonzero(new.ids >= 0))
    new._place[new.ids[: new._num_taken]] = 1 + np.arange(new._num_taken)
    return new

  def copy(self) -> 'RowCache':
    """A cache that can change on its own, none of whose rows has changed."""
    return self.of_state(self._name, len(self._place), self.state())
