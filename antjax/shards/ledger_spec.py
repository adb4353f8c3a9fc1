# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a ledger leases, and validation of its states."""

import dataclasses
from typing import Any

import numpy as np

from antjax.shards import data_shard, index_set, ledger_state
from antjax.shards.data_shard import DataShard
from antjax.shards.ledger_state import EpochRun, State

MAX_OPEN_EPOCHS = 1 << 14  # Each takes about a kilobyte and 20 us.
_MAX_OPEN = 1 << 25  # Shards of several open epochs: bytes, begun in 0.5 s.
_MAX_STREAM = 1 << 26  # Shards: a byte each.


@dataclasses.dataclass(frozen=True)
class LedgerSpec:
  """What is leased, and how."""

  num_records: int  # Of a stream: so far.
  shard_size: int  # Records in a shard; the last one may be smaller.
  seed: int = 0  # Of the order of shards and of the records in them.
  num_epochs: int | None = 1  # None: no end.
  is_stream: bool = False  # It grows, and has one epoch, in order.
  max_data_errors: int = 3  # Failed reads after which a shard is set aside.
  at_most_once: bool = False  # What was leased is never leased again.
  is_closed: bool = False  # A stream has ended.

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

  @property
  def is_growing(self) -> bool:
    """Whether the data set is a stream that has not ended."""
    return self.is_stream and not self.is_closed

  @property
  def num_shards(self) -> int:
    """Number of shards to lease; of a growing stream, only whole ones."""
    if self.is_growing:
      return self.num_records // self.shard_size
    return data_shard.num_shards(self.num_records, self.shard_size)

  def shard(self, epoch: int, index: int) -> DataShard:
    start = index * self.shard_size
    stop = min(start + self.shard_size, self.num_records)
    return DataShard(index, start, stop, epoch)

  def unconsumed(self, shard: DataShard, bits: int) -> np.ndarray:
    """Returns the records of a shard that are not in `bits`, in order."""
    order = np.arange(shard.start, shard.stop)
    if not self.is_stream:
      order = data_shard.record_order(
        shard.start, shard.stop, self.seed, shard.epoch
      )
    consumed = index_set.flags(bits, len(shard))
    return order[consumed[order - shard.start] == 0]

  def head(self) -> State:
    """Returns the fields of a state that name the data set."""
    state: State = {
      'version': ledger_state.VERSION,
      'num_records': self.num_records,
      'shard_size': self.shard_size,
      'seed': self.seed,
      'num_epochs': self.num_epochs,
    }
    return {**state, 'is_stream': True} if self.is_stream else state

  def grown(self, num_records: int, is_closed: bool) -> 'LedgerSpec':
    """Returns a stream that has grown, or has ended.

    Raises:
      ValueError: It is not a stream, shrinks, or grows after its end.
    """
    known = self.num_records
    if not self.is_stream:
      raise ValueError('extend(): the data set is no stream.')
    if num_records < known:
      raise ValueError(
        f'extend(): the stream has {known} records already; got {num_records}.'
      )
    if self.is_closed and (num_records > known or not is_closed):
      raise ValueError(f'extend(): the stream was closed with {known} records.')
    self._check_growth(num_records)
    return dataclasses.replace(
      self, num_records=num_records, is_closed=is_closed
    )

  def read(
    self,
    state: State,
    share: tuple[int, int] | None = None,
    runs: list[EpochRun] | None = None,
  ) -> list[EpochRun]:
    """Returns the runs of a state.

    The state is that of all workers, or of the worker of `share`, (worker,
    num_workers), of a ledger with static shares. `runs` are given where they
    were read before.

    Raises:
      ValueError: The state is malformed, of another data set, or of another
        worker.
    """
    runs = self.read_runs(state) if runs is None else runs
    self._check_head(state)
    theirs = state['share']
    if theirs is not None and theirs[1] > 1:
      worker, num_workers = theirs
      if (worker, num_workers) != share or state.get('dynamic'):
        mine = f'worker {share[0]} of {share[1]}' if share else 'all workers'
        raise ValueError(
          f'The state of worker {worker} of {num_workers} was given to the'
          f' ledger of {mine}; unite the states of all {num_workers} workers'
          ' with merge() first.'
        )
    return runs

  def read_runs(self, state: Any) -> list[EpochRun]:
    """Returns the runs of a state of this data set, of whatever worker.

    Raises:
      ValueError: The state is malformed, or of another data set.
    """
    return ledger_state.read(state, self._check_head)

  def _check_head(self, state: State) -> None:
    ledger_state.check_same_data([self.head(), state])
    if self.is_closed and state['num_records'] > self.num_records:
      raise ValueError(
        f'The stream was closed with {self.num_records} records; the state has'
        f' {state["num_records"]}.'
      )
    self._check_growth(state['num_records'])

  def check_share(self, worker: int, num_workers: int) -> None:
    """Raises ValueError where a ledger cannot have such a static share."""
    if not 0 <= worker < num_workers:
      raise ValueError(
        f'Ledger: share=({worker}, {num_workers}) must be (worker, num_workers)'
        ' with 0 <= worker < num_workers.'
      )
    if self.is_stream or self.at_most_once:
      raise ValueError(
        'Ledger: a stream, and shards that are leased at most once, have no'
        ' static shares; lease them from a coordinator.'
      )
    if self.num_shards < num_workers:
      raise ValueError(
        f'Ledger: {self.num_shards} shards are too few for {num_workers}'
        ' workers; use shard_size <='
        f' {max(1, self.num_records // num_workers)} for'
        f' {self.num_records} records.'
      )

  def check_open(self, num_epochs: int, room: int = _MAX_OPEN) -> None:
    """Raises ValueError where so many epochs are too many to be open.

    Several take no more shards than `room`.
    """
    if not self.has_room(num_epochs, room):
      raise ValueError(
        f'A state with {num_epochs} epochs of {self.num_shards} shards that are'
        f' done in part is too large for a ledger: at most {MAX_OPEN_EPOCHS}'
        f' epochs, and {min(room, _MAX_OPEN)} shards in all of them, are taken.'
        ' Is it of another data set? Else use a larger shard_size.'
      )

  def has_room(self, num_epochs: int, room: int = _MAX_OPEN) -> bool:
    """Whether so many epochs may be open at once."""
    return num_epochs <= 1 or (
      num_epochs <= MAX_OPEN_EPOCHS
      and num_epochs * self.num_shards <= min(room, _MAX_OPEN)
    )

  def _check_growth(self, num_records: int) -> None:
    if self.is_stream and num_records // self.shard_size > _MAX_STREAM:
      raise ValueError(
        f'A stream of {num_records} records is too long for a ledger of'
        f' shard_size={self.shard_size}: at most {_MAX_STREAM} shards; use a'
        ' larger shard_size.'
      )
