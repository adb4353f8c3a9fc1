# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One open epoch of a `SharedLedger`: a byte for each shard.

Shards have positions in the epoch's shuffled order, and are leased by them.
"""

from collections import deque
from collections.abc import Callable, Iterable
import dataclasses
import heapq
from typing import Any

import numpy as np

from antjax.shards import index_set

TODO, DOING, CONSUMED, DONE, SET_ASIDE = range(5)
_SCAN = 4096


@dataclasses.dataclass(slots=True)
class Held:
  """A leased shard."""

  worker: str
  position: int


@dataclasses.dataclass
class SetAside:
  """A shard that could not be read.

  Attributes:
    position: In its epoch.
    message: Why.
    bits: Of its records that are consumed.
  """

  position: int
  message: str
  bits: int


class SharedEpoch:
  """Who has which shard of an epoch; changed by its `SharedLedger` only.

  Attributes:
    size: Number of shards S.
    status: [S] what each position is, as bytes; `flags` is the same as array.
    num: How many positions are TODO, DOING, CONSUMED, DONE, SET_ASIDE.
    held: Shard index -> lease.
    num_held: Worker -> number of its leases, if any.
    marks: Position -> bit set of consumed records of a shard that is in part.
  """

  def __init__(self, size: int, order_fn: Callable[[], np.ndarray] | None):
    """All shards are to do.

    Args:
      size: Number of shards.
      order_fn: Computes the shard index at each position; None: in order.
    """
    self._order_fn = order_fn
    self._order: np.ndarray | None = None
    self._take(bytearray(size))
    self.held: dict[int, Held] = {}
    self.num_held: dict[str, int] = {}
    self.marks: dict[int, int] = {}
    # To do are the positions >= cursor with that status, and of the others
    # (position, index) those that came back, and those to try again last.
    self.cursor = 0
    self.returned: list[tuple[int, int]] = []
    self.failed: deque[tuple[int, int]] = deque()

  def _take(self, status: bytearray) -> None:
    self.status = status
    self.flags = np.frombuffer(status, np.uint8)
    self.size = len(status)
    self.recount()

  def recount(self) -> None:
    """To be called after a change of many positions in `flags`."""
    self.num = np.bincount(self.flags, minlength=5).tolist()
    self._ready: deque[int] = deque()  # The next from the cursor on: a cache.
    self._scanned = -1  # Up to where it reaches; -1: begin at the cursor.

  def grow(self, size: int) -> None:
    """Adds shards, of an epoch in order, that are to do."""
    self._take(self.status + bytearray(size - self.size))

  @property
  def is_over(self) -> bool:
    """Whether nothing is to do or leased."""
    return not self.num[TODO] and not self.num[DOING]

  def set(self, position: int, status: int) -> None:
    """Changes what a position is."""
    self.num[self.status[position]] -= 1
    self.num[status] += 1
    self.status[position] = status

  def lease(self, worker: str) -> tuple[int, int] | None:
    """Gives (position, index) of the next shard to a worker."""
    found = self._next()
    if found is not None:
      position, index = found
      self.set(position, DOING)
      self._hold(index, Held(worker, position))
    return found

  def _hold(self, index: int, held: Held) -> None:
    self.held[index] = held
    self.num_held[held.worker] = self.num_held.get(held.worker, 0) + 1

  def unhold(self, index: int) -> Held:
    """Forgets a lease and returns it; the position is still DOING."""
    held = self.held.pop(index)
    count = self.num_held.pop(held.worker)
    if count > 1:
      self.num_held[held.worker] = count - 1
    return held

  def _next(self) -> tuple[int, int] | None:
    status = self.status
    while self.returned:
      place = heapq.heappop(self.returned)
      if status[place[0]] == TODO:
        return place
    while self.cursor < self.size:
      while self._ready:
        position = self._ready.popleft()
        self.cursor = position + 1
        if status[position] == TODO:
          return position, self.index(position)
      start = self._scanned if self._scanned >= 0 else self.cursor
      if start >= self.size:
        self.cursor = self.size
        break
      self._scanned = min(start + _SCAN, self.size)
      chunk = self.flags[start : self._scanned]
      self._ready.extend((np.flatnonzero(chunk == TODO) + start).tolist())
    self._order = None  # All that is to do has its index with it.
    while self.failed:
      place = self.failed.popleft()
      if status[place[0]] == TODO:
        return place
    return None

  def index(self, position: int) -> int:
    """Returns the shard at a position."""
    if self._order_fn is None:
      return position
    if self._order is None:
      self._order = self._order_fn()
    return int(self._order[position])

  def drop(self, index: int, status: int) -> int:
    """Ends a lease; returns the position, which now has `status`."""
    position = self.unhold(index).position
    self.set(position, status)
    return position

  def put_back(self, position: int, index: int) -> None:
    """Makes a position the next that is to do; it has another status now."""
    self.set(position, TODO)
    heapq.heappush(self.returned, (position, index))

  def to_json(self) -> tuple[dict[str, Any], bytes]:
    """Returns all but the status as plain types, and the status."""
    return {
      'size': self.size,
      'cursor': self.cursor,
      'returned': self.returned,
      'failed': list(self.failed),
      'held': [[i, h.worker, h.position] for i, h in self.held.items()],
      'marks': {str(p): index_set.encode(m) for p, m in self.marks.items()},
    }, bytes(self.status)

  def load(self, fields: dict[str, Any], status: bytes) -> None:
    """Takes over what `to_json` returned."""
    self._take(bytearray(status))
    self.cursor = fields['cursor']
    self.returned = [(p, i) for p, i in fields['returned']]
    self.failed = deque((p, i) for p, i in fields['failed'])
    for index, worker, position in fields['held']:
      self._hold(index, Held(worker, position))
    self.marks = {
      int(p): index_set.decode(m) for p, m in fields['marks'].items()
    }

  def set_done(self, done: np.ndarray) -> list[tuple[int, str]]:
    """Makes positions DONE.

    Args:
      done: [S] flags of the positions.

    Returns:
      (index, worker) of the leases that ended so.
    """
    self.flags[done != 0] = DONE
    self.recount()
    ended = [
      (index, held.worker)
      for index, held in self.held.items()
      if self.status[held.position] == DONE
    ]
    for index, _ in ended:
      self.unhold(index)
    self.forget_marks(p for p in self.marks if self.status[p] == DONE)
    return ended

  def forget_marks(self, positions: Iterable[int]) -> None:
    """Drops the marks of shards that are no longer in part."""
    for position in list(positions):
      self.marks.pop(position, None)
