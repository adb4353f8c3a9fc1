# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores the methods of launch/train_gmeta.py on its evaluation tasks."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any

import numpy as np

from antjax.jobs.gmeta.data import Tasks
from antjax.jobs.gmeta.methods import Method
from antjax.meta import evaluate
from antjax.meta.recommender import MetaRecommender
from antjax.metrics import by_task, merge
from antjax.metrics.bootstrap import Estimate
from antjax.metrics.columns import AllRows


@dataclasses.dataclass
class Results:
  """What an evaluation found.

  Attributes:
    rows: one a scenario and method: 'scenario', 'method', metric -> value.
    details: one a number, with its 95% interval: 'scenario', 'method',
      'metric', 'value', 'low', 'high'; 'num_steps' if it is after that many
      inner steps and not the method's own, 'support' and 'mean_support' if it
      is of the tasks of some support sizes only.
  """

  rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  details: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def evaluate_methods(
  tasks: Tasks,
  recommender: MetaRecommender,
  methods: Mapping[str, Method],
  *,
  eval_steps: int,
  support_sizes: Sequence[int],
  num_resamples: int,
  seed: int,
) -> Results:
  """Scores every method and baseline in every scenario; a collective call.

  Args:
    tasks: The evaluation tasks.
    recommender: The model.
    methods: Name -> what was trained.
    eval_steps: Adaptation steps up to which the metrics are shown.
    support_sizes: Rising sizes whose tasks are scored apart.
    num_resamples: See `by_task.estimate`.
    seed: See `by_task.estimate`.
  """
  results = Results()
  mean = tasks.mean_label()
  predict_fns = {
    name: evaluate.predict_by_step_fn(
      recommender.task_model, method.inner, last_step=eval_steps
    )
    for name, method in methods.items()
  }
  for scenario in tasks.scenarios:
    by_method: dict[str, by_task.Columns] = {}
    for name, (trainer, state, inner) in methods.items():
      batches = tasks.scenario(scenario, with_rows=inner.adapt == 'all')
      found: dict[str, Any] = trainer.evaluate(
        state, batches, predict_fns[name], {'rows': AllRows()}
      )
      by_method[name] = found['rows']
    by_method |= _baselines(tasks, scenario, mean)
    for name, columns in by_method.items():
      estimate = functools.partial(
        by_task.estimate,
        kind=tasks.kind,
        num_resamples=num_resamples,
        seed=seed,
      )
      where = {'scenario': scenario, 'method': name}
      _add(results, where, columns, estimate, support_sizes)
  return results


def _baselines(
  tasks: Tasks, scenario: str, mean: float
) -> dict[str, by_task.Columns]:
  kept = {name: AllRows() for name in evaluate.BASELINES}
  for by_name in evaluate.baseline_columns(tasks.scenario(scenario), mean):
    for name, columns in by_name.items():
      kept[name].update(**columns)
  if tasks.kind == 'click':
    del kept['support median']  # 0 or 1: no probability.
  merged: dict[str, Any] = merge.merge_across_processes(kept)
  return {name: rows.compute() for name, rows in merged.items()}


def _add(
  results: Results,
  where: dict[str, Any],
  columns: by_task.Columns,
  estimate: Callable[[by_task.Columns], dict[str, Estimate]],
  support_sizes: Sequence[int],
) -> None:
  """Adds a method's numbers in a scenario: whole, by step, by support."""

  def add(chosen: by_task.Columns, **extra: Any) -> dict[str, Estimate]:
    found = estimate(chosen)
    results.details.extend(
      {**where, **extra, 'metric': name, **one._asdict()}
      for name, one in found.items()
    )
    return found

  whole = add(columns)
  results.rows.append(where | {name: one.value for name, one in whole.items()})
  if not columns:
    return
  steps = _steps(columns)
  for step in steps if len(steps) > 1 else ():
    add(after_step(columns, step), num_steps=step)
  size = columns['support_size']
  for low, high in _bins(support_sizes):
    chosen = (size > low) & (size <= high)
    if chosen.any():
      add(
        {name: column[chosen] for name, column in columns.items()},
        support=f'{low + 1} to {high}',
        mean_support=float(np.mean(size[chosen])),
      )


def after_step(columns: by_task.Columns, step: int) -> dict[str, np.ndarray]:
  """Returns the columns of `evaluate.predict_by_step_fn` after a step."""
  suffix = f'_{step}'
  chosen = {
    name.removesuffix(suffix): column
    for name, column in columns.items()
    if name.endswith(suffix)
  }
  return {'label': columns['label'], 'group': columns['group']} | chosen


def _steps(columns: by_task.Columns) -> list[int]:
  names = [name.partition('prediction_')[2] for name in columns]
  return sorted(int(name) for name in names if name.isdecimal())


def _bins(sizes: Sequence[int]) -> list[tuple[int, int]]:
  return list(zip((0, *sizes[:-1]), sizes))
