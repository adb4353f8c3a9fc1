# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What `Trainer.fit` takes as keywords."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

from antjax.train.elastic import ElasticControl
from antjax.train.state import PyTree, TrainState

Metrics = dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitOptions:
  """Options of `Trainer.fit`: checkpoints, evaluation, input, elasticity.

  Attributes:
    checkpoint_dir: Folder of checkpoints; None saves nothing.
    checkpoint_every: Steps between checkpoints; the last step is saved too.
    keep: Number of newest checkpoints to keep.
    best_metric: Metric of `evaluate_fn` whose best checkpoint is kept too.
    best_mode: 'min' or 'max', what better means.
    evaluate_fn: Called on all processes every `evaluate_every` steps and at the
      end; its metrics go to `on_step` and into the checkpoint.
    evaluate_every: Steps between evaluations; 0: only at the end.
    config: JSON-able settings, stored in each checkpoint.
    merge_input_states: Makes one input position of those of several processes,
      so that another number of processes can resume.
    num_micro_batches_fn: Step -> micro-batches of each group. Rows that it
      leaves out are read but not trained on: best let them be padding.
    count_examples: Batch -> number of its examples; by default the sum of
      weights.
    on_step: Function of each step's number (from 1) and metrics: loss, weight,
      grad_norm, num_examples and examples_per_s, and the results of
      `evaluate_fn` when there are any.
    should_stop: Asked before each step; e.g. whether a signal came.
    elastic: The job's control, e.g. an `antjax.Agent`: then an element of
      `batches` is ONE micro-batch of this process, [local devices x examples,
      ...], and each process does its own number of them in a step, the
      Trainer's where there is no plan (`elastic_loop`). Metrics have
      `num_micro_batches` of all processes.
  """

  checkpoint_dir: str | None = None
  checkpoint_every: int = 1000
  keep: int = 3
  best_metric: str | None = None
  best_mode: str = 'min'
  evaluate_fn: Callable[[TrainState], Metrics] | None = None
  evaluate_every: int = 0
  config: Mapping[str, Any] | None = None
  merge_input_states: Callable[[list[Any]], Any] | None = None
  num_micro_batches_fn: Callable[[int], Sequence[int]] | None = None
  count_examples: Callable[[PyTree], int] | None = None
  on_step: Callable[[int, Metrics], None] | None = None
  should_stop: Callable[[], bool] | None = None
  elastic: ElasticControl | None = None

  def __post_init__(self) -> None:
    for name, least in (('checkpoint_every', 1), ('evaluate_every', 0)):
      value = getattr(self, name)
      if value < least:
        raise ValueError(
          f'Trainer.fit({name}={value}): needed is a number of steps, {least}'
          ' or more.'
        )
    if self.best_metric is not None and self.evaluate_fn is None:
      raise ValueError(
        f'Trainer.fit(best_metric={self.best_metric!r}) needs an evaluate_fn'
        ' that gives it.'
      )

  def is_evaluation(self, number: int) -> bool:
    """Whether `evaluate_fn` is due after this step, the last one aside."""
    return bool(self.evaluate_every) and number % self.evaluate_every == 0

  def is_pause(self, number: int) -> bool:
    """Whether to evaluate or save after this step, the last one aside."""
    return self.is_evaluation(number) or number % self.checkpoint_every == 0
