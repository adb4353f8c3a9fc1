# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A worker's interface to the ledger of its data set.

`LedgerClient` is the interface between a data set and its ledger, which is in
this process (`LocalLedgerClient`) or in the coordinator
(`antjax.elastic.service_ledger.ServiceLedgerClient`). Neither jax nor grain is
imported here.
"""

from typing import NoReturn, Protocol

import numpy as np

from antjax.shards import index_set
from antjax.shards.data_shard import DataShard
from antjax.shards.ledger import Ledger
from antjax.shards.ledger_spec import LedgerSpec
from antjax.shards.ledger_state import State


class LedgerClient(Protocol):
  """One worker's access to a ledger; used by one thread at a time."""

  @property
  def name(self) -> str:
    """Name of the data set in its job; empty where there is only one."""

  @property
  def num_records(self) -> int:
    """Number of records of the data set; for a stream, so far."""

  @property
  def is_stream(self) -> bool:
    """Whether the data set grows while it is read."""

  def start(self) -> None:
    """Begins a pass: returns held leases, see the implementation."""

  def lease(self) -> DataShard | None:
    """Returns the next shard, or None if no more will come for this worker.

    If the ledger is shared and another worker's shard may be requeued, it
    waits, or in a lockstep job returns None.
    """

  def unconsumed(self, shard: DataShard) -> np.ndarray:
    """Returns the records of a leased shard to consume, in order."""

  def mark(self, shard: DataShard, records: np.ndarray) -> None:
    """Marks some records of a leased shard as consumed."""

  def ack(self, shard: DataShard) -> None:
    """Acknowledges that all records of a leased shard are consumed."""

  def requeue(self, shard: DataShard) -> None:
    """Returns a leased shard, whose unmarked records are leased again."""

  def fail(self, shard: DataShard, error: Exception) -> None:
    """Returns a shard that could not be read.

    Raises:
      Exception: `error`, if moving to the next shard does not help.
    """

  def state(self) -> State:
    """Returns the progress of this worker, as plain JSON types."""

  def load(self, state: State) -> None:
    """Resumes from `state`, of this worker or from `merge`."""


class LocalLedgerClient:
  """A ledger in this process, for one process or P that do not communicate.

  Process p of P reads every P-th remaining shard, so together they read each
  record once per epoch. Helping slow processes needs a coordinator. Any number
  of processes can resume from the P merged states.

  It cannot be pickled or copied, as grain's `mp_prefetch` does: two copies
  would lease the same shards.
  """

  name = ''
  is_stream = False

  def __init__(
    self, spec: LedgerSpec, *, worker: int = 0, num_workers: int = 1
  ):
    """Creates the ledger of the share of worker p of P.

    Raises:
      ValueError: `spec` describes a stream, or has too few shards.
    """
    self.num_records = spec.num_records
    self._name = f'{worker}/{num_workers}'
    self._ledger = Ledger(spec, share=(worker, num_workers))

  def start(self) -> None:
    """Starts again with nothing consumed."""
    self._ledger.begin(None)

  def lease(self) -> DataShard | None:
    leases = self._ledger.lease(self._name, 1)
    return leases[0][0] if leases else None

  def unconsumed(self, shard: DataShard) -> np.ndarray:
    bits = self._ledger.check_held(self._name, shard)
    return self._ledger.spec.unconsumed(shard, bits)

  def mark(self, shard: DataShard, records: np.ndarray) -> None:
    """Marks records; ValueError: one is not leased, or was marked before."""
    offsets = np.atleast_1d(records) - shard.start
    if offsets.min() < 0 or offsets.max() >= len(shard):
      raise ValueError(f'mark(): {records} are not all in {shard}.')
    bits = index_set.bits(offsets)
    before = self._ledger.check_held(self._name, shard)
    if before & bits or bits.bit_count() < offsets.size:
      raise ValueError(
        f'mark(): some of {records} of {shard} are marked already.'
      )
    self._ledger.progress(self._name, shard, bits)

  def ack(self, shard: DataShard) -> None:
    self._ledger.consume(self._name, shard)

  def requeue(self, shard: DataShard) -> None:
    self._ledger.give_back(self._name, shard)

  def fail(self, shard: DataShard, error: Exception) -> None:
    """Returns the shard and raises `error`: no other worker could read it."""
    self.requeue(shard)
    raise error

  def state(self) -> State:
    return self._ledger.state()

  def load(self, state: State) -> None:
    """Resumes from a state; ValueError: it is not of this ledger."""
    self._ledger.begin(state)

  def __reduce__(self) -> NoReturn:
    raise TypeError(
      'LocalLedgerClient cannot be pickled or copied: two copies would lease'
      ' the same records. Instead of mp_prefetch use'
      ' grain.experimental.ThreadPrefetchIterDataset, or a coordinator.'
    )
