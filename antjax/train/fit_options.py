# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""The options of `Trainer.fit`."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
from typing import Any

import jax

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
    checkpoint_every_s: Seconds between checkpoints, in addition to those by
      steps. 0: chosen by `elastic` from the failures it has seen, or none
      without it.
    keep: Number of newest checkpoints to keep.
    best_metric: Metric of `evaluate_fn` by which the best checkpoint is also
      kept.
    best_mode: 'min' or 'max', the direction of improvement.
    evaluate_fn: Function called on all processes every `evaluate_every` steps
      and at the end. Its metrics are passed to `on_step` and saved in the
      checkpoint.
    evaluate_every: Steps between evaluations; 0: only at the end.
    config: JSON-able settings, stored in each checkpoint.
    merge_input_states: Function that merges the input positions of several
      processes, so that another number of processes can resume.
    steps_per_call: Number of steps K that run as one program if no save or
      evaluation comes between them and their batches have equal shapes; other
      steps run one by one. Reduces the overhead per call, which matters if a
      step takes only a few milliseconds. `on_step` is called K times in a row,
      and `should_stop` takes effect after the call.
    num_micro_batches_fn: Step -> number of micro-batches of each group. Rows of
      skipped micro-batches are read but not trained on, so they should be
      padding.
    before_save: Function called before a checkpoint is written.
    count_examples: Batch -> number of examples. The default is the sum of
      weights.
    on_step: Function called after each step with its number (from 1) and
      metrics: loss, weight, grad_norm, num_examples, from the second step on
      examples_per_s (of this step alone; use the median), and the results of
      `evaluate_fn` if any.
    should_stop: Function called before each step; returns whether to stop, e.g.
      because of a signal.
    elastic: Controller of an elastic job, e.g. an `antjax.Agent`. An element of
      `batches` is then ONE micro-batch of this process, [local devices x
      examples, ...], and each process runs its own number of them in a step, or
      the Trainer's if there is no plan (`elastic_loop`). Metrics contain
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
      paths.check(self.checkpoint_dir, 'Trainer.fit: checkpoint_dir')
    least = {'checkpoint_every': 1, 'evaluate_every': 0, 'steps_per_call': 1}
    for name, least_value in least.items():
      value = getattr(self, name)
      if value < least_value:
        raise ValueError(
          f'Trainer.fit({name}={value}): needed is a number of steps,'
          f' {least_value} or more.'
        )
    if not self.checkpoint_every_s >= 0:  # Also true for nan.
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

  def check(
    self, row_staleness: int, has_vocabularies: bool, has_home: bool
  ) -> None:
    """Raises ValueError for what conflicts with each other or the Trainer."""
    if self.elastic is not None:
      self._check_elastic(row_staleness, has_home)
    elif self.steps_per_call > 1 and (
      row_staleness or has_vocabularies or has_home
    ):
      name = 'vocabularies=...' if has_vocabularies else 'tables with a home'
      name = 'row_staleness=1' if row_staleness else name
      raise ValueError(
        f'Trainer({name}).fit(steps_per_call={self.steps_per_call}): rows are'
        ' brought or made new before each step; use steps_per_call=1.'
      )

  def _check_elastic(self, row_staleness: int, has_home: bool) -> None:
    if self.num_micro_batches_fn is not None:
      raise ValueError(
        'Trainer.fit(elastic=..., num_micro_batches_fn=...): the plan of the'
        ' elastic control says how many micro-batches a worker does; give one'
        ' of the two.'
      )
    if (
      self.checkpoint_dir is not None
      and self.merge_input_states is None
      and jax.process_count() > 1
    ):
      raise ValueError(
        'Trainer.fit(elastic=..., checkpoint_dir=...): the number of processes'
        ' may change between a save and a restore; pass merge_input_states,'
        ' e.g. antjax.shards.dataset.merge_states.'
      )
    if self.steps_per_call > 1:
      raise ValueError(
        f'Trainer.fit(elastic=..., steps_per_call={self.steps_per_call}): an'
        ' elastic step is done a micro-batch at a time; use steps_per_call=1.'
      )
    if row_staleness:
      raise ValueError(
        'Trainer(row_staleness=1).fit(elastic=...): which rows the next step'
        ' needs is not known before it begins; use row_staleness=0.'
      )
    if has_home:
      raise ValueError(
        'Trainer(tables=...).fit(elastic=...): tables with a home belong to'
        ' one process; train without agents, or without home.'
      )

  def wants_stop(self) -> bool:
    return self.should_stop is not None and self.should_stop()

  def count(self, batch: PyTree) -> float:
    return 0.0 if self.count_examples is None else self.count_examples(batch)

  def is_evaluation(self, number: int) -> bool:
    """Whether `evaluate_fn` is due after this step, unless it is the last."""
    return bool(self.evaluate_every) and number % self.evaluate_every == 0

  def is_pause(self, number: int) -> bool:
    """Whether to evaluate or save after this step, unless it is the last."""
    return self.is_evaluation(number) or number % self.checkpoint_every == 0

  def steps_of_call(self, done: int, num_steps: int) -> int:
    """Number of steps to run in one call after `done` others."""
    K = self.steps_per_call
    is_cut = any(map(self.is_pause, range(done + 1, done + K)))
    return 1 if is_cut or done + K > num_steps else K
