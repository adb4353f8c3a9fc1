# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""All jobs of a coordinator: a pure, durable state machine.

`apply` takes requests and the coordinator's own decisions one by one; the same
messages at the same times give the same state and replies, so that a journal of
them is enough to go on after a crash. Who may change a job:

  generation   Of a job under agents only the running one. Where no agents run
               the job, CreateDataSet and Begin of a later one begin it.
  incarnation  Of a client's name the newest process: the first word of one
               fences off the one before.
  sequence     A request is applied once: repeated, it gets the same reply; an
               older one is refused.
"""

from collections.abc import Callable
import json
import struct

from absl import logging
from google.protobuf.message import Message

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import job_data
from antjax.elastic.job_state import Client
from antjax.elastic.job_state import GenerationRecord
from antjax.elastic.job_state import JobState
from antjax.elastic.refused import Refused

MAX_JOBS = 1000
MAX_CLIENTS = 20_000  # Of a job.
_MAX_FENCED = 8
_MAX_TEXT = 1000
_VERSION = 1

REQUESTS: tuple[type[Message], ...] = (
  pb.CreateDataSetRequest,
  pb.BeginRequest,
  pb.ExchangeRequest,
  pb.CommitRequest,
  pb.ExtendStreamRequest,
  pb.OperateRequest,
)
DECISIONS: tuple[type[Message], ...] = (
  pb.StartGeneration,
  pb.EndGeneration,
  pb.ExpireWorkers,
  pb.SetPlan,
)
# The place of a type here is its number in the journal.
MESSAGES = (*REQUESTS, *DECISIONS)
_WITHOUT = (pb.OperateRequest, pb.ExtendStreamRequest)  # A generation.
ACTIONS = ('stop', 'restart', 'replace', 'set_plan', 'retry_set_aside')


class Jobs:
  """Applies requests and decisions to jobs, one after the other."""

  def __init__(self) -> None:
    self._jobs: dict[str, JobState] = {}

  def names(self) -> list[str]:
    """Returns the names of the jobs."""
    return list(self._jobs)

  def job(self, name: str) -> JobState:
    """Returns a job, to be read only; a blank one where it is not known."""
    return self._jobs.get(name) or JobState(name)

  def apply(self, message: Message, now: float) -> Message:
    """Applies a request or a decision.

    Args:
      message: One of MESSAGES.
      now: Unix time.

    Returns:
      The reply; that of a decision is empty.

    Raises:
      Refused: The request changes nothing.
    """
    if isinstance(message, REQUESTS):
      reply, _ = self.answer(message, now)
      is_exchange = isinstance(message, pb.ExchangeRequest)
      return (pb.ExchangeReply if is_exchange else pb.Empty).FromString(reply)
    self.decide(message, now)
    return pb.Empty()

  def answer(self, request: Message, now: float) -> tuple[bytes, bool]:
    """Applies a request.

    Args:
      request: One of REQUESTS.
      now: Unix time.

    Returns:
      The serialized reply, and whether the state has changed so that the
      request must be in the journal.

    Raises:
      Refused: See `apply`.
    """
    head = request.head  # type: ignore[attr-defined]
    job = self._job_of(request, head)
    client = job.clients.get(head.client)
    is_new = client is None or client.incarnation != head.incarnation
    self._check_generation(job, request, head)
    if client is not None:
      _check_client(job, client, head)
    if client is not None and not is_new:
      if head.sequence == client.sequence:
        return client.reply, False
      if head.sequence < client.sequence:
        raise Refused(
          'FAILED_PRECONDITION',
          f'request {head.sequence} of {head.client!r} is older than its'
          f' request {client.sequence}, which was answered.',
        )
    if client is None and len(job.clients) >= MAX_CLIENTS:
      raise Refused(
        'RESOURCE_EXHAUSTED',
        f'job {job.name!r} has had {MAX_CLIENTS} clients of other names.',
      )
    before = job.generation
    if head.generation > before and not isinstance(request, _WITHOUT):
      job.generation = head.generation  # Of a job that no agents run.
      is_new = True
    try:
      reply, is_changed = self._apply_request(job, request, now)
    except Refused:
      job.generation = before
      raise
    self._jobs.setdefault(job.name, job)
    if client is None:
      client = job.clients[head.client] = Client(head.incarnation)
    elif is_new and client.incarnation != head.incarnation:
      client.fenced = [*client.fenced, client.incarnation][-_MAX_FENCED:]
      client.incarnation, client.is_expired = head.incarnation, False
    client.sequence = head.sequence
    client.reply = reply.SerializeToString()
    return client.reply, is_changed or is_new

  def replay(self, message: Message, now: float) -> None:
    """Applies a message of the journal; it was one that changed the state."""
    if isinstance(message, REQUESTS) and message.head.sequence:
      self.answer(message, now)
    else:
      self.decide(message, now)

  def _apply_request(
    self, job: JobState, request: Message, now: float
  ) -> tuple[Message, bool]:
    """Returns the reply, and whether the job has changed."""
    if isinstance(request, pb.ExchangeRequest):
      reply = pb.ExchangeReply()
      return reply, job_data.exchange(job, request, reply)
    if isinstance(request, pb.BeginRequest):
      is_changed = job_data.begin(job, request)
    elif isinstance(request, pb.CommitRequest):
      is_changed = job_data.commit(job, request, now)
    elif isinstance(request, pb.CreateDataSetRequest):
      is_changed = job_data.create_data_set(job, request)
    elif isinstance(request, pb.ExtendStreamRequest):
      is_changed = job_data.extend_stream(job, request)
    else:
      assert isinstance(request, pb.OperateRequest), type(request)
      is_changed = self._operate(job, request, now)
    return pb.Empty(), is_changed

  def check_alive(self, head: pb.Head) -> None:
    """Raises Refused where who sends this is fenced off; for heartbeats."""
    job = self._jobs.get(head.job)
    if job is None:
      return
    if head.generation < job.generation or (
      job.is_managed and job.phase != 'running'
    ):
      raise Refused(
        'FAILED_PRECONDITION',
        f'generation {head.generation} of job {job.name!r} is over.',
      )
    client = job.clients.get(head.client)
    if client is not None:
      _check_client(job, client, head)

  def decide(self, message: Message, now: float) -> bool:
    """Applies a decision of the coordinator.

    Args:
      message: One of DECISIONS, or an OperateRequest of the controller, which
        has no sequence number.
      now: Unix time.

    Returns:
      Whether the state has changed: not if the decision came too late.
    """
    if isinstance(message, pb.StartGeneration):
      return self._start_generation(message, now)
    if isinstance(message, pb.OperateRequest):  # By the controller.
      asked = self._jobs.get(message.head.job)
      if asked is None:
        return False
      asked.policy_restarts += message.action == 'replace'
      return self._operate(asked, message, now)
    job = self._jobs.get(message.job)  # type: ignore[attr-defined]
    if job is None:
      return False
    if isinstance(message, pb.EndGeneration):
      return _end_generation(job, message, now)
    if isinstance(message, pb.ExpireWorkers):
      return _expire_workers(job, message, now)
    assert isinstance(message, pb.SetPlan), type(message)
    if job.phase == 'ended':
      return False
    _set_plan(job, message.plan)
    return True

  def to_bytes(self) -> bytes:
    """Returns all jobs."""
    blobs: list[bytes] = []
    jobs = [job.to_json(blobs) for job in self._jobs.values()]
    head = {
      'version': _VERSION,
      'jobs': jobs,
      'sizes': [len(blob) for blob in blobs],
    }
    text = json.dumps(head).encode()
    return b''.join([struct.pack('<Q', len(text)), text, *blobs])

  @classmethod
  def from_bytes(cls, data: bytes) -> 'Jobs':
    """Makes the jobs that `to_bytes` has stored.

    Raises:
      ValueError: They are of another version.
    """
    (length,) = struct.unpack_from('<Q', data)
    at = 8 + length
    head = json.loads(data[8:at])
    if head['version'] != _VERSION:
      raise ValueError(
        f'The journal has jobs of version {head["version"]}, needed:'
        f' {_VERSION}; finish them with the antjax that began them.'
      )
    blobs = []
    for size in head['sizes']:
      blobs.append(data[at : at + size])
      at += size
    result = cls()
    for fields in head['jobs']:
      job = JobState.from_json(fields, blobs)
      result._jobs[job.name] = job
    return result

  def _job_of(self, request: Message, head: pb.Head) -> JobState:
    """Returns the job of a request; a new one is not kept yet."""
    job = self._jobs.get(head.job)
    if job is not None:
      return job
    if not isinstance(request, pb.CreateDataSetRequest):
      raise Refused('NOT_FOUND', f'there is no job {head.job!r}.')
    return self._new_job(head.job)

  def _new_job(self, name: str) -> JobState:
    if len(self._jobs) >= MAX_JOBS:
      ended = [job for job in self._jobs.values() if job.phase == 'ended']
      if not ended:
        raise Refused(
          'RESOURCE_EXHAUSTED', f'there are {MAX_JOBS} jobs already.'
        )
      logging.info('Job %s has ended and makes room.', ended[0].name)
      del self._jobs[ended[0].name]
    return JobState(name)

  def _check_generation(
    self, job: JobState, request: Message, head: pb.Head
  ) -> None:
    if isinstance(request, pb.OperateRequest) or (
      # Who fills a stream may be no worker.
      isinstance(request, pb.ExtendStreamRequest) and not head.generation
    ):
      return
    if job.is_managed and job.phase != 'running':
      raise Refused(
        'FAILED_PRECONDITION',
        f'generation {job.generation} of job {job.name!r} is over.',
      )
    if head.generation == job.generation:
      return
    starts = (pb.CreateDataSetRequest, pb.BeginRequest)
    if (
      head.generation > job.generation
      and not job.is_managed
      and isinstance(request, starts)
    ):
      return
    raise Refused(
      'FAILED_PRECONDITION',
      f'job {job.name!r} is at generation {job.generation}; the request is of'
      f' generation {head.generation}.',
    )

  def _start_generation(self, message: pb.StartGeneration, now: float) -> bool:
    known = self._jobs.get(message.job)
    if known is not None and known.phase != 'waiting':
      return False
    job = known or self._new_job(message.job)
    self._jobs[job.name] = job
    members = list(message.members)
    last = job.history[-1].members if job.history else members
    if set(last) != set(members) or set(job.replaced) & set(members):
      if job.plan.version:  # It was made for other hosts.
        _set_plan(job, pb.Plan(reason='other hosts: as set up'))
    job.generation += 1
    job.is_managed = True
    job.phase = 'running'
    job.members, job.jax_coordinator = members, message.jax_coordinator
    _forget_requests(job)
    job.replaced = [name for name in job.replaced if name not in members]
    _release_all(job)
    job.history.append(GenerationRecord(job.generation, members, now))
    return True

  def _operate(
    self, job: JobState, request: pb.OperateRequest, now: float
  ) -> bool:
    action, target = request.action, request.target
    handlers: dict[str, Callable[[JobState, pb.OperateRequest], None]] = {
      'stop': _stop,
      'restart': _restart,
      'replace': _replace,
      'set_plan': lambda job, request: _set_plan(job, request.plan),
      'retry_set_aside': _retry_set_aside,
    }
    if action not in handlers:
      raise Refused(
        'INVALID_ARGUMENT',
        f'Operate: action must be one of {", ".join(ACTIONS)}; got {action!r}.',
      )
    handlers[action](job, request)
    text = f'{action} {target}'.strip() + f' by {request.head.client}'
    if request.reason:
      text += f': {request.reason}'
    job.actions.append((now, text[:_MAX_TEXT]))
    return True


def _check_client(job: JobState, client: Client, head: pb.Head) -> None:
  """Raises Refused where another process has the name, or it was given up."""
  is_expired = client.is_expired and head.incarnation == client.incarnation
  if is_expired or head.incarnation in client.fenced:
    reason = (
      'it was silent or made no progress, and its shards went to others.'
      if is_expired
      else 'another process has its name now.'
    )
    raise Refused(
      'FAILED_PRECONDITION',
      f'{head.client!r} of job {job.name!r} is fenced off: {reason}',
    )


def _stop(job: JobState, request: pb.OperateRequest) -> None:
  del request
  job.is_stopping = True


def _restart(job: JobState, request: pb.OperateRequest) -> None:
  del request
  if not job.is_managed:
    raise Refused(
      'INVALID_ARGUMENT', f'restart: no agents run job {job.name!r}.'
    )
  job.is_stopping = False
  if job.phase == 'running':
    job.is_restart_asked = True
  elif job.phase == 'ended':
    job.phase, job.is_success = 'waiting', False
    job.restarts_used = 0


def _replace(job: JobState, request: pb.OperateRequest) -> None:
  if job.phase != 'running' or request.target not in job.members:
    raise Refused(
      'INVALID_ARGUMENT',
      f'replace: {request.target!r} is no worker of job {job.name!r} now; it'
      f' has {", ".join(job.members[:20]) or "none"}.',
    )
  if request.target not in job.replace_asked:
    job.replace_asked.append(request.target)


def _retry_set_aside(job: JobState, request: pb.OperateRequest) -> None:
  names = [request.target] if request.target else list(job.sets)
  chosen = [job_data.data_set(job, name) for name in names]
  for data in chosen:
    data.ledger.retry_set_aside()


def _set_plan(job: JobState, plan: pb.Plan) -> None:
  """Takes a plan over; its version is the next one, whatever it says."""
  version = job.plan.version + 1
  job.plan = pb.Plan()
  job.plan.CopyFrom(plan)
  job.plan.version = version
  job.plan.lr_scale = plan.lr_scale or 1.0


def _forget_requests(job: JobState) -> None:
  job.is_restart_asked, job.replace_asked = False, []


def _release_all(job: JobState) -> int:
  return sum(ledger.release() for ledger in job.data_sets.values())


def _end_generation(
  job: JobState, message: pb.EndGeneration, now: float
) -> bool:
  if job.phase == 'ended' or message.generation != job.generation:
    return False
  was_running = job.phase == 'running'
  if not was_running and not message.is_final:
    return False
  reason = message.reason[:_MAX_TEXT]
  job.phase = 'ended' if message.is_final else 'waiting'
  job.is_success = message.is_final and message.is_success
  if was_running:
    job.restarts_used += message.counts
    gone = [name for name in message.replaced if name not in job.replaced]
    job.replaced += gone
    _release_all(job)
    if job.history:
      last = job.history[-1]
      last.ended_unix_s = now
      last.reason, last.counts = reason, message.counts
  _forget_requests(job)
  text = f'generation {job.generation} ended: {reason}'
  job.actions.append((now, text))
  return True


def _expire_workers(
  job: JobState, message: pb.ExpireWorkers, now: float
) -> bool:
  """Gives the shards of workers back, and fences the workers off."""
  gone = set(message.workers)
  count = sum(ledger.release(gone) for ledger in job.data_sets.values())
  clients = [job.clients[name] for name in gone if name in job.clients]
  if not count and all(client.is_expired for client in clients):
    return False
  for client in clients:
    client.is_expired = True
  text = (
    f'{", ".join(sorted(gone))[:200]} expired ({message.reason[:200]}):'
    f' {count} shards go to others'
  )
  job.actions.append((now, text))
  return True


__all__ = ['ACTIONS', 'DECISIONS', 'Jobs', 'MESSAGES', 'REQUESTS', 'Refused']
