# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The coordinator process: durable jobs, transient views, one event loop.

Requests that change a job go through `writer.Writer`; heartbeats and agents'
beats only to what is soft and comes again after a restart: Monitor, Rendezvous
and Liveness. A tick, twice a second, lets `decisions.Decisions` decide.
"""

import asyncio
from collections.abc import Callable
import dataclasses
import json
import secrets
import time
from typing import Any

from absl import logging

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import policy, security, status, writer
from antjax.elastic.controller import Controller, ControllerConfig
from antjax.elastic.decisions import Decisions
from antjax.elastic.goodput import Goodput
from antjax.elastic.job_state import JobState
from antjax.elastic.liveness import Liveness, Unheard
from antjax.elastic.monitor import Monitor
from antjax.elastic.protocol import (
  beat_s,
  MAX_HOSTS,
  METHODS,
  Refused,
  stale,
)
from antjax.elastic.rendezvous import Rendezvous
from antjax.elastic.rendezvous_room import RendezvousConfig
from antjax.elastic.rotation import Rotating, rotating_page_tls, rotating_tls
from antjax.elastic.service import make_server, max_connections, Service
from antjax.elastic.status_page import StatusPage
from antjax.elastic.windows import MonitorConfig
from antjax.shards.journal import Journal

_TICK_S = 0.5
_MAX_BEATEN = 1000  # Jobs with agents.
_BEATEN_S = 600.0  # A job whose agents are silent for so long has none.
_GRACE_S = 2.0  # For calls in progress when it ends.
_FIRST_AFTER = 1 << 26  # Revisions from the last one before a start.
_JOURNAL = ('num_commits', 'commit_s', 'num_changes', 'num_bytes')


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoordinatorConfig:
  """Where a coordinator listens, and when it acts."""

  journal: str  # Path of the journal file.
  address: str = '127.0.0.1'
  port: int = 0  # 0 picks a free one.
  status_port: int | None = None  # Of the status page; None: no page.
  token_file: str = ''  # Lines `role token`; empty: no tokens needed.
  tls_dir: str = ''  # With ca.pem, cert.pem, key.pem; empty: no TLS.
  is_insecure: bool = False  # It may be open to other machines without them.
  policy: str = 'static'  # See `policy.resolve`.
  lease_timeout_s: float = 30.0  # Silence after which a worker counts as dead.
  progress_timeout_s: float = 600.0  # The same without a step.
  is_restarting_ended: bool = False  # Ended jobs resume, with a new budget.
  rendezvous: RendezvousConfig = RendezvousConfig()
  monitor: MonitorConfig = MonitorConfig()
  controller: ControllerConfig = ControllerConfig()

  def __post_init__(self) -> None:
    if not self.journal:
      raise ValueError('journal must name a file; it is empty.')
    for name in ('lease_timeout_s', 'progress_timeout_s'):
      if not getattr(self, name) > 0:  # Nor nan.
        raise ValueError(f'{name} must be positive; got {getattr(self, name)}.')
    hosts = self.rendezvous
    if max(hosts.min_hosts, hosts.max_hosts) > MAX_HOSTS:
      raise ValueError(
        f'min_hosts={hosts.min_hosts}, max_hosts={hosts.max_hosts}: a job has'
        f' at most {MAX_HOSTS} hosts.'
      )
    for name in ('port', 'status_port'):
      if not 0 <= (getattr(self, name) or 0) <= 65535:
        raise ValueError(
          f'{name} must be 0, for a free one, to 65535; got'
          f' {getattr(self, name)}.'
        )
    security.check_address(
      self.address,
      has_tokens=bool(self.token_file),
      has_tls=bool(self.tls_dir),
      is_insecure=self.is_insecure,
    )


async def serve(
  config: CoordinatorConfig,
  until: asyncio.Event,
  on_start: Callable[[int, str], None] = lambda port, url: None,
) -> None:
  """Runs a coordinator until an event, at which it exits cleanly.

  `on_start` is called when it serves, with its port and the status page's
  address (empty: none).

  Raises:
    ValueError: The token file, the TLS files or the policy is wrong.
    RuntimeError: The journal or the port cannot be had, or the journal not be
      written any more.
  """
  tokens: Callable[[], security.RoleTokens] = security.RoleTokens
  if file := config.token_file:
    tokens = Rotating(lambda: security.read_tokens(file), [file])
  tls = rotating_tls(config.tls_dir) if config.tls_dir else None
  policy_fn = policy.resolve(config.policy)
  with Journal(config.journal) as journal:
    jobs = writer.load(journal)
    if jobs.names():
      logging.info(
        'Going on with %d jobs of %s.', len(jobs.names()), config.journal
      )
    # A host has its agent's connection and its worker's.
    text = 'At most %d hosts a job, and %d connections of all: `ulimit -n`.'
    logging.info(text, MAX_HOSTS, max_connections())
    coordinator = Coordinator(
      config,
      writer.Writer(jobs, journal),
      Controller(policy_fn, config.controller),
    )
    if config.is_restarting_ended:
      coordinator.restart_ended()
    server, port = make_server(
      Service(coordinator.handlers(), tokens), config.address, config.port, tls
    )
    page = _status_page(config, coordinator, tokens)
    try:
      await server.start()
      if page is not None:
        await page.start()
      on_start(port, page.url if page is not None else '')
      await coordinator.run(until)
    finally:
      await server.stop(_GRACE_S)
      if page is not None:
        await page.close()
      if coordinator.writer.error is None:
        await coordinator.writer.close()


def _status_page(
  config: CoordinatorConfig,
  coordinator: 'Coordinator',
  tokens: Callable[[], security.RoleTokens],
) -> StatusPage | None:
  if config.status_port is None:
    return None
  return StatusPage(
    coordinator.snapshot,
    address=config.address,
    port=config.status_port,
    tokens=lambda: tokens().page_tokens(),
    tls=rotating_page_tls(config.tls_dir) if config.tls_dir else None,
    is_insecure=config.is_insecure,
  )


class _Plans:
  """The newest plan of each job as the bytes of its field in a reply.

  A plan names every worker, and all of them are told it at about once.
  """

  def __init__(self) -> None:
    self._fields: dict[str, tuple[pb.Plan, bytes]] = {}

  def field(self, job: JobState) -> bytes:
    """Returns what may be put behind a serialized HeartbeatReply."""
    plan, field = self._fields.get(job.name, (None, b''))
    if plan is not job.plan:
      field = pb.HeartbeatReply(plan=job.plan).SerializeToString()
      if len(self._fields) >= _MAX_BEATEN:
        self._fields.clear()
      self._fields[job.name] = job.plan, field
    return field


class Coordinator:
  """Answers requests and decides; for one event loop."""

  def __init__(
    self,
    config: CoordinatorConfig,
    durable: writer.Writer,
    controller: Controller,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Takes over the jobs of a writer; the clock is a monotonic one."""
    self.writer = durable
    self._config = config
    self._clock = clock
    self._monitor = Monitor(config.monitor)
    self._rendezvous = Rendezvous(config.rendezvous)
    self._liveness = Liveness(config.lease_timeout_s, config.progress_timeout_s)
    self._decisions = Decisions(
      durable, self._monitor, self._rendezvous, self._liveness, controller
    )
    goodput = Goodput()
    self._snapshots = status.Snapshots(
      durable.jobs,
      self._monitor,
      self._rendezvous,
      self._decisions.log,
      controller.idle_reason,
      lambda job: controller.restarts_left(
        job.name, clock(), job.policy_restarts
      ),
      goodput.shares,
    )
    self._goodput = goodput
    self._beaten: dict[str, float] = {}  # Job -> last beat of an agent.
    self._exits: dict[tuple[str, str], tuple[int, int]] = {}
    self._plans = _Plans()
    self._unheard = Unheard(durable.jobs, clock(), config.lease_timeout_s)
    for name in durable.jobs.names():
      job = durable.jobs.job(name)
      # Drawn: if this too is lost, the next start does not tell the same ones.
      later = job.revision + _FIRST_AFTER + secrets.randbelow(_FIRST_AFTER)
      durable.decide(pb.ResumeJob(job=name, revision=later))
      self._monitor.note_plan(name, job.plan, clock())

  def handlers(self) -> dict[str, Any]:
    """Returns what answers each method of the service."""
    soft = {
      'Heartbeat': self._heartbeat,
      'AgentBeat': self._agent_beat,
      'Status': self._status,
    }
    return {name: soft.get(name, self._answer) for name in METHODS}

  async def run(self, until: asyncio.Event) -> None:
    """Ticks until the event is set.

    Raises:
      RuntimeError: The journal could not be written.
    """
    waits = {
      asyncio.ensure_future(until.wait()),
      asyncio.ensure_future(self.writer.has_failed.wait()),
    }
    try:
      while not (
        await asyncio.wait(
          waits, timeout=_TICK_S, return_when=asyncio.FIRST_COMPLETED
        )
      )[0]:
        self.tick()
    finally:
      for wait in waits:
        wait.cancel()
    if self.writer.error is not None:
      raise self.writer.error

  def restart_ended(self) -> None:
    """Lets jobs that have ended resume, with a new restart budget."""
    for name in self.writer.jobs.names():
      if self.writer.jobs.job(name).phase == 'ended':
        head = pb.Head(job=name, client='coordinator')
        self.writer.decide(pb.OperateRequest(head=head, action='restart'))

  def tick(self) -> None:
    now = self._clock()
    self._beaten = {
      name: at for name, at in self._beaten.items() if now - at < _BEATEN_S
    }
    self._decisions.tick(set(self._beaten), now)

  def snapshot(self) -> dict[str, Any]:
    """Returns everything that is known, see `status.Snapshots`."""
    return self._snapshots.take(
      time.time(),
      self._clock(),
      journal={name: getattr(self.writer, name) for name in _JOURNAL},
      more_names=[*self._beaten, *self._monitor.names()],
    )

  # --- Requests. --------------------------------------------------------------

  async def _answer(self, request: Any, data: bytes) -> bytes:
    """Answers a request that is journaled, and notes what it says softly."""
    head = request.head
    self._hear(head)
    if not isinstance(request, pb.OperateRequest):
      self._unheard.check(self.writer.jobs.job(head.job), self._clock())
    reply = await self.writer.answer(request, data)
    now = self._clock()
    if isinstance(request, pb.ExchangeRequest) and not request.consumed:
      self._liveness.hear(head, now)
    elif isinstance(request, (pb.BeginRequest, pb.ExchangeRequest)):
      self._liveness.note_progress(head, now)
    elif isinstance(request, pb.CommitRequest):
      self._monitor.note_commit(head.job, now)
    elif isinstance(request, pb.OperateRequest):
      logging.info(
        'Job %s: %s %s by %s. %s',
        head.job,
        request.action,
        request.target,
        head.client,
        request.reason,
      )
      plan = self.writer.jobs.job(head.job).plan
      self._monitor.note_plan(head.job, plan, now)
    return reply

  async def _heartbeat(
    self, request: pb.HeartbeatRequest, data: bytes
  ) -> bytes:
    del data
    head = request.head
    self._hear(head)
    job = self.writer.jobs.job(head.job)
    self.writer.jobs.check_alive(head)
    now = self._clock()
    self._monitor.record_heartbeat(request, now)
    self._goodput.note(request, now)
    self._liveness.note_progress(head, now, (request.step, request.num_samples))
    if request.is_last:
      self._liveness.leave(head, now)
      if head.job not in self.writer.jobs.names():  # Only watched.
        self._monitor.forget(head.job, head.client)
    reply = pb.HeartbeatReply(
      is_stopping=job.is_stopping,
      revision=job.revision,
      beat_s=beat_s(0.0, len(job.members)),
      mtbf_s=job.mtbf_s,
      revision_proof=self.writer.jobs.proof(job.name, job.revision),
    ).SerializeToString()
    if request.plan_version < job.plan.version or not job.plan.version:
      reply += self._plans.field(job)
    await self.writer.settled()
    return reply

  async def _agent_beat(
    self, request: pb.AgentBeatRequest, data: bytes
  ) -> bytes:
    del data
    head, now = request.head, self._clock()
    if head.job not in self._beaten and len(self._beaten) >= _MAX_BEATEN:
      raise Refused(
        'RESOURCE_EXHAUSTED', f'agents of {_MAX_BEATEN} jobs are here already.'
      )
    self._beaten[head.job] = now
    self._note_exit(request, now)
    self._recover(head, max(head.generation, request.generation))
    job = self.writer.jobs.job(head.job)
    if request.status != pb.AgentBeatRequest.RUNNING:
      self._unheard.hear(head)
    reply = self._rendezvous.beat(request, job, now)
    reply.revision, reply.generation = job.revision, job.generation
    reply.beat_s = self._rendezvous.beat_s(head.job)
    await self.writer.settled()
    return reply.SerializeToString()

  def _hear(self, head: pb.Head) -> None:
    """Refuses who knows more than the journal, and has all begin again."""
    if (reason := self._recover(head)) is not None:
      raise stale(f'{reason}.')
    self._unheard.hear(head)

  def _recover(self, head: pb.Head, *seen: int) -> str | None:
    """Returns why a job goes back to its checkpoint, where it has to."""
    message = self.writer.jobs.recovery(head, *seen)
    if message is None:
      return None
    logging.error('Job %s: %s.', head.job, message.reason)
    self.writer.decide(message)
    return message.reason

  async def _status(self, request: pb.StatusRequest, data: bytes) -> bytes:
    del data
    await self.writer.settled()
    snapshot = self.snapshot()
    if job := request.head.job:
      snapshot['jobs'] = [one for one in snapshot['jobs'] if one['name'] == job]
    text = json.dumps(snapshot).encode()
    return pb.StatusReply(json=text).SerializeToString()

  def _note_exit(self, request: pb.AgentBeatRequest, now: float) -> None:
    """Counts each exit of a worker once."""
    if request.status != pb.AgentBeatRequest.EXITED:
      return
    key = (request.head.job, request.head.client)
    exit_of = (request.generation, request.head.incarnation)
    if self._exits.get(key) == exit_of:
      return
    if len(self._exits) >= 100_000:
      self._exits.clear()
    self._exits[key] = exit_of
    self._monitor.record_exit(*key, request.exit_code, now)
