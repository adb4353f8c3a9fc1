# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The epochs of a `SharedLedger`: open ones, and those that are over.

Only an open epoch has an array. Of one that is over, so that nothing in it is
to do or leased, it is only known how many shards are DONE and not just
CONSUMED; of those before `first_open` nothing.
"""

import dataclasses
import json
from typing import Any
import zlib

import numpy as np

from antjax.shards import index_set, ledger_state
from antjax.shards.data_shard import DataShard
from antjax.shards.ledger_spec import LedgerSpec, Run
from antjax.shards.shared_epoch import (
  CONSUMED,
  DOING,
  DONE,
  SET_ASIDE,
  SetAside,
  SharedEpoch,
  TODO,
)


@dataclasses.dataclass
class _Over:
  """Epochs start <= epoch < stop that are over."""

  start: int
  stop: int
  num_done: int  # In each of them; the others are CONSUMED.
  num_set_aside: int


class SharedEpochs:
  """All epochs of a data set; changed by its `SharedLedger` only.

  Attributes:
    spec: The data set.
    first_open: All earlier epochs are DONE or SET_ASIDE.
    next: The first epoch that has not begun.
    open: Epoch -> its shards, in order.
    set_aside: (epoch, shard index) -> why.
  """

  def __init__(self, spec: LedgerSpec):
    """No epoch has begun."""
    self.spec = spec
    self.set_aside: dict[tuple[int, int], SetAside] = {}
    self.first_open = self.next = 0
    self.open: dict[int, SharedEpoch] = {}
    self._over: list[_Over] = []  # In order.

  def load(self, first: int, runs: list[Run]) -> None:
    """Makes the epochs what a state says of them.

    Args:
      first: All earlier epochs are done.
      runs: The others that have begun.
    """
    self.first_open = self.next = first
    self.open, self._over = {}, []
    for one in self.set_aside.values():
      one.bits = 0  # What was used of it since is lost with the model.
    for run in runs:
      if run.done.all() and not self.spec.is_growing:
        self._begin_done(run)  # All at once, without arrays.
        continue
      for _ in range(run.length):
        number = self.begin_next()
        self.set_done(number, run.done, run.marks)
        self.close_if_over(number)
    if self.spec.is_stream and not self.next:
      self.close_if_over(self.begin_next())
    self.advance()

  def shard(self, epoch: int, index: int) -> DataShard:
    """Returns a shard of an epoch."""
    start = index * self.spec.shard_size
    stop = min(start + self.spec.shard_size, self.spec.num_records)
    return DataShard(index, start, stop, epoch)

  def grow(self, spec: LedgerSpec) -> None:
    """Takes over how a stream is now."""
    self.spec = spec
    if 0 in self.open and self.spec.num_shards > self.open[0].size:
      self.open[0].grow(self.spec.num_shards)
    self.close_if_over(0)

  @property
  def can_begin(self) -> bool:
    """Whether there is an epoch that has not begun."""
    limit = self.spec.num_epochs
    return limit is None or self.next < limit

  def with_todo(self) -> int | None:
    """Returns the first epoch with a shard to do; begins one if needed."""
    for number, epoch in self.open.items():
      if epoch.num[TODO]:
        return number
    while self.can_begin:
      number = self.begin_next()
      self.close_if_over(number)  # Where every shard of it is set aside.
      if number in self.open:
        return number
    return None

  def begin_next(self) -> int:
    """Opens the next epoch and returns its number."""
    number = self.next
    self.open[number] = epoch = self._new(number, self.spec.num_shards)
    for (other, _), one in self.set_aside.items():
      if other == number:
        epoch.set(one.position, SET_ASIDE)
    self.next = number + 1
    return number

  def _begin_done(self, run: Run) -> None:
    """Notes that these epochs, the next ones, are done as a whole."""
    self._over.append(_Over(run.start, run.stop, self.spec.num_shards, 0))
    self.next = run.stop
    for key in [k for k in self.set_aside if run.start <= k[0] < run.stop]:
      del self.set_aside[key]

  def _reopened(self, number: int) -> SharedEpoch:
    """Returns an epoch that has begun, open again if it is over."""
    if number in self.open:
      return self.open[number]
    over = next(o for o in self._over if o.start <= number < o.stop)
    self._over.remove(over)
    for start, stop in ((over.start, number), (number + 1, over.stop)):
      if start < stop:
        rest = dataclasses.replace(over, start=start, stop=stop)
        self._over.append(rest)
    epoch = self._new(number, self.spec.num_shards)
    all_done = over.num_done + over.num_set_aside == epoch.size
    epoch.flags[:] = DONE if all_done else CONSUMED
    for (other, _), one in self.set_aside.items():
      if other == number:
        epoch.flags[one.position] = SET_ASIDE
    epoch.cursor = epoch.size
    epoch.recount()
    self.open[number] = epoch
    self.open = dict(sorted(self.open.items()))
    return epoch

  def close_if_over(self, number: int) -> None:
    """Lets go of an open epoch in which nothing is to do or leased."""
    epoch = self.open.get(number)
    if epoch is None or not epoch.is_over or self.spec.is_growing:
      return
    del self.open[number]
    self._over.append(
      _Over(number, number + 1, epoch.num[DONE], epoch.num[SET_ASIDE])
    )
    self.advance()

  def advance(self) -> None:
    """Joins epochs that are over, and forgets the first that are done."""
    joined: list[_Over] = []
    for over in sorted(self._over, key=lambda one: one.start):
      last = joined[-1] if joined else None
      if (
        last is not None
        and (last.stop, last.num_done) == (over.start, over.num_done)
        and not (last.num_set_aside or over.num_set_aside)
      ):
        last.stop = over.stop
      else:
        joined.append(over)
    size = self.spec.num_shards
    while (
      joined
      and joined[0].start == self.first_open
      and joined[0].num_done + joined[0].num_set_aside == size
    ):
      self.first_open = joined.pop(0).stop
    self._over = joined

  def is_full(self, epoch: int, index: int, bits: int) -> bool:
    """Whether the records in `bits` are all that a shard has."""
    return bits.bit_count() == len(self.shard(epoch, index))

  def set_done(
    self, number: int, done: np.ndarray, marks: dict[int, int]
  ) -> list[tuple[DataShard, str]]:
    """Notes what a state says of an open epoch.

    Args:
      number: The epoch.
      done: [S] flags of the positions that are done.
      marks: Position -> bit set of consumed records.

    Returns:
      (shard, worker) of the leases that ended so.
    """
    epoch = self.open[number]
    done = done.copy()
    length = self.spec.shard_size
    tail = self.spec.num_records % length  # Of the last shard, if it is short.
    for position, bits in marks.items():
      count = bits.bit_count()
      if count == length or (
        count == tail and self.is_full(number, epoch.index(position), bits)
      ):
        done[position] = 1
    ended = epoch.set_done(done)
    aside = {
      one.position: key
      for key, one in self.set_aside.items()
      if key[0] == number
    }
    for position, key in aside.items():
      if epoch.status[position] == DONE:
        del self.set_aside[key]
    for position, bits in marks.items():
      if epoch.status[position] in (TODO, DOING):
        epoch.marks[position] = epoch.marks.get(position, 0) | bits
      elif epoch.status[position] == SET_ASIDE:
        self.set_aside[aside[position]].bits |= bits
    return [(self.shard(number, index), worker) for index, worker in ended]

  def commit(self, first: int, runs: list[Run]) -> list[tuple[DataShard, str]]:
    """Notes what a state says; returns as `set_done`.

    Args:
      first: All earlier epochs are done in it.
      runs: The others.
    """
    everything = np.ones(self.spec.num_shards, np.uint8)
    ended = []
    for number in sorted(self.open.keys() | self._over_with_marks(runs)):
      if number < self.first_open:
        continue
      self._reopened(number)
      if number < first:
        ended += self.set_done(number, everything, {})
      for run in runs:
        if run.start <= number < run.stop:
          ended += self.set_done(number, run.done, run.marks)
      self.close_if_over(number)
    self._commit_over(first, runs)
    return ended

  def _over_with_marks(self, runs: list[Run]) -> set[int]:
    """Returns epochs that are over in which a state has shards in part.

    Such a shard may be done, if its parts are all of it, or set aside.
    """
    return {
      number
      for run in runs
      if run.marks
      for over in self._over
      for number in range(max(run.start, over.start), min(run.stop, over.stop))
    }

  def _commit_over(self, first: int, runs: list[Run]) -> None:
    """Notes what a state says of the epochs that are over."""
    size = self.spec.num_shards
    pieces = [(0, first, size)]
    pieces += [(run.start, run.stop, int(run.done.sum())) for run in runs]
    before, self._over = self._over, []
    for over in before:
      most = size - over.num_set_aside
      start = over.start
      for low, high, num_done in pieces:
        stop = min(high, over.stop)
        if low <= start < stop:
          done = max(over.num_done, min(num_done, most))
          self._over.append(_Over(start, stop, done, over.num_set_aside))
          start = stop
      if start < over.stop:
        self._over.append(dataclasses.replace(over, start=start))
    self.advance()

  def spend(self) -> None:
    """Makes all that is CONSUMED DONE."""
    for epoch in self.open.values():
      epoch.flags[epoch.flags == CONSUMED] = DONE
      epoch.recount()
    for over in self._over:
      over.num_done = self.spec.num_shards - over.num_set_aside
    self.advance()

  def counts(self) -> dict[str, int]:
    """Returns how many shards of the epochs begun so far are what."""
    size = self.spec.num_shards
    num = [0] * 5
    for epoch in self.open.values():
      num = [one + other for one, other in zip(num, epoch.num)]
    for over in self._over:
      length = over.stop - over.start
      num[DONE] += length * over.num_done
      rest = size - over.num_done - over.num_set_aside
      num[CONSUMED] += length * rest
      num[SET_ASIDE] += length * over.num_set_aside
    aside = sum(number < self.first_open for number, _ in self.set_aside)
    num[SET_ASIDE] += aside
    num[DONE] += self.first_open * size - aside
    return {
      'todo': num[TODO],
      'doing': num[DOING],
      'consumed': num[CONSUMED],
      'done': num[DONE],
      'set_aside': num[SET_ASIDE],
    }

  def num_remaining(self) -> int | None:
    """Returns about how many records are not consumed; None: no end."""
    epochs = self.spec.num_epochs
    if epochs is None or self.spec.is_growing:
      return None
    counts = self.counts()
    over = sum(counts[name] for name in ('consumed', 'done', 'set_aside'))
    shards = epochs * self.spec.num_shards - over
    return min(shards * self.spec.shard_size, epochs * self.spec.num_records)

  def retry_set_aside(self) -> int:
    """Makes shards to do again that are set aside; returns their number."""
    count = 0
    for (number, index), one in list(self.set_aside.items()):
      if self.first_open <= number < self.next:
        epoch = self._reopened(number)
        del self.set_aside[number, index]
        if one.bits:
          epoch.marks[one.position] = one.bits
        epoch.put_back(one.position, index)
        count += 1
    return count

  def to_bytes(self, others: dict[str, Any]) -> bytes:
    """Returns all of it with other fields, compressed."""
    epochs, arrays = [], []
    for number, epoch in self.open.items():
      fields, status = epoch.to_json()
      epochs.append({'epoch': number, **fields})
      arrays.append(status)
    head = {
      **others,
      'spec': dataclasses.asdict(self.spec),
      'first_open': self.first_open,
      'next': self.next,
      'over': [dataclasses.astuple(over) for over in self._over],
      'set_aside': [
        [*key, one.position, one.message, index_set.encode(one.bits)]
        for key, one in self.set_aside.items()
      ],
      'epochs': epochs,
    }
    stream = zlib.compressobj(1)
    parts = [stream.compress(json.dumps(head).encode() + b'\n')]
    parts += [stream.compress(status) for status in arrays]
    return b''.join([*parts, stream.flush()])

  @classmethod
  def from_bytes(cls, data: bytes) -> tuple['SharedEpochs', dict[str, Any]]:
    """Returns what `to_bytes` has stored, and all fields."""
    text, _, arrays = zlib.decompress(data).partition(b'\n')
    fields = json.loads(text)
    result = cls(LedgerSpec(**fields['spec']))
    result.first_open, result.next = fields['first_open'], fields['next']
    result._over = [_Over(*values) for values in fields['over']]
    for number, index, position, text, bits in fields['set_aside']:
      result.set_aside[number, index] = SetAside(
        position, text, index_set.decode(bits)
      )
    at = 0
    for one in fields['epochs']:
      epoch = result._new(one['epoch'], 0)
      epoch.load(one, arrays[at : at + one['size']])
      at += one['size']
      result.open[one['epoch']] = epoch
    return result, fields

  def _new(self, number: int, size: int) -> SharedEpoch:
    if self.spec.is_stream:
      return SharedEpoch(size, None)
    shards, seed = self.spec.num_shards, self.spec.seed
    return SharedEpoch(
      size, lambda: ledger_state.only_order(shards, seed, number)
    )
