# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a shared ledger leases, and whether a state is of it."""

import dataclasses
from typing import Any

import numpy as np

from antjax.shards import index_set, ledger_state

_MAX_OPEN = 1 << 28  # Shards of open epochs: bytes.
_MAX_STREAM = 1 << 26  # Shards: a byte each.


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
    is_closed: A stream that has ended.
  """

  num_records: int
  shard_size: int
  seed: int = 0
  num_epochs: int | None = 1
  is_stream: bool = False
  max_data_errors: int = 3
  at_most_once: bool = False
  is_closed: bool = False

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
    """Whether it is a stream that has not ended."""
    return self.is_stream and not self.is_closed

  @property
  def num_shards(self) -> int:
    """Shards that can be leased: of a growing stream only whole ones."""
    if self.is_growing:
      return self.num_records // self.shard_size
    return ledger_state.num_shards(self.num_records, self.shard_size)

  def grown(self, num_records: int, is_closed: bool) -> 'LedgerSpec':
    """Returns a stream that has grown, or has ended.

    Raises:
      ValueError: It is no stream, shrinks, or grows after its end.
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
    self.check_growth(num_records)
    return dataclasses.replace(
      self, num_records=num_records, is_closed=is_closed
    )

  def check(self, state: ledger_state.State) -> None:
    """Raises ValueError unless a state is of this data set and its epochs.

    Args:
      state: State of all workers.
    """
    ledger_state.check(state)
    mine: ledger_state.State = {
      'version': ledger_state.VERSION,
      'num_records': self.num_records,
      'shard_size': self.shard_size,
      'seed': self.seed,
      'is_stream': self.is_stream,
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
    if self.is_closed and state['num_records'] > self.num_records:
      raise ValueError(
        f'The stream was closed with {self.num_records} records; the state has'
        f' {state["num_records"]}.'
      )
    self.check_growth(state['num_records'])

  def check_growth(self, num_records: int) -> None:
    """Raises ValueError where a stream of so many records is too long."""
    if self.is_stream and num_records // self.shard_size > _MAX_STREAM:
      raise ValueError(
        f'A stream of {num_records} records is too long for a shared ledger of'
        f' shard_size={self.shard_size}: at most {_MAX_STREAM} shards; use a'
        ' larger shard_size.'
      )

  def check_open(self, num_epochs: int) -> None:
    """Raises ValueError where so many epochs are too many to be open."""
    if num_epochs > 1 and num_epochs * self.num_shards > _MAX_OPEN:
      raise ValueError(
        f'A state with {num_epochs} epochs of {self.num_shards} shards that are'
        ' done in part is too large for a shared ledger; use a larger'
        ' shard_size.'
      )


@dataclasses.dataclass(frozen=True)
class Run:
  """Epochs start <= epoch < stop of a state, that are alike.

  Attributes:
    start: First epoch.
    stop: One past the last one.
    done: [S] flags of the positions whose shards are done.
    marks: Position -> bit set of consumed records.
  """

  start: int
  stop: int
  done: np.ndarray
  marks: dict[int, int]

  @property
  def length(self) -> int:
    return self.stop - self.start


def read_runs(state: ledger_state.State, size: int) -> list[Run]:
  """Reads the runs of a state that was checked.

  Args:
    state: The state.
    size: Number of shards S.

  Raises:
    ValueError: It has more shards.
  """
  return [_read_run(run, size) for run in state['epochs']]


def _read_run(run: dict[str, Any], size: int) -> Run:
  marks = {int(p): index_set.decode(m) for p, m in run['marks'].items()}
  if marks and max(marks) >= size:
    raise ValueError(f'A state has marks in shards beyond the {size} known.')
  done = index_set.decode_flags(run['done'], size)
  return Run(run['start'], run['stop'], done, marks)
