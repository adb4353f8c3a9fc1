# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One epoch of a ledger: a byte for each shard.

Shards have positions in the epoch's shuffled order, and are leased by them.
"""

from collections import deque
from collections.abc import Callable, Iterator
import heapq
from typing import Any

import numpy as np

from antjax.shards import index_set

# OTHER: a worker with another static share has it.
TODO, DOING, CONSUMED, DONE, SET_ASIDE, OTHER = range(6)
_SCAN = 4096


class Epoch:
  """Who has which shard of an open epoch; changed by its `Epochs` only."""

  def __init__(self, status: bytes, order_fn: Callable[[], np.ndarray] | None):
    """Nothing is leased.

    `status` [S] is what each position is; `order_fn` computes the shard index
    at each position, None: in order.
    """
    self._order_fn = order_fn
    self._order: np.ndarray | None = None
    self._take(bytearray(status))
    self.held: dict[int, tuple[str, int]] = {}  # Shard -> (worker, position).
    self.num_held: dict[str, int] = {}  # Worker -> number of leases, if any.
    # Position -> bit set of consumed records of a shard that is in part.
    self.marks: dict[int, int] = {}
    # To do are the positions >= cursor with that status, and of the others
    # (position, index) those that came back, and those to try again last.
    self.cursor = 0
    self.returned: list[tuple[int, int]] = []
    self.failed: deque[tuple[int, int]] = deque()

  def _take(self, status: bytearray) -> None:
    self.status = status  # [S]
    self.flags = np.frombuffer(status, np.uint8)  # The same memory.
    self.size = len(status)
    self._fresh = self._scan()
    self._count()

  def _count(self) -> None:
    self.num = np.bincount(self.flags, minlength=6).tolist()

  def grow(self, size: int) -> None:
    """Adds shards, of an epoch in order, that are to do."""
    self._take(self.status + bytearray(size - self.size))

  @property
  def is_over(self) -> bool:
    """Whether nothing is to do or leased."""
    return not self.num[TODO] and not self.num[DOING]

  def set(self, position: int, status: int) -> None:
    self.num[self.status[position]] -= 1
    self.num[status] += 1
    self.status[position] = status

  def lease(self, worker: str) -> tuple[int, int] | None:
    """Gives (position, index) of the next shard to a worker."""
    found = self._next()
    if found is not None:
      position, index = found
      self.set(position, DOING)
      self._hold(index, worker, position)
    return found

  def _hold(self, index: int, worker: str, position: int) -> None:
    self.held[index] = worker, position
    self.num_held[worker] = self.num_held.get(worker, 0) + 1

  def _unhold(self, index: int) -> int:
    worker, position = self.held.pop(index)
    count = self.num_held.pop(worker)
    if count > 1:
      self.num_held[worker] = count - 1
    return position

  def _next(self) -> tuple[int, int] | None:
    while self.returned:
      place = heapq.heappop(self.returned)
      if self.status[place[0]] == TODO:
        return place
    for position in self._fresh:
      return position, self.index(position)
    self._order = None  # All that is to do has its index with it.
    while self.failed:
      place = self.failed.popleft()
      if self.status[place[0]] == TODO:
        return place
    return None

  def _scan(self) -> Iterator[int]:
    """Yields the positions from the cursor on that are to do."""
    while self.cursor < self.size:
      start, stop = self.cursor, min(self.cursor + _SCAN, self.size)
      todo = np.flatnonzero(self.flags[start:stop] == TODO) + start
      for position in todo.tolist():
        self.cursor = position + 1
        if self.status[position] == TODO:
          yield position
      self.cursor = stop

  def index(self, position: int) -> int:
    if self._order_fn is None:
      return position
    if self._order is None:
      self._order = self._order_fn()
    return int(self._order[position])

  @property
  def needs_order(self) -> bool:
    """Whether the next lease may have to compute the order."""
    return (
      self._order is None
      and self._order_fn is not None
      and self.cursor < self.size
    )

  def give_order(self, order: np.ndarray) -> None:
    """Takes what `order_fn` would return."""
    self._order = order

  def drop(self, index: int, status: int) -> int:
    """Ends a lease; returns the position, which now has `status`."""
    position = self._unhold(index)
    self.set(position, status)
    return position

  def put_back(self, position: int, index: int) -> None:
    """Makes a position the next that is to do."""
    self.set(position, TODO)
    heapq.heappush(self.returned, (position, index))

  def set_done(self, done: int) -> list[tuple[int, str]]:
    """Makes the positions of a bit set DONE.

    Returns:
      (index, worker) of the leases that ended so.
    """
    self.flags[index_set.flags(done, self.size) != 0] = DONE
    self._count()
    ended = [
      (index, worker)
      for index, (worker, position) in self.held.items()
      if self.status[position] == DONE
    ]
    for index, _ in ended:
      self._unhold(index)
    for position in [p for p in self.marks if self.status[p] == DONE]:
      del self.marks[position]
    return ended

  def positions(self, first: int, last: int | None = None) -> int:
    """Returns the bit set of the positions with statuses from first to last."""
    more = 0 if last is None else last - first
    return index_set.from_flags(self.flags - np.uint8(first) <= more)

  def stored(self) -> dict[str, Any]:
    """Returns all but the status as plain types."""
    return {
      'size': self.size,
      'cursor': self.cursor,
      'returned': self.returned,
      'failed': list(self.failed),
      'held': [[index, *lease] for index, lease in self.held.items()],
      'marks': {str(p): index_set.encode(m) for p, m in self.marks.items()},
    }

  def restore(self, fields: dict[str, Any]) -> None:
    self.cursor = fields['cursor']
    self.returned = [(p, i) for p, i in fields['returned']]
    self.failed = deque((p, i) for p, i in fields['failed'])
    for index, worker, position in fields['held']:
      self._hold(index, worker, position)
    for position, text in fields['marks'].items():
      self.marks[int(position)] = index_set.decode(text)
