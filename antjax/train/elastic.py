# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Interface between an elastic training loop and the controller of its job.

`Trainer.fit(elastic=...)` uses only these protocols. `antjax.Agent` implements
them for a job under a coordinator; a test needs ten lines. Nothing else of
antjax is imported, so neither side depends on the other.
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
  """How much each worker does in a step.

  Attributes:
    version: Later plans have higher ones; 0 is no plan: the Trainer's number
      of micro-batches, a scale of 1, no deadline.
    num_micro_batches: Worker -> its micro-batches in a step; a worker that is
      not named does the Trainer's number.
    lr_scale: Factor of the optimizer's updates.
    deadline_s: Seconds after which a worker takes no further micro-batch in a
      step; it does at least one. 0: none.
  """

  version: int = 0
  num_micro_batches: Mapping[str, int] = dataclasses.field(default_factory=dict)
  lr_scale: float = 1.0
  deadline_s: float = 0.0

  @classmethod
  def of(cls, plan: PlanLike) -> 'Plan':
    """A checked copy.

    Raises:
      ValueError: A number that cannot be.
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

  All methods are called on the thread of the loop, once a step or less, and
  should return at once. An implementation may also have `may_get_more() ->
  bool`: whether data may still come to this worker after its iterator has
  raised StopIteration, a shard given back by another worker or a stream that
  grows. Then the worker takes part with no micro-batch, and asks its iterator
  again in the next step. It may also have `checkpoint_every_s(save_s) ->
  float`: seconds between checkpoints by the failures seen, where one holds
  training up for `save_s`; asked on process 0's behalf on all. And it may have
  `on_loss(loss)`, which gets the loss of each step.
  """

  @property
  def worker(self) -> str:
    """Name of this process in `Plan.num_micro_batches`."""

  def plan(self) -> PlanLike:
    """The newest plan that is known here.

    A plan takes effect at the same step everywhere: the one after all
    processes have said that it is their newest.
    """

  def on_batch_time(
    self,
    step: int,
    compute_s: float,
    wait_s: float,
    num_micro_batches: int,
    num_samples: int,
  ) -> None:
    """Gets the times of a step; not of the first one, which compiles.

    Args:
      step: Number of the step, from 1.
      compute_s: Seconds in micro-batches, without waiting for input.
      wait_s: From then to the end of the step: the exchange, that is waiting
        for the slowest worker, and the update.
      num_micro_batches: Number of micro-batches that this process did.
      num_samples: Rows in them.
    """

  def on_commit(self, step: int, input_state: Any) -> None:
    """Gets told, on process 0 only, that a checkpoint is committed.

    Args:
      step: Step of the checkpoint.
      input_state: The input positions of all processes in it, merged.
    """

  def is_stopping(self) -> bool:
    """Whether the run is to save and end."""
