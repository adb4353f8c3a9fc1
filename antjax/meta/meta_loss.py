# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Losses and predictions of a batch of episodes, one per task.

The functions made here suit `antjax.Trainer`: pure, local to a device, without
communication (rows are inputs, and their gradients are outputs). All have the
form (params, rows, batch, rng) -> ..., without `rows` if the model has no
tables. With `learn_rates` the parameters are those of `maml.init_rates`.
`antjax.meta.episodes` describes the layout of a batch.
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
  """Makes the outer loss, that of the query rows after the inner steps.

  Returns:
    A function that returns (losses [T], weights [T]). The loss of a task is the
    mean over its query rows. Its weight is the one in the batch, or 0 without
    query rows.
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

  A task adapts to its support and query rows together. Its outer gradient is
  the parameters and rows before the steps minus those after, and zero for
  leaves that do not adapt: use `adapt='all'` to train the rows.

  Returns:
    A function like that of `meta_loss_fn`. The loss of a task is the mean over
    its rows after the steps, but its gradient is Reptile's.

  Raises:
    ValueError: The inner loop has no steps, or learns its rates.
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
    # The value of the loss with the gradient of the pull.
    loss = pull + jax.lax.stop_gradient(value - pull)
    return loss, _weight(data, ['support', 'query']).astype(loss.dtype)

  return task_steps.over_tasks(model, inner, task)


def joint_loss_fn(model: TaskModel) -> LossFn:
  """Makes the loss of joint training: on all rows, without adaptation.

  Returns:
    A function like that of `meta_loss_fn`. The weight of a task is its number
    of support and query rows, so every row of the batch has the same weight.
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
  """Makes the function that predicts the query rows after the inner steps.

  Returns:
    A function that returns {'prediction', 'label', 'weight', 'group', and other
      outputs of `output_fn`}, each [query rows of the batch]. The group is the
      task. Padded rows have weight 0.
  """

  def task(params, log_rates, data):
    state = maml.adapt_task(
      task_steps.problem(model, inner, params, log_rates, data)
    )
    return task_steps.columns(model, state, data) | task_steps.labels(data)

  return task_steps.over_tasks(model, inner, task, flatten=True)


def _weight(data, names):
  """A task's weight, 0 if none of these parts has a row."""
  present = [jnp.any(data[name]['part']['mask'] > 0) for name in names]
  return jnp.where(jnp.any(jnp.stack(present)), data['weight'], 0)


def _joined(support, query):
  """Concatenates support and query of a task, which share the context."""

  def by_row(part):
    columns = {k: x for k, x in part['part'].items() if k != 'context'}
    return {**part, 'part': columns}

  both = jax.tree.map(
    lambda *xs: jnp.concatenate(xs), by_row(support), by_row(query)
  )
  if 'context' in support['part']:
    both['part']['context'] = support['part']['context']
  return both
