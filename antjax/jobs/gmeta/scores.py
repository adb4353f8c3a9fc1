# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores the methods of launch/train_gmeta.py on its evaluation tasks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from antjax.jobs.gmeta.data import TaskBatches
from antjax.jobs.gmeta.methods import Method
from antjax.meta import evaluate
from antjax.meta.recommender import MetaRecommender
from antjax.metrics import by_task, merge
from antjax.metrics.columns import AllRows


class MethodScores(NamedTuple):
  """What an evaluation found."""

  # one a scenario and method: 'scenario', 'method', metric -> value.
  rows: list[dict[str, Any]]
  # one a number, with its 95% interval: 'scenario', 'method', 'metric',
  # 'value', 'low', 'high'; 'num_steps' if it is after that many inner steps and
  # not the method's own, 'support' and 'mean_support' if it is of the tasks of
  # some support sizes only.
  details: list[dict[str, Any]]


def evaluate_methods(
  tasks: TaskBatches,
  recommender: MetaRecommender,
  methods: Mapping[str, Method],
  *,
  eval_steps: int,
  support_sizes: Sequence[int],
  num_resamples: int,
  seed: int,
) -> MethodScores:
  """Scores every method and baseline in every scenario; a collective call.

  Metrics are shown up to `eval_steps` adaptation steps, and apart for tasks up
  to each of the rising support sizes. For the rest see `by_task.estimate`.
  """
  rows, details = list[dict[str, Any]](), list[dict[str, Any]]()
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
      where = {'scenario': scenario, 'method': name}
      for part, extra in _parts(columns, support_sizes):
        found = by_task.estimate(
          part, tasks.kind, num_resamples=num_resamples, seed=seed
        )
        if not extra:
          rows.append(where | {k: one.value for k, one in found.items()})
        details.extend(
          {**where, **extra, 'metric': metric, **one._asdict()}
          for metric, one in found.items()
        )
  return MethodScores(rows, details)


def _baselines(
  tasks: TaskBatches, scenario: str, mean: float
) -> dict[str, by_task.Columns]:
  kept = {name: AllRows() for name in evaluate.BASELINES}
  for by_name in evaluate.baseline_columns(tasks.scenario(scenario), mean):
    for name, columns in by_name.items():
      kept[name].update(**columns)
  if tasks.kind == 'click':
    del kept['support median']  # 0 or 1: no probability.
  merged: dict[str, Any] = merge.merge_across_processes(kept)
  return {name: rows.compute() for name, rows in merged.items()}


def _parts(
  columns: by_task.Columns, support_sizes: Sequence[int]
) -> Iterator[tuple[by_task.Columns, dict[str, Any]]]:
  """A method's columns: whole, after each step, of each range of supports."""
  yield columns, {}
  if not columns:
    return
  names = [name.partition('prediction_')[2] for name in columns]
  steps = sorted(int(name) for name in names if name.isdecimal())
  for step in steps if len(steps) > 1 else ():
    yield after_step(columns, step), {'num_steps': step}
  size = columns['support_size']
  for low, high in zip((0, *support_sizes), support_sizes):
    chosen = (size > low) & (size <= high)
    if chosen.any():
      yield (
        {name: column[chosen] for name, column in columns.items()},
        {
          'support': f'{low + 1} to {high}',
          'mean_support': float(np.mean(size[chosen])),
        },
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
