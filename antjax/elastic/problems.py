# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Why a generation cannot continue; for `rendezvous`."""

from collections.abc import Collection, Iterable
import dataclasses

from antjax.elastic.job_state import JobState
from antjax.elastic.rendezvous_room import Room

# Exit code of a worker whose settings are wrong: EX_USAGE of sysexits.h.
EXIT_WRONG_USAGE = 64

# A worker that was asked to stop: 128 + signal or the signal itself.
_STOPPED = {130, 143, -2, -15}


@dataclasses.dataclass(frozen=True)
class GenerationProblem:
  """Why a generation cannot continue."""

  at: float  # When it occurred.
  is_fault: bool  # The peers hang and are killed at once; else they may save.
  reason: str
  tail: str = ''  # Last lines of the worker.
  counts: bool = True  # Against the budget: it was not requested.
  is_exit: bool = False  # A worker's process ended.
  is_final: bool = False  # It would recur, so that the job ends.


def _left(name: str, at: float) -> GenerationProblem:
  return GenerationProblem(at, False, f'{name}: its host left', counts=False)


def problems_of(
  job: JobState,
  room: Room,
  agent_timeout_s: float,
  now: float,
  hung: Collection[str],
) -> Iterable[GenerationProblem]:
  """Yields what is wrong with the members of the running generation.

  Args:
    job: Running job.
    room: Agents of the job.
    agent_timeout_s: Silence after which an agent is lost.
    now: Time on the clock of the room.
    hung: Workers that are alive but make no progress.
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
      yield _left(name, agent.changed_at)
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
        yield _left(name, agent.changed_at)
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
      yield GenerationProblem(now, True, reason)


def silent_members(job: JobState, room: Room, since: float) -> dict[str, float]:
  """Members whose agents have not beaten since then -> when they did last."""
  agents = {name: room.current(name) for name in job.members}
  last = {
    name: room.since if agent is None else agent.last_seen
    for name, agent in agents.items()
  }
  return {name: at for name, at in last.items() if at < since}
