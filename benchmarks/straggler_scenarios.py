# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Jobs of slow and fast workers, for `straggler_sim`; all are deterministic."""

from collections.abc import Callable, Collection, Sequence
import dataclasses
import random

# (index of the worker, seconds since the job's start) -> slowness factor. With
# `Scenario.by_work`, the second is the share of completed work.
Slowness = Callable[[int, float], float]


@dataclasses.dataclass(frozen=True)
class Scenario:
  """A job to simulate."""

  name: str  # Readable name.
  slowness: Slowness  # Slowness of each worker over time.
  device_kinds: Sequence[str] = ('cpu',) * 4  # Device kind of each worker.
  # Number of micro-batches per worker and step in the job's settings.
  num_micro_batches: int = 8
  num_steps: int = 1200  # Number of full steps to train.
  # Seconds per micro-batch of a worker with slowness 1.
  s_per_micro_batch: float = 0.125
  samples_per_micro_batch: int = 32  # Number of records per micro-batch.
  overhead_s: float = 0.01  # Seconds per step for exchange and update.
  # Additional seconds of a worker with slowness 1; a slow one takes longer,
  # whatever its micro-batches.
  own_overhead_s: float = 0.0
  # Seconds between heartbeats, which report steps and receive plans; a plan
  # takes effect one step later. 0: both at once.
  report_s: float = 0.0
  # Maximum relative variation of a worker's time between steps.
  noise: float = 0.02
  # Seconds from a kill to the first step of the next generation.
  restart_s: float = 20.0
  # Seconds between checkpoints; work since the last is repeated.
  commit_s: float = 60.0
  saves_after: Collection[int] = ()  # Steps with checkpoints, instead.
  # Seconds for which one of these holds up the first worker at slowness 1.
  save_s: float = 0.0
  # Whether slowness depends on completed work, not on the clock.
  by_work: bool = False
  # Slowness over time of a new host after a restart.
  new_host: Callable[[float], float] = lambda when: 1.0

  @property
  def num_workers(self) -> int:
    return len(self.device_kinds)

  @property
  def total_micro_batches(self) -> int:
    return self.num_steps * self.num_workers * self.num_micro_batches


def _one_of(times: float) -> Slowness:
  return lambda worker, now: times if worker == 3 else 1.0


def _transient(worker: int, now: float) -> float:
  return 4.0 if worker == 3 and now % 240 < 60 else 1.0


def _rotating(worker: int, now: float) -> float:
  return 4.0 if worker == int(now // 120) % 4 else 1.0


def _burst(worker: int, now: float) -> float:
  chosen = random.Random(7919 * int(now // 12) + 1).randrange(4)
  return 4.0 if worker == chosen and now % 12 < 8 else 1.0


def _many(worker: int, now: float) -> float:
  since = now + 600 * random.Random(31 * worker + 7).random()
  return 4.0 if since % 600 < 60 else 1.0


SCENARIOS: tuple[Scenario, ...] = (
  Scenario('none', lambda worker, now: 1.0),
  Scenario('x2_one_of_4', _one_of(2.0)),
  Scenario('x4_one_of_4', _one_of(4.0)),
  Scenario('x10_one_of_4', _one_of(10.0)),
  Scenario(
    'classes_1_2',
    lambda worker, now: 2.0 if worker >= 2 else 1.0,
    device_kinds=('new', 'new', 'old', 'old'),
  ),
  Scenario('transient_x4', _transient),
  Scenario('rotating_x4', _rotating),
  # For 8 s of every 12 s one of the four, another one each time.
  Scenario('bursts_8s', _burst, num_steps=600),
  # Each of 32 for one minute in ten, so that three are slow on average.
  Scenario('many_32', _many, device_kinds=('cpu',) * 32, num_steps=300),
)
