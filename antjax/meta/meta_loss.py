# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From a batch of episodes to losses and predictions, one a task.

The functions made here are what `antjax.Trainer` takes: pure, local to a
device, without any communication (the rows come in, their gradients go out).
All are (params, rows, batch, rng) -> ..., without `rows` if the model has no
tables. With `learn_rates` the parameters are those of `maml.init_rates`. The
layout of a batch is in `antjax.meta.episodes`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from antjax.meta import maml, task_steps

# Shape suffixes: T = tasks.

TaskModel = task_steps.TaskModel
LossFn = Callable[..., tuple[jax.Array, jax.Array]]


def meta_loss_fn(model: TaskModel, inner: maml.InnerLoop) -> LossFn:
  """Makes the outer loss: what the query rows cost after the inner steps.

  Returns:
    A function to (losses [T], weights [T]). A task's loss is the mean over its
    query rows; its weight is the batch's, or 0 if it has no query row.
  """

  def task(params, log_rates, data):
    problem = task_steps.problem(model, inner, params, log_rates, data)
    if inner.step_weights:
      states = maml.adapt_by_step(problem)[1:]
      total = sum(inner.step_weights)
      loss: Any = sum(
        weight / total * task_steps.task_loss(model, state, data['query'])
        for weight, state in zip(inner.step_weights, states, strict=True)
        if weight
      )
    else:
      state = maml.adapt_task(problem)
      loss = task_steps.task_loss(model, state, data['query'])
    return loss, _weight(data, ['query']).astype(loss.dtype)

  return task_steps.over_tasks(model, inner, task)


def reptile_loss_fn(model: TaskModel, inner: maml.InnerLoop) -> LossFn:
  """Makes the outer loss of Reptile (Nichol et al. 2018).

  A task adapts on its support and query rows together, and its outer gradient
  is what the parameters and rows were minus what they are after the steps. That
  of a leaf that does not adapt is zero: use `adapt='all'` where the rows are to
  learn.

  Returns:
    As `meta_loss_fn`. The value of a task's loss is the mean over its rows
    after the steps; its gradient is Reptile's.

  Raises:
    ValueError: The loop has no step, or learns its rates.
  """
  if not inner.num_steps or inner.learn_rates:
    raise ValueError(
      f'reptile_loss_fn: num_steps={inner.num_steps}, learn_rates='
      f'{inner.learn_rates}; at least one step at a fixed rate is needed, since'
      ' nothing is differentiated through the steps.'
    )

  def task(params, log_rates, data):
    both = _joined(data['support'], data['query'])
    problem = task_steps.problem(model, inner, params, log_rates, data, both)
    pull, state = maml.reptile_pull(problem)
    value = task_steps.task_loss(model, state, both)
    # The value of the one, the gradient of the other.
    loss = pull + jax.lax.stop_gradient(value - pull)
    return loss, _weight(data, ['support', 'query']).astype(loss.dtype)

  return task_steps.over_tasks(model, inner, task)


def joint_loss_fn(model: TaskModel) -> LossFn:
  """Makes the loss of joint training: all rows alike, nothing adapts.

  Returns:
    As `meta_loss_fn`; a task's weight is its number of support and query rows,
    so that every row of the batch counts the same.
  """
  still = maml.InnerLoop(num_steps=0)

  def task(params, log_rates, data):
    state = maml.adapt_task(
      task_steps.problem(model, still, params, log_rates, data)
    )
    total = count = jnp.zeros(())
    for name in ('support', 'query'):
      part_total, part_count = task_steps.loss_sums(model, state, data[name])
      total += part_total
      count += part_count.astype(part_total.dtype)
    weight = count * (data['weight'] > 0)
    return total / jnp.maximum(count, 1), weight

  return task_steps.over_tasks(model, still, task)


def predict_fn(
  model: TaskModel, inner: maml.InnerLoop
) -> Callable[..., dict[str, jax.Array]]:
  """Makes what predicts the query rows after the inner steps.

  Returns:
    A function to {'prediction', 'label', 'weight', 'group', and what else
    `output_fn` gives}, each [query rows of the batch]. The group is the task;
    padded rows have weight 0.
  """

  def task(params, log_rates, data):
    state = maml.adapt_task(
      task_steps.problem(model, inner, params, log_rates, data)
    )
    return task_steps.columns(model, state, data) | task_steps.labels(data)

  return task_steps.over_tasks(model, inner, task, flatten=True)


def _weight(data, names):
  """A task's weight, 0 where none of these parts has a row."""
  present = [jnp.any(data[name]['part']['mask'] > 0) for name in names]
  return jnp.where(jnp.any(jnp.stack(present)), data['weight'], 0)


def _joined(support, query):
  """Support and query of a task as one part; the context is of the task."""

  def by_row(part):
    columns = {k: x for k, x in part['part'].items() if k != 'context'}
    return {**part, 'part': columns}

  both = jax.tree.map(
    lambda *xs: jnp.concatenate(xs), by_row(support), by_row(query)
  )
  if 'context' in support['part']:
    both['part']['context'] = support['part']['context']
  return both
