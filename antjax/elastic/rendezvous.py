# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Chooses the hosts of each generation of a job, and when it ends.

Agents beat; `Rendezvous.beat` answers each what to do, and `decide`, asked a
few times a second, says which generation starts or ends. What it decides is
made durable by `jobs.Jobs`; what it remembers itself are the agents' last
beats, which come again within a second after a restart of the coordinator.

  waiting --StartGeneration--> running --EndGeneration--> waiting | ended

A generation starts when enough agents are idle *and* nobody runs anything any
more: each agent was told to kill, and said that it has, or is silent for
`agent_timeout_s`. What a silent host still runs is fenced off by its
generation. A generation ends

  at a fault     a worker's exit, a lost agent, a worker without progress: at
                 once, for its peers wait in a collective for ever;
  when asked to  by an operator, the controller, a host that leaves, or to take
                 more hosts in: the workers save first.

Pure: no clock, no threads. `now` is any clock that only goes forward.
"""

from collections.abc import Collection
import dataclasses

from google.protobuf.message import Message

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic import job_control
from antjax.elastic.job_state import JobState
from antjax.elastic.node_check import NodeChecks
from antjax.elastic.rendezvous_room import (
  AgentRecord,
  error_of,
  GenerationProblem,
  natural_order,
  problems_of,
  RendezvousConfig,
  Room,
  silent_members,
)

# Exit codes of an agent's process, for what started it.
EXIT_FAILED = 1
EXIT_REPLACED = 75  # Start another one, elsewhere if possible.
EXIT_PREEMPTED = 76  # The same: its host is gone soon.

_MAX_SAME_ERRORS = 3  # An error that repeats so often ends the job.
_MAX_CAUSES = 3  # Hosts named beside the one whose worker died first.
_MAX_TAIL = 600  # With the rest within what a job keeps of a reason.


class Rendezvous:
  """The agents of all jobs of a coordinator."""

  def __init__(self, config: RendezvousConfig | None = None) -> None:
    self._config = config or RendezvousConfig()
    self._rooms: dict[str, Room] = {}
    self._checks: dict[str, NodeChecks] = {}

  def agents(self, job: str, now: float) -> list[AgentRecord]:
    """The agents of a job that are not lost, by name; for the status page."""
    room = self._rooms.get(job)
    if room is None:
      return []
    living = [
      agent for agent in room.agents() if self._is_living(agent, room, now)
    ]
    return sorted(living, key=lambda agent: natural_order(agent.name))

  def checks(self, job: str, now: float) -> NodeChecks:
    room = self._room(job, now)
    return self._checks.setdefault(job, NodeChecks(job, room, self._config))

  def restarts_left(self, job: JobState) -> int:
    """Faults after which the job still starts again."""
    return max(0, self._config.max_restarts - job.restarts_used)

  def beat(
    self, request: pb.AgentBeatRequest, job: JobState, now: float
  ) -> pb.AgentBeatReply:
    """Notes an agent's heartbeat; returns what it must do.

    Its `generation` is what runs there, or ran last; 0 in a new agent. An agent
    without `free_port` leaves: its host goes away.
    """
    room = self._room(job.name, now)
    agent = room.note(request, job.generation, now)
    if agent is None:
      return _exit(
        EXIT_FAILED,
        f'another agent joined job {job.name} as {request.head.client}; give'
        ' each host its own --name.'
        if room.current(request.head.client)
        else f'job {job.name} has too many agents.',
      )
    has_run = bool(agent.beat.generation)
    if job.phase == 'ended':
      return _exit(
        0 if job.is_success else EXIT_FAILED,
        job_control.why_ended(job, is_new=not has_run),
      )
    rank = room.rank(job, agent.name) if job.phase == 'running' else None
    if rank is not None:
      return self._answer_member(agent, job, room, rank)
    if agent.name in job.replaced and has_run:  # A new one may take part.
      reason = job.history[-1].reason if job.history else ''
      return _exit(EXIT_REPLACED, f'this host is replaced: {reason}')
    if not agent.is_idle:
      return _kill(agent, room)
    return self.checks(job.name, now).ask(agent, now)

  def beat_s(self, job: str) -> float:
    """Seconds between two beats of an agent of a job; 0: as it is set up."""
    room = self._rooms.get(job)
    return room.beat_s() if room else 0.0

  def decide(
    self,
    job: JobState,
    now: float,
    hung: Collection[str] = (),
    has_stepped: bool = False,
  ) -> list[Message]:
    """Returns the decisions to apply to the job now; usually none.

    Workers in `hung` live and make no progress, or do not say so any more.
    `has_stepped` says whether a worker of the running generation has made a
    step.
    """
    room = self._room(job.name, now)
    room.forget_lost(now - 10 * self._timeout_s(room))
    if job.phase == 'running':
      return self._end(job, room, now, hung, has_stepped)
    if job.phase == 'ended':
      return []
    decisions: list[Message] = []
    if hung and not job.is_managed:
      # Workers without agents: only their leases are ours.
      decisions.append(
        pb.ExpireWorkers(
          job=job.name, workers=sorted(hung), reason='no progress'
        )
      )
    if job.is_stopping and (job.is_managed or room.agents()):
      return [*decisions, self._end_message(job, 'stopped as asked')]
    return [*decisions, *self._start(job, room, now)]

  def _room(self, name: str, now: float) -> Room:
    return self._rooms.setdefault(name, Room(now))

  def _is_living(self, agent: AgentRecord, room: Room, now: float) -> bool:
    return now - agent.last_seen <= self._timeout_s(room)

  def _timeout_s(self, room: Room) -> float:
    """Silence after which an agent is lost; in a large job they beat less."""
    return max(self._config.agent_timeout_s, 6 * room.beat_s())

  def _fresh_s(self, room: Room) -> float:
    """An agent that is well beats several times in so long."""
    return self._timeout_s(room) / 3

  def _num_hosts(self, room: Room) -> tuple[int, int]:
    """(minimum, maximum) of a job; 0: no maximum."""
    return room.num_hosts or (self._config.min_hosts, self._config.max_hosts)

  # --- Running. ---------------------------------------------------------------

  def _answer_member(
    self, agent: AgentRecord, job: JobState, room: Room, rank: int
  ) -> pb.AgentBeatReply:
    """What a member of the running generation is to do."""
    if agent.beat.generation == job.generation and not agent.is_idle:
      stop = room.stop(job.generation)
      if agent.is_running and stop:
        return pb.AgentBeatReply(command=pb.AgentBeatReply.STOP, reason=stop[0])
    elif not agent.is_idle:
      return _kill(agent, room)
    elif not agent.is_leaving and room.may_start(agent, job.generation):
      agent.is_told_to_run = True
      return pb.AgentBeatReply(
        command=pb.AgentBeatReply.RUN,
        assignment=pb.Assignment(
          generation=job.generation,
          rank=rank,
          num_hosts=len(job.members),
          jax_coordinator=job.jax_coordinator,
        ),
      )
    return pb.AgentBeatReply()

  def _end(
    self,
    job: JobState,
    room: Room,
    now: float,
    hung: Collection[str],
    has_stepped: bool,
  ) -> list[Message]:
    """EndGeneration if this one is over; else asks it to stop where needed."""
    problems = sorted(
      problems_of(job, room, self._timeout_s(room), now, hung),
      key=lambda one: one.at,
    )
    stop = room.stop(job.generation)
    if any(one.is_fault for one in problems):
      first = problems[0]
      if not stop and first.is_exit:
        # A host that died breaks its peers' connections before it is missed.
        silent = silent_members(job, room, first.at)
        if silent and now - first.at < self._fresh_s(room):
          return []
        causes = [
          f'; {name}: no beat of its agent for {now - at:.0f} s, which may be'
          ' the cause'
          for name, at in silent.items()
        ]
        reason = first.reason + ''.join(causes[:_MAX_CAUSES])
        problems[0] = dataclasses.replace(first, reason=reason)
      if first.is_hang:
        room.hung = job.generation
      return [self._end_after(job, problems, stop, has_stepped)]
    is_over = all(
      agent is not None and agent.is_out(job.generation)
      for agent in map(room.current, job.members)
    )
    since = [one.at for one in problems] + ([stop[1]] if stop else [])
    if is_over and not since:
      reason = 'all workers finished'
      return [self._end_message(job, reason, is_success=True, is_final=True)]
    if since and (is_over or now > min(since) + self._config.stop_grace_s):
      return [self._end_after(job, problems, stop, has_stepped)]
    if not stop and (reason := self._why_stop(job, room, now)):
      room.ask_to_stop(job.generation, reason, now)
    return []

  def _why_stop(self, job: JobState, room: Room, now: float) -> str:
    if job.is_stopping:
      return 'stopped as asked'
    if job.replace_asked:
      return f'replacing {", ".join(job.replace_asked)} as asked'
    if job.is_restart_asked:
      return 'restarted as asked'
    config, (_, max_hosts) = self._config, self._num_hosts(room)
    if config.grow_after_s and (not max_hosts or len(job.members) < max_hosts):
      waiting = [
        agent.name
        for agent in self._candidates(job, room, now)
        if agent.name not in job.members
        and now - agent.changed_at >= config.grow_after_s
        and self.checks(job.name, now).may_grow_by(agent)
      ]
      if waiting:
        return f'taking in {", ".join(waiting)}'
    return ''

  def _end_after(
    self,
    job: JobState,
    problems: list[GenerationProblem],
    stop: tuple[str, float] | None,
    has_stepped: bool,
  ) -> pb.EndGeneration:
    """Ends a generation: as it was asked to, or by its first problem."""
    if stop:
      return self._end_message(job, stop[0])
    problem = next((one for one in problems if one.is_final), problems[0])
    counts, reason = problem.counts, problem.reason
    is_used_up = counts and job.restarts_used >= self._config.max_restarts
    error = '' if has_stepped or not problem.is_exit else error_of(problem.tail)
    is_same = counts and job.same_errors_with(error) >= _MAX_SAME_ERRORS
    if is_used_up or problem.is_final or is_same:
      if problem.is_final:
        reason += ', which a restart does not mend'
      elif is_same:
        reason += f' {_MAX_SAME_ERRORS} times in a row before any step: {error}'
      else:
        reason += (
          f'; the restart budget of {self._config.max_restarts} is used up'
        )
      if problem.tail:
        reason += f'. Its last lines:\n{problem.tail[-_MAX_TAIL:]}'
      return self._end_message(job, reason, counts=True, is_final=True)
    return self._end_message(job, reason, counts=counts, error=error)

  def _end_message(
    self,
    job: JobState,
    reason: str,
    *,
    counts: bool = False,
    is_final: bool = False,
    is_success: bool = False,
    error: str = '',
  ) -> pb.EndGeneration:
    return pb.EndGeneration(
      job=job.name,
      generation=job.generation,
      is_success=is_success,
      is_final=is_final or job.is_stopping,
      counts=counts,
      reason=reason,
      replaced=job.replace_asked,
      error=error,
    )

  # --- Waiting. ---------------------------------------------------------------

  def _candidates(
    self, job: JobState, room: Room, now: float
  ) -> list[AgentRecord]:
    """Agents that could run a worker now, by name."""
    checks = self.checks(job.name, now)
    return sorted(
      (
        agent
        for agent in room.current_agents()
        if not agent.may_run
        and not agent.is_leaving
        and now - agent.last_seen <= self._fresh_s(room)
        and not (agent.name in job.replaced and agent.beat.generation)
        and checks.is_ready(agent, now)
      ),
      key=lambda agent: natural_order(agent.name),
    )

  def _start(self, job: JobState, room: Room, now: float) -> list[Message]:
    """StartGeneration if all that is needed for it is there."""
    config = self._config
    over_s = now - room.over_since(job.generation, now)
    if over_s < config.kill_timeout_s and any(
      agent.may_run and self._is_living(agent, room, now)
      for agent in room.agents()
    ):
      return []  # The last generation still runs somewhere.
    last = set(job.history[-1].members) if job.history else set()
    if not all(
      room.current(name) for name in last
    ) and now - room.since <= self._timeout_s(room):
      return []  # The coordinator is new: the others will speak up.
    candidates = self._candidates(job, room, now)
    min_hosts, max_hosts = self._num_hosts(room)
    if len(candidates) < min_hosts:
      room.enough_since = None
      return []
    if room.enough_since is None:
      room.enough_since = now
    is_full = 0 < max_hosts <= len(candidates)
    # After a fault those that ran before need not wait for others.
    is_as_before = bool(last) and last <= {one.name for one in candidates}
    is_late = now - room.enough_since >= config.join_wait_s
    checks = self.checks(job.name, now)
    if not is_full and (
      checks.are_awaited(now) or not (is_as_before or is_late)
    ):
      return []
    if over_s < self._backoff_s(job):
      return []
    room.enough_since = None
    room.started = job.generation + 1
    chosen = checks.admitted(candidates, min_hosts)[: max_hosts or None]
    first = chosen[0]
    address = first.beat.address
    host = f'[{address}]' if ':' in address else address
    return [
      pb.StartGeneration(
        job=job.name,
        members=[agent.name for agent in chosen],
        jax_coordinator=f'{host}:{first.beat.free_port}',
      )
    ]

  def _backoff_s(self, job: JobState) -> float:
    """The wait before the next start; it grows with quick faults in a row."""
    in_a_row = job.quick_faults(self._config.healthy_s)
    if in_a_row < 2:
      return 0.0
    return min(
      self._config.backoff_s * 2.0 ** min(in_a_row - 2, 30),
      self._config.max_backoff_s,
    )


def _exit(code: int, reason: str) -> pb.AgentBeatReply:
  return pb.AgentBeatReply(
    command=pb.AgentBeatReply.EXIT, exit_code=code, reason=reason
  )


def _kill(agent: AgentRecord, room: Room) -> pb.AgentBeatReply:
  return pb.AgentBeatReply(
    command=pb.AgentBeatReply.KILL,
    is_hung=agent.beat.generation == room.hung,
    reason=f'generation {agent.beat.generation} is over.',
  )
