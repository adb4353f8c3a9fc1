# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Predictions of the query rows under several inner loops at once."""

from collections.abc import Callable, Sequence
import dataclasses

import jax
import jax.numpy as jnp

from antjax.meta import maml, task_steps

_DIVERGED = 1e6


def predict_by_step_fn(
  model: task_steps.TaskModel, inner: maml.InnerLoop, *, last_step: int = 0
) -> Callable[..., dict[str, jax.Array]]:
  """Returns what predicts the query rows after 0, 1, .. inner steps.

  Args:
    model: the model.
    inner: how a task adapts.
    last_step: step to go on to, at the rates of the last step of `inner`, if
      that is more than its own number of steps.

  Returns:
    As `meta_loss.predict_fn`, after `inner.num_steps` steps; besides,
    '<column>_<k>' for every column that `output_fn` gives after k steps, and
    'support_size', the number of support rows of the task. Of a loop of very
    many steps (`maml.MAX_UNROLLED`) only the end is given.
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

  def predict(params, rows, batch, rng):
    del rng

    def task(params, log_rates, data):
      args = task_steps.adapt_args(model, loop, params, data, data['support'])
      options = {'merge_fn': model.merge_fn, 'log_rates': log_rates}
      if is_long:
        states = {inner.num_steps: maml.adapt_task(*args, **options)}
      else:
        states = dict(enumerate(maml.adapt_by_step(*args, **options)))
      by_step = {
        step: task_steps.columns(
          model, task_steps.predict(model, adapted, task_rows, data['query'])
        )
        for step, (adapted, task_rows) in states.items()
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

    return task_steps.over_tasks(
      model, loop, task, params, rows, batch, flatten=True
    )

  return task_steps.signature(model, predict)


def fine_tune_predict_fn(
  model: task_steps.TaskModel,
  inner: maml.InnerLoop,
  *,
  num_steps: Sequence[int],
  learning_rates: Sequence[float],
  column: str = 'prediction',
) -> Callable[..., dict[str, jax.Array]]:
  """Returns what predicts under several inner loops, compiled as one.

  Args:
    model: the model.
    inner: the loop whose steps and rate are varied; its rates are not learned.
    num_steps: step counts to try.
    learning_rates: inner rates to try with each of them.
    column: which of the model's columns to keep.

  Returns:
    As `predict_fn`; the columns are named 'k<steps>_lr<rate>', as
    `fine_tune_name` gives, and 'prediction' is the first of them.
  """

  def predict(params, rows, batch, rng):
    del rng

    def task(params, log_rates, data):
      del log_rates
      columns = {}
      for steps in num_steps:
        loop = dataclasses.replace(inner, num_steps=steps)

        def one(log_rate, loop=loop):
          rates = _EveryLeaf(log_rate)
          adapted, task_rows = task_steps.adapt(
            model, loop, params, rates, data
          )
          outputs = task_steps.predict(model, adapted, task_rows, data['query'])
          return task_steps.columns(model, outputs)[column]

        log_rates = jnp.log(jnp.asarray(learning_rates))
        predictions = jax.vmap(one)(log_rates)
        for rate, prediction in zip(learning_rates, predictions):
          # A rate that diverges is to score badly, not to stop the others.
          columns[fine_tune_name(steps, rate)] = jnp.nan_to_num(
            prediction, nan=_DIVERGED, posinf=_DIVERGED, neginf=-_DIVERGED
          )
      first = next(iter(columns.values()))
      return {'prediction': first, **columns, **task_steps.labels(data)}

    return task_steps.over_tasks(
      model, inner, task, params, rows, batch, flatten=True
    )

  return task_steps.signature(model, predict)


def fine_tune_name(num_steps: int, learning_rate: float) -> str:
  """Returns the column of `fine_tune_predict_fn` for one inner loop."""
  return f'k{num_steps}_lr{learning_rate:g}'


class _EveryLeaf(dict):
  """Learned rates where every leaf has the same one."""

  def __init__(self, log_rate):
    super().__init__()
    self._log_rate = log_rate

  def __contains__(self, name):
    return True

  def __getitem__(self, name):
    return self._log_rate
