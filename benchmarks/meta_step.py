# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""antjax's side of `benchmarks.meta_bench`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax

from antjax.collectives import bucket, transition
from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import RowWiseAdagrad
from antjax.embedding.table import EmbeddingTables
from antjax.layers import fast_weights
from antjax.mesh import mesh as mesh_lib
from antjax.meta import maml, meta_loss
from antjax.train.trainer import Trainer
from benchmarks import meta_problem, step_parts


def inner_loop(case: meta_problem.Case) -> maml.InnerLoop:
  """How a case adapts."""
  return maml.InnerLoop(
    num_steps=case.inner_steps,
    learning_rate=meta_problem.LEARNING_RATE,
    order=case.order,
    adapt=case.adapted,
  )


def make_step(
  case: meta_problem.Case, num_support: int, arrays: dict[str, np.ndarray]
) -> Callable[[], tuple[Any, dict[str, Any]]]:
  """Returns our step on a problem of `meta_problem.make`."""
  mlp = step_parts.make_mlp(arrays)
  inner = inner_loop(case)

  def loss(model, rows, part):
    if case.adapted == 'mlp':
      x = part['vectors']
    else:
      x = rows['row'][part['index']]
    logits = model(x.reshape(*x.shape[:-2], -1))[..., 0]
    return optax.sigmoid_binary_cross_entropy(logits, part['label']).mean()

  def task_loss(params, task_rows, support, query):
    problem = maml.Problem(
      loss_fn=loss,
      params=params,
      support=support,
      inner=inner,
      rows=task_rows,
      merge_fn=mlp.merge,
    )
    model, rows = maml.adapt_task(problem)
    return loss(model, rows, query)

  def mean_loss(params, rows, batch):
    task_rows, parts = {}, {'label': batch['label']}
    if case.adapted == 'mlp':
      parts['vectors'] = rows[batch['index']]
    else:
      parts['index'] = batch['task_index']
      task_rows = {'row': rows[batch['task_rows']]}
    support, query = (
      {name: x[:, cut] for name, x in parts.items()}
      for cut in (slice(None, num_support), slice(num_support, None))
    )
    losses = jax.vmap(task_loss, (None, 0, 0, 0))(
      params, task_rows, support, query
    )
    return losses.mean()

  mesh = step_parts.mesh_of_tasks(len(arrays['label']))

  def local(params, rows, batch):
    whole = jax.tree.map(transition.to_varying, (params, rows))
    result = jax.value_and_grad(mean_loss, (0, 1))(*whole, batch)
    leaves, treedef = jax.tree.flatten(result)
    total = jax.lax.psum(bucket.pack(leaves), mesh.axis_names)
    return treedef.unflatten(
      bucket.unpack(total / mesh.size, [x.shape for x in leaves])
    )

  step = jax.jit(
    jax.shard_map(
      local,
      mesh=mesh,
      in_specs=(P(), P(), P(mesh_lib.BATCH_AXES)),
      out_specs=P(),
    )
  )
  names_of_batch = ('index', 'task_rows', 'task_index', 'label')
  batch = jax.device_put(
    {name: arrays[name] for name in names_of_batch},
    NamedSharding(mesh, P(mesh_lib.BATCH_AXES)),
  )
  params, rows = jax.device_put(
    (mlp.params, arrays['rows']), NamedSharding(mesh, P())
  )

  def run():
    value, (grads, row_grads) = jax.block_until_ready(step(params, rows, batch))
    leaves = fast_weights.named_leaves(grads)
    named = {short: leaves[leaf] for leaf, short in mlp.names.items()}
    return value, named | {'rows': row_grads}

  return run


def make_table_step(
  case: meta_problem.Case, num_support: int, arrays: dict[str, np.ndarray]
) -> tuple[Callable[[], Any], Callable[[], dict[str, np.ndarray]]]:
  """The step of `meta_problem.TABLE_CASE`: a Trainer with a sharded table.

  The clock sees the compiled step; the distinct ids are found before it, as the
  peers' are.

  Returns:
    The step, and what reads loss and weights after it.
  """
  num_tasks, _, num_features = arrays['index'].shape
  features = [f'f{i}' for i in range(num_features)]
  dim = arrays['rows'].shape[1]
  places = meta_problem.places(case, len(arrays['rows']))
  mesh = step_parts.mesh_of_tasks(num_tasks)
  tables = EmbeddingTables(
    [
      TableSpec(
        'row',
        case.num_rows,
        dim,
        'global',
        RowWiseAdagrad(meta_problem.TABLE_RATE, meta_problem.EPS),
      )
    ],
    dict.fromkeys(features, 'row'),
    mesh=mesh,
    max_unique=len(places),
  )
  mlp = step_parts.make_mlp(arrays)
  model = meta_loss.TaskModel(
    apply_fn=lambda net, vectors, part: net(
      jnp.concatenate([vectors[f] for f in features], axis=-1)
    )[..., 0],
    loss_fn=optax.sigmoid_binary_cross_entropy,
    merge_fn=mlp.merge,
    tables=tables,
  )
  trainer = Trainer(
    meta_loss.meta_loss_fn(model, inner_loop(case)),
    optax.sgd(meta_problem.DENSE_RATE),
    mesh=mesh,
    tables=tables,
  )
  values = {'row': meta_problem.table(case, dim)}
  train = step_parts.with_tables(trainer.init(mlp.params), tables, values)
  state: dict[str, Any] = {'train': train}
  batch = _batch(arrays, places.astype(np.int32), features, num_support)
  step = trainer.compiled_step()
  inputs = trainer.step_inputs(batch)

  def run() -> Any:
    state['train'], metrics = step(state['train'], inputs)
    state['loss'] = jax.block_until_ready(metrics)['loss']
    return state['loss']

  def answer() -> dict[str, np.ndarray]:
    return step_parts.answer(
      trainer, state['train'], state['loss'], {'row': places}
    )

  return run, answer


def _batch(arrays, places, features, num_support):
  """The problem's batch as `antjax.meta.episodes` lays it out."""
  ids, label = places[arrays['index']], arrays['label']
  cuts = {
    'support': slice(None, num_support),
    'query': slice(num_support, None),
  }
  episodes: dict[str, Any] = {
    part: {'label': label[:, cut], 'mask': np.ones_like(label[:, cut])}
    for part, cut in cuts.items()
  }
  episodes['task'] = np.arange(len(label), dtype=np.int32)
  episodes['weight'] = np.ones(len(label), np.float32)
  by_part = {
    part: {f: ids[:, cut, i] for i, f in enumerate(features)}
    for part, cut in cuts.items()
  }
  return {'ids': {'all': by_part}, 'episodes': {'all': episodes}}
