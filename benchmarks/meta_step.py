# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""antjax's side of `benchmarks.meta_bench`."""

from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax

from antjax.collectives import transition
from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import RowWiseAdagrad
from antjax.embedding.table import EmbeddingTables
from antjax.layers import fast_weights
from antjax.mesh import mesh as mesh_lib
from antjax.meta import maml, meta_loss
from antjax.train.trainer import Trainer
from benchmarks import harness, meta_problem, step_parts


def _inner_loop(case: meta_problem.Case) -> maml.InnerLoop:
  """Inner loop of a case."""
  return maml.InnerLoop(
    num_steps=case.inner_steps,
    learning_rate=meta_problem.LEARNING_RATE,
    order=case.order,
    adapt=case.adapted,
  )


def make(
  case: dict[str, Any], num_support: int, problem: str, peer: str
) -> meta_problem.Step:
  """Returns our step of a case on a problem of `meta_problem.make`."""
  del peer
  made, arrays = meta_problem.Case(**case), harness.load(problem)
  make_step = _table_step if made.num_rows else _gradient_step
  return make_step(made, num_support, arrays)


def _gradient_step(
  case: meta_problem.Case, num_support: int, arrays: dict[str, np.ndarray]
) -> meta_problem.Step:
  """The mean query loss and its gradients for MLP and rows."""
  mlp = step_parts.make_mlp(arrays)
  inner = _inner_loop(case)

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
    total = jax.lax.psum(transition.pack(leaves), mesh.axis_names)
    return treedef.unflatten(
      transition.unpack(total / mesh.size, [x.shape for x in leaves])
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
    return jax.block_until_ready(step(params, rows, batch))

  def answer():
    value, (grads, row_grads) = run()
    leaves = fast_weights.named_leaves(grads)
    named = {short: leaves[leaf] for leaf, short in mlp.names.items()}
    named |= {'rows': row_grads, 'loss': value}
    return {name: np.asarray(x) for name, x in named.items()}

  return meta_problem.Step(run, answer, step_parts.bind_threads)


def _table_step(
  case: meta_problem.Case, num_support: int, arrays: dict[str, np.ndarray]
) -> meta_problem.Step:
  """The step of `meta_problem.TABLE_CASE`: a Trainer with a sharded table.

  As for the peers, the distinct ids are found before timing.
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
  model = step_parts.model(tables, features, mlp.merge)
  trainer = Trainer(
    meta_loss.meta_loss_fn(model, _inner_loop(case)),
    optax.sgd(meta_problem.DENSE_RATE),
    mesh=mesh,
    tables=tables,
  )
  ids = places.astype(np.int32)[arrays['index']]
  by_feature = {f: ids[..., i] for i, f in enumerate(features)}
  batch = step_parts.episodes(by_feature, arrays['label'], num_support)
  inputs = trainer.step_inputs(batch)
  values = {'row': meta_problem.table(case, dim)}
  return step_parts.TrainerStep(
    trainer, mlp, values, lambda step: inputs, {'row': places}
  )


def make_dlrm(
  case: dict[str, Any], problem: str, peer: str
) -> meta_problem.Step:
  """Returns our DLRM step on a problem of `meta_problem.make_dlrm`.

  Times the work of `Trainer.fit` in a step: finding the distinct ids of the
  batch, placing it, and the compiled step; the peers need no distinct ids.
  """
  del peer
  return _dlrm_step(meta_problem.DLRMCase(**case), harness.load(problem))


def _dlrm_step(
  case: meta_problem.DLRMCase, arrays: dict[str, np.ndarray]
) -> meta_problem.Step:
  mesh = mesh_lib.make_mesh(intra=jax.device_count())
  tables = _make_tables(case, mesh, _most_distinct(case, arrays['ids'], mesh))
  mlp = step_parts.make_mlp(arrays)

  def loss_fn(params, rows, batch, rng):
    del rng
    vectors_BFD = tables.lookup(rows, batch['ids'])['columns']
    x = vectors_BFD.reshape(len(vectors_BFD), -1)
    logits = mlp.merge(params)(x)[..., 0]
    return optax.sigmoid_binary_cross_entropy(logits, batch['label'])

  trainer = Trainer(
    loss_fn, optax.sgd(meta_problem.DENSE_RATE), mesh=mesh, tables=tables
  )
  batches = [
    {'ids': {'columns': np.ascontiguousarray(ids.T, np.int32)}, 'label': label}
    for ids, label in zip(arrays['ids'], arrays['label'], strict=True)
  ]
  return step_parts.TrainerStep(
    trainer,
    mlp,
    dict(zip(case.features, meta_problem.dlrm_tables(case), strict=True)),
    lambda step: trainer.step_inputs(batches[step % case.num_batches]),
    dict(zip(case.features, meta_problem.probed_rows(case, arrays['ids'][0]))),
  )


def _most_distinct(
  case: meta_problem.DLRMCase, ids: np.ndarray, mesh: Any
) -> int:
  """Maximum number of distinct rows of a device's part, plus an eighth.

  Measured on the data before training, as by a user.
  """
  parts = np.split(ids, mesh.size, axis=-1)
  table = np.arange(case.num_features)[:, None] * case.rows_per_table
  most = max(len(np.unique(ids + table)) for part in parts for ids in part)
  return most + most // 8


def _make_tables(
  case: meta_problem.DLRMCase, mesh: Any, max_unique: int
) -> EmbeddingTables:
  """The tables of the problem, with rows sharded over all devices."""
  optimizer = RowWiseAdagrad(meta_problem.TABLE_RATE, meta_problem.EPS)
  return EmbeddingTables(
    [
      TableSpec(
        name, case.rows_per_table, case.embedding_dim, 'global', optimizer
      )
      for name in case.features
    ],
    {'columns': case.features},
    mesh=mesh,
    max_unique=max_unique,
  )
