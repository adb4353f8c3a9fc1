# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""From a batch of episodes to losses and predictions, one a task.

The functions made here are what `antjax.Trainer` takes: pure, local to a
device, without any communication (the rows come in, their gradients go out).
The layout of a batch is in `antjax.meta.episodes`.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from antjax.layers import fast_weights
from antjax.layers import pooling as pooling_lib
from antjax.meta import maml

# Shape suffixes: T = tasks, S = support or query rows of a task, D = embedding
# width, K = values of a multi-hot feature, U = distinct rows of a task.

_DIVERGED = 1e6

PyTree = Any
Batch = Mapping[str, Any]


class Tables(Protocol):
  """What is needed of `antjax.embedding.EmbeddingTables`."""

  def lookup(self, rows: Mapping[str, jax.Array], ids: PyTree) -> PyTree:
    """Returns the vectors of a nested dict of ids."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskModel:
  """A model and its loss, as the meta-learner sees them.

  Attributes:
    apply_fn: (model, embeddings, part) -> outputs [S, ...]. `embeddings` is
      feature -> float [S, D], multi-hot features pooled; `part` holds the other
      arrays of the support or query: 'label', 'mask', any numeric inputs, and
      'weights', feature -> float [S, K], if values of a feature have weights.
    loss_fn: (outputs [S, ...], labels [S]) -> losses [S].
    output_fn: outputs [S, ...] -> {'prediction': [S], and any other column
      that a metric reads, e.g. 'median': [S]}; None: the outputs are the
      predictions.
    merge_fn: params -> a fresh `nnx.Module`, which is then `apply_fn`'s model:
      the fast form. None: the model is the parameters, of any framework.
    tables: the embedding tables, or None for a model without.
    pooling: 'mean' or 'sum' of the values of a multi-hot feature, weighted
      where the batch has weights; or feature -> which of them.
  """

  apply_fn: Callable[[Any, Mapping[str, jax.Array], PyTree], jax.Array]
  loss_fn: Callable[[jax.Array, jax.Array], jax.Array]
  output_fn: Callable[[jax.Array], dict[str, jax.Array]] | None = None
  merge_fn: fast_weights.MergeFn | None = None
  tables: Tables | None = None
  pooling: pooling_lib.Pooling | Mapping[str, pooling_lib.Pooling] = 'mean'


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
      adapted, task_rows = _adapt(model, inner, params, log_rates, data)
      query = data['query']
      prediction = _predict(model, adapted, task_rows, query)
      loss = _masked_mean(model.loss_fn, prediction, query)
      present = jnp.any(query['part']['mask'] > 0)
      return loss, jnp.where(present, data['weight'], 0).astype(loss.dtype)

    return _over_tasks(model, inner, task, params, rows, batch)

  return _signature(model, losses)


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
      merged, _ = _adapt(model, still, params, log_rates, data)
      total = count = jnp.zeros(())
      for name in ('support', 'query'):
        part = data[name]
        mask = part['part']['mask']
        prediction = _predict(model, merged, data['rows'], part)
        loss = model.loss_fn(prediction, part['part']['label'])
        total += jnp.where(mask > 0, loss, 0).sum()
        count += (mask > 0).sum().astype(loss.dtype)
      weight = count * (data['weight'] > 0)
      return total / jnp.maximum(count, 1), weight

    return _over_tasks(model, still, task, params, rows, batch)

  return _signature(model, losses)


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
      adapted, task_rows = _adapt(model, inner, params, log_rates, data)
      outputs = _predict(model, adapted, task_rows, data['query'])
      return {**_columns(model, outputs), **_labels(data)}

    return _over_tasks(model, inner, task, params, rows, batch, flatten=True)

  return _signature(model, predict)


def fine_tune_predict_fn(
  model: TaskModel,
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
          adapted, task_rows = _adapt(model, loop, params, rates, data)
          outputs = _predict(model, adapted, task_rows, data['query'])
          return _columns(model, outputs)[column]

        log_rates = jnp.log(jnp.asarray(learning_rates))
        predictions = jax.vmap(one)(log_rates)
        for rate, prediction in zip(learning_rates, predictions):
          # A rate that diverges is to score badly, not to stop the others.
          columns[fine_tune_name(steps, rate)] = jnp.nan_to_num(
            prediction, nan=_DIVERGED, posinf=_DIVERGED, neginf=-_DIVERGED
          )
      first = next(iter(columns.values()))
      return {'prediction': first, **columns, **_labels(data)}

    return _over_tasks(model, inner, task, params, rows, batch, flatten=True)

  return _signature(model, predict)


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


def _columns(model, outputs):
  if model.output_fn is None:
    return {'prediction': outputs}
  return model.output_fn(outputs)


def _labels(data):
  part = data['query']['part']
  shown = (part['mask'] > 0) & (data['weight'] > 0)
  return {
    'label': part['label'],
    'weight': shown.astype(part['label'].dtype),
    'group': jnp.broadcast_to(data['task'], part['label'].shape),
  }


def _signature(model, fn):
  if model.tables is not None:
    return fn
  return lambda params, batch, rng: fn(params, {}, batch, rng)


def _over_tasks(model, inner, task, params, rows, batch, flatten=False):
  """Runs `task` on every task of every bucket and joins the buckets."""
  log_rates = None
  if inner.learn_rates:
    if not (isinstance(params, Mapping) and 'log_rates' in params):
      raise ValueError(
        'InnerLoop(learn_rates=True): the parameters hold no inner rates;'
        ' pass maml.init_rates(params, inner) as the initial parameters.'
      )
    params, log_rates = params['model'], params['log_rates']
  ids, vectors = {}, {}
  if model.tables is not None:
    ids = batch['ids']
    vectors = model.tables.lookup(rows, ids)
  task = functools.partial(task, params, log_rates)
  results = []
  for bucket, episodes in batch['episodes'].items():
    data = _task_data(ids.get(bucket, {}), vectors.get(bucket, {}), episodes)
    if inner.map_size:
      result = jax.lax.map(task, data, batch_size=inner.map_size)
    else:
      result = jax.vmap(task)(data)
    if flatten:
      result = jax.tree.map(jnp.ravel, result)
    results.append(result)
  return jax.tree.map(lambda *xs: jnp.concatenate(xs), *results)


def _task_data(ids, vectors, episodes):
  """Gathers what a task needs: arrays with the leading dim T."""
  data = {
    'task': episodes['task'],
    'weight': episodes['weight'],
    'rows': vectors.get('task_rows', {}),
  }
  for name in ('support', 'query'):
    part = dict(episodes[name])
    data[name] = {
      'index': part.pop('index', {}),
      'part': part,
      'ids': ids.get(name, {}),
      'vectors': vectors.get(name, {}),
    }
  return data


def _adapt(model, inner, params, log_rates, data):
  def loss(adapted, task_rows, support):
    prediction = _predict(model, adapted, task_rows, support)
    return _masked_mean(model.loss_fn, prediction, support)

  if inner.num_steps and inner.adapt == 'all':
    if data['support']['ids'] and not data['rows']:
      raise ValueError(
        "InnerLoop(adapt='all'): the batch does not say which rows belong to"
        ' which task; pass it through episodes.with_task_rows, or adapt'
        " 'mlp' only."
      )
  return maml.adapt_task(
    loss,
    params,
    data['rows'],
    data['support'],
    inner,
    merge_fn=model.merge_fn,
    log_rates=log_rates,
  )


def _predict(model, adapted, task_rows, part):
  vectors = part['vectors']
  ids = part['ids']
  if part['index']:
    ids, vectors = {}, {}
    for first, features in part['index'].items():
      for name, index in features.items():
        ids[name] = index
        # Padding (-1) reads row 0 here and is masked by the pooling.
        vectors[name] = task_rows[first][jnp.maximum(index, 0)]
  embeddings = pooling_lib.pool_features(
    vectors, ids, model.pooling, part['part'].get('weights')
  )
  return model.apply_fn(adapted, embeddings, part['part'])


def _masked_mean(loss_fn, prediction, part):
  mask = part['part']['mask'] > 0
  loss = loss_fn(prediction, part['part']['label'])
  # Without a row the mean is 0, and so is its gradient: nothing adapts.
  count = jnp.maximum(mask.sum(), 1).astype(loss.dtype)
  return jnp.where(mask, loss, 0).sum() / count
