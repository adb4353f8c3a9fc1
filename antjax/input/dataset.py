# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A grain data set over leased data shards."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
import weakref

import grain
import numpy as np

from antjax.input import ledger_state
from antjax.input.data_shard import DataShard
from antjax.input.ledger_client import LedgerClient
from antjax.input.records import RecordSource

LEDGER = 'ledger'  # Key of the ledger's state in an iterator's state.
# Counter of grain's random_map: it need not be the same on all processes.
_COUNTER = 'index_for_rng'
_PARENT = 'parent'


class LeasedDataset(grain.IterDataset):
  """The records of the shards that a ledger client leases.

  A plain `grain.IterDataset`: put `.map`, `.filter`, `.batch` and
  `grain.experimental.ThreadPrefetchIterDataset` on it. Every record is read
  once an epoch, in the ledger's seeded order, and a shard is read from the
  source as one block.

  `get_state` and `set_state` of the iterator, and of any of these transforms,
  save and restore the position exactly: what was yielded, including all of a
  batch, is consumed; what was only prefetched is not. The state is a JSON-able
  dict that holds the ledger's state at 'ledger'. To continue with another
  number of processes, unite the states of all of them with `merge_states`.

  What does not work: `mp_prefetch` with a `LocalLedgerClient` (the worker
  processes would lease the same records: a TypeError); two live iterators on
  one data set or client (the older one raises RuntimeError); transforms that
  hold back records but do not save them, such as grain's window shuffle, make
  those count as consumed; `batch(drop_remainder=True)` drops the last records
  of this process after the last epoch.
  """

  def __init__(
    self,
    source: RecordSource,
    client: LedgerClient,
    *,
    key_field: str | None = None,
  ):
    """Reads nothing yet.

    Args:
      source: Records; record i of the ledger is record i of the source.
      client: Access to the ledger. A new iterator begins with `client.start()`.
      key_field: Name of a field to add to each record, np.int64: epoch *
        num_records + index, which names the record and its epoch for
        `unmark_state`.

    Raises:
      ValueError: Source and ledger have different numbers of records.
    """
    super().__init__()
    if len(source) != client.num_records:
      raise ValueError(
        f'LeasedDataset: the source has {len(source)} records, the ledger'
        f' {client.num_records}; make the ledger with'
        ' num_records=len(source).'
      )
    self._source = source
    self._client = client
    self._key_field = key_field
    self._newest: weakref.ref[Any] | None = None

  def __iter__(self) -> '_LeasedIterator':
    iterator = _LeasedIterator(self)
    self._client.start()
    self._newest = weakref.ref(iterator)
    return iterator

  def __str__(self) -> str:
    return f'LeasedDataset(num_records={len(self._source)})'


class _LeasedIterator(grain.DatasetIterator):
  """Iterator of a `LeasedDataset`."""

  def __init__(self, dataset: LeasedDataset):
    super().__init__()
    self._dataset = dataset
    self._shard: DataShard | None = None
    self._block: Sequence[Any] = ()  # Records of the shard, in file order.
    self._order: list[int] = []  # Records still to yield, the next one last.

  def __next__(self) -> Any:
    self._check_newest()
    client = self._dataset._client
    while not self._order:
      shard = client.lease()
      if shard is None:
        raise StopIteration
      self._shard = shard
      self._order = client.unconsumed(shard)[::-1].tolist()
      # One block: a shard that comes back may have marks anywhere in it.
      self._block = self._dataset._source.read(shard.start, shard.stop)
    assert self._shard is not None
    index = self._order.pop()
    record = self._block[index - self._shard.start]
    client.mark(self._shard, index)
    shard = self._shard
    if not self._order:  # Consumed with this record, so a state says so.
      client.ack(self._shard)
      self._shard, self._block = None, ()
    return self._with_key(record, shard, index)

  def get_state(self) -> dict[str, Any]:
    self._check_newest()
    return {LEDGER: self._dataset._client.state()}

  def set_state(self, state: dict[str, Any]) -> None:
    self._check_newest()
    if LEDGER not in state:
      raise ValueError(
        f'LeasedDataset: the state has no {LEDGER!r} but'
        f' {", ".join(map(str, state)) or "nothing"}: it was saved by another'
        ' data set.'
      )
    self._dataset._client.load(state[LEDGER])
    self._shard, self._block, self._order = None, (), []

  def __str__(self) -> str:
    return f'LeasedIterator(num_records={self._dataset._client.num_records})'

  def _check_newest(self) -> None:
    newest = self._dataset._newest
    if newest is None or newest() is not self:
      raise RuntimeError(
        'LeasedDataset: a newer iterator of this data set leases its shards'
        ' now; use that one, or a data set of its own.'
      )

  def _with_key(self, record: Any, shard: DataShard, index: int) -> Any:
    name = self._dataset._key_field
    if name is None:
      return record
    if name in record:
      raise ValueError(
        f'LeasedDataset: key_field={name!r} is a field of the records too;'
        ' choose another name.'
      )
    key = shard.epoch * self._dataset._client.num_records + index
    return {**record, name: np.int64(key)}


def merge_states(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Unites the states of the iterators of all processes of a run.

  Args:
    states: `get_state()` of each process' iterator, all at the same step, in
      any order. The iterators may have transforms on a `LeasedDataset`.

  Returns:
    A state for `set_state` on each of any number of processes.

  Raises:
    ValueError: A process' state is missing, or the states are of different
      pipelines.
  """
  if not states:
    raise ValueError('merge_states() needs the state of at least one process.')
  merged = _merge_values(list(states), 'state')
  assert isinstance(merged, dict)
  return merged


def unmark_state(
  state: Mapping[str, Any], record_keys: Iterable[int]
) -> dict[str, Any]:
  """Returns an iterator's state in which some records are to be read again.

  For a transform that holds records back when its state is saved.

  Args:
    state: `get_state()` of an iterator over a `LeasedDataset`; not changed.
    record_keys: What `key_field` was in these records.

  Raises:
    ValueError: The state has no ledger, or a record was not consumed.
  """
  if LEDGER in state:
    ledger = ledger_state.unmark(state[LEDGER], record_keys)
    return {**state, LEDGER: ledger}
  if isinstance(state.get(_PARENT), Mapping):  # grain's random_map.
    return {**state, _PARENT: unmark_state(state[_PARENT], record_keys)}
  raise ValueError(
    f'unmark_state(): the state has no {LEDGER!r}: it is not that of an'
    ' iterator over a LeasedDataset.'
  )


def _merge_values(values: list[Any], path: str) -> Any:
  """Unites what is at `path` in each state."""
  first = values[0]
  if all(isinstance(value, Mapping) for value in values):
    if any(value.keys() != first.keys() for value in values):
      raise ValueError(
        f'merge_states(): {path} has different keys on different processes;'
        ' give states of one pipeline.'
      )
    return {
      key: (
        ledger_state.merge([value[key] for value in values])
        if key == LEDGER
        else _merge_values([v[key] for v in values], f'{path}.{key}')
      )
      for key in first
    }
  if path.endswith(f'.{_COUNTER}'):
    return max(values)
  if any(value != first for value in values):
    raise ValueError(
      f'merge_states(): {path} differs between processes and is not part of'
      ' a ledger; only the ledger can be united.'
    )
  return first
