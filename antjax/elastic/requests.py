# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Checks of requests as they come from the network, field by field.

What passes has bounded sizes and values in range; whether it fits the state of
its job is for `jobs.Jobs` to say.
"""

from collections.abc import Callable
import math
import re
from typing import Any

from google.protobuf.message import DecodeError, Message

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.refused import Refused
from antjax.shards import data_shard

MAX_BYTES = 1 << 20
MAX_STATE_BYTES = 32 << 20  # Of Begin and Commit.
MAX_SHARDS = 1 << 26
MAX_SHARD_SIZE = 1 << 20
MAX_ITEMS = 10_000  # Of each kind in an Exchange.
MAX_WANTED = 1000
_MAX_LOG = 64 << 10
_MAX_TEXT = 4096
_MAX_WORKERS = 10_000
_NAME = re.compile(r'[\w.:@/+\-]{1,128}', re.ASCII)
_MAX_INT = 1 << 53
_STATE_MESSAGES = (pb.BeginRequest, pb.CommitRequest)
_UNSEQUENCED = (pb.HeartbeatRequest, pb.AgentBeatRequest, pb.StatusRequest)


def parse(kind: type[Message], data: bytes) -> Message:
  """Reads a request and checks it.

  Raises:
    Refused: It is no such message, is too large, or a field is out of range.
  """
  limit = MAX_STATE_BYTES if kind in _STATE_MESSAGES else MAX_BYTES
  if len(data) > limit:
    raise Refused(
      'INVALID_ARGUMENT',
      f'{kind.DESCRIPTOR.name} has {len(data)} bytes; at most {limit} are'
      ' taken.',
    )
  try:
    request = kind.FromString(data)
  except DecodeError as error:
    raise Refused(
      'INVALID_ARGUMENT', f'this is no {kind.DESCRIPTOR.name}: {error}.'
    ) from error
  if kind is not pb.StatusRequest:
    _check_head(request)
  _CHECKS[kind](request)
  return request


def _check_head(request: Message) -> None:
  head = request.head  # type: ignore[attr-defined]
  _check_name('head.job', head.job)
  _check_name('head.client', head.client)
  if head.generation < 0:
    raise _refused('head.generation', head.generation, '>= 0')
  if not head.sequence and not isinstance(request, _UNSEQUENCED):
    raise _refused('head.sequence', head.sequence, '1, 2, ...')


def _check_data_set(request: pb.CreateDataSetRequest) -> None:
  data_set = request.data_set
  _check_name('data_set.name', data_set.name)
  _check_range('num_records', data_set.num_records, 0, _MAX_INT)
  _check_range('shard_size', data_set.shard_size, 1, MAX_SHARD_SIZE)
  _check_range('num_epochs', data_set.num_epochs, 0, _MAX_INT)
  _check_range('max_data_errors', data_set.max_data_errors, 0, 1000)
  if data_set.delivery not in pb.Delivery.values():
    raise _refused('delivery', data_set.delivery, 'a value of Delivery')
  _check_shards(data_set.num_records, data_set.shard_size)


def _check_shards(num_records: int, shard_size: int) -> None:
  shards = data_shard.num_shards(num_records, shard_size)
  if shards > MAX_SHARDS:
    raise Refused(
      'INVALID_ARGUMENT',
      f'shard_size={shard_size} makes {shards} shards of {num_records} records;'
      f' at most {MAX_SHARDS} are taken: use'
      f' {-(-num_records // MAX_SHARDS)} or more.',
    )


def _check_begin(request: pb.BeginRequest) -> None:
  _check_name('data_set', request.data_set)
  _check_range('pass_number', request.pass_number, 1, _MAX_INT)


def _check_exchange(request: pb.ExchangeRequest) -> None:
  _check_name('data_set', request.data_set)
  _check_range('num_wanted', request.num_wanted, 0, MAX_WANTED)
  for field in ('consumed', 'progress', 'returned', 'failed'):
    if len(getattr(request, field)) > MAX_ITEMS:
      raise _refused(
        f'number of {field}', len(getattr(request, field)), f'<= {MAX_ITEMS}'
      )
  for error in request.failed:
    _check_text('failed.message', error.message)


def _check_commit(request: pb.CommitRequest) -> None:
  for name in request.states:
    _check_name('name in states', name)
  _check_range('step', request.step, 0, _MAX_INT)


def _check_extend(request: pb.ExtendStreamRequest) -> None:
  _check_name('data_set', request.data_set)
  _check_range('num_records', request.num_records, 0, _MAX_INT)


def _check_heartbeat(request: pb.HeartbeatRequest) -> None:
  _check_range('step', request.step, 0, _MAX_INT)
  _check_range('num_samples', request.num_samples, 0, _MAX_INT)
  _check_range('num_devices', request.num_devices, 0, 1 << 20)
  _check_range('max_micro_batches', request.max_micro_batches, 0, 1 << 30)
  _check_text('device_kind', request.device_kind)
  _check_resources(request.resources)
  for one in request.batch_times:
    _check_range('batch_times.step', one.step, 0, _MAX_INT)
    _check_range('batch_times.num_samples', one.num_samples, 0, _MAX_INT)
    _check_range('num_micro_batches', one.num_micro_batches, 0, 1 << 30)
    for field in ('end_unix_s', 'compute_s', 'wait_s'):
      _check_number(f'batch_times.{field}', getattr(one, field))


def _check_agent_beat(request: pb.AgentBeatRequest) -> None:
  if request.address:
    _check_name('address', request.address)
  _check_range('free_port', request.free_port, 0, 65535)
  if request.status not in pb.AgentBeatRequest.Status.values():
    raise _refused('status', request.status, 'a value of Status')
  _check_range('min_hosts', request.min_hosts, 0, 1 << 20)
  if request.max_hosts:
    least = max(1, request.min_hosts)
    _check_range('max_hosts', request.max_hosts, least, 1 << 20)
  _check_range('generation', request.generation, 0, _MAX_INT)
  _check_text('log_tail', request.log_tail, _MAX_LOG)
  _check_text('device_kind', request.device_kind)
  _check_resources(request.resources)


def _check_operate(request: pb.OperateRequest) -> None:
  if request.target:
    _check_name('target', request.target)
  _check_text('action', request.action)
  _check_text('reason', request.reason)
  check_plan(request.plan)


def check_plan(plan: pb.Plan) -> None:
  """Raises Refused where a plan cannot be carried out."""
  if len(plan.num_micro_batches) > _MAX_WORKERS:
    raise _refused(
      'number of num_micro_batches',
      len(plan.num_micro_batches),
      f'<= {_MAX_WORKERS}',
    )
  for name, count in plan.num_micro_batches.items():
    _check_name('name in num_micro_batches', name)
    _check_range('num_micro_batches', count, 0, 1 << 20)
  _check_number('lr_scale', plan.lr_scale)
  _check_number('deadline_s', plan.deadline_s)
  _check_text('reason', plan.reason)


def _check_resources(resources: pb.Resources) -> None:
  _check_number('cpu_share', resources.cpu_share)
  _check_range('rss_bytes', resources.rss_bytes, 0, _MAX_INT)
  _check_range('memory_bytes', resources.memory_bytes, 0, _MAX_INT)


def _check_nothing(request: Message) -> None:
  del request


def _check_name(field: str, value: str) -> None:
  if not _NAME.fullmatch(value):
    raise _refused(
      field, value[:40], '1 to 128 letters, digits or . : @ / + - _'
    )


def _check_text(field: str, value: str, limit: int = _MAX_TEXT) -> None:
  if len(value) > limit:
    raise _refused(f'length of {field}', len(value), f'<= {limit}')


def _check_range(field: str, value: int, low: int, high: int) -> None:
  if not low <= value <= high:
    raise _refused(field, value, f'from {low} to {high}')


def _check_number(field: str, value: float) -> None:
  if not (math.isfinite(value) and value >= 0):
    raise _refused(field, value, 'a number >= 0')


def _refused(field: str, value: object, needed: str) -> Refused:
  return Refused('INVALID_ARGUMENT', f'{field}={value!r} must be {needed}.')


_CHECKS: dict[type[Message], Callable[[Any], None]] = {
  pb.CreateDataSetRequest: _check_data_set,
  pb.BeginRequest: _check_begin,
  pb.ExchangeRequest: _check_exchange,
  pb.CommitRequest: _check_commit,
  pb.ExtendStreamRequest: _check_extend,
  pb.HeartbeatRequest: _check_heartbeat,
  pb.AgentBeatRequest: _check_agent_beat,
  pb.StatusRequest: _check_nothing,
  pb.OperateRequest: _check_operate,
}
