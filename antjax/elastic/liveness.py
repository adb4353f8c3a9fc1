# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Detects workers that are silent or make no progress. Transient and pure.

A worker is known from its first word in the coordinator's life, so that one
that restarts gives all workers their full time again.

The journal may have lost its end by then, and the worker that knows may report
last. Until all workers of that time have reported, nothing is leased, begun or
committed: `Unheard`.
"""

from collections.abc import Collection
import dataclasses

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.job_state import JobState
from antjax.elastic.jobs import Jobs
from antjax.elastic.protocol import beat_s, MAX_HOSTS, Refused

_SLACK = 3
_RECONNECT_S = 5.0  # That workers take at most to find a coordinator again.


@dataclasses.dataclass
class _Pulse:
  generation: int
  heard: float
  progressed: float
  progress: tuple[int, int] | None = None  # None: no heartbeat yet.
  has_left: bool = False


@dataclasses.dataclass(eq=False)
class Liveness:
  """The last words of all workers; the times are `CoordinatorConfig`'s."""

  lease_timeout_s: float
  progress_timeout_s: float

  def __post_init__(self) -> None:
    self._pulses: dict[str, dict[str, _Pulse]] = {}
    # Job -> longest time without progress that was followed by some.
    self._longest_s: dict[str, float] = {}

  def hear(self, head: pb.Head, now: float) -> None:
    """Notes a word of a worker, of whatever kind."""
    self._pulse(head.job, head.client, head.generation, now).heard = now

  def note_progress(
    self, head: pb.Head, now: float, progress: tuple[int, int] | None = None
  ) -> None:
    """Notes that a worker makes progress.

    Of step and samples, where they are told, only a change is progress.
    """
    pulse = self._pulse(head.job, head.client, head.generation, now)
    pulse.heard = now
    if progress is None or progress != pulse.progress:
      if (
        pulse.progress
      ):  # Steps, evaluations and saves of this job are so long.
        longest = self._longest_s.get(head.job, 0.0)
        self._longest_s[head.job] = max(longest, now - pulse.progressed)
      pulse.progressed = now
      pulse.progress = progress or pulse.progress

  def leave(self, head: pb.Head, now: float) -> None:
    """Notes that a worker has stopped training, as for a last evaluation.

    It may be silent then; whether it ends, and how, is its agent's to say.
    """
    self._pulse(head.job, head.client, head.generation, now).has_left = True

  def hung(self, job: JobState, now: float) -> list[str]:
    """Returns the workers of a job that are to be given up.

    Without agents only workers that hold shards: another one may just wait.
    """
    if job.is_managed:
      if job.phase != 'running':
        return []
      suspects: Collection[str] = job.members
    else:
      suspects = holders(job)
    found = []
    # What has taken long before may take as long again.
    progress_timeout_s = max(
      self.progress_timeout_s, _SLACK * self._longest_s.get(job.name, 0.0)
    )
    pulses, generation = self._pulses.get(job.name, {}), job.generation
    heard_since = now - self.lease_timeout_s
    progressed_since = now - progress_timeout_s
    for name in suspects:
      # Most of up to 10,000 are well; this loop holds up all calls.
      if (
        (known := pulses.get(name)) is not None
        and known.generation == generation
        and known.heard >= heard_since
        and known.progressed >= progressed_since
      ):
        continue
      # One that has not said anything yet may still be starting.
      pulse = self._pulse(job.name, name, generation, now)
      if pulse.has_left:
        continue
      is_known = pulse.progress is not None or not job.is_managed
      is_silent = is_known and now - pulse.heard > self.lease_timeout_s
      if is_silent or now - pulse.progressed > progress_timeout_s:
        found.append(name)
    return found

  def has_stepped(self, job: JobState) -> bool:
    """Whether a worker of the running generation has made a step."""
    pulses = self._pulses.get(job.name, {}).values()
    return any(
      pulse.generation == job.generation
      and bool(pulse.progress and pulse.progress[0])
      for pulse in pulses
    )

  def keep(self, jobs: Collection[str]) -> None:
    """Forgets all other jobs."""
    for name in self._pulses.keys() - set(jobs):
      del self._pulses[name]
      self._longest_s.pop(name, None)

  def forget(self, job: str, workers: Collection[str]) -> None:
    for name in workers:
      self._pulses.get(job, {}).pop(name, None)

  def _pulse(
    self, job: str, worker: str, generation: int, now: float
  ) -> _Pulse:
    workers = self._pulses.setdefault(job, {})
    pulse = workers.get(worker)
    if pulse is None or pulse.generation != generation:
      pulse = _Pulse(generation, now, now)
      if worker in workers or len(workers) < MAX_HOSTS:
        workers[worker] = pulse
    return pulse


def holders(job: JobState) -> set[str]:
  """Returns the workers that hold a shard of a job."""
  return set().union(*(x.holders() for x in job.data_sets.values()))


class Unheard:
  """Workers that have not been heard of since the coordinator restarted."""

  def __init__(self, jobs: Jobs, now: float, most_s: float):
    """Takes those of the jobs; after `most_s` nobody is waited for.

    Who speaks later, and knows more, still sends all back to the checkpoint.
    """
    # Job -> its workers, their generation, and when they are given up.
    self._jobs: dict[str, tuple[set[str], int, float]] = {}
    for job in map(jobs.job, jobs.names()):
      if not job.is_managed:
        # Who holds none may have been given some that the journal has not.
        names = holders(job) | {
          name
          for data in job.sets.values()
          if data.generation == job.generation
          for name in data.begun_by
          if not job.clients[name].is_expired
        }
      else:
        names = set(job.members if job.phase == 'running' else ())
      if names:
        wait_s = _RECONNECT_S + 2 * beat_s(1.0, len(names))
        until = now + min(most_s, wait_s)
        self._jobs[job.name] = names, job.generation, until

  def hear(self, head: pb.Head) -> None:
    """Notes that a worker, or its agent that runs none, has spoken."""
    if head.job in self._jobs:
      self._jobs[head.job][0].discard(head.client)

  def check(self, job: JobState, now: float) -> None:
    """Raises Refused while somebody else is to be waited for."""
    if job.name not in self._jobs:
      return
    names, generation, until = self._jobs[job.name]
    if not names or now > until or job.generation != generation:
      del self._jobs[job.name]
      return
    first = ', '.join(sorted(names)[:3])
    raise Refused(
      'UNAVAILABLE',
      f'the coordinator has just come back and waits to hear {len(names)} other'
      f' workers of job {job.name!r}, such as {first}.',
    )
