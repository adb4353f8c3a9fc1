# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Interface between an elastic training loop and the controller of its job.

`Trainer.fit(elastic=...)` uses only these protocols. `antjax.Agent` implements
them for jobs with a coordinator; a test needs ten lines. This module imports
nothing else of antjax, so neither side depends on the other.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any, Protocol


class PlanLike(Protocol):
  """What `ElasticControl.plan` returns; see `Plan`."""

  @property
  def version(self) -> int: ...
  @property
  def num_micro_batches(self) -> Mapping[str, int]: ...
  @property
  def lr_scale(self) -> float: ...
  @property
  def deadline_s(self) -> float: ...


@dataclasses.dataclass(frozen=True)
class Plan:
  """Work of each worker in a step."""

  # Version, higher for later plans. 0: no plan, that is, the Trainer's number
  # of micro-batches, a scale of 1 and no deadline.
  version: int = 0
  # Worker -> its number of micro-batches in a step; other workers run the
  # Trainer's number.
  num_micro_batches: Mapping[str, int] = dataclasses.field(default_factory=dict)
  lr_scale: float = 1.0  # Factor of the optimizer's updates.
  # Seconds after which a worker starts no further micro-batch in a step; it
  # runs at least one. 0: no deadline.
  deadline_s: float = 0.0

  @classmethod
  def of(cls, plan: PlanLike) -> 'Plan':
    """Returns a checked copy.

    Raises:
      ValueError: A number is invalid.
    """
    if plan.version < 1:
      return cls()
    counts = {str(k): int(v) for k, v in plan.num_micro_batches.items()}
    if min(counts.values(), default=0) < 0:
      raise ValueError(
        f'Plan {plan.version}: num_micro_batches={counts} must be at least 0.'
      )
    if not 0 < plan.lr_scale < math.inf or not 0 <= plan.deadline_s < math.inf:
      raise ValueError(
        f'Plan {plan.version}: lr_scale={plan.lr_scale} must be positive and'
        f' deadline_s={plan.deadline_s} at least 0 (no deadline).'
      )
    return cls(
      int(plan.version), counts, float(plan.lr_scale), float(plan.deadline_s)
    )


class ElasticControl(Protocol):
  """The other side of `Trainer.fit(elastic=...)`.

  All methods are called on the loop's thread, at most once per step, and should
  return at once. Three methods are optional. `may_get_more() -> bool` tells
  whether this worker may get more data after its iterator has raised
  StopIteration, such as a shard given back by another worker or a growing
  stream. If so, the worker takes part without micro-batches and asks its
  iterator again in the next step. `checkpoint_every_s(save_s) -> float` returns
  the seconds between checkpoints, given failures so far, if each holds up
  training for `save_s`; all processes call it, and the answer of process 0
  counts. `on_loss(loss)` gets the loss of each step.
  """

  @property
  def worker(self) -> str:
    """Name of this process in `Plan.num_micro_batches`."""

  def plan(self) -> PlanLike:
    """The newest plan known to this process.

    A plan takes effect at the same step everywhere: the one after all processes
    have reported it as their newest.
    """

  def on_batch_time(
    self,
    step: int,
    compute_s: float,
    wait_s: float,
    num_micro_batches: int,
    num_samples: int,
  ) -> None:
    """Receives the times of a step, except the first one, which compiles.

    Args:
      step: Number of the step, from 1.
      compute_s: Time of the micro-batches in seconds, without waits for input.
      wait_s: Time from then to the end of the step in seconds: the exchange,
        which waits for the slowest worker, and the update.
      num_micro_batches: Number of micro-batches that this process did.
      num_samples: Number of rows in them.
    """

  def on_commit(self, step: int, input_state: Any) -> None:
    """Called on process 0 only when a checkpoint is committed.

    `input_state` are the input positions of all processes in it, merged.
    """

  def is_stopping(self) -> bool:
    """Whether the run should save and end."""
