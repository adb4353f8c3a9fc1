# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The epochs of a ledger: open ones, and those that are over.

Only an open epoch has an array. Epochs that are over, so that nothing in them
is to do or leased, are kept compressed, those that are alike once; of those
before `first_open` nothing is kept.
"""

from collections.abc import Iterable
import dataclasses
import json
import zlib

from antjax.shards import data_shard, index_set
from antjax.shards.epoch import (
  CONSUMED,
  DOING,
  DONE,
  Epoch,
  OTHER,
  Over,
  SET_ASIDE,
  TODO,
)
from antjax.shards.ledger_spec import LedgerSpec
from antjax.shards.ledger_state import Run, State

_VERSION = 2


@dataclasses.dataclass
class SetAside:
  """A shard that could not be read."""

  position: int  # In its epoch.
  message: str  # Why it could not be read.
  bits: int  # Bit set of its records that are consumed.


class Epochs:
  """All epochs of a data set; changed by its `Ledger` only.

  Attributes:
    spec: The data set.
    first_open: All earlier epochs are DONE or SET_ASIDE.
    next: The first epoch that has not begun.
    open: Epoch -> its shards, in order.
    set_aside: (epoch, shard index) -> why.
    errors: (epoch, shard index) -> number of failed reads.
    early: (epoch, shard index) -> worker whose lease a commit has ended, before
      it said a word of that.
  """

  def __init__(self, spec: LedgerSpec, share: tuple[int, int] | None):
    """No epoch has begun."""
    self.spec = spec
    self._share = share
    self.set_aside: dict[tuple[int, int], SetAside] = {}
    self.errors: dict[tuple[int, int], int] = {}
    self.early: dict[tuple[int, int], str] = {}
    self.first_open = self.next = 0
    self.open: dict[int, Epoch] = {}
    self._over: list[Over] = []  # In order.

  def load(self, first: int, runs: list[Run]) -> None:
    """Begins with the runs of a state in which all before `first` is done."""
    self.first_open = self.next = first
    self.open, self._over, self.early = {}, [], {}
    for one in self.set_aside.values():
      one.bits = 0  # What was used of it since is lost with the model.
    for run in runs:
      self._begin(run)
    if self.spec.is_stream and not self.next:
      self.begin_next()

  def begin_next(self) -> None:
    """Opens the next epoch."""
    self._begin(Run(self.next, self.next + 1))

  def _begin(self, run: Run) -> None:
    """Begins the next epochs, of which a state says so much."""
    todo = run.remaining(self.spec.num_shards)
    over = Over(run.start, run.stop, self.spec.num_shards, run.done)
    if run.assigned is not None:
      over.done = run.done & ~run.assigned
      over.other = over.consumed & ~run.assigned
    elif self._share is not None:  # Here all workers share what is left.
      worker, num_workers = self._share
      every = todo
      todo = index_set.bits(index_set.members(todo)[worker::num_workers])
      over.other = every & ~todo
    if not todo and not self.spec.is_growing:  # All at once, without arrays.
      self._over.append(over)
      self.next = run.stop
      for key in [k for k in self.set_aside if run.start <= k[0] < run.stop]:
        del self.set_aside[key]
      self._advance()
      return
    for number in range(run.start, run.stop):
      self.open[number] = epoch = self._new(number, over.flags(todo).tobytes())
      self.next = number + 1
      for (other, _), one in self.set_aside.items():
        if other == number:
          epoch.set(one.position, SET_ASIDE)
      self._set_done(number, over.done, run.marks)
      self.close_if_over(number)

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
      number = self.next
      self.begin_next()
      if number in self.open:  # Else every shard of it is set aside.
        return number
    return None

  def close_if_over(self, number: int) -> None:
    """Lets go of an open epoch in which nothing is to do or leased."""
    epoch = self.open.get(number)
    if epoch is None or not epoch.is_over or self.spec.is_growing:
      return
    del self.open[number]
    statuses = map(epoch.positions, (DONE, OTHER, SET_ASIDE))
    self._over.append(Over(number, number + 1, epoch.size, *statuses))
    self._advance()

  def _advance(self) -> None:
    """Joins epochs that are over, and forgets the first that are done."""
    joined: list[Over] = []
    for over in sorted(self._over, key=lambda one: one.start):
      last = joined[-1] if joined else None
      if (
        last is not None
        and dataclasses.replace(last, start=over.start, stop=over.stop) == over
        and not over.aside
      ):
        last.stop = over.stop
      else:
        joined.append(over)
    while (
      joined
      and joined[0].start == self.first_open
      # With static shares nobody says more of a shard than its own worker.
      and not (joined[0].other if self._share else joined[0].consumed)
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
      self.open[number] = epoch = self._new(number, over.flags().tobytes())
      epoch.cursor = epoch.size
    self.open = dict(sorted(self.open.items()))

  def _set_done(self, number: int, done: int, marks: dict[int, int]) -> None:
    """Notes what a state says of an open epoch, see `ledger_state.Run`."""
    epoch = self.open[number]
    length = self.spec.shard_size
    tail = self.spec.num_records % length  # Of the last shard, if it is short.
    for position, bits in marks.items():
      count = bits.bit_count()
      if count == length or (
        count == tail and self.is_full(number, epoch.index(position), bits)
      ):
        done |= 1 << position
    for index, worker in epoch.set_done(done):
      self.early[number, index] = worker
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

  def commit(self, first: int, runs: Iterable[Run]) -> None:
    """Notes the runs of a checkpoint in which all before `first` is done."""
    every = (1 << self.spec.num_shards) - 1
    for run in (Run(0, first, every), *runs):
      over = self._between(run.start, run.stop)
      for one in over:
        one.done |= run.done & ~one.aside
      if run.marks:  # A shard in part may be done, if its parts are all of it.
        for number in (n for one in over for n in range(one.start, one.stop)):
          self._reopen(number)
      for number in [n for n in self.open if run.start <= n < run.stop]:
        self._set_done(number, run.done, run.marks)
        self.close_if_over(number)
    self._advance()

  def is_full(self, epoch: int, index: int, bits: int) -> bool:
    """Whether the records in `bits` are all that a shard has."""
    return bits.bit_count() == len(self.spec.shard(epoch, index))

  def spend(self) -> None:
    """Makes all that is CONSUMED DONE."""
    for epoch in self.open.values():
      epoch.set_done(epoch.positions(CONSUMED))
    for over in self._over:
      over.done |= over.consumed
    self._advance()

  def counts(self) -> dict[str, int]:
    """Returns how many shards of the epochs begun so far are what."""
    names = ('todo', 'doing', 'consumed', 'done', 'set_aside')
    counts = dict.fromkeys(names, 0)
    for epoch in self.open.values():
      for name, num in zip(names, epoch.num):
        counts[name] += num
    for over in self._over:
      kinds = (over.consumed, over.done, over.aside)
      for name, positions in zip(names[CONSUMED:], kinds):
        counts[name] += (over.stop - over.start) * positions.bit_count()
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
        self._reopen(number)
        epoch = self.open[number]
        del self.set_aside[number, index]
        if one.bits:
          epoch.marks[one.position] = one.bits
        epoch.put_back(one.position, index)
        count += 1
    return count

  def to_json(self) -> list[State]:
    """Returns the runs of a state, see `ledger_state`.

    Of static shares what is DONE is not this worker's: it was so in the state
    that was begun with.
    """
    has_share = self._share is not None and self._share[1] > 1
    runs = []
    for over in self._over:
      mine = over.consumed if has_share else None
      done = over.done | over.consumed
      runs.append(Run(over.start, over.stop, done, mine))
    for number, epoch in self.open.items():
      mine = epoch.positions(TODO, DOING, CONSUMED) if has_share else None
      done = epoch.positions(CONSUMED, DONE)
      runs.append(Run(number, number + 1, done, mine, epoch.marks))
    return [run.to_json() for run in sorted(runs, key=lambda run: run.start)]

  def to_bytes(self) -> bytes:
    """Returns all of it, leases included, compressed."""
    assert self._share is None, 'the state is enough for static shares'
    head = {
      'version': _VERSION,
      'spec': dataclasses.asdict(self.spec),
      'first_open': self.first_open,
      'next': self.next,
      'over': [
        [over.start, over.stop, *map(index_set.encode, (over.done, over.aside))]
        for over in self._over
      ],
      'set_aside': [
        [*key, one.position, one.message, index_set.encode(one.bits)]
        for key, one in self.set_aside.items()
      ],
      'errors': [[*key, count] for key, count in self.errors.items()],
      'early': [[*key, worker] for key, worker in self.early.items()],
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
  def from_bytes(cls, data: bytes) -> 'Epochs':
    """Makes what `to_bytes` has stored; ValueError: of another version."""
    text, _, arrays = zlib.decompress(data).partition(b'\n')
    fields = json.loads(text)
    if fields['version'] not in (1, _VERSION):
      raise ValueError(
        f'Ledger: stored as version {fields["version"]}, needed: {_VERSION} or'
        ' earlier.'
      )
    result = cls(LedgerSpec(**fields['spec']), None)
    result.first_open, result.next = fields['first_open'], fields['next']
    for number, index, position, text, bits in fields['set_aside']:
      result.set_aside[number, index] = SetAside(
        position, text, index_set.decode(bits)
      )
    for start, stop, done, aside in fields['over']:
      over = Over(start, stop, result.spec.num_shards)
      if fields['version'] == 1:
        result._read_version_1(over, done + aside)
      else:
        over.done, over.aside = map(index_set.decode, (done, aside))
      result._over.append(over)
    result.errors = {(e, i): count for e, i, count in fields['errors']}
    result.early = {(e, i): worker for e, i, worker in fields['early']}
    at = 0
    for one in fields['epochs']:
      status = arrays[at : at + one['size']]
      result.open[one['epoch']] = epoch = result._new(one['epoch'], status)
      epoch.restore(one)
      at += one['size']
    return result

  def _read_version_1(self, over: Over, num_done: int) -> None:
    """Completes epochs that are over, stored as numbers of shards only.

    Where not all were DONE or SET_ASIDE the next commit says which are.
    """
    aside = [
      s.position for key, s in self.set_aside.items() if key[0] == over.start
    ]
    over.aside = index_set.bits(aside)
    if num_done == over.size:
      over.done = over.consumed

  def _new(self, number: int, status: bytes) -> Epoch:
    if self.spec.is_stream:
      return Epoch(status, None)
    shards, seed = self.spec.num_shards, self.spec.seed
    return Epoch(status, lambda: data_shard.shard_order(shards, seed, number))
