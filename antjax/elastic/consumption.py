# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What one worker knows to be consumed: the position in its checkpoint.

It is the position that the worker's pass began with and all that it has
consumed since itself. What other workers consumed is in their own; `merge` of
`ledger_state` merges them. Pure: no clock, no network.
"""

from collections.abc import Iterator
import dataclasses

import numpy as np

from antjax.shards import data_shard, index_set, ledger_state
from antjax.shards.data_shard import DataShard
from antjax.shards.ledger_spec import LedgerSpec

_DIGITS = b'0123456789abcdef'
_VALUE = {digit: value for value, digit in enumerate(_DIGITS)}


class _Positions:
  """A set of small numbers that is hexadecimal text all along.

  Adding a number changes one digit, so that the text of 10,000,000 positions is
  there at once, at every batch.
  """

  def __init__(self, text: str, size: int):
    """Takes a set as text; digits for `size` numbers, more come as needed."""
    if text.startswith('z'):
      text = f'{index_set.decode(text, size):x}'
    self._digits = bytearray(text.encode().rjust(-(-size // 4), b'0'))
    self._text: str | None = None  # None where it has changed.

  def __contains__(self, number: int) -> bool:
    at = number // 4
    if at >= len(self._digits):
      return False
    return bool(_VALUE[self._digits[-1 - at]] >> number % 4 & 1)

  def add(self, number: int) -> None:
    """Adds a number."""
    at = number // 4
    if at >= len(self._digits):  # The stream has grown.
      more = max(64, at + 1 - len(self._digits), len(self._digits))
      self._digits[:0] = b'0' * more
    value = _VALUE[self._digits[-1 - at]] | 1 << number % 4
    self._digits[-1 - at] = _DIGITS[value]
    self._text = None

  def text(self) -> str:
    """The set as `index_set.decode` reads it."""
    if self._text is None:
      self._text = self._digits.decode() or '0'
    return self._text


@dataclasses.dataclass
class _Epoch:
  """An epoch that this worker has a shard of.

  Attributes:
    done: Positions of which all records are known to be consumed.
    marks: Position -> [n] uint8, consumed records of a shard that is not done.
    place: [S] position of each shard index; None: its own index.
  """

  done: _Positions
  marks: dict[int, np.ndarray]
  place: np.ndarray | None


class Consumption:
  """Base position and own consumption since; cheap to write at every batch.

  Memory: 4.25 bytes a shard and epoch that is open.
  """

  def __init__(self, spec: LedgerSpec, share: tuple[int, int] = (0, 1)):
    """Begins with nothing consumed.

    Args:
      spec: Spec of the data set.
      share: (rank of this worker, number of workers).
    """
    self._spec = spec
    self._share = share
    self._first = 0
    self._base: list[ledger_state.State] = []
    self._epochs: dict[int, _Epoch] = {}

  @property
  def num_records(self) -> int:
    """Records of the data set; of a stream: as far as it is known."""
    return self._spec.num_records

  def load(self, state: ledger_state.State | None) -> None:
    """Takes over a position; None: nothing is consumed.

    Raises:
      ValueError: It is malformed, of another data set, or of one worker among
        several (merge the positions of all with `merge` first).
    """
    self._first, self._base, self._epochs = 0, [], {}
    if state is None:
      return
    self._spec.read(state)
    self._know(state['num_records'])
    self._first = state['first_epoch']
    self._base = [
      {**run, 'assigned': None, 'doing': {}} for run in state['epochs']
    ]

  def order(self, shard: DataShard, consumed: np.ndarray) -> np.ndarray:
    """Returns the records of a shard to consume, in order.

    Args:
      shard: A leased shard.
      consumed: [n] Flags of its records that are consumed, by whomever.
    """
    order = self._spec.record_order(shard)
    if not consumed.any():
      return order
    return order[consumed[order - shard.start] == 0]

  def mark(self, shard: DataShard, records: np.ndarray) -> None:
    """Notes that these records of a shard are consumed by this worker."""
    epoch, position = self._find(shard)
    if position in epoch.done:
      return
    marks = epoch.marks.get(position)
    if marks is None:
      marks = np.zeros(len(shard), np.uint8)
    epoch.marks[position] = marks = marks[: len(shard)]  # The last is smaller.
    marks[np.asarray(records) - shard.start] = 1
    if marks.all():
      del epoch.marks[position]
      epoch.done.add(position)

  def drop_before(self, epoch: int) -> None:
    """Forgets earlier epochs: they are in a committed checkpoint."""
    if epoch <= self._first:
      return
    self._first = epoch
    for old in [e for e in self._epochs if e < epoch]:
      del self._epochs[old]
    self._base = [run for run in self._base if run['stop'] > epoch]

  def state(self) -> ledger_state.State:
    """Returns the position as plain JSON types, see `ledger_state`."""
    runs: list[ledger_state.State] = []
    at = self._first
    for number in sorted(self._epochs):
      runs += self._untouched(at, number)
      runs.append(self._run(number))
      at = number + 1
    stop = max([at, *(run['stop'] for run in self._base)])
    runs += self._untouched(at, stop)
    return {
      **self._spec.head(),
      'share': list(self._share),
      'dynamic': True,
      'first_epoch': self._first,
      'epochs': runs,
    }

  def _run(self, number: int) -> ledger_state.State:
    epoch = self._epochs[number]
    marks = {
      str(position): index_set.encode(index_set.from_flags(flags))
      for position, flags in epoch.marks.items()
    }
    return {
      **ledger_state.Run(number, number + 1).to_json(),
      'done': epoch.done.text(),
      'marks': marks,
    }

  def _untouched(self, start: int, stop: int) -> Iterator[ledger_state.State]:
    """Yields what the base says of the epochs from start to before stop."""
    for run in self._base:
      first, last = max(start, run['start']), min(stop, run['stop'])
      if first < last:
        yield {**run, 'start': first, 'stop': last}
        start = last
    if start < stop:  # Not begun in the base.
      yield ledger_state.Run(start, stop).to_json()

  def _find(self, shard: DataShard) -> tuple[_Epoch, int]:
    epoch = self._epochs.get(shard.epoch)
    if epoch is None:
      epoch = self._open(shard.epoch)
    if epoch.place is not None:
      return epoch, int(epoch.place[shard.index])
    self._know(shard.stop)
    return epoch, shard.index

  def _know(self, num_records: int) -> None:
    """Notes that a stream has at least so many records."""
    if num_records > self.num_records:
      self._spec = self._spec.grown(num_records, False)

  def _open(self, number: int) -> _Epoch:
    spec = self._spec
    shards = data_shard.num_shards(spec.num_records, spec.shard_size)
    place = None
    if not spec.is_stream:
      place = data_shard.shard_positions(shards, spec.seed, number)
    epoch = _Epoch(_Positions('0', shards), {}, place)
    for run in self._base:
      if run['start'] <= number < run['stop']:
        epoch.done = _Positions(run['done'], shards)
        epoch.marks = {
          int(position): index_set.flags(
            index_set.decode(text), spec.shard_size
          )
          for position, text in run['marks'].items()
        }
    self._epochs[number] = epoch
    return epoch
