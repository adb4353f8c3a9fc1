# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The options of `Trainer.fit`."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
from typing import Any

from antjax import paths
from antjax.train.elastic import ElasticControl
from antjax.train.state import PyTree, TrainState

Metrics = dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitOptions:
  """Options of `Trainer.fit`: checkpoints, evaluation, input, elasticity.

  Attributes:
    checkpoint_dir: Folder of checkpoints; None saves nothing.
    checkpoint_every: Steps between checkpoints; the last step is saved too.
    checkpoint_every_s: Seconds between checkpoints, beside those by steps; 0:
      as `elastic` says by the failures that it has seen, or none without it.
    keep: Number of newest checkpoints to keep.
    best_metric: Metric of `evaluate_fn` whose best checkpoint is kept too.
    best_mode: 'min' or 'max', what better means.
    evaluate_fn: Called on all processes every `evaluate_every` steps and at the
      end; its metrics go to `on_step` and into the checkpoint.
    evaluate_every: Steps between evaluations; 0: only at the end.
    config: JSON-able settings, stored in each checkpoint.
    merge_input_states: Makes one input position of those of several processes,
      so that another number of processes can resume.
    steps_per_call: Steps that the devices do in one call, K, where no save or
      evaluation comes between and their batches have one shape; others are
      done one by one. Saves what a call costs, which counts where a step takes
      less than some milliseconds. `on_step` is called K times in a row, and
      `should_stop` has its effect after the call.
    num_micro_batches_fn: Step -> micro-batches of each group. Rows that it
      leaves out are read but not trained on: best let them be padding.
    before_save: Called before a checkpoint is written.
    count_examples: Batch -> number of its examples; by default the sum of
      weights.
    on_step: Function of each step's number (from 1) and metrics: loss, weight,
      grad_norm, num_examples, from the second step on examples_per_s (of this
      step alone: take the median), and the results of `evaluate_fn` when there
      are any.
    should_stop: Asked before each step; e.g. whether a signal came.
    elastic: The job's control, e.g. an `antjax.Agent`: then an element of
      `batches` is ONE micro-batch of this process, [local devices x examples,
      ...], and each process does its own number of them in a step, the
      Trainer's where there is no plan (`elastic_loop`). Metrics have
      `num_micro_batches` of all processes.
  """

  checkpoint_dir: str | None = None
  checkpoint_every: int = 1000
  checkpoint_every_s: float = 0.0
  keep: int = 3
  best_metric: str | None = None
  best_mode: str = 'min'
  evaluate_fn: Callable[[TrainState], Metrics] | None = None
  evaluate_every: int = 0
  steps_per_call: int = 1
  config: Mapping[str, Any] | None = None
  merge_input_states: Callable[[list[Any]], Any] | None = None
  num_micro_batches_fn: Callable[[int], Sequence[int]] | None = None
  before_save: Callable[[], None] | None = None
  count_examples: Callable[[PyTree], int] | None = None
  on_step: Callable[[int, Metrics], None] | None = None
  should_stop: Callable[[], bool] | None = None
  elastic: ElasticControl | None = None

  def __post_init__(self) -> None:
    if self.checkpoint_dir is not None:
      paths.check(
        self.checkpoint_dir, 'Trainer.fit: checkpoint_dir', paths.CHECKPOINT_URL
      )
    least = {'checkpoint_every': 1, 'evaluate_every': 0, 'steps_per_call': 1}
    for name, least_value in least.items():
      value = getattr(self, name)
      if value < least_value:
        raise ValueError(
          f'Trainer.fit({name}={value}): needed is a number of steps,'
          f' {least_value} or more.'
        )
    if not self.checkpoint_every_s >= 0:  # Nor nan.
      raise ValueError(
        f'Trainer.fit(checkpoint_every_s={self.checkpoint_every_s}): needed is'
        ' a number of seconds, 0 or more.'
      )
    try:
      json.dumps(self.config)
    except TypeError as error:
      raise ValueError(
        f'Trainer.fit(config=...): {error}; needed are dicts, lists, texts and'
        ' numbers of Python, which checkpoints hold as JSON.'
      ) from error
    if self.best_metric is not None and self.evaluate_fn is None:
      raise ValueError(
        f'Trainer.fit(best_metric={self.best_metric!r}) needs an evaluate_fn'
        ' that gives it.'
      )

  def wants_stop(self) -> bool:
    return self.should_stop is not None and self.should_stop()

  def count(self, batch: PyTree) -> float:
    return 0.0 if self.count_examples is None else self.count_examples(batch)

  def is_evaluation(self, number: int) -> bool:
    """Whether `evaluate_fn` is due after this step, the last one aside."""
    return bool(self.evaluate_every) and number % self.evaluate_every == 0

  def is_pause(self, number: int) -> bool:
    """Whether to evaluate or save after this step, the last one aside."""
    return self.is_evaluation(number) or number % self.checkpoint_every == 0

  def steps_of_call(self, done: int, num_steps: int) -> int:
    """Steps to do in one call after `done` others."""
    K = self.steps_per_call
    is_cut = any(map(self.is_pause, range(done + 1, done + K)))
    return 1 if is_cut or done + K > num_steps else K
