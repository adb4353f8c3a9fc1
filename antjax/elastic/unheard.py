# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Workers that have not reported since the coordinator restarted.

The journal may have lost its end, and the worker that knows may report last.
Until all workers of that time have reported, nothing is leased, begun or
committed.
"""

from antjax.elastic import coordinator_pb2 as pb
from antjax.elastic.job_state import JobState
from antjax.elastic.jobs import Jobs
from antjax.elastic.liveness import holders
from antjax.elastic.protocol import beat_s, Refused

_RECONNECT_S = 5.0  # That workers take at most to find it again.


class Unheard:
  """Workers of each job that have not been heard of yet."""

  def __init__(self, jobs: Jobs, now: float, most_s: float):
    """Takes those of the jobs; after `most_s` nobody is waited for.

    Who speaks later, and knows more, still sends all back to the checkpoint.
    """
    self._until: dict[str, float] = {}
    self._names: dict[str, set[str]] = {}
    self._generations: dict[str, int] = {}
    for name in jobs.names():
      job = jobs.job(name)
      is_running = job.phase == 'running'
      names = set(job.members) if is_running else set[str]()
      if not job.is_managed:
        names = holders(job)
      if names:
        self._names[name] = names
        self._generations[name] = job.generation
        wait_s = _RECONNECT_S + 2 * beat_s(1.0, len(names))
        self._until[name] = now + min(most_s, wait_s)

  def hear(self, head: pb.Head) -> None:
    """Notes that a worker, or its agent that runs none, has spoken."""
    if names := self._names.get(head.job):
      names.discard(head.client)

  def check(self, job: JobState, now: float) -> None:
    """Raises Refused while somebody else is to be waited for."""
    names = self._names.get(job.name)
    if names is None:
      return
    if (
      not names
      or now > self._until[job.name]
      or (job.generation != self._generations[job.name])
    ):
      del self._names[job.name]
      return
    first = ', '.join(sorted(names)[:3])
    raise Refused(
      'UNAVAILABLE',
      f'the coordinator has just come back and waits to hear {len(names)} other'
      f' workers of job {job.name!r}, such as {first}.',
    )
