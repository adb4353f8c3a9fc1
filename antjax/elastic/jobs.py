# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""All jobs of a coordinator: a pure, durable state machine.

`apply` takes requests and the coordinator's own decisions one by one; the same
messages at the same times give the same state and replies, so that a journal of
them is enough to resume after a crash. Who may change a job:

  generation   Under agents only the running generation. Where no agents run
               the job, CreateDataSet and Begin of a later one begin it.
  incarnation  The newest process under a client's name: its first message
               fences off the one before.
  sequence     A request is applied once: repeated, it gets the same reply; an
               older one is refused.
  revision     Who knows one that the job has not had shows that the journal is
               older than its replies, as after a disk was damaged: see
               `recovery`. From then on only new processes are heard. What
               came with it proves that it was told.
"""

from collections.abc import Callable
import hmac
import json
import struct
import types

from absl import logging
from google.protobuf.message import Message

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import job_control, job_data
from antjax.elastic.job_state import Client, JobState
from antjax.elastic.protocol import invalid, MAX_HOSTS, Refused, stale

MAX_JOBS = 1000
MAX_CLIENTS = MAX_HOSTS
_MAX_FENCED = 8
_MAX_GONE, _RECOVERY = 1 << 40, 1 << 32  # Revisions.
_LAST_REVISION = 1 << 52  # That makes a job begin again; later ones may follow.
_MAX_JUMP = 1 << 32  # From a generation to the next; Unix times are less.
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
  pb.RecoverJob,
  pb.ResumeJob,
)
# The place of a type here is its number in the journal.
MESSAGES = (*REQUESTS, *DECISIONS)
_WITH_POSITIONS = (pb.BeginRequest, pb.CommitRequest)
_WITHOUT = (pb.OperateRequest, pb.ExtendStreamRequest)  # A generation.


# What messages without a reply do to a job; True: it has changed.
_CHANGES: dict[type[Message], Callable[..., bool]] = {
  pb.CreateDataSetRequest: job_data.create_data_set,
  pb.BeginRequest: job_data.begin,
  pb.CommitRequest: job_data.commit,
  pb.ExtendStreamRequest: job_data.extend_stream,
  pb.OperateRequest: job_control.operate,
  pb.EndGeneration: job_control.end_generation,
  pb.ExpireWorkers: job_control.expire_workers,
  pb.SetPlan: job_control.set_plan,
  pb.RecoverJob: job_control.recover,
  pb.ResumeJob: job_control.resume,
}


class Jobs:
  """Applies requests and decisions to jobs, one after the other."""

  def __init__(self, key: bytes = b'') -> None:
    """Has no jobs; `key` proves what was told, empty: all is believed."""
    self._jobs: dict[str, JobState] = {}
    self._key = key

  def names(self) -> list[str]:
    return list(self._jobs)

  def job(self, name: str) -> JobState:
    """Returns a job, to be read only; a blank one where it is not known."""
    return self._jobs.get(name) or JobState(name)

  def answer(
    self,
    request: Message,
    now: float,
    parsed: job_data.Parsed = types.MappingProxyType({}),
  ) -> tuple[bytes, bool]:
    """Applies one of REQUESTS at a Unix time; Refused: it changes nothing.

    Positions in it that are not in `parsed` are read here.

    Returns:
      The serialized reply, and whether the request must be in the journal.
    """
    head = request.head  # type: ignore[attr-defined]
    job = self._jobs.get(head.job)
    if job is None:
      if not isinstance(request, pb.CreateDataSetRequest):
        raise Refused('NOT_FOUND', f'there is no job {head.job!r}.')
      job = self._new_job(head.job)  # Is not kept yet.
    client = job.clients.get(head.client)
    is_new = client is None or client.incarnation != head.incarnation
    _check_generation(job, request, head)
    if client is not None:
      _check_client(job, client, head)
    if client is not None and not is_new:
      if head.sequence == client.sequence:
        return client.reply, False
      if head.sequence < client.sequence:
        raise stale(
          f'request {head.sequence} of {head.client!r} is older than its'
          f' request {client.sequence}, which was answered.'
        )
    if client is None and len(job.clients) >= MAX_CLIENTS:
      raise Refused(
        'RESOURCE_EXHAUSTED',
        f'job {job.name!r} has had {MAX_CLIENTS} clients of other names.',
      )
    before = job.generation
    if head.generation > before and not isinstance(request, _WITHOUT):
      job.generation = head.generation  # The job runs without agents.
      is_new = True
    try:
      if isinstance(request, pb.ExchangeRequest):
        reply: Message
        reply, is_changed = job_data.exchange(job, request)
      else:
        reply = pb.Empty()
        more = (parsed,) if isinstance(request, _WITH_POSITIONS) else ()
        is_changed = _CHANGES[type(request)](job, request, now, *more)
    except BaseException:  # A bug of ours, too, must not change a job in part.
      job.generation = before
      raise
    self._keep(job)
    if client is None:
      client = job.clients[head.client] = Client(head.incarnation)
    elif is_new and client.incarnation != head.incarnation:
      client.fenced = [*client.fenced, client.incarnation][-_MAX_FENCED:]
      client.incarnation, client.is_expired = head.incarnation, False
    client.sequence = head.sequence
    # A worker that only asks whether there is something again may ask often.
    is_poll = isinstance(request, pb.ExchangeRequest) and not is_changed
    is_stored = is_new or not is_poll
    job.revision += is_stored
    reply.revision = job.revision
    reply.revision_proof = self.proof(job.name, job.revision)
    client.reply = reply.SerializeToString()
    return client.reply, is_stored

  def apply(self, message: Message, now: float) -> bytes:
    """Applies one of MESSAGES, as the journal has them, at a Unix time.

    Returns:
      The serialized reply; that of a decision is empty.

    Raises:
      Refused: The request changes nothing.
    """
    head: pb.Head | None = getattr(message, 'head', None)
    if head is not None and head.sequence:
      return self.answer(message, now)[0]
    self.decide(message, now)
    return b''

  def proof(self, job: str, revision: int) -> bytes:
    """Returns what shows that a revision of a job was told."""
    text = f'{revision} {job}'.encode()
    return hmac.digest(self._key, text, 'sha256')[:16] if self._key else b''

  def recovery(
    self, head: pb.Head, generation: int | None = None
  ) -> pb.RecoverJob | None:
    """Returns what to decide where who asks knows more than the journal.

    `generation` is the newest that an agent has seen; None: a worker asks, who
    is believed what it proves. Agents may end a generation in any case. Of a
    job that is not known there is nothing to lose, and may be no key.

    Raises:
      Refused: It was told no such thing.
    """
    job = self.job(head.job)
    gone = job.num_gone(head.revision)
    is_worker, generation = generation is None, generation or 0
    if gone <= 0 and generation <= job.generation:
      return None
    proof = self.proof(head.job, head.revision)
    if (
      is_worker
      and job.revision
      and not hmac.compare_digest(proof, head.revision_proof)
    ):
      raise invalid(
        f'head.revision={head.revision} of job {head.job!r}, which is at'
        f' {job.revision}, was never told to a worker by the coordinator of'
        ' this journal, or only before it had proofs. Was the journal replaced?'
        ' Then start the workers again, from their last checkpoint.'
      )
    newest = max(job.generation, head.generation, generation)
    for name, value, most in (
      ('head.revision', head.revision, job.revision + _MAX_GONE),
      ('head.revision', head.revision, _LAST_REVISION),
      ('generation', newest, job.generation + _MAX_JUMP),
    ):
      if value > most:
        raise invalid(
          f'{name}={value} must be at most {most}; job {head.job!r} is at'
          f' revision {job.revision} of generation {job.generation}.'
        )
    what = (
      f'{gone:,} changes of the job are gone'
      if gone > 0
      else f'generation {generation} is gone'
    )
    return pb.RecoverJob(
      job=head.job,
      revision=max(head.revision, job.revision) + _RECOVERY,
      generation=newest,
      reason=(
        f'the journal of the coordinator is older than {head.client}: {what};'
        ' going back to the last checkpoint'
      ),
    )

  def check_alive(self, head: pb.Head) -> None:
    """Raises Refused where who sends this is fenced off; for heartbeats."""
    job = self._jobs.get(head.job)
    if job is None:
      return
    _check_recovered(job, head)
    if head.generation < job.generation or (
      job.is_managed and job.phase != 'running'
    ):
      raise stale(f'generation {head.generation} of job {job.name!r} is over.')
    client = job.clients.get(head.client)
    if client is not None:
      _check_client(job, client, head)

  def decide(self, message: Message, now: float) -> bool:
    """Applies a decision of the coordinator at a Unix time.

    It is one of DECISIONS, or an OperateRequest of the controller, which has no
    sequence number.

    Returns:
      Whether the state has changed: not if the decision came too late.
    """
    if isinstance(message, pb.StartGeneration):
      if message.job not in self._jobs:
        self._keep(self._new_job(message.job))
      one = self._jobs[message.job]
      has_started = job_control.start_generation(one, message, now)
      one.revision += has_started
      return has_started
    if isinstance(message, pb.RecoverJob) and message.job not in self._jobs:
      self._keep(self._new_job(message.job))
    is_asked = isinstance(message, pb.OperateRequest)  # By the controller.
    name = message.head.job if is_asked else message.job  # type: ignore[attr-defined]
    job = self._jobs.get(name)
    if job is None:
      return False
    is_changed = _CHANGES[type(message)](job, message, now)
    if not isinstance(message, (pb.RecoverJob, pb.ResumeJob)):
      job.revision += is_changed
    if isinstance(message, pb.OperateRequest):
      job.policy_restarts += message.action == 'replace'
    return is_changed

  def to_bytes(self) -> bytes:
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
  def from_bytes(cls, data: bytes, key: bytes = b'') -> 'Jobs':
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
    result = cls(key)
    for fields in head['jobs']:
      job = JobState.from_json(fields, blobs)
      result._jobs[job.name] = job
    return result

  def _new_job(self, name: str) -> JobState:
    if len(self._jobs) >= MAX_JOBS and self._first_ended() is None:
      raise Refused('RESOURCE_EXHAUSTED', f'there are {MAX_JOBS} jobs already.')
    return JobState(name)

  def _first_ended(self) -> str | None:
    names = (job.name for job in self._jobs.values() if job.phase == 'ended')
    return next(names, None)

  def _keep(self, job: JobState) -> None:
    """Keeps a job that is new."""
    if job.name not in self._jobs:
      if len(self._jobs) >= MAX_JOBS and (ended := self._first_ended()):
        logging.info('Job %s has ended and makes room.', ended)
        del self._jobs[ended]
      self._jobs[job.name] = job


def _check_generation(job: JobState, request: Message, head: pb.Head) -> None:
  _check_recovered(job, head)
  if isinstance(request, pb.OperateRequest) or (
    # Who fills a stream may be no worker.
    isinstance(request, pb.ExtendStreamRequest) and not head.generation
  ):
    return
  if job.is_managed and job.phase != 'running':
    raise stale(f'generation {job.generation} of job {job.name!r} is over.')
  is_start = not job.is_managed and isinstance(
    request, (pb.CreateDataSetRequest, pb.BeginRequest)
  )
  if head.generation < job.generation or (
    head.generation > job.generation and not is_start
  ):
    raise stale(
      f'job {job.name!r} is at generation {job.generation}; the request is of'
      f' generation {head.generation}.'
    )
  if head.generation - job.generation > _MAX_JUMP:
    raise invalid(
      f'head.generation={head.generation} must be at most {_MAX_JUMP} above'
      f' {job.generation}, that of job {job.name!r}: beyond it none could come.'
    )


def _check_recovered(job: JobState, head: pb.Head) -> None:
  """Raises Refused for who was there before the journal lost a part."""
  if 0 < head.revision < job.least_revision:
    raise stale(
      f'the coordinator has lost a part of its journal since'
      f' {head.client!r} of job {job.name!r} began; start again from the last'
      ' checkpoint.'
    )


def _check_client(job: JobState, client: Client, head: pb.Head) -> None:
  """Raises Refused where another process has the name, or it was given up."""
  is_expired = client.is_expired and head.incarnation == client.incarnation
  if is_expired or head.incarnation in client.fenced:
    reason = (
      'it was silent or made no progress, and its shards went to others.'
      if is_expired
      else 'another process has its name now.'
    )
    raise stale(f'{head.client!r} of job {job.name!r} is fenced off: {reason}')
