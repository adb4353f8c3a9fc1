# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The open and finished epochs of a ledger.

Only an open epoch has an array. Epochs that are over, so that nothing in them
is to do or leased, are kept compressed, those that are alike once; of those
before `first_open` nothing is kept.
"""

from collections.abc import Iterable
import dataclasses
import json
import zlib

import numpy as np

from antjax.shards import data_shard, index_set
from antjax.shards.epoch import (
  CONSUMED,
  DOING,
  DONE,
  Epoch,
  OTHER,
  SET_ASIDE,
  TODO,
)
from antjax.shards.ledger_spec import LedgerSpec
from antjax.shards.ledger_state import EpochRun, State
from antjax.shards.over_runs import epochs_in, LeastFirst, OverRuns

_VERSION = 2
_Key = tuple[int, int]  # Epoch and shard index.


@dataclasses.dataclass
class SetAside:
  """A shard that could not be read."""

  position: int  # In its epoch.
  message: str  # Why it could not be read.
  bits: int  # Bit set of its records that are consumed.


class Epochs:
  """All epochs of a data set; changed by its `Ledger` only."""

  def __init__(self, spec: LedgerSpec, share: tuple[int, int] | None):
    self.spec = spec
    self._share = share
    # (epoch, shard index) -> why it is set aside, how often it could not be
    # read, and whose lease a commit has ended before that worker said so.
    self.set_aside: dict[tuple[int, int], SetAside] = {}
    self.errors: dict[tuple[int, int], int] = {}
    self.early: dict[tuple[int, int], str] = {}
    self.first_open = 0  # All earlier epochs are DONE or SET_ASIDE.
    self.next = 0  # The first epoch that has not begun.
    self.open: dict[int, Epoch] = {}  # In order.
    self._with_todo = LeastFirst()  # Open epochs that may have shards to do.
    self.orders: dict[int, np.ndarray] = {}  # Of the next epoch, if computed.
    # Those that are over: `done` is DONE, `assigned` is CONSUMED, the rest are
    # SET_ASIDE, or OTHER in a ledger with a static share.
    self._over = OverRuns(spec.num_shards, has_share=share is not None)

  def loaded(
    self, spec: LedgerSpec, first: int, runs: list[EpochRun]
  ) -> 'Epochs':
    """Returns the epochs of a state in which all before `first` is done.

    What could not be read stays so; these epochs stay as they are.
    """
    new = Epochs(spec, self._share)
    new.errors = self.errors
    new.set_aside = {  # What was used of it since is lost with the model.
      key: dataclasses.replace(one, bits=0)
      for key, one in self.set_aside.items()
    }
    new.first_open = new.next = first
    aside = new._aside()
    for run in runs:
      new._begin(run, aside)
    new.first_open = new._over.advanced(first)
    if spec.is_stream and not new.next:
      new.begin_next()
    return new

  def begin_next(self) -> None:
    number = self.next
    aside = [key for key in self.set_aside if key[0] == number]
    self._begin(EpochRun(number, number + 1), {number: aside} if aside else {})
    self.first_open = self._over.advanced(self.first_open)

  def _begin(self, run: EpochRun, aside: dict[int, list[_Key]]) -> None:
    """Begins the next epochs, of which a state says so much; see `_note`."""
    todo, consumed = run.remaining(self.spec.num_shards), 0
    if run.assigned is not None:
      consumed = run.done & run.assigned
    elif self._share is not None:  # Here all workers share what is left.
      worker, num_workers = self._share
      todo = index_set.bits(index_set.members(todo)[worker::num_workers])
    over = EpochRun(run.start, run.stop, run.done & ~consumed, consumed)
    if not todo and not self.spec.is_growing:
      self._over.runs.append(over)  # All at once, without arrays.
    else:
      for number in range(run.start, run.stop):
        self.open[number] = self._opened(number, over, todo)
        self._with_todo.add(number)
    self.next = run.stop
    for number in epochs_in(run, aside):
      if number in self.open:
        for key in aside[number]:
          self.open[number].set(self.set_aside[key].position, SET_ASIDE)
    self._note(dataclasses.replace(run, done=over.done), aside)

  def grow(self, spec: LedgerSpec) -> None:
    """Takes over how a stream is now."""
    self.spec = spec
    self._over.grow(spec.num_shards)
    if 0 in self.open and self.spec.num_shards > self.open[0].size:
      self.open[0].grow(self.spec.num_shards)
      self.note_todo(0)
    self.close_if_over(0)

  @property
  def can_begin(self) -> bool:
    """Whether there is an epoch that has not begun, and room for it."""
    limit = self.spec.num_epochs
    if limit is not None and self.next >= limit:
      return False
    return self.spec.has_room(len(self.open) + 1)

  def with_todo(self) -> int | None:
    """Returns the first epoch with a shard to do; begins one if needed."""
    while (first := self._with_todo.least()) is not None:
      if first in self.open and self.open[first].num[TODO]:
        return first
      self._with_todo.pop()
    while self.can_begin:
      number = self.next
      self.begin_next()
      if number in self.open:  # Else every shard of it is set aside.
        return number
    return None

  def note_todo(self, number: int) -> None:
    """Notes that shards of an open epoch are to do again."""
    self._with_todo.add(number)

  def close_if_over(self, number: int) -> None:
    """Lets go of an open epoch in which nothing is to do or leased."""
    epoch = self.open.get(number)
    if epoch is None or not epoch.is_over or self.spec.is_growing:
      return
    del self.open[number]
    sets = epoch.positions(DONE), epoch.positions(CONSUMED)
    run = EpochRun(number, number + 1, *sets)
    self._over.add(run)
    self.first_open = self._over.dropped(self.first_open)

  def _reopen(self, number: int) -> None:
    """Opens an epoch again that is over."""
    for run in self._over.between(number, number + 1):
      self._over.runs.remove(run)
      self.open[number] = epoch = self._opened(number, run)
      epoch.cursor = epoch.size
    self.open = dict(sorted(self.open.items()))

  def _aside(self) -> dict[int, list[_Key]]:
    """Returns the keys of what is set aside, by epoch."""
    found: dict[int, list[_Key]] = {}
    for key in self.set_aside:
      found.setdefault(key[0], []).append(key)
    return found

  def _note(self, run: EpochRun, aside: dict[int, list[_Key]]) -> None:
    """Notes what a state says of epochs that have begun.

    `aside` has the keys of `set_aside` by epoch; what is done is taken out.
    """
    for one in self._over.between(run.start, run.stop):
      one.assigned = one.own & ~run.done
      one.done |= run.done
    for number in epochs_in(run, aside):
      for key in aside[number]:
        kept = self.set_aside[key]
        kept.bits |= run.marks.get(kept.position, 0)
        if run.done >> kept.position & 1:
          del self.set_aside[key]
      aside[number] = [key for key in aside[number] if key in self.set_aside]
    for number in epochs_in(run, self.open):
      epoch = self.open[number]
      for index, worker in epoch.set_done(run.done):
        self.early[number, index] = worker
      for position, bits in run.marks.items():
        if epoch.status[position] in (TODO, DOING):
          epoch.marks[position] = epoch.marks.get(position, 0) | bits
      self.close_if_over(number)

  def commit(self, first: int, runs: Iterable[EpochRun]) -> None:
    """Notes the runs of a checkpoint in which all before `first` is done."""
    aside = self._aside()
    if first > self.first_open:
      every = (1 << self.spec.num_shards) - 1
      self._note(EpochRun(self.first_open, first, every), aside)
    for run in runs:
      self._note(run, aside)
    self.first_open = self._over.advanced(self.first_open)

  def spend(self) -> None:
    """Makes all that is CONSUMED DONE."""
    for epoch in self.open.values():
      epoch.set_done(epoch.positions(CONSUMED))
    for run in self._over.runs:
      run.done, run.assigned = run.done | run.own, 0
    self.first_open = self._over.advanced(self.first_open)

  def counts(self) -> dict[str, int]:
    """Returns how many shards of the epochs begun so far are what."""
    names = ('todo', 'doing', 'consumed', 'done', 'set_aside')
    counts = dict.fromkeys(names, 0)
    for epoch in self.open.values():
      for name, num in zip(names, epoch.num):
        counts[name] += num
    for run in self._over.runs:
      done, used = run.done.bit_count(), run.own.bit_count()
      counts['done'] += run.length * done
      counts['consumed'] += run.length * used
      if self._share is None:
        rest = self.spec.num_shards - done - used
        counts['set_aside'] += run.length * rest
    aside = sum(number < self.first_open for number, _ in self.set_aside)
    counts['set_aside'] += aside
    counts['done'] += self.first_open * self.spec.num_shards - aside
    return counts

  def retry_set_aside(self) -> int:
    """Makes shards to do again that are set aside; returns their number."""
    count = 0
    for (number, index), one in list(self.set_aside.items()):
      if self.first_open <= number < self.next:
        if number not in self.open and not self.spec.has_room(
          len(self.open) + 1
        ):
          continue  # Once the others are read again, these can be.
        self._reopen(number)
        epoch = self.open[number]
        del self.set_aside[number, index]
        if one.bits:
          epoch.marks[one.position] = one.bits
        epoch.put_back(one.position, index)
        self.note_todo(number)
        count += 1
    return count

  def to_json(self) -> list[State]:
    """Returns the runs of a state, see `ledger_state`.

    Of static shares what is DONE is not this worker's: it was so in the state
    that was begun with.
    """
    has_share = self._share is not None and self._share[1] > 1
    runs = [run.cut()[0] for run in self._over.runs]
    for run in runs:
      run.done |= run.own
    for number, epoch in self.open.items():
      run = EpochRun(number, number + 1, epoch.positions(CONSUMED, DONE))
      run.assigned, run.marks = epoch.positions(TODO, CONSUMED), epoch.marks
      runs.append(run)
    for run in runs:
      run.assigned = run.assigned if has_share else None
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
        [run.start, run.stop, *map(index_set.encode, (run.done, run.own))]
        for run in self._over.runs
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
    for start, stop, *sets in fields['over']:
      if fields['version'] == 1:
        run = result._run_of_version_1(start, stop, sum(sets))
      else:
        done, consumed = map(index_set.decode, sets)
        run = EpochRun(start, stop, done, consumed)
      result._over.runs.append(run)
    result.errors = {(e, i): count for e, i, count in fields['errors']}
    result.early = {(e, i): worker for e, i, worker in fields['early']}
    at = 0
    for one in fields['epochs']:
      status = arrays[at : at + one['size']]
      result.open[one['epoch']] = epoch = result._new(one['epoch'], status)
      epoch.restore(one)
      result._with_todo.add(one['epoch'])
      at += one['size']
    return result

  def _run_of_version_1(self, start: int, stop: int, num_past: int) -> EpochRun:
    """Returns epochs that are over, stored as numbers of shards only.

    Where not all were DONE or SET_ASIDE the next commit says which are.
    """
    aside = index_set.bits(
      one.position for key, one in self.set_aside.items() if key[0] == start
    )
    size = self.spec.num_shards
    rest = (1 << size) - 1 & ~aside
    sets = (rest, 0) if num_past == size else (0, rest)
    return EpochRun(start, stop, *sets)

  def _opened(self, number: int, run: EpochRun, todo: int = 0) -> Epoch:
    """Returns an epoch of those that are over, where some shards are TODO."""
    size = self.spec.num_shards
    rest = OTHER if self._share else SET_ASIDE
    flags = np.full(size, rest, np.uint8)
    for status, positions in (
      (DONE, run.done),
      (CONSUMED, run.own),
      (TODO, todo),
    ):
      flags[index_set.flags(positions, size) != 0] = status
    return self._new(number, flags.tobytes())

  def _new(self, number: int, status: bytes) -> Epoch:
    if self.spec.is_stream:
      return Epoch(status, None)
    shards, seed = self.spec.num_shards, self.spec.seed
    epoch = Epoch(status, lambda: data_shard.shard_order(shards, seed, number))
    if number in self.orders:
      epoch.give_order(self.orders.pop(number))
    return epoch
