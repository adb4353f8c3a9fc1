# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""One epoch of a ledger: a byte for each shard.

Shards have positions in the epoch's shuffled order, and are leased by them.
"""

from collections import deque
from collections.abc import Callable
import dataclasses
import functools
import heapq
from typing import Any
import zlib

import numpy as np

from antjax.shards import index_set
from antjax.shards.ledger_state import Run, State

# OTHER: a worker with another static share has it.
TODO, DOING, CONSUMED, DONE, SET_ASIDE, OTHER = range(6)
_SCAN = 4096


@dataclasses.dataclass(slots=True)
class Held:
  """A leased shard."""

  worker: str
  position: int


class Epoch:
  """Who has which shard of an open epoch; changed by its `Epochs` only.

  Attributes:
    size: Number of shards S.
    status: [S] What each position is, as bytes; `flags` is the same as array.
    num: How many positions are TODO, DOING, CONSUMED, DONE, SET_ASIDE, OTHER.
    held: Shard index -> lease.
    num_held: Worker -> number of its leases, if any.
    marks: Position -> bit set of consumed records of a shard that is in part.
  """

  def __init__(
    self, status: bytearray, order_fn: Callable[[], np.ndarray] | None
  ):
    """Nothing is leased.

    Args:
      status: [S] What each position is.
      order_fn: Computes the shard index at each position; None: in order.
    """
    self._order_fn = order_fn
    self._order: np.ndarray | None = None
    self._take(status)
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
    self.num = np.bincount(self.flags, minlength=6).tolist()
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

  def _unhold(self, index: int) -> Held:
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
    position = self._unhold(index).position
    self.set(position, status)
    return position

  def put_back(self, position: int, index: int) -> None:
    """Makes a position the next that is to do."""
    self.set(position, TODO)
    heapq.heappush(self.returned, (position, index))

  def set_done(self, done: np.ndarray) -> list[tuple[int, str]]:
    """Makes positions DONE.

    Args:
      done: [S] Flags of the positions.

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
      self._unhold(index)
    for position in [p for p in self.marks if self.status[p] == DONE]:
      del self.marks[position]
    return ended

  def stored(self) -> dict[str, Any]:
    """Returns all but the status as plain types."""
    return {
      'size': self.size,
      'cursor': self.cursor,
      'returned': self.returned,
      'failed': list(self.failed),
      'held': [[i, h.worker, h.position] for i, h in self.held.items()],
      'marks': {str(p): index_set.encode(m) for p, m in self.marks.items()},
    }

  def restore(self, fields: dict[str, Any]) -> None:
    """Takes over what `stored` returned."""
    self.cursor = fields['cursor']
    self.returned = [(p, i) for p, i in fields['returned']]
    self.failed = deque((p, i) for p, i in fields['failed'])
    for index, worker, position in fields['held']:
      self._hold(index, Held(worker, position))
    self.marks = {
      int(p): index_set.decode(m) for p, m in fields['marks'].items()
    }


@dataclasses.dataclass
class Over:
  """Epochs start <= epoch < stop that are over, and alike.

  Attributes:
    start: First epoch.
    stop: One past the last one.
    packed: What each position is, compressed.
    num: How many positions of each of the epochs are what, as in `Epoch`.
  """

  start: int
  stop: int
  packed: bytes
  num: list[int]

  @classmethod
  def of(cls, start: int, stop: int, flags: np.ndarray) -> 'Over':
    """Makes it of [S] flags as an `Epoch` has them."""
    num = np.bincount(flags, minlength=6).tolist()
    return cls(start, stop, zlib.compress(flags.tobytes(), 1), num)

  def status(self) -> bytearray:
    """Returns what each position is."""
    return bytearray(zlib.decompress(self.packed))

  def pieces(self, *edges: int) -> list['Over']:
    """Returns these epochs, cut at the edges."""
    inner = {edge for edge in edges if self.start < edge < self.stop}
    ends = sorted({self.start, self.stop, *inner})
    return [
      dataclasses.replace(self, start=start, stop=stop)
      for start, stop in zip(ends, ends[1:])
    ]

  def to_json(self, has_share: bool) -> State:
    """Returns the run of a state that these epochs are."""
    run = _json_of_packed(self.packed, has_share)
    return {**run, 'start': self.start, 'stop': self.stop}


def run_of(epoch: int, flags: np.ndarray, has_share: bool) -> Run:
  """Returns the run of a state that is one epoch, without its marks.

  Args:
    epoch: Number of the epoch.
    flags: [S] What each position is.
    has_share: Whether some positions may be other workers'.
  """
  done = index_set.from_flags((flags == CONSUMED) | (flags == DONE))
  # DONE is what the state that was begun with had, whosever it was.
  assigned = index_set.from_flags(flags < DONE) if has_share else None
  return Run(epoch, epoch + 1, done, assigned)


@functools.lru_cache(maxsize=4)  # A state may be asked for at every batch.
def _json_of_packed(packed: bytes, has_share: bool) -> State:
  flags = np.frombuffer(zlib.decompress(packed), np.uint8)
  return run_of(0, flags, has_share).to_json()
