# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The ledger of a data set that many workers share: who has which shard.

In every epoch a shard goes

  TODO --lease--> DOING --consume--> CONSUMED --commit--> DONE
                  DOING --give_back, release, fail--> TODO
                  DOING --fail, too often--> SET_ASIDE --retry_set_aside--> TODO

`begin` makes the ledger what a checkpoint says: all that is not in it is TODO
again. A pure state machine like `data_shard.ShardLedger`, whose states it
reads; kept by the coordinator. It takes a byte a shard of an open epoch, and
four more while its order is needed.
"""

from collections.abc import Collection
import dataclasses
import json
import zlib

import numpy as np

from antjax.input import index_set, ledger_state
from antjax.input.data_shard import DataShard
from antjax.input.shared_epoch import CONSUMED
from antjax.input.shared_epoch import DOING
from antjax.input.shared_epoch import DONE
from antjax.input.shared_epoch import SET_ASIDE
from antjax.input.shared_epoch import SharedEpoch
from antjax.input.shared_epoch import TODO

MAX_SET_ASIDE = 10_000
MAX_MESSAGE = 500  # Characters kept of an error's text.
_MAX_ERRORS = 100_000  # Shards whose errors are counted.
_MAX_OPEN = 1 << 28  # Shards of open epochs: bytes.
_VERSION = 1

# A run of a state, the flags of its done positions, and its marks.
_Run = tuple[ledger_state.State, np.ndarray, dict[int, int]]


@dataclasses.dataclass(frozen=True)
class LedgerSpec:
  """What is leased, and how.

  Attributes:
    num_records: Records of the data set; of a stream: so far.
    shard_size: Records in a shard; the last one may be smaller.
    seed: Seed of the order of shards and of the records in them.
    num_epochs: Number of passes over the data; None for no end.
    is_stream: It grows; one epoch, in order.
    max_data_errors: A shard that could not be read so often is set aside.
    at_most_once: What was leased is never leased again.
  """

  num_records: int
  shard_size: int
  seed: int = 0
  num_epochs: int | None = 1
  is_stream: bool = False
  max_data_errors: int = 3
  at_most_once: bool = False

  def __post_init__(self) -> None:
    least = {
      'num_records': 0 if self.is_stream else 1,
      'shard_size': 1,
      'max_data_errors': 1,
    }
    for name, low in least.items():
      if getattr(self, name) < low:
        raise ValueError(
          f'LedgerSpec: {name} must be >= {low}; got {getattr(self, name)}.'
        )
    if self.num_epochs is not None and self.num_epochs < 1:
      raise ValueError(
        f'LedgerSpec: num_epochs must be >= 1 or None; got {self.num_epochs}.'
      )
    if self.is_stream and self.num_epochs != 1:
      raise ValueError(
        f'LedgerSpec: a stream has one epoch; got num_epochs={self.num_epochs}.'
      )


@dataclasses.dataclass
class _Over:
  """Epochs start <= epoch < stop in which nothing is to do or leased."""

  start: int
  stop: int
  num_done: int  # In each of them; the others are CONSUMED.
  num_set_aside: int


@dataclasses.dataclass
class _SetAside:
  """A shard that could not be read."""

  position: int
  message: str
  bits: int  # Of its records that are consumed.


class SharedLedger:
  """Leases every shard of every epoch to many workers, in a seeded shuffle.

  A lease takes amortised constant time. The next epoch opens when nothing is to
  do. A shard that could not be read is tried again at the end of its epoch; one
  that is set aside stays so in this epoch, until an operator retries it.

  Attributes:
    spec: What is leased; `num_records` of a stream grows.
    is_closed: Whether a stream has ended.
    num_spent: Shards that are DONE though nobody consumed them whole; only
      where they are leased at most once.
    first_open_epoch: All earlier ones are DONE or SET_ASIDE.
  """

  def __init__(self, spec: LedgerSpec):
    """Begins with all records of the first epoch to do."""
    self.spec = spec
    self.is_closed = False
    self.num_spent = 0
    self.first_open_epoch = 0
    self._next_epoch = 0
    self._open: dict[int, SharedEpoch] = {}  # By epoch, in order.
    self._over: list[_Over] = []  # By epoch, in order.
    self._set_aside: dict[tuple[int, int], _SetAside] = {}
    self._errors: dict[tuple[int, int], int] = {}
    # Leases that a checkpoint ended, before the worker said a word of them.
    self._early: dict[tuple[int, int], str] = {}
    if spec.is_stream:
      self._open_epoch()

  # --- What workers do. -------------------------------------------------------

  def lease(self, worker: str, count: int) -> list[tuple[DataShard, int]]:
    """Gives the next shards to a worker.

    Returns:
      Up to `count` of (shard, bit set of its records consumed before).
    """
    leases: list[tuple[DataShard, int]] = []
    while len(leases) < count:
      number = self._epoch_with_todo()
      if number is None:
        break
      epoch = self._open[number]
      while len(leases) < count and (place := epoch.lease(worker)):
        position, index = place
        bits = epoch.marks.get(position, 0)
        leases.append((self._shard(number, index), bits))
    return leases

  def outcome(self) -> str:
    """Says what a lease would give.

    Returns:
      'LEASED': a shard. 'WAIT': nothing now, but a leased shard may come back,
      or the stream grow. 'FINISHED': nothing any more.
    """
    if any(e.num[TODO] for e in self._open.values()) or self._can_open():
      return 'LEASED'
    if self.spec.is_stream and not self.is_closed:
      return 'WAIT'
    return 'WAIT' if any(e.held for e in self._open.values()) else 'FINISHED'

  def check_held(self, worker: str, shard: DataShard, bits: int = 0) -> None:
    """Raises ValueError unless the worker holds the shard, with these bits."""
    self._find('check_held', worker, shard, bits)

  def consume(self, worker: str, shard: DataShard) -> None:
    """Notes that all records of a leased shard are consumed.

    This and what follows do nothing where a commit has said it before.

    Raises:
      ValueError: The worker does not hold the shard.
    """
    epoch = self._find('consume', worker, shard)
    if epoch is not None:
      epoch.marks.pop(epoch.drop(shard.index, CONSUMED), None)
      self._close_if_over(shard.epoch)

  def progress(self, worker: str, shard: DataShard, bits: int) -> None:
    """Notes which records of a leased shard are consumed, in all.

    Raises:
      ValueError: The worker does not hold the shard, or it has fewer records.
    """
    epoch = self._find('progress', worker, shard, bits)
    if epoch is not None and bits:
      position = epoch.held[shard.index].position
      epoch.marks[position] = epoch.marks.get(position, 0) | bits

  def give_back(self, worker: str, shard: DataShard, bits: int) -> None:
    """Gives a leased shard back; its records not in `bits` are the next to do.

    Raises:
      ValueError: As `progress`.
    """
    self.progress(worker, shard, bits)
    epoch = self._find('give_back', worker, shard, bits)
    if epoch is not None:
      self._return(shard.epoch, shard.index)
      self._close_if_over(shard.epoch)

  def fail(self, worker: str, shard: DataShard, message: str) -> bool:
    """Gives a leased shard back that could not be read.

    Returns:
      Whether it is set aside: it failed too often.

    Raises:
      ValueError: The worker does not hold the shard, or more than
        MAX_SET_ASIDE shards are bad.
    """
    epoch = self._find('fail', worker, shard)
    if epoch is None:
      return False
    key = (shard.epoch, shard.index)
    self.check_failures(1)
    count = self._errors.pop(key, 0) + 1
    if count < self.spec.max_data_errors and not self.spec.at_most_once:
      if len(self._errors) >= _MAX_ERRORS:
        del self._errors[next(iter(self._errors))]
      self._errors[key] = count
      position = epoch.drop(shard.index, TODO)
      epoch.failed.append((position, shard.index))
      return False
    position = epoch.drop(shard.index, SET_ASIDE)
    bits = epoch.marks.pop(position, 0)
    self._set_aside[key] = _SetAside(position, message[:MAX_MESSAGE], bits)
    self._close_if_over(shard.epoch)
    return True

  def check_failures(self, count: int) -> None:
    """Raises ValueError where that many shards more cannot be set aside."""
    if len(self._set_aside) + count > MAX_SET_ASIDE:
      raise ValueError(
        f'fail(): {len(self._set_aside)} shards that cannot be read are set'
        f' aside already, of at most {MAX_SET_ASIDE}: repair the data set.'
      )

  def release(self, workers: Collection[str] | None = None) -> int:
    """Gives back all shards of workers that are gone, or of all workers.

    Returns:
      Number of shards.
    """
    count = 0
    for number, epoch in list(self._open.items()):
      gone = [
        index
        for index, held in epoch.held.items()
        if workers is None or held.worker in workers
      ]
      for index in gone:
        self._return(number, index)
      count += len(gone)
      self._close_if_over(number)
    self._early = {
      key: worker
      for key, worker in self._early.items()
      if workers is not None and worker not in workers
    }
    return count

  # --- Checkpoints. -----------------------------------------------------------

  def begin(self, state: ledger_state.State | None) -> None:
    """Continues from the state of a checkpoint; all leases end.

    What is not consumed in it is to do again, unless it was set aside or may be
    leased at most once.

    Args:
      state: State of all workers, see `ledger_state.merge`; None: nothing is
        consumed.

    Raises:
      ValueError: The state is malformed, of another data set, or of one worker
        of several. Then nothing changes.
    """
    if state is not None:
      self._check(state)
    if self.spec.at_most_once:
      self._begin_at_most_once(state)
      return
    first = 0 if state is None else state['first_epoch']
    runs = [] if state is None else state['epochs']
    size = self._size_with(state)
    loaded = [(run, *self._loaded(run, size)) for run in runs]
    self._check_size(
      sum(
        run['stop'] - run['start'] for run, done, _ in loaded if not done.all()
      )
    )
    if state is not None and self.spec.is_stream:
      self._set_num_records(max(self.spec.num_records, state['num_records']))
    self.first_open_epoch = self._next_epoch = first
    self._open, self._over, self._early = {}, [], {}
    for run, done, marks in loaded:
      for number in range(run['start'], run['stop']):
        if done.all() and not self.spec.is_stream:
          self._over.append(_Over(number, run['stop'], size, 0))
          break  # All of them at once, without arrays.
        self._open_epoch()
        self._set_done(number, done, marks)
        self._close_if_over(number)
      self._next_epoch = run['stop']
    if self.spec.is_stream and not self._next_epoch:
      self._open_epoch()
    self._advance()

  def commit(self, state: ledger_state.State) -> None:
    """Notes that a checkpoint with this state is committed.

    Raises:
      ValueError: As `begin`, or the state has epochs that have not begun.
    """
    loaded = self.check_commit(state)
    size = self._num_shards()
    everything = np.ones(size, np.uint8)
    for number in list(self._open):
      if number < state['first_epoch']:
        self._set_done(number, everything, {})
      for run, done, marks in loaded:
        if run['start'] <= number < run['stop']:
          self._set_done(number, done, marks)
      self._close_if_over(number)
    before = self._over
    self._over = []
    for over in before:
      self._commit_over(over, state['first_epoch'], loaded, size)
    self._advance()

  def check_commit(self, state: ledger_state.State) -> list[_Run]:
    """Reads a state for `commit`; raises ValueError as that does."""
    self._check(state)
    size = self._num_shards()
    loaded = [(run, *self._loaded(run, size)) for run in state['epochs']]
    for run, done, marks in loaded:
      if run['stop'] > self._next_epoch and (done.any() or marks):
        raise ValueError(
          f'commit(): records of epoch {run["stop"] - 1} are consumed in the'
          f' state, but only {self._next_epoch} epochs have begun: the state is'
          ' of another run.'
        )
    if state['first_epoch'] > self._next_epoch:
      raise ValueError(
        f'commit(): the first {state["first_epoch"]} epochs are done in the'
        f' state, but only {self._next_epoch} have begun: the state is of'
        ' another run.'
      )
    return loaded

  # --- What people do and see. ------------------------------------------------

  def extend(self, num_records: int, is_closed: bool) -> None:
    """Notes that a stream has grown, or has ended.

    Raises:
      ValueError: It is no stream, shrinks, or grows after its end.
    """
    known = self.spec.num_records
    if not self.spec.is_stream:
      raise ValueError('extend(): the data set is no stream.')
    if num_records < known:
      raise ValueError(
        f'extend(): the stream has {known} records already; got {num_records}.'
      )
    if self.is_closed and (num_records > known or not is_closed):
      raise ValueError(
        f'extend(): the stream was closed with {known} records.'
      )
    self.is_closed = is_closed
    self._set_num_records(num_records)
    self._close_if_over(0)
    self._advance()

  def change_limits(
    self, num_epochs: int | None, max_data_errors: int
  ) -> None:
    """Takes what a later start of the job says of these."""
    self.spec = dataclasses.replace(
      self.spec, num_epochs=num_epochs, max_data_errors=max_data_errors
    )

  def counts(self) -> dict[str, int]:
    """Returns how many shards of the epochs begun so far are what."""
    size = self._num_shards()
    num = [0] * 5
    for epoch in self._open.values():
      num = [one + other for one, other in zip(num, epoch.num)]
    for over in self._over:
      length = over.stop - over.start
      num[DONE] += length * over.num_done
      rest = size - over.num_done - over.num_set_aside
      num[CONSUMED] += length * rest
      num[SET_ASIDE] += length * over.num_set_aside
    aside = sum(number < self.first_open_epoch for number, _ in self._set_aside)
    num[SET_ASIDE] += aside
    num[DONE] += self.first_open_epoch * size - aside
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
    if epochs is None or (self.spec.is_stream and not self.is_closed):
      return None
    counts = self.counts()
    over = sum(counts[name] for name in ('consumed', 'done', 'set_aside'))
    shards = epochs * self._num_shards() - over
    return min(shards * self.spec.shard_size, epochs * self.spec.num_records)

  @property
  def num_begun_epochs(self) -> int:
    """How many epochs have begun."""
    return self._next_epoch

  def num_held(self, worker: str) -> int:
    """How many shards a worker holds."""
    return sum(e.num_held.get(worker, 0) for e in self._open.values())

  def holders(self) -> set[str]:
    """Returns the workers that hold a shard."""
    return {worker for e in self._open.values() for worker in e.num_held}

  def set_aside(self) -> list[tuple[DataShard, str]]:
    """Returns the shards that are set aside, and why."""
    return [
      (self._shard(number, index), one.message)
      for (number, index), one in self._set_aside.items()
    ]

  def retry_set_aside(self) -> int:
    """Makes shards that are set aside to do again, of epochs still open.

    Returns:
      Number of shards.
    """
    count = 0
    for key, one in list(self._set_aside.items()):
      number, index = key
      if not self.first_open_epoch <= number < self._next_epoch:
        continue
      if number not in self._open:
        self._reopen(number)
      epoch = self._open[number]
      del self._set_aside[key]
      if one.bits:
        epoch.marks[one.position] = one.bits
      epoch.put_back(one.position, index)
      count += 1
    return count

  # --- Storage. ---------------------------------------------------------------

  def to_bytes(self) -> bytes:
    """Returns all of it, leases included, compressed."""
    epochs, arrays = [], []
    for number, epoch in self._open.items():
      fields, status = epoch.to_json()
      epochs.append({'epoch': number, **fields})
      arrays.append(status)
    head = {
      'version': _VERSION,
      'spec': dataclasses.asdict(self.spec),
      'is_closed': self.is_closed,
      'num_spent': self.num_spent,
      'first_open_epoch': self.first_open_epoch,
      'next_epoch': self._next_epoch,
      'over': [dataclasses.astuple(over) for over in self._over],
      'set_aside': [
        [*key, one.position, one.message, index_set.encode(one.bits)]
        for key, one in self._set_aside.items()
      ],
      'errors': [[*key, count] for key, count in self._errors.items()],
      'early': [[*key, worker] for key, worker in self._early.items()],
      'epochs': epochs,
    }
    stream = zlib.compressobj(1)
    parts = [stream.compress(json.dumps(head).encode() + b'\n')]
    parts += [stream.compress(status) for status in arrays]
    return b''.join([*parts, stream.flush()])

  @classmethod
  def from_bytes(cls, data: bytes) -> 'SharedLedger':
    """Makes a ledger from what `to_bytes` returned.

    Raises:
      ValueError: It is of another version.
    """
    raw = memoryview(zlib.decompress(data))
    at = bytes(raw).index(b'\n') + 1
    head = json.loads(bytes(raw[:at]))
    if head['version'] != _VERSION:
      raise ValueError(
        f'SharedLedger: stored as version {head["version"]}, needed:'
        f' {_VERSION}.'
      )
    ledger = cls(LedgerSpec(**head['spec']))
    ledger.is_closed = head['is_closed']
    ledger.num_spent = head['num_spent']
    ledger.first_open_epoch = head['first_open_epoch']
    ledger._next_epoch = head['next_epoch']
    ledger._over = [_Over(*values) for values in head['over']]
    ledger._set_aside = {
      (number, index): _SetAside(position, text, index_set.decode(bits))
      for number, index, position, text, bits in head['set_aside']
    }
    ledger._errors = {(e, i): count for e, i, count in head['errors']}
    ledger._early = {(e, i): worker for e, i, worker in head['early']}
    ledger._open = {}
    for fields in head['epochs']:
      epoch = ledger._new_epoch(fields['epoch'], 0)
      epoch.load(fields, bytes(raw[at : at + fields['size']]))
      at += fields['size']
      ledger._open[fields['epoch']] = epoch
    return ledger

  # --- Epochs. ----------------------------------------------------------------

  def _num_shards(self) -> int:
    """Shards that can be leased: of an open stream only whole ones."""
    if self.spec.is_stream and not self.is_closed:
      return self.spec.num_records // self.spec.shard_size
    return ledger_state.num_shards(self.spec.num_records, self.spec.shard_size)

  def _shard(self, epoch: int, index: int) -> DataShard:
    start = index * self.spec.shard_size
    stop = min(start + self.spec.shard_size, self.spec.num_records)
    return DataShard(index, start, stop, epoch)

  def _set_num_records(self, num_records: int) -> None:
    self.spec = dataclasses.replace(self.spec, num_records=num_records)
    if self._open and self._num_shards() > self._open[0].size:
      self._open[0].grow(self._num_shards())

  def _can_open(self) -> bool:
    limit = self.spec.num_epochs
    return limit is None or self._next_epoch < limit

  def _epoch_with_todo(self) -> int | None:
    for number, epoch in self._open.items():
      if epoch.num[TODO]:
        return number
    while self._can_open():
      number = self._next_epoch
      self._open_epoch()
      self._close_if_over(number)  # Where every shard of it is set aside.
      if number in self._open:
        return number
    return None

  def _new_epoch(self, number: int, size: int) -> SharedEpoch:
    if self.spec.is_stream:
      return SharedEpoch(size, None)
    shards, seed = self._num_shards(), self.spec.seed
    return SharedEpoch(
      size, lambda: ledger_state.only_order(shards, seed, number)
    )

  def _open_epoch(self) -> None:
    number = self._next_epoch
    self._open[number] = epoch = self._new_epoch(number, self._num_shards())
    for (other, _), one in self._set_aside.items():
      if other == number:
        epoch.set(one.position, SET_ASIDE)
    self._next_epoch = number + 1

  def _reopen(self, number: int) -> None:
    """Opens an epoch again that was over."""
    over = next(o for o in self._over if o.start <= number < o.stop)
    self._over.remove(over)
    epoch = self._new_epoch(number, self._num_shards())
    all_done = over.num_done + over.num_set_aside == epoch.size
    epoch.flags[:] = DONE if all_done else CONSUMED
    for (other, _), one in self._set_aside.items():
      if other == number:
        epoch.flags[one.position] = SET_ASIDE
    epoch.cursor = epoch.size
    epoch.recount()
    self._open[number] = epoch
    self._open = dict(sorted(self._open.items()))

  def _close_if_over(self, number: int) -> None:
    epoch = self._open.get(number)
    if epoch is None or not epoch.is_over:
      return
    if self.spec.is_stream and not self.is_closed:
      return
    del self._open[number]
    over = _Over(number, number + 1, epoch.num[DONE], epoch.num[SET_ASIDE])
    self._over.append(over)
    self._advance()

  def _advance(self) -> None:
    """Joins epochs that are over, and drops the first that are done."""
    joined: list[_Over] = []
    for over in sorted(self._over, key=lambda one: one.start):
      last = joined[-1] if joined else None
      alike = (
        last is not None
        and last.stop == over.start
        and last.num_done == over.num_done
        and not last.num_set_aside
        and not over.num_set_aside
      )
      if last is not None and alike:
        last.stop = over.stop
      else:
        joined.append(over)
    size = self._num_shards()
    while (
      joined
      and joined[0].start == self.first_open_epoch
      and joined[0].num_done + joined[0].num_set_aside == size
    ):
      self.first_open_epoch = joined.pop(0).stop
    self._over = joined

  def _find(
    self, call: str, worker: str, shard: DataShard, bits: int = 0
  ) -> SharedEpoch | None:
    """Returns the epoch of a worker's lease; None: a commit has ended it."""
    if shard != self._shard(shard.epoch, shard.index):
      raise ValueError(f'{call}(): {shard} is not a shard of the data set.')
    if bits < 0 or bits.bit_length() > len(shard):
      raise ValueError(f'{call}(): {shard} does not have so many records.')
    if self._early.get((shard.epoch, shard.index)) == worker:
      return None
    epoch = self._open.get(shard.epoch)
    held = epoch.held.get(shard.index) if epoch is not None else None
    if held is None or held.worker != worker:
      what = 'not leased' if held is None else f'leased to {held.worker!r}'
      raise ValueError(
        f'{call}() by {worker!r}: {shard} is {what}; lease it first.'
      )
    return epoch

  def _return(self, number: int, index: int) -> None:
    """Ends a lease whose shard may be to do again."""
    epoch = self._open[number]
    position = epoch.held[index].position
    if self._is_full(number, index, epoch.marks.get(position, 0)):
      epoch.drop(index, CONSUMED)
      del epoch.marks[position]
    elif self.spec.at_most_once:
      epoch.drop(index, DONE)
      epoch.marks.pop(position, None)
      self.num_spent += 1
    else:
      epoch.unhold(index)
      epoch.put_back(position, index)

  def _is_full(self, number: int, index: int, bits: int) -> bool:
    return bits.bit_count() == len(self._shard(number, index))

  # --- States. ----------------------------------------------------------------

  def _check(self, state: ledger_state.State) -> None:
    ledger_state.check(state)
    spec = self.spec
    mine = {
      'version': ledger_state.VERSION,
      'num_records': spec.num_records,
      'shard_size': spec.shard_size,
      'seed': spec.seed,
      'is_stream': spec.is_stream,
    }
    ledger_state.check_same_data([mine, state])
    if state['share'] is not None and state['share'][1] > 1:
      worker, num_workers = state['share']
      raise ValueError(
        f'The state of worker {worker} of {num_workers} was given to a shared'
        f' ledger; unite the states of all {num_workers} workers with merge().'
      )
    numbers = [state['first_epoch']]
    for run in state['epochs']:
      numbers += [run['start'], run['stop']]
    if any(type(number) is not int or number < 0 for number in numbers):
      raise ValueError('Not a state of a ledger: an epoch is no whole number.')
    if self.is_closed and state['num_records'] > spec.num_records:
      raise ValueError(
        f'The stream was closed with {spec.num_records} records; the state has'
        f' {state["num_records"]}.'
      )

  def _check_size(self, num_open: int) -> None:
    size = self._num_shards()
    if num_open > 1 and num_open * size > _MAX_OPEN:
      raise ValueError(
        f'A state with {num_open} epochs of {size} shards that are done in part'
        ' is too large for a shared ledger; use a larger shard_size.'
      )

  def _size_with(self, state: ledger_state.State | None) -> int:
    """Number of shards, of a stream also those that only the state has."""
    size = self._num_shards()
    if state is not None and self.spec.is_stream:
      size = max(size, state['num_records'] // self.spec.shard_size)
    return size

  def _loaded(
    self, run: ledger_state.State, size: int
  ) -> tuple[np.ndarray, dict[int, int]]:
    """Reads the done positions and the marks of a run."""
    marks = {int(p): index_set.decode(m) for p, m in run['marks'].items()}
    if max(marks, default=0) >= size > 0:
      raise ValueError(f'A state has marks in shards beyond the {size} known.')
    return index_set.decode_flags(run['done'], size), marks

  def _set_done(
    self, number: int, done: np.ndarray, marks: dict[int, int]
  ) -> None:
    """Notes what a state says of an open epoch."""
    epoch = self._open[number]
    done = np.pad(done, (0, epoch.size - done.size))
    length = self.spec.shard_size
    tail = self.spec.num_records % length  # Of the last shard, if it is short.
    for position, bits in marks.items():
      count = bits.bit_count()
      if count == length or (
        count == tail and self._is_full(number, epoch.index(position), bits)
      ):
        done[position] = 1
    for index, worker in epoch.set_done(done):
      self._early[number, index] = worker
    aside = {
      one.position: key
      for key, one in self._set_aside.items()
      if key[0] == number
    }
    for position, key in aside.items():
      if epoch.status[position] == DONE:
        del self._set_aside[key]
    for position, bits in marks.items():
      if epoch.status[position] in (TODO, DOING):
        epoch.marks[position] = epoch.marks.get(position, 0) | bits
      elif epoch.status[position] == SET_ASIDE:
        self._set_aside[aside[position]].bits |= bits

  def _commit_over(
    self,
    over: _Over,
    first: int,
    loaded: list[_Run],
    size: int,
  ) -> None:
    """Notes what a state says of epochs that are over here."""
    start = over.start
    edges = [
      (0, first, size),
      *((run['start'], run['stop'], int(done.sum())) for run, done, _ in loaded),
    ]
    for low, high, num_done in edges:
      stop = min(high, over.stop)
      if low <= start < stop:
        most = size - over.num_set_aside
        self._over.append(
          _Over(
            start, stop, max(over.num_done, min(num_done, most)), over.num_set_aside
          )
        )
        start = stop
    if start < over.stop:
      self._over.append(dataclasses.replace(over, start=start))

  def _begin_at_most_once(self, state: ledger_state.State | None) -> None:
    """All that was leased is DONE, as is what the state has."""
    self.release()
    for epoch in self._open.values():
      epoch.flags[epoch.flags == CONSUMED] = DONE
      epoch.recount()
    for over in self._over:
      over.num_done = self._num_shards() - over.num_set_aside
    self._advance()
    if state is not None:
      if self.spec.is_stream:
        self._set_num_records(max(self.spec.num_records, state['num_records']))
      runs = state['epochs']
      stop = runs[-1]['stop'] if runs else state['first_epoch']
      self._check_size(stop - self._next_epoch)
      while self._next_epoch < stop:
        self._open_epoch()
      self.commit(state)
