# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A grain data set over leased data shards."""

from collections.abc import Iterable, Sequence
import threading
from typing import Any
import weakref

import grain
import numpy as np

from antjax.shards import position
from antjax.shards.data_shard import DataShard
from antjax.shards.ledger_client import LedgerClient
from antjax.shards.record_source import RecordBlock, RecordSource

fitted_state = position.fitted_state
ledger_states = position.ledger_states
merge_states = position.merge_states
unmark_state = position.unmark_state

LEDGER, DATA_SET = position.LEDGER, position.DATA_SET
_CHUNK = 256  # Records whose use is noted in one go.
# grain makes iterators in threads, some only to ask for their first state.
_beginning = threading.Lock()


class LeasedDataset(grain.IterDataset):
  """The records of the shards that a ledger client leases.

  It is a plain `grain.IterDataset`: apply `.map`, `.filter`, `.batch`,
  `.mp_prefetch`, `grain.experimental.ThreadPrefetchIterDataset` and
  `grain.IterDataset.mix` to it. Every record is read once per epoch, in the
  ledger's seeded order, and a shard is read from the source as one block.

  `get_state` and `set_state` of the iterator, and of any of these transforms,
  save and restore the exact position: records that were yielded, alone or in a
  batch, are consumed; records that were only prefetched are not. The state is a
  JSON-serializable dict with the ledger's state at 'ledger'. To resume with
  another number of processes, merge all states with `merge_states`.

  With a coordinator's ledger, each process of `.mp_prefetch` leases its own
  shards; source and transforms must be picklable. A shard that cannot be read
  is reported, and reading continues with the next one.

  With a source that reads blocks (`records.open_source(..., as_blocks=True)`),
  each element is a block: {'rows': columns of rows, 'tasks': columns of
  records}, with all unread records of a shard in shuffled order, or at most
  `block_size` of them.

  Not supported are `mp_prefetch` with a `LocalLedgerClient` (TypeError), two
  live iterators on one data set or client (RuntimeError in the older one), and
  `set_state` under `mp_prefetch` after the first element. Records that a
  transform buffers unsaved, as grain's window shuffle does, count as consumed.
  `batch(drop_remainder=True)` drops this process's last records.
  """

  def __init__(
    self,
    source: RecordSource,
    client: LedgerClient,
    *,
    key_field: str | None = None,
    block_size: int = 0,
  ):
    """Creates the data set; reads nothing yet.

    Args:
      source: Source of the ledger's records.
      client: Access to the ledger. A new iterator calls `client.start()`.
      key_field: Name of a field to add to each record, with the np.int64 key
        epoch * num_records + index, for `unmark_state`.
      block_size: Maximum number of records per block. 0: a whole shard.

    Raises:
      ValueError: Source and ledger have different numbers of records.
    """
    super().__init__()
    if not client.is_stream and len(source) != client.num_records:
      raise ValueError(
        f'LeasedDataset: the source has {len(source)} records, the ledger'
        f' {client.num_records}; make the ledger with'
        ' num_records=len(source).'
      )
    self._source = source
    self._client = client
    self._key_field = key_field
    self._block_size = block_size
    self._newest: weakref.ref[_LeasedIterator] | None = None

  def __iter__(self) -> '_LeasedIterator':
    return _LeasedIterator(self)

  def close(self) -> None:
    """Returns the rest of the shard in use; iterators cannot continue after."""
    iterator = None if self._newest is None else self._newest()
    if iterator is not None:
      iterator.give_back()

  def __getstate__(self) -> dict[str, Any]:
    return {**self.__dict__, '_newest': None}

  def set_slice(self, sl: slice, sequential_slice: bool = False) -> None:
    """Selects slice `sl` in one of grain's prefetch processes.

    The ledger decides which records these are: each process leases its own.
    """
    del sequential_slice
    set_slice = getattr(self._client, 'set_slice', None)
    if set_slice is None:
      raise TypeError(
        'LeasedDataset: this ledger client serves one iterator only; instead of'
        ' slices use grain.experimental.ThreadPrefetchIterDataset.'
      )
    set_slice(sl.start, sl.step)

  def __str__(self) -> str:
    return f'LeasedDataset(num_records={len(self._source)})'


class _LeasedIterator(grain.DatasetIterator):
  """Iterator of a `LeasedDataset`.

  A record costs two tests and a pop. What was used is noted once a chunk, and
  when a state is taken.
  """

  def __init__(self, dataset: LeasedDataset):
    super().__init__()
    self._dataset = dataset
    self._has_begun = False
    self._is_retired = False
    self._forget()

  def __next__(self) -> Any:
    records = self._records
    if not records:
      records = self._next_chunk()
    record = records.pop()
    if not records:  # Noted with its last record, so that a state says so.
      self._end_chunk()
    return record

  def get_state(self) -> dict[str, Any]:
    client = self._dataset._client
    with _beginning:
      self._begin()
      self._mark()
      state = {LEDGER: client.state()}
    return {**state, DATA_SET: client.name} if client.name else state

  def set_state(self, state: dict[str, Any]) -> None:
    if LEDGER not in state:
      raise ValueError(
        f'LeasedDataset: the state has no {LEDGER!r} but'
        f' {", ".join(map(str, state)) or "nothing"}: it was saved by another'
        ' data set.'
      )
    with _beginning:
      self._begin()
      self._dataset._client.load(state[LEDGER])
      self._forget()

  def __str__(self) -> str:
    return f'LeasedIterator(num_records={self._dataset._client.num_records})'

  def give_back(self) -> None:
    """Ends this iterator; what it has not yielded is to be read by others."""
    with _beginning:
      if self._shard is not None and not self._is_retired:
        self._mark()
        self._dataset._client.requeue(self._shard)
      self._is_retired = True
      self._forget()

  def _forget(self) -> None:
    self._shard: DataShard | None = None
    # Records of the shard, in file order.
    self._block: Sequence[Any] | RecordBlock = ()
    self._order = np.empty(0, np.int64)  # Records to yield, in order.
    self._num_marked = 0  # Entries of `_order` noted as consumed.
    self._num_loaded = 0  # Entries of `_order` yielded or in `_records`.
    self._records: list[Any] = []  # The rest of the chunk, the next one last.

  def _begin(self) -> None:
    """Takes the client over from an older iterator, once.

    Raises:
      RuntimeError: A newer one has taken it over.
    """
    if self._is_retired:
      raise RuntimeError(
        'LeasedDataset: a newer iterator of this data set leases its shards'
        ' now; use that one, or a data set of its own.'
      )
    if self._has_begun:
      return
    newest = self._dataset._newest
    older = None if newest is None else newest()
    if older is not None:
      older._is_retired = True
      older._forget()
    self._dataset._client.start()
    self._dataset._newest = weakref.ref(self)
    self._has_begun = True

  def _next_chunk(self) -> list[Any]:
    if self._shard is None:
      with _beginning:
        self._begin()
      self._next_shard()
    shard, block = self._shard, self._block
    assert shard is not None
    size = _CHUNK
    if isinstance(block, RecordBlock):  # An element.
      size = self._dataset._block_size or self._order.size
    stop = min(self._num_loaded + size, self._order.size)
    indices = self._order[self._num_loaded : stop]
    offsets = indices - shard.start
    if isinstance(block, RecordBlock):
      keys = self._keys(shard, indices, [block.tasks])
      self._records = [block.take(offsets, **keys)]
    else:  # Reversed: the next one is taken from the end.
      records = [block[i] for i in offsets[::-1].tolist()]
      for name, values in self._keys(shard, indices[::-1], records).items():
        records = [{**r, name: key} for r, key in zip(records, values)]
      self._records = records
    self._num_loaded = stop
    return self._records

  def _keys(
    self, shard: DataShard, indices: np.ndarray, records: Iterable[Any]
  ) -> dict[str, np.ndarray]:
    """Returns the field to add to records, if any."""
    name = self._dataset._key_field
    if name is None:
      return {}
    if any(name in record for record in records):
      raise ValueError(
        f'LeasedDataset: key_field={name!r} is a field of the records too;'
        ' choose another name.'
      )
    base = shard.epoch * self._dataset._client.num_records
    return {name: (base + indices).astype(np.int64)}

  def _next_shard(self) -> None:
    client, source = self._dataset._client, self._dataset._source
    while True:
      shard = client.lease()
      if shard is None:
        raise StopIteration
      order = client.unconsumed(shard)
      if not order.size:
        client.ack(shard)
        continue
      try:
        # One block: a shard that comes back may have marks anywhere in it.
        block = source.read(shard.start, shard.stop)
        if len(block) != len(shard):
          raise ValueError(
            f'read({shard.start}, {shard.stop}) gave {len(block)} records.'
          )
      except Exception as error:
        client.fail(shard, error)
        continue
      self._forget()
      self._shard, self._block, self._order = shard, block, order
      return

  def _end_chunk(self) -> None:
    if self._num_loaded < self._order.size:
      self._mark()
      return
    assert self._shard is not None
    self._dataset._client.ack(self._shard)
    self._forget()

  def _mark(self) -> None:
    """Notes what was yielded and is not noted yet."""
    stop = self._num_loaded - len(self._records)
    if self._shard is not None and stop > self._num_marked:
      self._dataset._client.mark(
        self._shard, self._order[self._num_marked : stop]
      )
      self._num_marked = stop
