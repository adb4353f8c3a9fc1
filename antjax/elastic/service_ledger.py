# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A ledger client whose ledger is kept by the coordinator."""

import dataclasses
import json
import threading
import time
from typing import Any

from absl import logging
import numpy as np

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import protocol
from antjax.elastic.client import CoordinatorClient
from antjax.elastic.lease_hub import Hub, RemoteLeases
from antjax.elastic.lease_queue import LeaseQueue
from antjax.shards import data_shard, index_set, ledger_state
from antjax.shards.data_shard import DataShard
from antjax.shards.ledger_spec import LedgerSpec
from antjax.shards.ledger_state import EpochRun

# Shards in a row that one worker cannot read, and then it is not the data.
_MAX_UNREADABLE = 8
_MAX_TEXT = 1000


@dataclasses.dataclass(eq=False)
class Consumption:
  """What one worker knows to be consumed: the position in its checkpoint.

  It is the position that the worker's pass began with, and all that it has
  consumed since. What the other workers have consumed is in theirs.
  """

  spec: LedgerSpec
  share: tuple[int, int] = (0, 1)  # Rank of this worker, number of workers.

  def __post_init__(self) -> None:
    self._first = 0
    self._runs: list[EpochRun] = []  # Without gaps, from `_first` on.

  def load(self, state: ledger_state.State | None) -> None:
    """Takes over a position; None: nothing is consumed.

    Raises:
      ValueError: It is malformed, of another data set, or of one worker among
        several (merge the positions of all with `merge` first).
    """
    self._first, self._runs = 0, []
    if state is not None:
      self._runs = self.spec.read(state)
      self._first = state['first_epoch']
      self._know(state['num_records'])

  def mark(self, shard: DataShard, bits: int) -> None:
    """Notes that a bit set of records of a shard is consumed by this worker."""
    if self.spec.is_stream:
      self._know(shard.stop)
    if shard.epoch < self._first:
      return
    run, position = self._run(shard.epoch), shard.index
    if not self.spec.is_stream:
      size, seed = self.spec.num_shards, self.spec.seed
      places = data_shard.shard_positions(size, seed, shard.epoch)
      position = int(places[shard.index])
    if run.done >> position & 1:
      return
    bits |= run.marks.pop(position, 0)
    if bits == (1 << len(shard)) - 1:
      run.done |= 1 << position
    elif bits:
      run.marks[position] = bits

  def drop_before(self, epoch: int) -> None:
    """Forgets earlier epochs: they are in a committed checkpoint."""
    if epoch > self._first:
      self._first = epoch
      pieces = [piece for run in self._runs for piece in run.cut(epoch)]
      self._runs = [piece for piece in pieces if piece.stop > epoch]

  def state(self) -> ledger_state.State:
    """Returns the position as plain JSON types, see `ledger_state`."""
    return {
      **self.spec.head(),
      'share': list(self.share),
      'dynamic': True,
      'first_epoch': self._first,
      'epochs': [run.to_json() for run in self._runs],
    }

  def _run(self, epoch: int) -> EpochRun:
    """Returns the run of this epoch alone."""
    stop = self._runs[-1].stop if self._runs else self._first
    if epoch >= stop:
      self._runs.append(EpochRun(stop, epoch + 1))
    found = next(run for run in self._runs if run.start <= epoch < run.stop)
    if found.length > 1:
      at = self._runs.index(found)
      self._runs[at : at + 1] = found.cut(epoch, epoch + 1)
      return self._run(epoch)
    return found

  def _know(self, num_records: int) -> None:
    """Notes that a stream has at least so many records."""
    if num_records > self.spec.num_records:
      self.spec = self.spec.grown(num_records, False)


class ServiceLedgerClient:
  """One worker's access to a data set that many workers share.

  A `LedgerClient`. Its state is the position that the pass began with and what
  this worker has consumed since; those of all workers, taken at the same step,
  are merged by `ledger_state.merge`. What is leased ahead is not consumed.

  All workers begin their passes in the same order and at the same position: a
  pass begins with the first `lease` after `start` or `load`.
  """

  def __init__(
    self,
    leases: LeaseQueue | RemoteLeases,
    data_set: pb.DataSet,
    *,
    share: tuple[int, int] = (0, 1),
  ):
    """Begins no pass yet; for the leases of a data set see `connect`.

    `share` is (rank of this worker, number of workers).
    """
    self.name, self.is_stream = data_set.name, data_set.is_stream
    self._data_set, self._share = data_set, share
    self._leases = leases
    self._hub: Hub | None = None
    self._hub_lock = threading.Lock()
    self._consumption = Consumption(protocol.ledger_spec(data_set), share)
    self._base: ledger_state.State | None = None  # State of the next pass.
    self._round = 0  # How often `start` and `load` were called.
    self._number = 0  # Number of the current pass; 0: none.
    # `lease` gave None only because there was nothing just then: in a lockstep
    # job no worker waits for another outside the collectives.
    self.is_waiting = False
    self.ended_s = 0.0  # When `lease` last gave None, by the monotonic clock.
    self._held: dict[DataShard, int] = {}  # Bit sets consumed by anybody.
    self._unreadable: set[DataShard] = set()

  @classmethod
  def connect(
    cls,
    client: CoordinatorClient,
    data_set: pb.DataSet,
    *,
    share: tuple[int, int] = (0, 1),
    **options: Any,
  ) -> 'ServiceLedgerClient':
    """Makes one with a lease queue of its own; `options` are LeaseQueue's."""
    return cls(LeaseQueue(client, data_set, **options), data_set, share=share)

  @property
  def num_records(self) -> int:
    """Records of the data set; of a stream: as far as this worker knows."""
    return self._consumption.spec.num_records

  @property
  def has_begun(self) -> bool:
    """Whether the coordinator knows of the data set and the generation."""
    return self._number > 0

  def start(self) -> None:
    """Lets the next `lease` begin a new pass, with nothing consumed."""
    self.load(None)

  def load(self, state: ledger_state.State | None) -> None:
    """Lets the next `lease` begin a new pass at a position.

    Raises:
      ValueError: The state is malformed, of another data set, or of one of
        several workers (merge the states of all with `merge` first).
    """
    self._consumption.load(state)
    self._base = state
    self._round += 1
    self._number = 0
    self.is_waiting = False
    self._held.clear()
    self._unreadable.clear()

  def lease(self) -> DataShard | None:
    """Returns the next shard, or None: this pass is over, or `is_waiting`."""
    if not self._number:
      base = b''
      if self._base is not None:  # The same bytes on every worker.
        base = json.dumps(self._base, sort_keys=True).encode()
      self._number = self._leases.begin(base, self._round)
    lease, self.is_waiting, first_open = self._leases.take(self._number)
    self._consumption.drop_before(first_open)
    if lease is None:
      self.ended_s = time.monotonic()
      return None
    shard, bits = protocol.to_lease(lease)
    self._held[shard] = bits
    return shard

  def unconsumed(self, shard: DataShard) -> np.ndarray:
    """Returns the records of a leased shard to consume, in order."""
    return self._consumption.spec.unconsumed(shard, self._consumed(shard))

  def mark(self, shard: DataShard, records: np.ndarray) -> None:
    """Notes that these records of a leased shard are consumed."""
    bits = index_set.bits(np.atleast_1d(records) - shard.start)
    self._held[shard] = self._consumed(shard) | bits
    self._consumption.mark(shard, bits)
    lease = protocol.from_lease(shard, self._held[shard])
    self._report(progress=[lease])
    self._unreadable.clear()

  def ack(self, shard: DataShard) -> None:
    """Notes that all records of a leased shard are consumed."""
    others = self._consumed(shard)
    self._consumption.mark(shard, (1 << len(shard)) - 1 & ~others)
    del self._held[shard]
    self._report(consumed=[protocol.from_shard(shard)])
    self._unreadable.clear()

  def requeue(self, shard: DataShard) -> None:
    """Gives a leased shard back; its unmarked records are still to do."""
    lease = protocol.from_lease(shard, self._consumed(shard))
    self._report(returned=[lease])
    del self._held[shard]

  def fail(self, shard: DataShard, error: Exception) -> None:
    """Gives a shard back that could not be read, and reports the error.

    After `max_data_errors` such reports the coordinator sets it aside.

    Raises:
      Exception: `error`, where shard after shard cannot be read here: then this
        worker's way to the data is broken, not the data.
    """
    self._unreadable.add(shard)
    text = ' '.join(f'{type(error).__name__}: {error}'.split())
    logging.error(
      'Data set %s: the records %d to %d of epoch %d cannot be read (%s); going'
      ' on with the next shard.',
      self.name,
      shard.start,
      shard.stop,
      shard.epoch,
      text,
    )
    self._consumed(shard)
    del self._held[shard]
    where = protocol.from_shard(shard)
    self._report(failed=[pb.DataError(shard=where, message=text[:_MAX_TEXT])])
    if len(self._unreadable) >= _MAX_UNREADABLE:
      raise error

  def state(self) -> ledger_state.State:
    """Returns the position of this worker, as plain JSON types."""
    return self._consumption.state()

  def close(self) -> None:
    """Gives back what is held and not consumed; the client is then over."""
    for shard in list(self._held):
      self.requeue(shard)
    if self._hub is not None:
      self._hub.close()
    self._leases.close()

  def _report(self, **news: Any) -> None:
    self._leases.report(self._number, pb.ExchangeRequest(**news))

  def _consumed(self, shard: DataShard) -> int:
    """Returns what anybody has consumed of a shard that is held here."""
    if shard not in self._held:
      raise ValueError(
        f'data set {self.name!r}: {shard} is not leased to this worker.'
      )
    return self._held[shard]

  def set_slice(self, index: int, count: int) -> None:
    """Says which of grain's `count` prefetch processes this one is.

    Raises:
      TypeError: It is none.
    """
    del count  # Each leases as much as it can use.
    if not isinstance(self._leases, RemoteLeases):
      raise TypeError(
        f'data set {self.name!r}: only mp_prefetch may slice it, in its'
        ' processes; there is no slice of leased records.'
      )
    self._leases.index = index

  def __reduce__(self) -> tuple[Any, ...]:
    """For grain's prefetch processes: they lease through this client."""
    if self.is_stream:
      raise TypeError(
        f'data set {self.name!r} is a stream: its end is not known, so that'
        ' mp_prefetch would stop where it is empty; use'
        ' grain.experimental.ThreadPrefetchIterDataset.'
      )
    if not isinstance(self._leases, LeaseQueue):
      raise TypeError(
        f'data set {self.name!r}: a prefetch process cannot have prefetch'
        ' processes of its own; use one mp_prefetch.'
      )
    with self._hub_lock:  # grain starts its processes in threads.
      if self._hub is None:
        self._hub = Hub(self._leases)
    what = self._data_set.SerializeToString()
    return _in_prefetch_process, (what, self._share, *self._hub.ticket())


def _in_prefetch_process(
  data_set: bytes,
  share: tuple[int, int],
  address: Any,
  key: bytes,
  ticket: int,
) -> ServiceLedgerClient:
  """What a pickled client is in another process."""
  leases = RemoteLeases(address, key, ticket)
  return ServiceLedgerClient(
    leases, pb.DataSet.FromString(data_set), share=share
  )
