# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The ledger of a data set: remaining records, and the workers that have them.

In every epoch a shard goes

  TODO --lease--> DOING --consume--> CONSUMED --commit--> DONE
                  DOING --give_back, release, fail--> TODO
                  DOING --fail, too often--> SET_ASIDE --retry_set_aside--> TODO

and what is consumed of a shard that comes back is not read again. `begin` makes
the ledger what a checkpoint says: all that is not in it is TODO again.

Kept by the coordinator, a ledger leases to whoever asks. With a static share it
leases only every P-th shard that is to do, for P processes that each have a
ledger of their own; `ledger_state.merge` merges their states. A pure state
machine: no clock, no network, no randomness but the seed. It takes a byte a
shard of an open epoch, and four more while its order is needed.
"""

from collections.abc import Collection
import dataclasses
from typing import Literal

import numpy as np

from antjax.shards.data_shard import DataShard
from antjax.shards.epoch import CONSUMED, DONE, Epoch, SET_ASIDE, TODO
from antjax.shards.epochs import Epochs, SetAside
from antjax.shards.ledger_spec import LedgerSpec
from antjax.shards.ledger_state import EpochRun, State

MAX_SET_ASIDE = 10_000
MAX_MESSAGE = 500  # Characters kept of an error's text.
_MAX_ERRORS = 100_000  # Shards whose errors are counted.
_NOBODY = ('', -1)
_LARGE = 1 << 16  # Shards whose order takes more than some milliseconds.

Outcome = Literal['LEASED', 'WAIT', 'FINISHED']


class Ledger:
  """Leases every shard of every epoch, in a seeded global shuffle.

  A lease takes amortised constant time. The next epoch begins when nothing is
  to do, even while some shards are DOING: no worker waits for another. A shard
  that could not be read is tried again at the end of its epoch; one that is set
  aside stays so in this epoch, until an operator retries it.

  A report of a worker raises ValueError unless it holds the shard, and does
  nothing where a commit has said it before.
  """

  def __init__(self, spec: LedgerSpec, share: tuple[int, int] | None = None):
    """Begins with all records of the first epoch to do.

    `share` is (worker, num_workers) of a static share; None: no shares.

    Raises:
      ValueError: The share is none, or there are fewer shards than workers.
    """
    if share is not None:
      spec.check_share(*share)
    self._share = share
    self._epochs = Epochs(spec, share)
    if spec.is_stream:
      self._epochs.begin_next()

  @property
  def spec(self) -> LedgerSpec:
    """What is leased; of a stream: as it is now."""
    return self._epochs.spec

  @property
  def first_open_epoch(self) -> int:
    """All earlier epochs are DONE or SET_ASIDE."""
    return self._epochs.first_open

  @property
  def num_begun_epochs(self) -> int:
    return self._epochs.next

  @property
  def num_open_shards(self) -> int:
    """Bytes that its epochs take, one of them at least."""
    return max(1, len(self._epochs.open)) * self.spec.num_shards

  # --- What workers do. -------------------------------------------------------

  def lease(self, worker: str, count: int) -> list[tuple[DataShard, int]]:
    """Gives the next shards to a worker.

    Returns:
      Up to `count` of (shard, bit set of its records consumed before).
    """
    leases: list[tuple[DataShard, int]] = []
    while len(leases) < count:
      number = self._epochs.with_todo()
      if number is None:
        break
      epoch = self._epochs.open[number]
      while len(leases) < count and (place := epoch.lease(worker)):
        position, index = place
        bits = epoch.marks.get(position, 0)
        leases.append((self.spec.shard(number, index), bits))
    return leases

  def outcome(self) -> Outcome:
    """Says what a lease would give.

    'LEASED': a shard. 'WAIT': nothing now, but a leased shard may come back, or
    the stream grow. 'FINISHED': nothing any more.
    """
    epochs = self._epochs.open.values()
    if any(epoch.num[TODO] for epoch in epochs) or self._epochs.can_begin:
      return 'LEASED'
    if self.spec.is_growing or any(epoch.held for epoch in epochs):
      return 'WAIT'
    return 'FINISHED'

  def check_held(self, worker: str, shard: DataShard, bits: int = 0) -> int:
    """Checks a lease; returns the bit set of what is consumed of the shard."""
    epoch = self._find('check_held', worker, shard, bits)
    if epoch is None:
      return (1 << len(shard)) - 1
    _, position = epoch.held[shard.index]
    return epoch.marks.get(position, 0)

  def check_failures(self, count: int) -> None:
    """Raises ValueError where that many shards more cannot be set aside."""
    known = len(self._epochs.set_aside)
    if known + count > MAX_SET_ASIDE:
      raise ValueError(
        f'fail(): {known} shards that cannot be read are set aside already, of'
        f' at most {MAX_SET_ASIDE}: repair the data set.'
      )

  def consume(self, worker: str, shard: DataShard) -> None:
    """Notes that all records of a leased shard are consumed."""
    epoch = self._find('consume', worker, shard)
    if epoch is not None:
      epoch.marks.pop(epoch.drop(shard.index, CONSUMED), None)
      self._epochs.close_if_over(shard.epoch)

  def progress(self, worker: str, shard: DataShard, bits: int) -> None:
    """Notes which records of a leased shard are consumed."""
    epoch = self._find('progress', worker, shard, bits)
    if epoch is not None and bits:
      _, position = epoch.held[shard.index]
      epoch.marks[position] = epoch.marks.get(position, 0) | bits

  def give_back(self, worker: str, shard: DataShard, bits: int = 0) -> None:
    """Gives a leased shard back: the next to do, less the records in `bits`."""
    self.progress(worker, shard, bits)
    if self._find('give_back', worker, shard) is not None:
      self._return(shard.epoch, shard.index)
      self._epochs.close_if_over(shard.epoch)

  def fail(self, worker: str, shard: DataShard, message: str) -> bool:
    """Gives a leased shard back that could not be read; see `check_failures`.

    Returns:
      Whether it is set aside: it failed too often.
    """
    epoch = self._find('fail', worker, shard)
    if epoch is None:
      return False
    self.check_failures(1)
    key, errors = (shard.epoch, shard.index), self._epochs.errors
    count = errors.pop(key, 0) + 1
    if count < self.spec.max_data_errors and not self.spec.at_most_once:
      if len(errors) >= _MAX_ERRORS:
        del errors[next(iter(errors))]
      errors[key] = count
      epoch.failed.append((epoch.drop(shard.index, TODO), shard.index))
      self._epochs.note_todo(shard.epoch)
      return False
    position = epoch.drop(shard.index, SET_ASIDE)
    self._epochs.set_aside[key] = SetAside(
      position, message[:MAX_MESSAGE], epoch.marks.pop(position, 0)
    )
    self._epochs.close_if_over(shard.epoch)
    return True

  def release(self, workers: Collection[str] | None = None) -> int:
    """Gives back all shards of these workers, or of all; returns how many."""
    count = 0
    for number, epoch in list(self._epochs.open.items()):
      gone = [
        index
        for index, (worker, _) in epoch.held.items()
        if workers is None or worker in workers
      ]
      for index in gone:
        self._return(number, index)
      count += len(gone)
      self._epochs.close_if_over(number)
    early = self._epochs.early
    for key in [k for k in early if workers is None or early[k] in workers]:
      del early[key]
    return count

  # --- Checkpoints. -----------------------------------------------------------

  def state(self) -> State:
    """Returns what is consumed, as plain types; see `ledger_state`."""
    return {
      **self.spec.head(),
      'share': list(self._share or (0, 1)),
      'first_epoch': self.first_open_epoch,
      'epochs': self._epochs.to_json(),
    }

  def orders_needed(self, count: int) -> list[int]:
    """Returns the epochs whose order a lease of so many shards would compute.

    None of a small data set, where that takes no time; see `shard_order` of
    `LedgerSpec` and `give_order`.
    """
    if count < 1 or self.spec.is_stream or self.spec.num_shards < _LARGE:
      return []
    needed, epochs = [], self._epochs
    for number, epoch in epochs.open.items():
      if epoch.num[TODO]:
        needed += [number] * epoch.needs_order
        count -= epoch.num[TODO]
      if count <= 0:
        return needed
    if epochs.can_begin and epochs.next not in epochs.orders:
      needed.append(epochs.next)
    return needed

  def give_order(self, number: int, order: np.ndarray) -> None:
    """Takes the order of an epoch, computed where there was time."""
    epoch = self._epochs.open.get(number)
    if epoch is not None:
      epoch.give_order(order)
    elif number == self._epochs.next:
      self._epochs.orders = {number: order}

  def begin(
    self,
    state: State | None,
    runs: list[EpochRun] | None = None,
    room: int = 1 << 30,
  ) -> None:
    """Continues from the state of a checkpoint; all leases end.

    What is not consumed in it is to do again, unless it was set aside or may be
    leased at most once. `num_epochs` may differ from the state's. The state is
    that of all workers, see `ledger_state.merge`, or of the worker with this
    ledger's share; None: nothing is consumed. `runs` are given where they were
    read before. Several open epochs take `room` shards at most.

    Raises:
      ValueError: The state is malformed, of another data set, or of one worker
        of several, or too large. Then nothing changes.
    """
    first, spec = 0, self.spec
    if state is None:
      runs = []
    else:
      runs, first = spec.read(state, self._share, runs), state['first_epoch']
      if spec.is_growing and state['num_records'] > spec.num_records:
        spec = spec.grown(state['num_records'], False)
      _check_size(runs, spec.num_shards)
    stop = max([first, *(run.stop for run in runs)])
    num_open = stop - self._epochs.next
    if not spec.at_most_once:
      size = spec.num_shards
      num_open = sum(run.length for run in runs if run.remaining(size))
    spec.check_open(num_open, room)
    if spec.at_most_once:
      if spec is not self.spec:
        self._epochs.grow(spec)
      self.release()
      self._epochs.spend()
      while self._epochs.next < stop:
        self._epochs.begin_next()
      self._epochs.commit(first, runs)
    else:
      self._epochs = self._epochs.loaded(spec, first, runs)

  def commit(self, state: State, runs: list[EpochRun] | None = None) -> None:
    """Notes that a checkpoint with this state is committed.

    Raises:
      ValueError: As `begin`, or the state has epochs that have not begun.
    """
    runs = self.check_commit(state, runs)
    self._epochs.commit(state['first_epoch'], runs)

  def check_commit(
    self, state: State, runs: list[EpochRun] | None = None
  ) -> list[EpochRun]:
    """Reads a state for `commit`; raises ValueError as that does."""
    runs = self.spec.read(state, runs=runs)
    _check_size(runs, self.spec.num_shards)
    begun = self._epochs.next
    used = [run.stop for run in runs if run.done or run.marks]
    if max([state['first_epoch'], *used]) > begun:
      raise ValueError(
        f'commit(): the state has records of epochs up to'
        f' {max([state["first_epoch"], *used]) - 1}, but only {begun} epochs'
        ' have begun: it is of another run.'
      )
    return runs

  # --- What people do and see. ------------------------------------------------

  def extend(self, num_records: int, is_closed: bool) -> None:
    """Notes that a stream has grown, or has ended; see `LedgerSpec.grown`."""
    self._epochs.grow(self.spec.grown(num_records, is_closed))

  def change_limits(self, num_epochs: int | None, max_data_errors: int) -> None:
    """Takes what a later start of the job says of these."""
    self._epochs.spec = dataclasses.replace(
      self.spec, num_epochs=num_epochs, max_data_errors=max_data_errors
    )

  def counts(self) -> dict[str, int]:
    """Numbers of 'todo', 'doing', 'consumed', 'done', 'set_aside' shards."""
    return self._epochs.counts()

  def num_held(self, worker: str) -> int:
    return sum(e.num_held.get(worker, 0) for e in self._epochs.open.values())

  def holders(self) -> set[str]:
    return set().union(*(e.num_held for e in self._epochs.open.values()))

  def set_aside(self) -> list[tuple[DataShard, str]]:
    """Returns the shards that are set aside, and why."""
    return [
      (self.spec.shard(*key), one.message)
      for key, one in self._epochs.set_aside.items()
    ]

  def retry_set_aside(self) -> int:
    """Makes shards to do again that are set aside; returns how many."""
    return self._epochs.retry_set_aside()

  # --- Storage. ---------------------------------------------------------------

  def to_bytes(self) -> bytes:
    """Returns all of a ledger without shares, leases included, compressed."""
    return self._epochs.to_bytes()

  @classmethod
  def from_bytes(cls, data: bytes) -> 'Ledger':
    """Makes a ledger from what `to_bytes` returned, now or in version 1."""
    epochs = Epochs.from_bytes(data)
    ledger = cls(epochs.spec)
    ledger._epochs = epochs
    return ledger

  def _find(
    self, call: str, worker: str, shard: DataShard, bits: int = 0
  ) -> Epoch | None:
    """Returns the epoch of a worker's lease; None: a commit has ended it."""
    if shard != self.spec.shard(shard.epoch, shard.index):
      raise ValueError(f'{call}(): {shard} is not a shard of the data set.')
    if bits and (bits < 0 or bits.bit_length() > len(shard)):
      raise ValueError(f'{call}(): {shard} does not have so many records.')
    if self._epochs.early.get((shard.epoch, shard.index)) == worker:
      return None
    epoch = self._epochs.open.get(shard.epoch)
    holder, _ = epoch.held.get(shard.index, _NOBODY) if epoch else _NOBODY
    if epoch is None or holder != worker:
      what = f'leased to {holder!r}' if holder else 'not leased'
      raise ValueError(
        f'{call}() by {worker!r}: {shard} is {what}; lease it first.'
      )
    return epoch

  def _return(self, number: int, index: int) -> None:
    """Ends a lease whose shard may be to do again."""
    epoch = self._epochs.open[number]
    _, position = epoch.held[index]
    consumed = epoch.marks.get(position, 0).bit_count()
    if consumed == len(self.spec.shard(number, index)):
      epoch.drop(index, CONSUMED)
      del epoch.marks[position]
    elif self.spec.at_most_once:
      epoch.drop(index, DONE)
      epoch.marks.pop(position, None)
    else:
      epoch.put_back(epoch.drop(index, TODO), index)
      self._epochs.note_todo(number)


def _check_size(runs: list[EpochRun], num_shards: int) -> None:
  """Raises ValueError where a state has shards that the ledger has not."""
  for run in runs:
    if max([run.done.bit_length() - 1, *run.marks]) >= num_shards:
      raise ValueError(f'A state has shards beyond the {num_shards} known.')
