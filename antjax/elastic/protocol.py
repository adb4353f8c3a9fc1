# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The coordinator's service: methods, roles, errors, shard messages."""

from collections.abc import Iterator
import contextlib
import dataclasses
from typing import Literal

from google.protobuf.message import Message

from antjax.elastic import coordinator_pb2 as pb
from antjax.shards.data_shard import DataShard
from antjax.shards.ledger_spec import LedgerSpec

_BEATS_PER_S = 2000
SERVICE = 'antjax.v1.Coordinator'
OPERATOR, VIEWER = 'operator', 'viewer'
# Hosts of a job: workers and agents; also the clients that a job remembers.
MAX_HOSTS = 20_000
ROLES = ('worker', 'agent', OPERATOR, VIEWER)

Code = Literal[
  'INVALID_ARGUMENT',  # The request is wrong.
  'FAILED_PRECONDITION',  # Who asks is fenced off, or has to begin again.
  'NOT_FOUND',  # No such job or data set.
  'PERMISSION_DENIED',  # The role may not ask this.
  'RESOURCE_EXHAUSTED',  # There are too many of something.
  'UNAUTHENTICATED',  # No such token.
  'UNAVAILABLE',  # Not yet: to be repeated.
  'UNKNOWN',  # A bug of ours.
]


class Refused(Exception):
  """A request was refused, with a gRPC status code, and has changed nothing."""

  def __init__(self, code: Code, text: str):
    super().__init__(f'{code}: {text}')
    self.code = code
    self.text = text


def invalid(text: str) -> Refused:
  """The request is wrong."""
  return Refused('INVALID_ARGUMENT', text)


def stale(text: str) -> Refused:
  """Who asks is fenced off, or has to begin again."""
  return Refused('FAILED_PRECONDITION', text)


@contextlib.contextmanager
def refusing(prefix: str = '') -> Iterator[None]:
  """Refuses a request as wrong where the block raises ValueError."""
  try:
    yield
  except ValueError as error:
    raise invalid(f'{prefix}{error}') from error


@dataclasses.dataclass(frozen=True)
class ServiceMethod:
  """A method of the service: its messages, and who may call it."""

  request: type[Message]
  reply: type[Message]
  role: str = 'worker'  # An operator may call all.
  # It changes durable state, so that its requests have numbers. Of soft state
  # the newest request counts, and a repeat does no harm.
  is_journaled: bool = True

  def may_be_called_by(self, role: str) -> bool:
    return role in (OPERATOR, self.role)


METHODS = {
  'CreateDataSet': ServiceMethod(pb.CreateDataSetRequest, pb.Empty),
  'Begin': ServiceMethod(pb.BeginRequest, pb.Empty),
  'Exchange': ServiceMethod(pb.ExchangeRequest, pb.ExchangeReply),
  'Commit': ServiceMethod(pb.CommitRequest, pb.Empty),
  'ExtendStream': ServiceMethod(pb.ExtendStreamRequest, pb.Empty),
  'Heartbeat': ServiceMethod(
    pb.HeartbeatRequest, pb.HeartbeatReply, is_journaled=False
  ),
  'AgentBeat': ServiceMethod(
    pb.AgentBeatRequest, pb.AgentBeatReply, 'agent', is_journaled=False
  ),
  'Status': ServiceMethod(
    pb.StatusRequest, pb.StatusReply, VIEWER, is_journaled=False
  ),
  'Operate': ServiceMethod(pb.OperateRequest, pb.Empty, OPERATOR),
}
# Types of requests that have sequence numbers.
JOURNALED = {one.request for one in METHODS.values() if one.is_journaled}


def beat_s(least_s: float, num_hosts: int) -> float:
  """Returns the seconds between two beats of a host.

  However many hosts a job has, it sends `_BEATS_PER_S` a second at most.
  """
  return max(least_s, num_hosts / _BEATS_PER_S)


def ledger_spec(data_set: pb.DataSet) -> LedgerSpec:
  """Returns what a ledger leases of a data set.

  Raises:
    ValueError: A number is out of range.
  """
  return LedgerSpec(
    num_records=data_set.num_records,
    shard_size=data_set.shard_size,
    seed=data_set.seed,
    num_epochs=1 if data_set.is_stream else data_set.num_epochs or None,
    is_stream=data_set.is_stream,
    max_data_errors=data_set.max_data_errors or 3,
    at_most_once=data_set.delivery == pb.AT_MOST_ONCE,
  )


def to_shard(message: pb.Shard) -> DataShard:
  """Returns the shard that a message names."""
  return DataShard(message.index, message.start, message.stop, message.epoch)


def from_shard(shard: DataShard) -> pb.Shard:
  """Returns a shard as a message."""
  return pb.Shard(
    epoch=shard.epoch, index=shard.index, start=shard.start, stop=shard.stop
  )


def to_lease(message: pb.Lease) -> tuple[DataShard, int]:
  """Returns the shard of a lease, and the bit set of its consumed records."""
  return to_shard(message.shard), int.from_bytes(message.consumed, 'little')


def from_lease(shard: DataShard, bits: int) -> pb.Lease:
  """Returns a shard, and the bit set of its consumed records, as a message."""
  consumed = bits.to_bytes((bits.bit_length() + 7) // 8, 'little')
  return pb.Lease(shard=from_shard(shard), consumed=consumed)


def key_of(shard: pb.Shard) -> tuple[int, int]:
  """Returns what tells a shard of a data set from the others."""
  return shard.epoch, shard.index


def ended_shards(news: pb.ExchangeRequest) -> list[pb.Shard]:
  """Returns the shards of a report that are not held any more."""
  return [
    *news.consumed,
    *(lease.shard for lease in news.returned),
    *(error.shard for error in news.failed),
  ]
