# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From a batch of episodes to losses and predictions, one a task.

The functions made here are what `antjax.Trainer` takes: pure, local to a
device, without any communication (the rows come in, their gradients go out).
The layout of a batch is in `antjax.meta.episodes`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from antjax.meta import maml, task_steps

# Shape suffixes: T = tasks, S = support or query rows of a task.

Tables = task_steps.Tables
TaskModel = task_steps.TaskModel


def meta_loss_fn(
  model: TaskModel, inner: maml.InnerLoop
) -> Callable[..., tuple[jax.Array, jax.Array]]:
  """Returns the outer loss: what the query rows cost after the inner steps.

  Args:
    model: the model.
    inner: how a task adapts. With `learn_rates` the parameters are those of
      `maml.init_rates`.

  Returns:
    loss_fn(params, rows, batch, rng) -> (losses [T], weights [T]), without
    `rows` if the model has no tables. A task's loss is the mean over its query
    rows; its weight is the batch's, or 0 if it has no query row.
  """

  def losses(params, rows, batch, rng):
    del rng

    def task(params, log_rates, data):
      if inner.step_weights:
        loss = _weighted_loss(model, inner, params, log_rates, data)
      else:
        adapted, task_rows = task_steps.adapt(
          model, inner, params, log_rates, data
        )
        loss = task_steps.task_loss(model, adapted, task_rows, data['query'])
      return loss, _weight(data, ['query']).astype(loss.dtype)

    return task_steps.over_tasks(model, inner, task, params, rows, batch)

  return task_steps.signature(model, losses)


def reptile_loss_fn(
  model: TaskModel, inner: maml.InnerLoop
) -> Callable[..., tuple[jax.Array, jax.Array]]:
  """Returns the outer loss of Reptile (Nichol et al. 2018).

  A task adapts on its support and query rows together, and its outer gradient
  is what the parameters and rows were minus what they are after the steps. That
  of a leaf that does not adapt is zero: use `adapt='all'` where the rows are to
  learn.

  Args:
    model: the model.
    inner: how a task adapts, at least one step; rates cannot be learned so.

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

  def losses(params, rows, batch, rng):
    del rng

    def task(params, log_rates, data):
      del log_rates
      both = _joined(data['support'], data['query'])
      pull, adapted, task_rows = maml.reptile_pull(
        *task_steps.adapt_args(model, inner, params, data, both),
        merge_fn=model.merge_fn,
      )
      value = task_steps.task_loss(model, adapted, task_rows, both)
      # The value of the one, the gradient of the other.
      loss = pull + jax.lax.stop_gradient(value - pull)
      weight = _weight(data, ['support', 'query'])
      return loss, weight.astype(loss.dtype)

    return task_steps.over_tasks(model, inner, task, params, rows, batch)

  return task_steps.signature(model, losses)


def joint_loss_fn(
  model: TaskModel,
) -> Callable[..., tuple[jax.Array, jax.Array]]:
  """Returns the loss of joint training: all rows alike, nothing adapts.

  Returns:
    As `meta_loss_fn`; a task's weight is its number of support and query rows,
    so that every row of the batch counts the same.
  """
  still = maml.InnerLoop(num_steps=0)

  def losses(params, rows, batch, rng):
    del rng

    def task(params, log_rates, data):
      merged, _ = task_steps.adapt(model, still, params, log_rates, data)
      total = count = jnp.zeros(())
      for name in ('support', 'query'):
        part = data[name]
        mask = part['part']['mask']
        prediction = task_steps.predict(model, merged, data['rows'], part)
        loss = model.loss_fn(prediction, part['part']['label'])
        total += jnp.where(mask > 0, loss, 0).sum()
        count += (mask > 0).sum().astype(loss.dtype)
      weight = count * (data['weight'] > 0)
      return total / jnp.maximum(count, 1), weight

    return task_steps.over_tasks(model, still, task, params, rows, batch)

  return task_steps.signature(model, losses)


def predict_fn(
  model: TaskModel, inner: maml.InnerLoop
) -> Callable[..., dict[str, jax.Array]]:
  """Returns what predicts the query rows after the inner steps.

  Args:
    model: the model.
    inner: how a task adapts; `num_steps=0` predicts without adaptation.

  Returns:
    predict(params, rows, batch, rng) -> {'prediction', 'label', 'weight',
    'group', and what else `output_fn` gives}, each [query rows of the batch];
    without `rows` if the model has no tables. The group is the task; padded
    rows have weight 0.
  """

  def predict(params, rows, batch, rng):
    del rng

    def task(params, log_rates, data):
      adapted, task_rows = task_steps.adapt(
        model, inner, params, log_rates, data
      )
      outputs = task_steps.predict(model, adapted, task_rows, data['query'])
      return {**task_steps.columns(model, outputs), **task_steps.labels(data)}

    return task_steps.over_tasks(
      model, inner, task, params, rows, batch, flatten=True
    )

  return task_steps.signature(model, predict)


def _weighted_loss(model, inner, params, log_rates, data):
  """Mean of the query losses after each step, by the loop's weights."""
  states = maml.adapt_by_step(
    *task_steps.adapt_args(model, inner, params, data, data['support']),
    merge_fn=model.merge_fn,
    log_rates=log_rates,
  )
  total = sum(inner.step_weights)
  return sum(
    weight / total * task_steps.task_loss(model, *state, data['query'])
    for weight, state in zip(inner.step_weights, states[1:], strict=True)
    if weight
  )


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
