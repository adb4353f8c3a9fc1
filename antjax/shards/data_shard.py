# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which records are still to do: a ledger of data shards.

A data set of N records is cut into shards, contiguous ranges of records, that
are leased to workers one by one (AntDT's stateful dynamic data sharding,
https://arxiv.org/abs/2404.09679). In every epoch a shard goes

  todo --lease--> doing --ack--> done         doing --requeue--> todo

and each record of it is marked when it is consumed, so that a shard that comes
back to `todo` is only read where it was not. The ledger is a pure state
machine: no clock, no network, no randomness but the seed; neither jax nor grain
is imported.
"""

from collections import deque
import dataclasses

import numpy as np

from antjax.shards import ledger_state

merge = ledger_state.merge
unmark = ledger_state.unmark


@dataclasses.dataclass(frozen=True)
class DataShard:
  """The records start <= index < stop in one epoch.

  Attributes:
    index: Shard index: start // shard_size.
    start: First record.
    stop: One past the last record.
    epoch: Epoch, from 0.
  """

  index: int
  start: int
  stop: int
  epoch: int

  def __len__(self) -> int:
    return self.stop - self.start


@dataclasses.dataclass
class _Epoch:
  """Progress of an epoch; positions are places in its shuffled order."""

  order: np.ndarray  # [S] shard index at each position.
  position_of: np.ndarray  # [S] position of each shard index.
  todo: deque[int]
  assigned: int | None  # Bit set of this ledger's positions; None: all.
  done: int = 0  # Bit set of positions.
  doing: dict[int, str] = dataclasses.field(default_factory=dict)
  marks: dict[int, int] = dataclasses.field(default_factory=dict)

  def to_json(self, epoch: int) -> ledger_state.State:
    """Returns the run of a state that is this epoch alone."""
    encode = ledger_state.encode
    return {
      'start': epoch,
      'stop': epoch + 1,
      'done': encode(self.done),
      'assigned': None if self.assigned is None else encode(self.assigned),
      'marks': {str(p): encode(m) for p, m in self.marks.items()},
      'doing': {str(p): worker for p, worker in self.doing.items()},
    }


class ShardLedger:
  """Leases every shard of every epoch, in a seeded global shuffle.

  A lease takes amortised constant time. The next epoch begins when no shard is
  to do, even while some are being done: no worker waits for another.

  With `share=(p, P)` the ledger leases only every P-th shard that is to do, for
  P processes that each have a ledger of their own and do not talk to each
  other. Their states are united by `merge`.
  """

  def __init__(
    self,
    num_records: int,
    shard_size: int,
    *,
    seed: int = 0,
    num_epochs: int | None = 1,
    share: tuple[int, int] = (0, 1),
  ):
    """Begins with all records of the first epoch to do.

    Args:
      num_records: Records of the data set.
      shard_size: Records in a shard; the last one may be smaller.
      seed: Seed of the order of shards and of the records in them.
      num_epochs: Number of passes over the data; None for no end.
      share: (worker, num_workers): see the class.

    Raises:
      ValueError: A number is out of range, or there are fewer shards than
        workers.
    """
    for name, value in (
      ('num_records', num_records),
      ('shard_size', shard_size),
      ('num_epochs', 1 if num_epochs is None else num_epochs),
    ):
      if value < 1:
        raise ValueError(f'ShardLedger: {name} must be >= 1; got {value}.')
    worker, num_workers = share
    if not 0 <= worker < num_workers:
      raise ValueError(
        f'ShardLedger: share={share} must be (worker, num_workers) with'
        ' 0 <= worker < num_workers.'
      )
    self._num_shards = ledger_state.num_shards(num_records, shard_size)
    if self._num_shards < num_workers:
      raise ValueError(
        f'ShardLedger: {self._num_shards} shards are too few for'
        f' {num_workers} workers; use shard_size <='
        f' {max(1, num_records // num_workers)} for {num_records} records.'
      )
    self.num_records = num_records
    self.shard_size = shard_size
    self.seed = seed
    self.num_epochs = num_epochs
    self.share = share
    self._first_epoch = 0  # All earlier ones are done.
    self._next_epoch = 0  # The first that has not begun.
    # Begun epochs, in order: those with shards left for this ledger, and those
    # without, which only wait for the other workers' ledgers.
    self._active: dict[int, _Epoch] = {}
    self._left: list[ledger_state.State] = []

  @classmethod
  def from_json(cls, state: ledger_state.State) -> 'ShardLedger':
    """Makes a ledger from `to_json`'s result, leases included."""
    ledger_state.check(state)
    ledger = cls(
      state['num_records'],
      state['shard_size'],
      seed=state['seed'],
      num_epochs=state['num_epochs'],
      share=tuple(state['share'] or (0, 1)),
    )
    ledger.load(state)
    return ledger

  def load(self, state: ledger_state.State) -> None:
    """Takes over the progress of a state, leases included.

    `num_epochs` may be another one than the state's.

    Args:
      state: State of one ledger with this ledger's share or with all shards, or
        the result of `merge`.

    Raises:
      ValueError: The state is malformed, of another data set, or of another
        share.
    """
    ledger_state.check(state)
    ledger_state.check_same_data([self.to_json(), state])
    whole = state['share'] is None or state['share'][1] == 1
    if not whole and (
      tuple(state['share']) != self.share or ledger_state.is_dynamic(state)
    ):
      worker, num_workers = state['share']
      raise ValueError(
        f'The state of worker {worker} of {num_workers} was given to worker'
        f' {self.share[0]} of {self.share[1]}; unite the states of all'
        f' {num_workers} workers with merge() first.'
      )
    self._first_epoch = self._next_epoch = state['first_epoch']
    self._active, self._left = {}, []
    for run in state['epochs']:
      if not whole and not ledger_state.remaining(run):
        # These epochs wait for other workers.
        self._left.append({**ledger_state.rewritten(run), 'doing': {}})
        self._next_epoch = run['stop']
        continue
      for epoch in range(run['start'], run['stop']):
        self._load_epoch(epoch, run, whole)

  def to_json(self) -> ledger_state.State:
    """Returns the state as plain types, see `ledger_state`."""
    active = [e.to_json(epoch) for epoch, e in self._active.items()]
    return {
      'version': ledger_state.VERSION,
      'num_records': self.num_records,
      'shard_size': self.shard_size,
      'seed': self.seed,
      'num_epochs': self.num_epochs,
      'share': list(self.share),
      'first_epoch': self._first_epoch,
      'epochs': ledger_state.joined(self._left + active),
    }

  def lease(self, worker: str) -> DataShard | None:
    """Gives the next shard to a worker.

    Returns:
      A shard; None where none is to do and all epochs have begun: finished,
      unless another worker's shard comes back.
    """
    while True:
      for epoch, progress in self._active.items():
        if progress.todo:
          position = progress.todo.popleft()
          progress.doing[position] = worker
          return self._shard(epoch, int(progress.order[position]))
      if self.num_epochs is not None and self._next_epoch >= self.num_epochs:
        return None
      self._begin_epoch()

  def unconsumed(self, shard: DataShard) -> np.ndarray:
    """Returns the unmarked records [<= shard_size] of a shard, seeded order."""
    order = ledger_state.record_order(
      shard.start, shard.stop, self.seed, shard.epoch
    )
    progress, position = self._find('unconsumed', shard)
    marks = progress.marks.get(position, 0)
    if not marks:
      return order
    consumed = shard.start + ledger_state.members(marks)
    return order[~np.isin(order, consumed)]

  def mark(self, worker: str, shard: DataShard, record: int) -> None:
    """Notes that a record of a leased shard is consumed.

    Raises:
      ValueError: The worker does not hold the shard, or the record is not in it
        or was marked before.
    """
    progress, position = self._held('mark', worker, shard)
    if not shard.start <= record < shard.stop:
      raise ValueError(f'mark(): record {record} is not in {shard}.')
    bit = 1 << (record - shard.start)
    marks = progress.marks.get(position, 0)
    if marks & bit:
      raise ValueError(f'mark(): record {record} of {shard} is marked already.')
    progress.marks[position] = marks | bit

  def ack(self, worker: str, shard: DataShard) -> None:
    """Notes that all records of a leased shard are consumed: it is done.

    Raises:
      ValueError: The worker does not hold the shard.
    """
    progress, position = self._held('ack', worker, shard)
    del progress.doing[position]
    self._finish(shard.epoch, progress, position)

  def requeue(self, worker: str, shard: DataShard) -> None:
    """Gives a leased shard back; its unmarked records are the next to do.

    Raises:
      ValueError: The worker does not hold the shard.
    """
    progress, position = self._held('requeue', worker, shard)
    self._give_back(shard.epoch, progress, position)

  def requeue_all(self, worker: str | None = None) -> int:
    """Gives back all shards of a worker that is gone, or of all workers.

    Returns:
      Number of shards.
    """
    count = 0
    for epoch, progress in list(self._active.items()):
      held = [
        p for p, w in progress.doing.items() if worker is None or w == worker
      ]
      for position in sorted(held, reverse=True):  # The first is next again.
        self._give_back(epoch, progress, position)
        count += 1
    return count

  def counts(self) -> dict[int, dict[str, int]]:
    """Returns epoch -> {'todo': n, 'doing': n, 'done': n} of begun epochs.

    `done` also has other workers' shards that were done in a loaded state.
    """
    return {
      epoch: {
        'todo': len(progress.todo),
        'doing': len(progress.doing),
        'done': progress.done.bit_count(),
      }
      for epoch, progress in self._active.items()
    }

  def is_finished(self) -> bool:
    """Whether all shards of all epochs, in this ledger's share, are done."""
    return not self._active and self._next_epoch == self.num_epochs

  def _shard(self, epoch: int, index: int) -> DataShard:
    start = index * self.shard_size
    stop = min(start + self.shard_size, self.num_records)
    return DataShard(index, start, stop, epoch)

  def _begin_epoch(self) -> None:
    epoch = self._next_epoch
    worker, num_workers = self.share
    todo = range(worker, self._num_shards, num_workers)
    assigned = None if num_workers == 1 else ledger_state.bits(todo)
    self._active[epoch] = _Epoch(
      *self._order(epoch), todo=deque(todo), assigned=assigned
    )
    self._next_epoch = epoch + 1

  def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    return ledger_state.shard_order(self._num_shards, self.seed, epoch)

  def _load_epoch(
    self, epoch: int, run: ledger_state.State, whole: bool
  ) -> None:
    """Takes over an epoch of a state, all of whose shards are `whole`."""
    done = ledger_state.decode(run['done'])
    every = (1 << self._num_shards) - 1
    worker, num_workers = self.share
    assigned: int | None = None
    if whole:
      todo = ledger_state.members(every & ~done)[worker::num_workers]
      if num_workers > 1:
        assigned = ledger_state.bits(todo)
    else:
      assigned = ledger_state.decode(run['assigned'])
      todo = ledger_state.members(ledger_state.remaining(run))
    doing = {int(p): w for p, w in run['doing'].items()}
    mine = set(todo.tolist())
    self._active[epoch] = _Epoch(
      *self._order(epoch),
      todo=deque(p for p in todo.tolist() if p not in doing),
      assigned=assigned,
      done=done,
      doing={p: w for p, w in doing.items() if p in mine},
      marks={int(p): ledger_state.decode(m) for p, m in run['marks'].items()},
    )
    self._next_epoch = epoch + 1
    self._leave_if_over(epoch)

  def _find(self, call: str, shard: DataShard) -> tuple[_Epoch, int]:
    """Returns the epoch and position of a shard of this ledger."""
    progress = self._active.get(shard.epoch)
    if (
      progress is None
      or not 0 <= shard.index < self._num_shards
      or self._shard(shard.epoch, shard.index) != shard
    ):
      raise ValueError(
        f'{call}(): {shard} is not a shard of an epoch that is being done.'
      )
    return progress, int(progress.position_of[shard.index])

  def _held(
    self, call: str, worker: str, shard: DataShard
  ) -> tuple[_Epoch, int]:
    """As `_find`; raises ValueError unless the worker holds the shard."""
    progress, position = self._find(call, shard)
    holder = progress.doing.get(position)
    if holder != worker:
      what = 'is not leased' if holder is None else f'is leased to {holder!r}'
      raise ValueError(
        f'{call}() by {worker!r}: {shard} {what}; lease it first.'
      )
    return progress, position

  def _give_back(self, epoch: int, progress: _Epoch, position: int) -> None:
    del progress.doing[position]
    shard = self._shard(epoch, int(progress.order[position]))
    if progress.marks.get(position, 0).bit_count() == len(shard):
      self._finish(epoch, progress, position)
    else:
      progress.todo.appendleft(position)

  def _finish(self, epoch: int, progress: _Epoch, position: int) -> None:
    progress.done |= 1 << position
    progress.marks.pop(position, None)
    self._leave_if_over(epoch)

  def _leave_if_over(self, epoch: int) -> None:
    """Moves an epoch without shards left for this ledger out of the way."""
    progress = self._active[epoch]
    if progress.todo or progress.doing:
      return
    del self._active[epoch]
    self._left.append(progress.to_json(epoch))
    self._left = ledger_state.joined(self._left)
    every = (1 << self._num_shards) - 1
    while (
      self._left
      and self._left[0]['start'] == self._first_epoch
      and ledger_state.decode(self._left[0]['done']) == every
    ):
      self._first_epoch = self._left.pop(0)['stop']
