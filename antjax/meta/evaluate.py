# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores of a meta-learner and of baselines on cold-start tasks.

Protocol of MeLU (Lee et al. 2019): the last rows of a user are the query, the
others are the support. The four scenarios differ in what was seen in training:
'warm' (users and items), 'user_cold', 'item_cold', 'both_cold'.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from antjax.meta import maml, task_steps
from antjax.meta.episodes import Batch, Record
from antjax.metrics.columns import Selected
from antjax.metrics.means import MAE
from antjax.metrics.metric import Metric

_DIVERGED = 1e6
SCENARIOS = ('warm', 'user_cold', 'item_cold', 'both_cold')
BASELINES = ('global mean', 'support mean', 'support median')

# Shape suffixes: T = tasks, S = support rows, Q = query rows.


def mean_label(records: Iterable[Record], label: str = 'rating') -> float:
  """Mean label of all rows of some records: the global mean.

  Raises:
    ValueError: There is no row.
  """
  total = count = 0.0
  for record in records:
    values = np.asarray(record[label], float)
    total += values.sum()
    count += len(values)
  if not count:
    raise ValueError('mean_label: no row to average; pass training records.')
  return total / count


def baseline_columns(
  batches: Iterable[Batch], global_mean: float
) -> Iterator[dict[str, dict[str, np.ndarray]]]:
  """Yields the predictions of the baselines without a model, per bucket.

  A task without support gets the global mean: the mean label of training rows.

  Yields:
    'global mean', 'support mean', 'support median' -> columns [T Q] as from
    `meta_loss.predict_fn`, and 'support_size'.
  """
  for batch in batches:
    for episodes in batch['episodes'].values():
      mask_TS = episodes['support']['mask'] > 0
      label_TS = np.where(mask_TS, episodes['support']['label'], np.nan)
      present_T = mask_TS.any(axis=1)
      guess_T = {n: np.full(len(mask_TS), global_mean) for n in BASELINES}
      present_TS = label_TS[present_T]
      guess_T['support mean'][present_T] = np.nanmean(present_TS, axis=1)
      guess_T['support median'][present_T] = np.nanmedian(present_TS, axis=1)
      query, shape = episodes['query'], episodes['query']['label'].shape

      def by_row(values_T, shape=shape):
        return np.broadcast_to(values_T[:, None], shape).ravel()

      shown = query['mask'] * (episodes['weight'][:, None] > 0)
      shared = {
        'label': query['label'].ravel(),
        'weight': shown.ravel(),
        'group': by_row(episodes['task']),
        'support_size': by_row(mask_TS.sum(axis=1)),
      }
      yield {n: shared | {'prediction': by_row(g)} for n, g in guess_T.items()}


def choose_fine_tuning(
  evaluate_fn: Callable[
    [Callable[..., Any], Mapping[str, Metric]], Mapping[str, float]
  ],
  model: task_steps.TaskModel,
  *,
  adapt: Sequence[str] = ('decision', 'head'),
  num_steps: Sequence[int] = (1, 3, 5),
  learning_rates: Sequence[float] = (0.01, 0.03, 0.1, 0.3, 1.0),
  column: str = 'prediction',
  make_metric: Callable[[], Metric] = MAE,
) -> maml.InnerLoop:
  """Chooses how a jointly trained model is fine-tuned on the support.

  Minimizes an error on the tasks of `evaluate_fn`, which should be training
  tasks held out for validation, never test tasks.

  Args:
    evaluate_fn: (predict_fn, metrics) -> values by name, e.g. `lambda predict,
      metrics: trainer.evaluate(state, validation_batches, predict, metrics)`.
    model: The model.
    adapt: Sets of adapting leaves to try (see `maml.InnerLoop`).
    num_steps: Step counts to try.
    learning_rates: Inner rates to try.
    column: Prediction column to score, e.g. 'median'.
    make_metric: Function that creates the error, e.g. `LogLoss` of 'logit'.

  Returns:
    The inner loop with the least error.

  Raises:
    RuntimeError: The error of every candidate is nan (no rows, or all
      diverged).
  """
  best, best_error = None, np.inf
  for leaves in adapt:
    inner = maml.InnerLoop(order=1, adapt=leaves)
    predict = fine_tune_predict_fn(
      model,
      inner,
      num_steps=num_steps,
      learning_rates=learning_rates,
      column=column,
    )
    candidates: dict[str, maml.InnerLoop] = {}
    metrics: dict[str, Metric] = {}
    for steps in num_steps:
      for rate in learning_rates:
        name = fine_tune_name(steps, rate)
        candidates[name] = dataclasses.replace(
          inner, num_steps=steps, learning_rate=rate
        )
        metrics[name] = Selected(make_metric(), column=name)
    errors = evaluate_fn(predict, metrics)
    for name, candidate in candidates.items():
      if errors[name] < best_error:
        best, best_error = candidate, errors[name]
  if best is None:
    raise RuntimeError(
      'choose_fine_tuning: no candidate has an error; are there validation'
      ' tasks, and smaller learning_rates?'
    )
  return best


def predict_by_step_fn(
  model: task_steps.TaskModel, inner: maml.InnerLoop, *, last_step: int = 0
) -> Callable[..., dict[str, jax.Array]]:
  """Makes a function that predicts query rows after 0, 1, .. inner steps.

  Args:
    model: The model.
    inner: How a task adapts.
    last_step: Step to continue to, at the rates of the last step of `inner`, if
      it is more than the number of steps of `inner`.

  Returns:
    A function like that of `meta_loss.predict_fn`, after `inner.num_steps`
    steps, which adds '<column>_<k>' for every column of `output_fn` after k
    steps, and 'support_size', the task's number of support rows. With more than
    `maml.MAX_UNROLLED` steps it returns only the end.
  """
  is_long = inner.num_steps > maml.MAX_UNROLLED
  shown = max(inner.num_steps, last_step) if inner.num_steps else 0
  # Nothing is differentiated through the steps here.
  loop = dataclasses.replace(
    inner,
    num_steps=inner.num_steps if is_long else shown,
    step_weights=(),
    order=1,
  )

  def task(params, log_rates, data):
    problem = task_steps.problem(model, loop, params, log_rates, data)
    if is_long:
      states = {inner.num_steps: maml.adapt_task(problem)}
    else:
      states = dict(enumerate(maml.adapt_by_step(problem)))
    by_step = {
      step: task_steps.columns(model, state, data)
      for step, state in states.items()
    }
    size = (data['support']['part']['mask'] > 0).sum()
    labels = task_steps.labels(data)
    return {
      **by_step[inner.num_steps],
      **{
        f'{name}_{step}': column
        for step, columns in by_step.items()
        for name, column in columns.items()
      },
      'support_size': jnp.broadcast_to(size, labels['label'].shape),
      **labels,
    }

  return task_steps.over_tasks(model, loop, task, flatten=True)


def fine_tune_predict_fn(
  model: task_steps.TaskModel,
  inner: maml.InnerLoop,
  *,
  num_steps: Sequence[int],
  learning_rates: Sequence[float],
  column: str = 'prediction',
) -> Callable[..., dict[str, jax.Array]]:
  """Makes a function that predicts with several inner loops in one program.

  Steps and rate of the loop are varied; its rates must not be learned.

  Returns:
    A function like that of `meta_loss.predict_fn`; columns are named by
    `fine_tune_name`, and 'prediction' is the first of them.
  """

  def task(params, log_rates, data):
    del log_rates
    names = [*inner.adapted_names(params), *(f'rows/{n}' for n in data['rows'])]
    columns = {}
    for steps in num_steps:
      loop = dataclasses.replace(inner, num_steps=steps)

      def one(log_rate, loop=loop):
        rates = dict.fromkeys(names, log_rate)
        problem = task_steps.problem(model, loop, params, rates, data)
        state = maml.adapt_task(problem)
        return task_steps.columns(model, state, data)[column]

      predictions = jax.vmap(one)(jnp.log(jnp.asarray(learning_rates)))
      for rate, prediction in zip(learning_rates, predictions):
        # A diverging rate should score badly, not stop the others.
        columns[fine_tune_name(steps, rate)] = jnp.nan_to_num(
          prediction, nan=_DIVERGED, posinf=_DIVERGED, neginf=-_DIVERGED
        )
    first = next(iter(columns.values()))
    return {'prediction': first, **columns, **task_steps.labels(data)}

  return task_steps.over_tasks(model, inner, task, flatten=True)


def fine_tune_name(num_steps: int, learning_rate: float) -> str:
  """Column of `fine_tune_predict_fn` for one inner loop."""
  return f'k{num_steps}_lr{learning_rate:g}'
