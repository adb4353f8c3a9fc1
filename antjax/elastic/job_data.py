# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Changes of a job's data sets by requests of workers.

Each function checks all of a request before it changes anything, and returns
whether it has changed something.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import json

from absl import logging

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import protocol
from antjax.elastic.job_state import DataSetState, JobState
from antjax.elastic.protocol import invalid, Refused, refusing, stale
from antjax.shards.ledger import Ledger
from antjax.shards.ledger_spec import LedgerSpec
from antjax.shards.ledger_state import EpochRun, State

MAX_DATA_SETS = 100  # Per job.
MAX_OPEN_SHARDS = 1 << 27  # Of open epochs of all its data sets: bytes.
_MAX_JUMP = 1 << 20  # From a pass to the next.
MAX_HELD = 10_000  # Leases of a worker in a data set.
# What a later generation may say again.
_CHANGEABLE = ('num_epochs', 'max_data_errors')


def create_data_set(
  job: JobState, request: pb.CreateDataSetRequest, now: float
) -> bool:
  """Adds a data set; the workers after the first only confirm it."""
  del now
  name = request.data_set.name
  with refusing(f'data set {name!r}: '):
    spec = protocol.ledger_spec(request.data_set)
  known = job.sets.get(name)
  if known is None:
    if len(job.sets) >= MAX_DATA_SETS:
      raise Refused(
        'RESOURCE_EXHAUSTED',
        f'job {job.name!r} has {MAX_DATA_SETS} data sets already.',
      )
    _check_room(job, name, spec.num_shards)
    job.sets[name] = DataSetState(
      request.data_set, Ledger(spec), spec_generation=job.generation
    )
    return True
  changed = []
  for field in pb.DataSet.DESCRIPTOR.fields:
    mine, theirs = (
      getattr(one, field.name) for one in (known.spec, request.data_set)
    )
    if mine == theirs or (field.name == 'num_records' and spec.is_stream):
      continue
    is_changeable = field.name in _CHANGEABLE and not (
      spec.is_stream or known.spec_generation == job.generation
    )
    if not is_changeable:
      raise invalid(
        f'data set {name!r} was created with {field.name}={mine}; got'
        f' {theirs}: all workers of a job must say the same of it.'
      )
    changed.append(field.name)
  if changed:
    known.spec = request.data_set
    known.spec_generation = job.generation
    known.ledger.change_limits(spec.num_epochs, spec.max_data_errors)
  return bool(changed)


@dataclasses.dataclass(frozen=True)
class ParsedState:
  """A position, as a request has it, read."""

  state: State
  runs: list[EpochRun]


# Data set -> its position in a request, read beforehand: it may take long.
Parsed = Mapping[str, ParsedState]


def parse(name: str, spec: LedgerSpec, text: bytes) -> ParsedState:
  """Reads the position of a data set; pure.

  Raises:
    Refused: It is none, or of another data set.
  """
  try:
    state = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise invalid(
      f'the state of data set {name!r} is no JSON: {error}.'
    ) from error
  with refusing():
    return ParsedState(state, spec.read_runs(state))


def positions_to_read(
  job: JobState, request: pb.BeginRequest | pb.CommitRequest
) -> dict[str, tuple[LedgerSpec, bytes]]:
  """Returns the positions of a request that are needed, and of what they are.

  By name of the data set.
  """
  if request.head.generation < job.generation:
    return {}  # It is refused.
  if isinstance(request, pb.CommitRequest):
    return {
      name: (job.sets[name].ledger.spec, text)
      for name, text in request.states.items()
      if name in job.sets
    }
  data = job.sets.get(request.data_set)
  if data is None or (data.generation, data.pass_number) == (
    request.head.generation,
    request.pass_number,
  ):
    return {}  # Another worker has begun this pass.
  position = data.ledger.spec, request.state
  return {request.data_set: position} if request.state else {}


def begin(
  job: JobState, request: pb.BeginRequest, now: float, parsed: Parsed
) -> bool:
  """Makes the ledger what the restored checkpoint says, once in a pass."""
  del now
  data = data_set(job, request.data_set)
  client = request.head.client
  digest = hashlib.sha256(request.state).digest()
  if data.generation == job.generation:
    if request.pass_number < data.pass_number:
      raise stale(
        f'pass {request.pass_number} of data set {request.data_set!r} is over:'
        f' pass {data.pass_number} has begun.'
      )
    if request.pass_number == data.pass_number:
      if digest != data.digest:
        raise stale(
          f'another worker has begun pass {request.pass_number} of data set'
          f' {request.data_set!r} with another state: the workers have restored'
          ' different checkpoints.'
        )
      data.begun_by.add(client)
      return False
  last = data.pass_number if data.generation == job.generation else 0
  if request.pass_number - last > _MAX_JUMP:
    raise invalid(
      f'pass_number={request.pass_number} must be at most {_MAX_JUMP} above'
      f' {last}, the last of data set {request.data_set!r}.'
    )
  state, runs = None, None
  if text := request.state:
    one = parsed.get(request.data_set) or parse(
      request.data_set, data.ledger.spec, text
    )
    state, runs = one.state, one.runs
  with refusing():
    data.ledger.begin(state, runs, _room(job, request.data_set))
  data.generation, data.pass_number = job.generation, request.pass_number
  data.digest, data.begun_by = digest, {client}
  data.spec.num_records = data.ledger.spec.num_records
  return True


def exchange(
  job: JobState, request: pb.ExchangeRequest
) -> tuple[pb.ExchangeReply, bool]:
  """Notes what a worker says of its shards, and leases it the next ones."""
  worker = request.head.client
  data = data_set(job, request.data_set)
  if (
    data.pass_number != request.pass_number or data.generation != job.generation
  ):
    now = (
      f'pass {data.pass_number} has begun'
      if data.generation == job.generation
      else 'none has begun in this generation'
    )
    raise stale(
      f'Exchange in pass {request.pass_number} of data set'
      f' {request.data_set!r}: {now}; call Begin first.'
    )
  ledger, reply = data.ledger, pb.ExchangeReply()
  is_changed = _report(job, ledger, worker, request)
  num_epochs = ledger.num_begun_epochs
  if request.num_wanted:
    room = MAX_HELD - ledger.num_held(worker)
    for shard, bits in ledger.lease(worker, min(request.num_wanted, room)):
      reply.leases.append(protocol.from_lease(shard, bits))
  if not reply.leases:
    reply.outcome = getattr(pb.ExchangeReply, ledger.outcome())
  reply.first_open_epoch = ledger.first_open_epoch
  is_changed = is_changed or num_epochs != ledger.num_begun_epochs
  return reply, is_changed or bool(reply.leases)


def commit(
  job: JobState, request: pb.CommitRequest, now: float, parsed: Parsed
) -> bool:
  """Notes that what a checkpoint's positions have is in a committed model.

  Data sets that have not begun since the model was restored are as they were,
  and where another pass has begun meanwhile the position is not one in it.
  """
  states = []
  for name, text in request.states.items():
    data = data_set(job, name)
    has_begun = request.head.client in data.begun_by
    if has_begun and data.generation == job.generation:
      one = parsed.get(name) or parse(name, data.ledger.spec, text)
      states.append((data.ledger, one))
  with refusing():
    for ledger, one in states[: len(states) if len(states) > 1 else 0]:
      ledger.check_commit(one.state, one.runs)
    for ledger, one in states:
      ledger.commit(one.state, one.runs)
  job.last_step, job.committed_unix_s = request.step, now
  return True


def extend_stream(
  job: JobState, request: pb.ExtendStreamRequest, now: float
) -> bool:
  """Notes that a stream has grown; several may say so in any order."""
  del now
  data = data_set(job, request.data_set)
  ledger = data.ledger
  known = (ledger.spec.num_records, ledger.spec.is_closed)
  is_late = ledger.spec.is_stream and request.num_records < known[0]
  if (is_late and not request.is_closed) or known == (
    request.num_records,
    request.is_closed,
  ):
    return False
  num_shards = -(-request.num_records // ledger.spec.shard_size)
  _check_room(job, request.data_set, num_shards)
  with refusing(f'data set {request.data_set!r}: '):
    ledger.extend(request.num_records, request.is_closed)
  data.spec.num_records = request.num_records
  return True


def _room(job: JobState, name: str) -> int:
  """Shards for which there is memory beside the other data sets of a job."""
  others = (one.ledger for other, one in job.sets.items() if other != name)
  return MAX_OPEN_SHARDS - sum(ledger.num_open_shards for ledger in others)


def _check_room(job: JobState, name: str, num_shards: int) -> None:
  """Refuses a data set of more shards than there is memory for."""
  if num_shards > (room := _room(job, name)):
    raise Refused(
      'RESOURCE_EXHAUSTED',
      f'data set {name!r} has {num_shards} shards, but beside the other data'
      f' sets of job {job.name!r} there is room for {room} of'
      f' {MAX_OPEN_SHARDS}; use a larger shard_size.',
    )


def data_set(job: JobState, name: str) -> DataSetState:
  """Returns a data set; refuses where there is none of that name."""
  data = job.sets.get(name)
  if data is None:
    raise Refused(
      'NOT_FOUND',
      f'job {job.name!r} has no data set {name!r}; call CreateDataSet first.',
    )
  return data


def _report(
  job: JobState,
  ledger: Ledger,
  worker: str,
  request: pb.ExchangeRequest,
) -> bool:
  """Applies what is said of held shards: all of it or nothing."""
  consumed = [(protocol.to_shard(one), 0) for one in request.consumed]
  progress = [protocol.to_lease(one) for one in request.progress]
  returned = [protocol.to_lease(one) for one in request.returned]
  failed = [(protocol.to_shard(one.shard), 0) for one in request.failed]
  named = [*consumed, *progress, *returned, *failed]
  if not named:
    return False
  seen = set()
  with refusing():
    for shard, bits in named:
      ledger.check_held(worker, shard, bits)
      if (shard.epoch, shard.index) in seen:
        raise ValueError(f'Exchange: {shard} is named twice.')
      seen.add((shard.epoch, shard.index))
    ledger.check_failures(len(failed))
  for shard, _ in consumed:
    ledger.consume(worker, shard)
  for shard, bits in progress:
    ledger.progress(worker, shard, bits)
  for shard, bits in returned:
    ledger.give_back(worker, shard, bits)
  for (shard, _), message in zip(failed, [x.message for x in request.failed]):
    is_aside = ledger.fail(worker, shard, message)
    logging.warning(
      'Job %s, data set %s: %s could not read records %d to %d of epoch %d'
      ' (%s).%s',
      job.name,
      request.data_set,
      worker,
      shard.start,
      shard.stop - 1,
      shard.epoch,
      message[:200],
      ' They are set aside.' if is_aside else '',
    )
  return True
