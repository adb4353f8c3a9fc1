# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Requests that are right, and what is done to them."""

import contextlib
import json
import zlib

from google.protobuf.message import DecodeError

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import protocol, requests
from antjax.shards import index_set

_INTS = (0, 1, -1, 2, 7, 255, 1001, 10_001, 1 << 31, 1 << 53, (1 << 53) + 1)
_TEXTS = ('', 'train', 'other', 'x' * 129, 'ü', '\0', '../a', 'a\nb', '{}')
_DOUBLES = (0.0, -1.0, 1e308, float('inf'), float('nan'), 5e-324)
_RANGES = {
  'int32': (-(1 << 31), (1 << 31) - 1),
  'int64': (-(1 << 63), (1 << 63) - 1),
  'uint64': (0, (1 << 64) - 1),
}


class Valid:
  """Makes requests that are right in the state that their answers tell of."""

  def __init__(self, rng):
    self._rng = rng
    self.sequence = 0
    self.held = []
    self.incarnation = rng.getrandbits(63) | 1

  def head(self):
    return pb.Head(
      job='job',
      client='worker',
      incarnation=self.incarnation,
      sequence=self.sequence + 1,
    )

  def start(self):
    """The requests that begin a job with a table and a stream."""
    for name, is_stream in (('train', False), ('stream', True)):
      yield (
        'CreateDataSet',
        pb.CreateDataSetRequest(
          head=self.head(),
          data_set=pb.DataSet(
            name=name,
            num_records=1000,
            shard_size=8,
            num_epochs=1 if is_stream else 0,
            is_stream=is_stream,
          ),
        ),
      )
      yield (
        'Begin',
        pb.BeginRequest(head=self.head(), data_set=name, pass_number=1),
      )

  def make(self):
    """Returns (method, request)."""
    rng, head = self._rng, self.head()
    method = rng.choice([*protocol.METHODS, 'Exchange', 'Exchange'])
    if method == 'CreateDataSet':
      return next(self.start())
    if method == 'Begin':
      return method, pb.BeginRequest(
        head=head, data_set='train', pass_number=1, state=self._state()
      )
    if method == 'Exchange':
      request = pb.ExchangeRequest(
        head=head,
        data_set='train',
        pass_number=1,
        num_wanted=rng.randrange(3),
      )
      for lease in self.held[:2]:
        kind = rng.randrange(4)
        if kind == 0:
          request.consumed.append(lease.shard)
        elif kind == 1:
          request.progress.append(pb.Lease(shard=lease.shard, consumed=b'\3'))
        elif kind == 2:
          request.returned.append(lease)
        else:
          request.failed.add(shard=lease.shard, message='cannot be read')
      return method, request
    if method == 'Commit':
      return method, pb.CommitRequest(
        head=head, step=rng.randrange(9), states={'train': self._state()}
      )
    if method == 'ExtendStream':
      return method, pb.ExtendStreamRequest(
        head=head, data_set='stream', num_records=1000 + rng.randrange(1000)
      )
    if method == 'Heartbeat':
      return method, pb.HeartbeatRequest(
        head=head,
        step=3,
        batch_times=[pb.BatchTime(step=3, compute_s=0.1, num_micro_batches=2)],
        resources=pb.Resources(cpu_share=0.5, rss_bytes=1 << 30),
        device_kind='cpu',
      )
    if method == 'AgentBeat':
      head.job, head.client = f'of-agents-{rng.randrange(3)}', 'agent'
      return method, pb.AgentBeatRequest(
        head=head,
        address='10.0.0.1',
        free_port=7000,
        status=rng.randrange(3),
        generation=rng.randrange(3),
        exit_code=rng.choice([0, 1, -9]),
        log_tail='the end',
      )
    if method == 'Status':
      return method, pb.StatusRequest(head=head)
    action = rng.choice(['stop', 'restart', 'replace', 'set_plan', 'dance'])
    return method, pb.OperateRequest(
      head=head,
      action=action,
      target='worker',
      plan=pb.Plan(num_micro_batches={'worker': 3}, lr_scale=1.0),
    )

  def learn(self, method, request, reply):
    """Notes that a request was taken."""
    if request.head.client == 'worker':
      if protocol.METHODS[method].is_journaled:
        self.sequence = max(self.sequence, request.head.sequence) % (1 << 62)
    if method == 'Exchange':
      self.held = list(pb.ExchangeReply.FromString(reply).leases)

  def _state(self):
    """Returns the JSON of a position in the table, often a broken one."""
    rng = self._rng
    state = {
      'version': 1,
      'num_records': 1000,
      'shard_size': 8,
      'seed': 0,
      'num_epochs': None,
      'share': None,
      'first_epoch': 0,
      'epochs': [
        {
          'start': 0,
          'stop': 1,
          'done': '3',
          'assigned': None,
          'marks': {'5': '1'},
          'doing': {},
        }
      ],
    }
    if rng.random() < 0.3:
      return json.dumps(state).encode()
    bomb = zlib.compress(bytes(1 << 20), 9)
    broken = (
      None,
      -1,
      0,
      1 << 70,
      1e300,
      float('nan'),
      '',
      'z' + index_set.base64.b64encode(bomb).decode(),
      'f' * 1000,
      [],
      {},
      {'a': {}},
      True,
    )
    one = rng.choice([state, state['epochs'][0], state['epochs'][0]['marks']])
    one[rng.choice([*one, 'more'])] = rng.choice(broken)
    text = json.dumps(state)
    if rng.random() < 0.1:
      text = '[' * rng.choice([10, 100_000])
    return text.encode()


def mutate(rng, message):
  """Sets a field of a message, or of one in it, to something extreme."""
  field = rng.choice(message.DESCRIPTOR.fields)
  name, value = field.name, getattr(message, field.name)
  is_map = (
    field.message_type is not None and field.message_type.GetOptions().map_entry
  )
  if rng.random() < 0.1:
    message.ClearField(name)
  elif is_map:
    of = field.message_type.fields_by_name['value']
    key = rng.choice(_TEXTS[:-1])
    if of.type == of.TYPE_BYTES:
      value[key] = rng.randbytes(rng.choice([0, 3, 300]))
    else:
      value[key] = rng.choice([0, -1, 1 << 20, (1 << 31) - 1])
  elif field.is_repeated:
    if field.message_type is None or (value and rng.random() < 0.5):
      value.extend(list(value)[:1] * rng.choice([1, 3, 10_001]))
    else:
      value.add()
      mutate(rng, value[rng.randrange(len(value))])
  elif field.message_type is not None:
    mutate(rng, value)
  elif field.type == field.TYPE_STRING:
    setattr(message, name, rng.choice(_TEXTS) * rng.choice([1, 1, 5000]))
  elif field.type == field.TYPE_BYTES:
    setattr(message, name, rng.randbytes(rng.choice([0, 1, 9, 5000])))
  elif field.type == field.TYPE_DOUBLE:
    setattr(message, name, rng.choice(_DOUBLES))
  elif field.type == field.TYPE_BOOL:
    setattr(message, name, not value)
  elif field.type == field.TYPE_ENUM:
    setattr(message, name, rng.choice([-1, 0, 1, 99, (1 << 31) - 1]))
  else:
    kind = {
      field.TYPE_INT32: 'int32',
      field.TYPE_INT64: 'int64',
      field.TYPE_UINT64: 'uint64',
      field.TYPE_FIXED64: 'uint64',
    }[field.type]
    low, high = _RANGES[kind]
    number = rng.choice((*_INTS, low, high, value + 1, value - 1))
    setattr(message, name, min(max(number, low), high))


def damaged(rng, data):
  """Changes, drops or doubles some bytes."""
  data = bytearray(data or b'\0')
  for _ in range(rng.randrange(1, 4)):
    at = rng.randrange(len(data))
    if rng.random() < 0.5:
      data[at] = rng.randrange(256)
    else:
      data[at:at] = data[at : at + rng.randrange(20)]
  return bytes(data[: rng.randrange(1, len(data) + 1)])


def is_huge(method, data):
  """Whether it rightly asks for a data set that takes seconds to compare."""
  most = range(100_000, requests.MAX_SHARDS + 1)
  with contextlib.suppress(DecodeError):
    if method == 'CreateDataSet':
      one = pb.CreateDataSetRequest.FromString(data).data_set
      return one.shard_size > 0 and one.num_records // one.shard_size in most
    if method == 'ExtendStream':
      return pb.ExtendStreamRequest.FromString(data).num_records // 8 in most
  return False
