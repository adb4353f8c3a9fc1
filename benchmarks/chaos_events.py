# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The faults of `benchmarks.chaos_bench` and their times: pure and seeded.

An event occurs when the run has made a number of new steps since the last one
(so that it always makes progress), or at once (so that it hits a job that is
about to restart), each after a random delay.
"""

from collections.abc import Sequence
import dataclasses
import random
from typing import Any, Literal

from antjax.elastic.actions import Action, AdjustBatch
from antjax.elastic.view import ClusterView

Kind = Literal[
  'worker',
  'save',
  'error',
  'agent',
  'coordinator',
  'hang',
  'freeze',
  'drop',
  'cut',
  'disk',
  'wal',
  'clock',
]
# What each kind is:
#   worker       SIGKILL of a worker
#   save         the same while a checkpoint is being written, once a random
#                share of its bytes is there
#   error        an exception in a worker, which the others do not have
#   agent        SIGKILL of an agent; another one is started in its place
#   coordinator  SIGKILL of the coordinator; started again with its journal
#   hang         SIGSTOP of a worker, for ever: the system has to find it
#   freeze       SIGSTOP of a whole host, agent and all; the job runs on without
#                it, and when it wakes up, its worker first, nobody must listen.
#                Every second time it is the host of rank 0 in the midst of a
#                save, and it wakes up when its successors write the same one
#   cut          the network between the coordinator and all others stands still
#                for up to ten seconds: longer than their patience, at times
#   disk         the worker's disk is full in the midst of its next saves, until
#                it has died of it
#   wal          SIGKILL of the coordinator; the newest part of its journal is
#                cut, flipped or removed before it starts again
#   clock        SIGKILL of the coordinator; it starts again on a machine whose
#                clock is off by up to a day
#   drop         replies of the coordinator that are lost; kills nobody
_WEIGHTS: dict[Kind, int] = {
  'worker': 6,
  'save': 5,
  'coordinator': 4,
  'error': 2,
  'agent': 3,
  'hang': 2,
  'freeze': 2,
  'cut': 3,
  'disk': 2,
  'wal': 3,
  'clock': 2,
}
KILLS = tuple(_WEIGHTS)
# Kinds after which all workers restart.
ENDING = ('worker', 'save', 'error', 'agent', 'hang', 'freeze', 'disk')
_DROP_SHARE = 0.5  # Share of kills preceded by dropped replies.
_CHAIN_SHARE = 0.2  # Share that occurs while the job is down.


@dataclasses.dataclass(frozen=True)
class Event:
  """A fault."""

  kind: Kind
  host: int  # Affected host.
  after_steps: int  # New steps since the last event; 0: at once.
  delay_s: float  # Delay after these steps.
  share: float
  count: int = 1  # Number of replies to lose.


def schedule(
  seed: int, num_kills: int, num_hosts: int, steps_per_kill: int
) -> list[Event]:
  """The events of a run in order: kills, and drops between them.

  Each kind of kill occurs once before any occurs twice.
  """
  rng = random.Random(seed)
  kinds = list(rng.sample(KILLS, len(KILLS)))
  while len(kinds) < num_kills:
    deck = [kind for kind, weight in _WEIGHTS.items() for _ in range(weight)]
    kinds += rng.sample(deck, len(deck))
  events: list[Event] = []
  was_chained = True  # The first one waits for the job.
  for kind in kinds[:num_kills]:
    if rng.random() < _DROP_SHARE:
      events.append(_event(rng, 'drop', num_hosts, steps_per_kill))
    event = _event(rng, kind, num_hosts, steps_per_kill)
    was_chained = not was_chained and rng.random() < _CHAIN_SHARE
    if was_chained:
      event = dataclasses.replace(
        event, after_steps=0, delay_s=rng.uniform(0, 3)
      )
    events.append(event)
  return events


def _event(
  rng: random.Random, kind: Kind, num_hosts: int, steps_per_kill: int
) -> Event:
  return Event(
    kind,
    rng.randrange(num_hosts),
    rng.randint(1, 2 * steps_per_kill - 1),
    rng.uniform(0, 0.3),
    rng.random(),
    rng.randint(1, 3),
  )


def num_steps(events: list[Event]) -> int:
  """Sufficient number of steps, as reactions take time while steps continue."""
  return 60 + sum(event.after_steps + 16 for event in events)


def shuffle_work(view: ClusterView) -> list[Action]:
  """A policy that assigns work at random, so that plans change often."""
  steps = [worker.step for worker in view.workers]
  rng = random.Random(f'{view.generation} {steps}')
  counts = {worker.worker: rng.randint(1, 3) for worker in view.workers}
  return [AdjustBatch(counts, 'at random')]


def recoveries(
  struck: Sequence[dict[str, Any]], progress: Sequence[dict[str, Any]]
) -> dict[str, list[float]]:
  """Seconds from an event to the first step of a later generation, by kind.

  For events that end a generation and are not followed by another one before.
  """
  found: dict[str, list[float]] = {}
  ending = [one for one in struck if one['kind'] in ENDING]
  for one, following in zip(ending, [*ending[1:], None], strict=True):
    later = (
      line['now']
      for line in progress
      if line['generation'] > one['generation'] and line['now'] > one['now']
    )
    back = next(later, None)
    if back and (following is None or following['now'] > back):
      found.setdefault(one['kind'], []).append(back - one['now'])
  return found
