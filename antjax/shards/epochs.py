# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The epochs of a ledger: open ones, and those that are over.

Only an open epoch has an array. Epochs that are over, so that nothing in them
is to do or leased, are kept compressed, those that are alike once; of those
before `first_open` nothing is kept.
"""

import base64
from collections.abc import Iterable
import dataclasses
import json
from typing import Any
import zlib

import numpy as np

from antjax.shards import data_shard, index_set
from antjax.shards.data_shard import DataShard
from antjax.shards.epoch import (
  CONSUMED,
  DOING,
  DONE,
  Epoch,
  OTHER,
  Over,
  run_of,
  SET_ASIDE,
  TODO,
)
from antjax.shards.ledger_spec import LedgerSpec
from antjax.shards.ledger_state import Run, State


@dataclasses.dataclass
class SetAside:
  """A shard that could not be read.

  Attributes:
    position: Its position in its epoch.
    message: Why it could not be read.
    bits: Bit set of its records that are consumed.
  """

  position: int
  message: str
  bits: int


class Epochs:
  """All epochs of a data set; changed by its `Ledger` only.

  Attributes:
    spec: The data set.
    first_open: All earlier epochs are DONE or SET_ASIDE.
    next: The first epoch that has not begun.
    open: Epoch -> its shards, in order.
    set_aside: (epoch, shard index) -> why.
  """

  def __init__(self, spec: LedgerSpec, share: tuple[int, int] | None):
    """No epoch has begun."""
    self.spec = spec
    self._share = share
    self.set_aside: dict[tuple[int, int], SetAside] = {}
    self.first_open = self.next = 0
    self.open: dict[int, Epoch] = {}
    self._over: list[Over] = []  # In order.

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
      flags = self._flags(run)
      if not (flags == TODO).any() and not self.spec.is_growing:
        # All at once, without arrays.
        self._over.append(Over.of(run.start, run.stop, flags))
        self.next = run.stop
        for key in [k for k in self.set_aside if run.start <= k[0] < run.stop]:
          del self.set_aside[key]
        continue
      for number in range(run.start, run.stop):
        self._begin(number, flags.copy())
        self._set_done(number, flags == DONE, run.marks)
        self.close_if_over(number)
    if self.spec.is_stream and not self.next:
      self.close_if_over(self.begin_next())
    self._advance()

  def begin_next(self) -> int:
    """Opens the next epoch and returns its number."""
    number = self.next
    self._begin(number, self._flags(Run(number, number + 1)))
    return number

  def _begin(self, number: int, flags: np.ndarray) -> None:
    for (other, _), one in self.set_aside.items():
      if other == number:
        flags[one.position] = SET_ASIDE
    self.open[number] = self._new(number, bytearray(flags.tobytes()))
    self.next = number + 1

  def _flags(self, run: Run) -> np.ndarray:
    """Returns what each position [S] of an epoch is that a state has so."""
    size = self.spec.num_shards
    flags = np.zeros(size, np.uint8)  # TODO.
    flags[index_set.flags(run.done, size) != 0] = DONE
    if self._share is None:
      return flags
    if run.assigned is None:  # Of all workers: this is where they share it.
      worker, num_workers = self._share
      todo = np.flatnonzero(flags == TODO)
      flags[todo] = OTHER
      flags[todo[worker::num_workers]] = TODO
    else:
      mine = index_set.flags(run.assigned, size) != 0
      flags[mine & (flags == DONE)] = CONSUMED
      flags[~mine & (flags == TODO)] = OTHER
    return flags

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

  def close_if_over(self, number: int) -> None:
    """Lets go of an open epoch in which nothing is to do or leased."""
    epoch = self.open.get(number)
    if epoch is None or not epoch.is_over or self.spec.is_growing:
      return
    del self.open[number]
    self._over.append(Over.of(number, number + 1, epoch.flags))
    self._advance()

  def _advance(self) -> None:
    """Joins epochs that are over, and forgets the first that are done."""
    joined: list[Over] = []
    for over in sorted(self._over, key=lambda one: one.start):
      last = joined[-1] if joined else None
      if (
        last is not None
        and (last.stop, last.packed) == (over.start, over.packed)
        and not over.num[SET_ASIDE]
      ):
        last.stop = over.stop
      else:
        joined.append(over)
    # With static shares nobody says more of a shard than its own worker.
    waits_for = CONSUMED if self._share is None else OTHER
    while (
      joined
      and joined[0].start == self.first_open
      and not joined[0].num[waits_for]
    ):
      self.first_open = joined.pop(0).stop
    self._over = joined

  def _between(self, start: int, stop: int) -> list[Over]:
    """Returns the epochs of these that are over, cut out of their runs."""
    self._over = [
      piece for over in self._over for piece in over.pieces(start, stop)
    ]
    return [over for over in self._over if start <= over.start < stop]

  def _reopen(self, number: int) -> None:
    """Opens an epoch again that is over."""
    for over in self._between(number, number + 1):
      self._over.remove(over)
      self.open[number] = epoch = self._new(number, over.status())
      epoch.cursor = epoch.size
    self.open = dict(sorted(self.open.items()))

  def _set_done(
    self, number: int, done: np.ndarray, marks: dict[int, int]
  ) -> list[tuple[DataShard, str]]:
    """Notes what a state says of an open epoch.

    Args:
      number: The epoch.
      done: [S] Flags of the positions that are done.
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
    return [
      (self.spec.shard(number, index), worker) for index, worker in ended
    ]

  def commit(
    self, first: int, runs: Iterable[Run]
  ) -> list[tuple[DataShard, str]]:
    """Notes what a state says; returns as `_set_done`.

    Args:
      first: All earlier epochs are done in it.
      runs: The others.
    """
    size, ended = self.spec.num_shards, []
    for run in (Run(0, first, (1 << size) - 1), *runs):
      done = index_set.flags(run.done, size) != 0
      for over in self._between(run.start, run.stop):
        if run.marks or over.num[SET_ASIDE]:
          # A shard in part may be done, if its parts are all of it.
          for number in range(over.start, over.stop):
            self._reopen(number)
        else:
          flags = np.frombuffer(over.status(), np.uint8)
          flags[done] = DONE
          self._over.remove(over)
          self._over.append(Over.of(over.start, over.stop, flags))
      for number in [n for n in self.open if run.start <= n < run.stop]:
        ended += self._set_done(number, done, run.marks)
        self.close_if_over(number)
    self._advance()
    return ended

  def is_full(self, epoch: int, index: int, bits: int) -> bool:
    """Whether the records in `bits` are all that a shard has."""
    return bits.bit_count() == len(self.spec.shard(epoch, index))

  def spend(self) -> None:
    """Makes all that is CONSUMED DONE."""
    for epoch in self.open.values():
      epoch.set_done(epoch.flags == CONSUMED)
    for i, over in enumerate(self._over):
      flags = np.frombuffer(over.status(), np.uint8)
      flags[flags == CONSUMED] = DONE
      self._over[i] = Over.of(over.start, over.stop, flags)
    self._advance()

  def counts(self) -> dict[str, int]:
    """Returns how many shards of the epochs begun so far are what."""
    parts = [(1, epoch.num) for epoch in self.open.values()]
    parts += [(over.stop - over.start, over.num) for over in self._over]
    names = ('todo', 'doing', 'consumed', 'done', 'set_aside')
    counts = {
      name: sum(length * num[status] for length, num in parts)
      for status, name in enumerate(names)
    }
    aside = sum(number < self.first_open for number, _ in self.set_aside)
    counts['set_aside'] += aside
    counts['done'] += self.first_open * self.spec.num_shards - aside
    return counts

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
        if number not in self.open:
          self._reopen(number)
        epoch = self.open[number]
        del self.set_aside[number, index]
        if one.bits:
          epoch.marks[one.position] = one.bits
        epoch.put_back(one.position, index)
        count += 1
    return count

  def to_json(self) -> list[State]:
    """Returns the runs of a state, see `ledger_state`."""
    has_share = self._share is not None and self._share[1] > 1
    runs = [over.to_json(has_share) for over in self._over]
    for number, epoch in self.open.items():
      run = run_of(number, epoch.flags, has_share)
      run.marks = epoch.marks
      runs.append(run.to_json())
    return sorted(runs, key=lambda run: run['start'])

  def to_bytes(self, others: dict[str, Any]) -> bytes:
    """Returns all of it with other fields, compressed."""
    assert self._share is None, 'the state is enough for static shares'
    head = {
      **others,
      'spec': dataclasses.asdict(self.spec),
      'first_open': self.first_open,
      'next': self.next,
      'over': [
        [over.start, over.stop, base64.b64encode(over.packed).decode()]
        for over in self._over
      ],
      'set_aside': [
        [*key, one.position, one.message, index_set.encode(one.bits)]
        for key, one in self.set_aside.items()
      ],
      'epochs': [
        {'epoch': number, **epoch.stored()}
        for number, epoch in self.open.items()
      ],
    }
    stream = zlib.compressobj(1)
    parts = [stream.compress(json.dumps(head).encode() + b'\n')]
    parts += [stream.compress(epoch.status) for epoch in self.open.values()]
    return b''.join([*parts, stream.flush()])

  @classmethod
  def from_bytes(cls, data: bytes) -> tuple['Epochs', dict[str, Any]]:
    """Returns what `to_bytes` has stored, and all fields."""
    text, _, arrays = zlib.decompress(data).partition(b'\n')
    fields = json.loads(text)
    result = cls(LedgerSpec(**fields['spec']), None)
    result.first_open, result.next = fields['first_open'], fields['next']
    for number, index, position, text, bits in fields['set_aside']:
      result.set_aside[number, index] = SetAside(
        position, text, index_set.decode(bits)
      )
    for start, stop, *what in fields['over']:
      result._over.append(Over.of(start, stop, result._stored_over(start, what)))
    at = 0
    for one in fields['epochs']:
      status = bytearray(arrays[at : at + one['size']])
      result.open[one['epoch']] = epoch = result._new(one['epoch'], status)
      epoch.restore(one)
      at += one['size']
    return result, fields

  def _stored_over(self, start: int, what: list[Any]) -> np.ndarray:
    """Returns what each position [S] of stored epochs is that are over."""
    if len(what) == 1:
      packed = base64.b64decode(what[0])
      return np.frombuffer(zlib.decompress(packed), np.uint8)
    # Version 1 had only the numbers of shards DONE and SET_ASIDE. Where not all
    # were DONE the next commit says which.
    size = self.spec.num_shards
    flags = np.full(size, DONE if sum(what) == size else CONSUMED, np.uint8)
    for (number, _), one in self.set_aside.items():
      if number == start:
        flags[one.position] = SET_ASIDE
    return flags

  def _new(self, number: int, status: bytearray) -> Epoch:
    if self.spec.is_stream:
      return Epoch(status, None)
    shards, seed = self.spec.num_shards, self.spec.seed
    return Epoch(
      status, lambda: data_shard.shard_order(shards, seed, number)
    )
