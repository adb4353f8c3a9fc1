# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Shared parts of losses and predictions of a batch of tasks.

`antjax.meta.episodes` describes the layout of a batch. `antjax.meta.meta_loss`
and `antjax.meta.evaluate` consist of these parts.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from antjax.embedding.lookup import take_rows
from antjax.layers import fast_weights
from antjax.layers import pooling as pooling_lib
from antjax.meta import maml

# Shape suffixes: T = tasks, S = support or query rows of a task, D = embedding
# width, K = values of a multi-hot feature, U = distinct rows of a task.

PyTree = Any
Batch = Mapping[str, Any]


class Tables(Protocol):
  """The interface of `antjax.embedding.EmbeddingTables` used here."""

  def lookup(self, rows: Mapping[str, jax.Array], ids: PyTree) -> PyTree:
    """Vectors for a nested dict of ids."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskModel:
  """A model and its loss, as used by the meta-learner."""

  # Function (model, embeddings, part) -> outputs [S, ...]. `embeddings` is
  # feature -> float [S, D], with multi-hot features pooled; `part` has the
  # other arrays of the support or query: 'label', 'mask', any numeric inputs,
  # and 'weights', feature -> float [S, K], if values of a feature have weights.
  apply_fn: Callable[[Any, Mapping[str, jax.Array], PyTree], jax.Array]
  # Function (outputs [S, ...], labels [S]) -> losses [S].
  loss_fn: Callable[[jax.Array, jax.Array], jax.Array]
  # Function outputs [S, ...] -> {'prediction': [S], and any other column that a
  # metric reads, e.g. 'median': [S]}; None: the outputs are the predictions.
  output_fn: Callable[[jax.Array], dict[str, jax.Array]] | None = None
  # Function (model, embeddings, part of the support) -> context of the task,
  # e.g. the gates of `antjax.networks.tasks.CBML`. It is called once, before
  # the inner steps; `apply_fn` gets the result as part['context'], the same for
  # every row.
  context_fn: (
    Callable[[Any, Mapping[str, jax.Array], PyTree], PyTree] | None
  ) = None
  # Function from params to a new `nnx.Module`, the model of `apply_fn`, for the
  # fast form. None: the model is the parameters, of any framework.
  merge_fn: fast_weights.MergeFn | None = None
  # Embedding tables, or None for a model without tables.
  tables: Tables | None = None
  # 'mean' or 'sum' of the values of multi-hot features, weighted if the batch
  # has weights; or a dict by feature.
  pooling: pooling_lib.Pooling | Mapping[str, pooling_lib.Pooling] = 'mean'


def over_tasks(
  model: TaskModel,
  inner: maml.InnerLoop,
  task: Callable[[PyTree, PyTree, PyTree], PyTree],
  *,
  flatten: bool = False,
) -> Callable[..., PyTree]:
  """Makes a function for the Trainer that applies `task` to every task.

  Args:
    model: The model.
    inner: Inner loop, for learned rates and the number of tasks run at once.
    task: Function (params, log_rates or None, data of one task) -> arrays.
    flatten: Whether results are per row and are flattened to one dim.

  Returns:
    Function (params, rows, batch, rng) -> results of `task`, with the tasks of
    all buckets in the leading dim; without `rows` if the model has no tables.
  """

  def run(params, rows, batch, rng):
    del rng
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

    def one(data):
      return task(params, log_rates, _with_context(model, params, data))

    results = []
    for bucket, episodes in batch['episodes'].items():
      data = _task_data(ids.get(bucket, {}), vectors.get(bucket, {}), episodes)
      if inner.map_size:
        result = jax.lax.map(one, data, batch_size=inner.map_size)
      else:
        result = jax.vmap(one)(data)
      results.append(jax.tree.map(jnp.ravel, result) if flatten else result)
    return jax.tree.map(lambda *xs: jnp.concatenate(xs), *results)

  if model.tables is not None:
    return run
  return lambda params, batch, rng: run(params, {}, batch, rng)


def _task_data(ids, vectors, episodes):
  """Gathers the data of tasks: arrays with the leading dim T."""
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


def _with_context(model, params, data):
  """Adds the context of a task to its support and its query."""
  if model.context_fn is None:
    return data
  merged = params if model.merge_fn is None else model.merge_fn(params)
  support = data['support']
  embeddings = _embeddings(model, data['rows'], support)
  context = model.context_fn(merged, embeddings, support['part'])
  parts = {
    name: data[name] | {'part': data[name]['part'] | {'context': context}}
    for name in ('support', 'query')
  }
  return data | parts


def problem(
  model: TaskModel,
  inner: maml.InnerLoop,
  params: PyTree,
  log_rates: PyTree,
  data: PyTree,
  part: PyTree = None,
) -> maml.Problem:
  """The adaptation problem of a task, on its support or another part.

  Raises:
    ValueError: Rows should adapt, but the batch does not assign them to tasks.
  """
  part = data['support'] if part is None else part
  if inner.num_steps and inner.adapt == 'all':
    if part['ids'] and not data['rows']:
      raise ValueError(
        "InnerLoop(adapt='all'): the batch does not say which rows belong to"
        ' which task; pass it through episodes.with_task_rows, or adapt'
        " 'mlp' only."
      )
  take = _take_by_product if inner.derivative == 'mixed' else take_rows

  def loss(adapted, rows, part):
    return task_loss(model, (adapted, rows), part, take)

  return maml.Problem(
    loss_fn=loss,
    params=params,
    support=part,
    inner=inner,
    rows=data['rows'],
    merge_fn=model.merge_fn,
    log_rates=log_rates,
  )


def predict(
  model: TaskModel,
  state: maml.State,
  part: PyTree,
  take: Callable[[jax.Array, jax.Array], jax.Array] = take_rows,
) -> jax.Array:
  """Outputs [S, ...] of an adapted model for the rows of a part."""
  adapted, task_rows = state
  embeddings = _embeddings(model, task_rows, part, take)
  return model.apply_fn(adapted, embeddings, part['part'])


def columns(
  model: TaskModel, state: maml.State, data: PyTree
) -> dict[str, jax.Array]:
  """Columns of the query rows from outputs, at least 'prediction'."""
  outputs = predict(model, state, data['query'])
  if model.output_fn is None:
    return {'prediction': outputs}
  return model.output_fn(outputs)


def labels(data: PyTree) -> dict[str, jax.Array]:
  """Label, weight and group of the query rows of a task."""
  part = data['query']['part']
  shown = (part['mask'] > 0) & (data['weight'] > 0)
  return {
    'label': part['label'],
    'weight': shown.astype(part['label'].dtype),
    'group': jnp.broadcast_to(data['task'], part['label'].shape),
  }


def task_loss(
  model: TaskModel,
  state: maml.State,
  part: PyTree,
  take: Callable[[jax.Array, jax.Array], jax.Array] = take_rows,
) -> jax.Array:
  """Mean loss over the rows of a part, without padding.

  Without rows the loss and its gradient are 0, so nothing adapts.
  """
  total, count = loss_sums(model, state, part, take)
  return total / jnp.maximum(count, 1).astype(total.dtype)


def loss_sums(
  model: TaskModel,
  state: maml.State,
  part: PyTree,
  take: Callable[[jax.Array, jax.Array], jax.Array] = take_rows,
) -> tuple[jax.Array, jax.Array]:
  """(sum of losses, number of rows) of a part, without padding."""
  mask = part['part']['mask'] > 0
  loss = model.loss_fn(predict(model, state, part, take), part['part']['label'])
  return jnp.where(mask, loss, 0).sum(), mask.sum()


def _take_by_product(rows_RD: jax.Array, index: jax.Array) -> jax.Array:
  """Like `take_rows`, but with a forward-mode derivative."""
  is_it = jax.nn.one_hot(index, rows_RD.shape[0], dtype=rows_RD.dtype)
  # Exact: on some backends the default rounds the factors.
  return jnp.dot(is_it, rows_RD, precision=jax.lax.Precision.HIGHEST)


def _embeddings(model, task_rows, part, take=take_rows):
  vectors, ids = part['vectors'], part['ids']
  if part['index']:
    ids, vectors = {}, {}
    for first, features in part['index'].items():
      for name, index in features.items():
        ids[name] = index
        # Padding (-1) reads row 0 here and is masked in the pooling.
        vectors[name] = take(task_rows[first], jnp.maximum(index, 0))
  return pooling_lib.pool_features(
    vectors, ids, model.pooling, part['part'].get('weights')
  )
