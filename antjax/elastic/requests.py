# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Validates requests from the network, field by field.

What passes has bounded sizes and values in range; whether it fits the state of
its job is for `jobs.Jobs` to say.
"""

from collections.abc import Callable
import functools
import math
import re
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import job_data, protocol
from antjax.elastic.protocol import invalid, Refused
from antjax.shards import data_shard

MAX_BYTES = 1 << 20
MAX_STATE_BYTES = 32 << 20  # In Begin and Commit.
MAX_SHARDS = 1 << 24  # Their order takes 5 s and, for a while, 500 MB.
MAX_SHARD_SIZE = 1 << 20
MAX_ITEMS = 10_000  # Per kind, in an Exchange.
MAX_WANTED = 1000
_MAX_LOG = 64 << 10
_MAX_TEXT = 4096
_MAX_CHECK_TEXT = 500
_MAX_LINKS = 8
_MAX_LOSS = 1e30
_NAME = re.compile(r'[\w.:@/+\-]{1,128}', re.ASCII)
_MAX_INT = 1 << 53
STATE_MESSAGES = (pb.BeginRequest, pb.CommitRequest)
_MAX_FIELDS = 2 * job_data.MAX_DATA_SETS  # Of a state message.
# In its positions: the largest one of a ledger, with every epoch open that may
# be and marks of 20,000 workers, has 200,000. So many are read in .3 s.
MAX_VALUES = 1 << 18
_WIRE_BYTES = {1: 8, 5: 4}  # Wire type -> size, if it is always the same.

# Takes the path of a field and its value; raises Refused.
_Check = Callable[[str, Any], None]


def parse(kind: type[Message], data: bytes) -> Message:
  """Reads a request and checks it.

  Raises:
    Refused: It is no such message, is too large, or a field is out of range.
  """
  limit = MAX_STATE_BYTES if kind in STATE_MESSAGES else MAX_BYTES
  if len(data) > limit:
    raise invalid(
      f'{kind.DESCRIPTOR.name} has {len(data)} bytes; at most {limit} are'
      ' taken.'
    )
  if kind in STATE_MESSAGES:
    _check_positions(kind, data)
  try:
    request = kind.FromString(data)
  except DecodeError as error:
    raise invalid(f'this is no {kind.DESCRIPTOR.name}: {error}.') from error
  if kind is not pb.StatusRequest:
    _fields('', request)
    sequence = request.head.sequence  # type: ignore[attr-defined]
    if not sequence and kind in protocol.JOURNALED:
      raise _refused('head.sequence', sequence, '1, 2, ...')
  if isinstance(request, pb.CreateDataSetRequest):
    _check_shards(request.data_set.num_records, request.data_set.shard_size)
  elif isinstance(request, pb.AgentBeatRequest) and request.max_hosts:
    _between(max(1, request.min_hosts), protocol.MAX_HOSTS)(
      'max_hosts', request.max_hosts
    )
  return request


def _check_positions(kind: type[Message], data: bytes) -> None:
  """Refuses what takes long to read, while nobody else is answered."""
  what = kind.DESCRIPTOR.name
  num_values = sum(map(data.count, (b',', b'{', b'[')))
  if num_values > MAX_VALUES:
    raise invalid(
      f'the positions in {what} have {num_values} values; at most {MAX_VALUES}'
      ' are taken. Are they those of a ledger? Else use a larger shard_size.'
    )
  at = 0
  for _ in range(_MAX_FIELDS):
    tag, at = _varint(data, at)
    wire = tag & 7
    if wire == 2:
      size, at = _varint(data, at)
      at += size
    elif wire == 0:
      _, at = _varint(data, at)
    else:
      at += _WIRE_BYTES.get(wire, len(data))  # The parser refuses others.
    if at >= len(data):
      return
  raise invalid(
    f'{what} has more than {_MAX_FIELDS} fields; at most'
    f' {job_data.MAX_DATA_SETS} positions are taken.'
  )


def _varint(data: bytes, at: int) -> tuple[int, int]:
  """Returns a number in a message, and where it ends."""
  value = 0
  for shift, byte in enumerate(data[at : at + 10]):
    value |= (byte & 0x7F) << 7 * shift
    at += 1
    if byte < 0x80:
      break
  return value, at


def _check_shards(num_records: int, shard_size: int) -> None:
  shards = data_shard.num_shards(num_records, shard_size)
  if shards > MAX_SHARDS:
    raise invalid(
      f'shard_size={shard_size} makes {shards} shards of {num_records} records;'
      f' at most {MAX_SHARDS} are taken: use'
      f' {-(-num_records // MAX_SHARDS)} or more.'
    )


def _refused(field: str, value: object, needed: str) -> Refused:
  return invalid(f'{field}={value!r} must be {needed}.')


def _anything(field: str, value: object) -> None:
  del field, value


def _name(field: str, value: str) -> None:
  if not _NAME.fullmatch(value):
    raise _refused(
      field, value[:40], '1 to 128 letters, digits or . : @ / + - _'
    )


def _name_if_any(field: str, value: str) -> None:
  if value:
    _name(field, value)


def _key(field: str, value: str) -> None:
  _name(f'name in {field}', value)


def _number(field: str, value: float) -> None:
  if not (math.isfinite(value) and value >= 0):
    raise _refused(field, value, 'a number >= 0')


def _finite(field: str, value: float) -> None:
  if not abs(value) <= _MAX_LOSS:
    raise _refused(field, value, f'a number from -{_MAX_LOSS} to {_MAX_LOSS}')


def _text(limit: int) -> _Check:
  def check(field: str, value: str) -> None:
    if len(value) > limit:
      raise _refused(f'length of {field}', len(value), f'<= {limit}')

  return check


def _between(low: int, high: int) -> _Check:
  def check(field: str, value: int) -> None:
    if not low <= value <= high:
      raise _refused(field, value, f'from {low} to {high}')

  return check


def _enum(kind: Any) -> _Check:
  def check(field: str, value: int) -> None:
    if value not in kind.values_by_number:
      raise _refused(field, value, f'a value of {kind.name}')

  return check


def _each(check: _Check, limit: int = MAX_ITEMS) -> _Check:
  def check_all(field: str, value: Any) -> None:
    if len(value) > limit:
      raise _refused(f'number of {field}', len(value), f'<= {limit}')
    if check is not _anything:
      for one in value:
        check(field, one)

  return check_all


def _message(field: str, value: Message) -> None:
  _fields(f'{field}.', value)


def _micro_batches(field: str, value: Any) -> None:
  _each(_key, protocol.MAX_HOSTS)(field, value)
  for count in value.values():
    _between(0, 1 << 20)(field, count)


def _fields(prefix: str, message: Message) -> None:
  kind: Any = type(message)
  for name, check in _checks(kind):
    check(prefix + name, getattr(message, name))


@functools.cache
def _checks(kind: Any) -> list[tuple[str, _Check]]:
  special = _SPECIAL.get(kind, {})
  checks = {
    field.name: special.get(field.name) or _usual(field)
    for field in kind.DESCRIPTOR.fields
  }
  return [(name, one) for name, one in checks.items() if one is not _anything]


def _usual(field: Any) -> _Check:
  """Returns the check of a field that `_SPECIAL` does not name."""
  check = _USUAL.get(field.type, _anything)
  if field.type == FieldDescriptor.TYPE_ENUM:
    check = _enum(field.enum_type)
  return _each(check) if field.is_repeated else check


_USUAL: dict[int, _Check] = {
  FieldDescriptor.TYPE_INT32: _between(0, 1 << 30),
  FieldDescriptor.TYPE_INT64: _between(0, _MAX_INT),
  FieldDescriptor.TYPE_DOUBLE: _number,
  FieldDescriptor.TYPE_STRING: _text(_MAX_TEXT),
  FieldDescriptor.TYPE_MESSAGE: _message,
}
_SPECIAL: dict[type[Message], dict[str, _Check]] = {
  pb.Head: {'job': _name, 'client': _name, 'revision_proof': _text(64)},
  pb.DataSet: {
    'name': _name,
    'shard_size': _between(1, MAX_SHARD_SIZE),
    'seed': _anything,
    'max_data_errors': _between(0, 1000),
  },
  pb.BeginRequest: {'data_set': _name, 'pass_number': _between(1, _MAX_INT)},
  pb.ExchangeRequest: {  # The ledger knows whether a shard is one.
    'data_set': _name,
    'num_wanted': _between(0, MAX_WANTED),
    'consumed': _each(_anything),
    'progress': _each(_anything),
    'returned': _each(_anything),
  },
  pb.DataError: {'shard': _anything},
  pb.CommitRequest: {'states': _each(_key, job_data.MAX_DATA_SETS)},
  pb.ExtendStreamRequest: {'data_set': _name},
  pb.HeartbeatRequest: {
    'num_devices': _between(0, 1 << 20),
    'loss': _finite,
  },
  pb.AgentBeatRequest: {
    'address': _name_if_any,
    'free_port': _between(0, 65535),
    'min_hosts': _between(0, protocol.MAX_HOSTS),
    'max_hosts': _anything,  # See `parse`.
    'exit_code': _anything,
    'log_tail': _text(_MAX_LOG),
  },
  pb.NodeCheck: {
    'error': _text(_MAX_CHECK_TEXT),
    'platform': _text(_MAX_CHECK_TEXT),
    'device_kind': _text(_MAX_CHECK_TEXT),
    'num_devices': _between(0, 1 << 20),
    'link_port': _between(0, 65535),
    'links': _each(_message, _MAX_LINKS),
  },
  pb.Link: {'peer': _name},
  pb.OperateRequest: {'target': _name_if_any},
  pb.Plan: {'num_micro_batches': _micro_batches},
}
