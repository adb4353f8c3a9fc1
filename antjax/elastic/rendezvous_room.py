# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Settings and state of `rendezvous`: reports of agents, and problems."""

from collections.abc import Collection, Iterable
import dataclasses
import re

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import protocol
from antjax.elastic.job_state import JobState
from antjax.elastic.process_group import describe_exit
from antjax.elastic.protocol import MAX_HOSTS

_MAX_TAIL = 2000  # Characters; an agent may send more than is shown.
_BEAT_S = 0.5  # Between beats of agents of a job of usual size.
_MAX_FENCED = 16  # Per name; no host comes back so often within minutes.
# Exit code of a worker whose settings are wrong: EX_USAGE of sysexits.h.
EXIT_WRONG_USAGE = 64

_MAX_ERROR = 300  # Characters.
_BARS = re.compile(r'(?m)^ *\| ')  # Before each line of a group of errors.
_ERROR = re.compile(r'[\w.]*(Error|Exception)\b')
# A line behind a traceback, of errors by whatever name.
_RAISED = re.compile(r'[A-Za-z_][\w.]*(: .*)?')
# What differs each time: addresses, numbers, identifiers, temporary names.
_NUMBER = re.compile(r'0x[0-9a-fA-F]+|(?=[\w-]*\d)[\w-]{12,}|\btmp\w{6,}|\d+')
# Of a bug, whatever its text says.
_BUG = re.compile(r'(Type|Key|Index|Attribute|Name|Syntax|Assertion)Error\b')
_PASSES = re.compile(
  r'(?i)connect(?!ion (string|ur[il]|name|setting))|unavailable|time[d ]*out'
  r'|deadline|heartbeat|no space|stale|temporar|broken pipe|reset by'
  r'|resource_exhausted|\b75\b'
)

# A worker that was asked to stop: 128 + signal or the signal itself.
_STOPPED = {130, 143, -2, -15}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RendezvousConfig:
  """When generations start and end."""

  min_hosts: int = 1  # That a job waits for.
  max_hosts: int = 0  # 0: no limit.
  max_restarts: int = 10  # Faults after which a further one ends the job.
  agent_timeout_s: float = 10.0  # Silence after which an agent is lost.
  join_wait_s: float = 2.0  # For max_hosts, once there are min_hosts.
  stop_grace_s: float = 60.0  # That workers have to save when asked.
  # A host whose agent lives and cannot kill its worker (it hangs in the kernel)
  # is left behind after so long.
  kill_timeout_s: float = 60.0
  # Wait before the second restart in a row; doubles each time. The first
  # restart comes at once.
  backoff_s: float = 1.0
  max_backoff_s: float = 60.0
  healthy_s: float = 60.0  # A generation that ran so long ends the row.
  # Hosts that wait for so long beside a job with room for them are taken in: it
  # saves and starts again. 0: never.
  grow_after_s: float = 60.0
  # Hosts are checked first, see `node_check`: 'warn' names those that are below
  # a fraction of the others' median, 'exclude' keeps them out too, 'off': none.
  node_check: str = 'off'
  node_check_fraction: float = 0.5
  node_check_s: float = 90.0  # A host whose check takes longer is admitted.

  def __post_init__(self) -> None:
    if self.node_check not in ('off', 'warn', 'exclude'):
      raise ValueError(
        f'node_check={self.node_check} must be off, warn or exclude.'
      )
    if not self.node_check_fraction <= 1:
      raise ValueError(
        f'node_check_fraction={self.node_check_fraction} must be from 0 to 1.'
      )
    if not self.agent_timeout_s > 0:
      raise ValueError(
        f'agent_timeout_s must be positive; got {self.agent_timeout_s}.'
      )
    for field in dataclasses.fields(self):
      least, value = int(field.name == 'min_hosts'), getattr(self, field.name)
      if isinstance(value, str):
        continue
      if not value >= least:  # Nor nan.
        raise ValueError(f'{field.name} must be at least {least}; got {value}.')
    if self.max_hosts and self.max_hosts < self.min_hosts:
      raise ValueError(
        f'max_hosts={self.max_hosts} must be at least min_hosts='
        f'{self.min_hosts}, or 0 for no limit.'
      )


def natural_order(name: str) -> tuple[list[tuple[int, int | str]], str]:
  """A sort key that puts host-2 before host-10."""
  parts = re.split(r'(\d+)', name)
  return [
    (0, int(part)) if part.isdecimal() else (1, part) for part in parts
  ], name


@dataclasses.dataclass
class AgentRecord:
  """One agent process, as it said last."""

  name: str  # Of the agent, its host and its worker.
  incarnation: int  # Of the process that has the name.
  # Its last heartbeat; one without a `free_port` says that its host leaves.
  beat: pb.AgentBeatRequest = dataclasses.field(
    default_factory=pb.AgentBeatRequest
  )
  first_seen: float = 0.0
  last_seen: float = 0.0
  changed_at: float = 0.0  # Last change of its status.
  check_since: float = 0.0  # Last change of the state of its host's check.
  is_told_to_run: bool = False  # With no heartbeat since.
  # The generation of the job when it took its name from another agent, whose
  # worker is gone; -1: it did not.
  took_over: int = -1
  took_over_at: float = 0.0  # When that agent was last heard.
  is_after_leaver: bool = False  # Whether that agent was leaving.

  @property
  def is_idle(self) -> bool:
    return self.beat.status == pb.AgentBeatRequest.IDLE

  @property
  def may_run(self) -> bool:
    """Whether a worker may be alive there."""
    return not self.is_idle or self.is_told_to_run

  @property
  def is_running(self) -> bool:
    return self.beat.status == pb.AgentBeatRequest.RUNNING

  @property
  def is_leaving(self) -> bool:
    return self.beat.free_port == 0

  @property
  def has_left(self) -> bool:
    """Whether it said good-bye."""
    return self.is_leaving and self.is_idle

  @property
  def exit_text(self) -> str:
    return describe_exit(self.beat.exit_code)

  def has_exited_from(self, generation: int) -> bool:
    return (
      self.beat.status == pb.AgentBeatRequest.EXITED
      and self.beat.generation == generation
    )

  def is_out(self, generation: int) -> bool:
    """Whether nothing of a generation runs there any more."""
    return (
      self.has_exited_from(generation)
      or self.has_left
      or self.took_over == generation
    )

  def update(self, request: pb.AgentBeatRequest, now: float) -> None:
    old = self.beat
    if (request.status, request.generation, request.free_port == 0) != (
      old.status,
      old.generation,
      self.is_leaving,
    ):
      self.changed_at = now
    if request.check.state != old.check.state:
      self.check_since = now
    # A new message without the long tail: one that is changed keeps the memory
    # of all that was ever in it.
    fields = {field.name: value for field, value in request.ListFields()}
    fields['log_tail'] = request.log_tail[-_MAX_TAIL:]
    self.beat = pb.AgentBeatRequest(**fields)
    self.last_seen = now
    self.is_told_to_run = False


class Room:
  """The agents of one job."""

  def __init__(self, now: float) -> None:
    self.since = now  # When this coordinator first heard of the job.
    self.started = -1  # Last generation that this process has started.
    self.enough_since: float | None = None  # There are enough idle agents.
    # (minimum, maximum) that its agents want, as said last; None: they leave
    # it to the coordinator.
    self.num_hosts: tuple[int, int] | None = None
    self.hung = -1  # Last generation that ended since a worker hung.
    self._stop = (-1, '', 0.0)
    self._ranks: tuple[int, dict[str, int]] = (-1, {})
    self._over = (-1, 0.0)
    self._current: dict[str, AgentRecord] = {}
    # Agents whose name another one has taken; they may still run a worker.
    self._former: dict[tuple[str, int], AgentRecord] = {}
    self._fenced: dict[str, list[int]] = {}

  def agents(self) -> Iterable[AgentRecord]:
    """All, also those whose name another one has taken."""
    return [*self._current.values(), *self._former.values()]

  def current_agents(self) -> Iterable[AgentRecord]:
    return self._current.values()

  def current(self, name: str) -> AgentRecord | None:
    """The agent that has the name now."""
    return self._current.get(name)

  def rank(self, job: JobState, name: str) -> int | None:
    """The rank of a member of the running generation; None: it is none."""
    if self._ranks[0] != job.generation or len(self._ranks[1]) != len(
      job.members
    ):
      ranks = {member: rank for rank, member in enumerate(job.members)}
      self._ranks = (job.generation, ranks)
    return self._ranks[1].get(name)

  def beat_s(self) -> float:
    """Seconds between two beats of an agent; 0: as it is set up."""
    spaced = protocol.beat_s(0.0, len(self._current))
    return spaced if spaced > _BEAT_S else 0.0

  def may_start(self, agent: AgentRecord, generation: int) -> bool:
    """Whether a worker of the generation was certainly not there before.

    A second one under the same generation would take the first one's word for
    what has been consumed since the checkpoint.
    """
    return self.started == generation and agent.took_over != generation

  def note(
    self, request: pb.AgentBeatRequest, generation: int, now: float
  ) -> AgentRecord | None:
    """Notes a heartbeat of an agent while the job is at a generation.

    Returns:
      None for one that must exit: another one took its name, or there are too
      many.
    """
    name, incarnation = request.head.client, request.head.incarnation
    fenced = self._fenced.setdefault(name, [])
    if incarnation in fenced:
      former = self._former.get((name, incarnation))
      if former is not None:
        former.update(request, now)
        if former.is_idle:
          del self._former[name, incarnation]
      return None
    agent = self._current.get(name)
    if agent is None and len(self._current) >= MAX_HOSTS:
      return None
    if agent is None or agent.incarnation != incarnation:
      before = agent
      agent = AgentRecord(name, incarnation)
      agent.first_seen = agent.changed_at = agent.check_since = now
      self._current[name] = agent
      if before is not None:
        fenced.append(before.incarnation)
        del fenced[:-_MAX_FENCED]
        agent.took_over = generation
        agent.took_over_at = before.last_seen
        agent.is_after_leaver = before.is_leaving
        # An agent holds its name on its host until its worker is dead: the
        # same host twice means that the first one is gone.
        if before.may_run and before.beat.address != request.address:
          self._former[name, before.incarnation] = before
    agent.update(request, now)
    if request.min_hosts:
      self.num_hosts = request.min_hosts, request.max_hosts
    return agent

  def forget_lost(self, before: float) -> None:
    for name, one in list(self._current.items()):
      if one.last_seen < before:
        del self._current[name]
        self._fenced.pop(name, None)
    for key, one in list(self._former.items()):
      if one.last_seen < before:
        del self._former[key]

  def ask_to_stop(self, generation: int, reason: str, now: float) -> None:
    """From now on the answers to the generation's agents are STOP."""
    self._stop = (generation, reason, now)

  def stop(self, generation: int) -> tuple[str, float] | None:
    """Why and when a generation was asked to save and end."""
    return self._stop[1:] if self._stop[0] == generation else None

  def over_since(self, generation: int, now: float) -> float:
    """When it was first asked after the end of a generation."""
    if self._over[0] != generation:
      self._over = (generation, now)
    return self._over[1]


@dataclasses.dataclass(frozen=True)
class GenerationProblem:
  """Why a generation cannot continue."""

  at: float  # When it occurred.
  is_fault: bool  # The peers hang and are killed at once; else they may save.
  reason: str
  tail: str = ''  # Last lines of the worker.
  counts: bool = True  # Against the budget: it was not requested.
  is_exit: bool = False  # A worker's process ended.
  is_hang: bool = False  # A worker lives and does nothing.
  is_final: bool = False  # It would recur, so that the job ends.


def _left(name: str, at: float, code: int = 0) -> GenerationProblem:
  # One that a signal has killed has not stopped with the others, who wait.
  reason = f'{name}: its host left'
  return GenerationProblem(at, code < 0, reason, counts=False)


def problems_of(
  job: JobState,
  room: Room,
  agent_timeout_s: float,
  now: float,
  hung: Collection[str],
) -> Iterable[GenerationProblem]:
  """Yields what is wrong with the members of the running generation.

  An agent that is silent for `agent_timeout_s` is lost; workers in `hung` are
  alive but make no progress.
  """
  is_asked = room.stop(job.generation) is not None or any(
    agent is not None and agent.is_leaving
    for agent in map(room.current, job.members)
  )
  for name in job.members:
    agent = room.current(name)
    if agent is None or now - agent.last_seen > agent_timeout_s:
      since = room.since if agent is None else agent.last_seen
      if now - since > agent_timeout_s:
        if agent is not None and agent.is_leaving:
          yield _left(name, agent.last_seen)
        else:
          reason = f'{name}: no beat of its agent for {now - since:.0f} s'
          yield GenerationProblem(since, True, reason)
    elif agent.has_left:
      yield _left(name, agent.changed_at, agent.beat.exit_code)
    elif agent.took_over == job.generation:
      if agent.is_after_leaver:
        yield _left(name, agent.first_seen)
      else:
        reason = f'{name}: its agent was started anew'
        yield GenerationProblem(agent.took_over_at, True, reason)
    elif agent.is_idle and not room.may_start(agent, job.generation):
      reason = f'{name}: its worker was gone when the coordinator came back'
      yield GenerationProblem(agent.first_seen, True, reason, counts=False)
    elif agent.has_exited_from(job.generation):
      if agent.is_leaving:
        yield _left(name, agent.changed_at, agent.beat.exit_code)
      elif agent.beat.exit_code:
        was_stopped = agent.beat.exit_code in _STOPPED
        yield GenerationProblem(
          agent.changed_at,
          not was_stopped,
          f'{name}: its worker {agent.exit_text}',
          agent.beat.log_tail,
          counts=not (was_stopped and is_asked),
          is_exit=True,
          # Where a job has run before, another host may be the odd one.
          is_final=agent.beat.exit_code == EXIT_WRONG_USAGE
          and job.last_step < 0,
        )
    elif name in hung and agent.beat.generation == job.generation:
      reason = f'{name}: its worker is silent or makes no progress'
      yield GenerationProblem(now, True, reason, is_hang=True)


def error_of(tail: str) -> str:
  """The last of Python's errors in a worker's last lines, without its numbers.

  Empty where there is none, or one that may pass by itself: others that are
  away, a full disk.
  """
  line, is_behind = '', False
  for one in _BARS.sub('', tail).splitlines():
    if one.startswith('Traceback'):
      is_behind = True
    elif _ERROR.match(one) or (is_behind and _RAISED.fullmatch(one)):
      line, is_behind = one.strip(), False
  if _PASSES.search(line) and not _BUG.match(line):
    return ''
  return _NUMBER.sub('#', line)[:_MAX_ERROR]


def silent_members(job: JobState, room: Room, since: float) -> dict[str, float]:
  """Members whose agents have not beaten since then -> when they did last."""
  agents = {name: room.current(name) for name in job.members}
  last = {
    name: room.since if agent is None else agent.last_seen
    for name, agent in agents.items()
  }
  return {name: at for name, at in last.items() if at < since}
