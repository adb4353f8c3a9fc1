# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""antjax's side of `dlrm_problem`: a Trainer with sharded tables.

The clock sees what `Trainer.fit` does in a step: finding the distinct ids of
the batch, placing it, and the compiled step; the peers need no distinct ids.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import RowWiseAdagrad
from antjax.embedding.table import EmbeddingTables
from antjax.layers import fast_weights, mlp
from antjax.mesh.mesh import make_mesh
from antjax.train.trainer import Trainer
from benchmarks import dlrm_problem


def make_step(
  case: dlrm_problem.DLRMCase, arrays: dict[str, np.ndarray]
) -> tuple[Callable[[], Any], Callable[[], dict[str, np.ndarray]]]:
  """Returns the step, and what reads loss and weights after it."""
  mesh = make_mesh(intra=jax.device_count())
  tables = make_tables(case, mesh, _most_distinct(case, arrays['ids'], mesh))
  params, forward = _mlp(case, arrays)

  def loss_fn(params, rows, batch, rng):
    del rng
    vectors_BFD = tables.lookup(rows, batch['ids'])['columns']
    x = vectors_BFD.reshape(len(vectors_BFD), -1)
    logits = forward(params, x)[..., 0]
    return optax.sigmoid_binary_cross_entropy(logits, batch['label'])

  trainer = Trainer(
    loss_fn, optax.sgd(dlrm_problem.DENSE_RATE), mesh=mesh, tables=tables
  )
  state: dict[str, Any] = {'step': 0, 'train': trainer.init(params)}
  state['train'] = _with_tables(case, tables, state['train'])
  batches = [
    {
      'ids': {'columns': np.ascontiguousarray(ids.T, np.int32)},
      'label': label,
    }
    for ids, label in zip(arrays['ids'], arrays['label'], strict=True)
  ]

  step = trainer.compiled_step()

  def place() -> Any:
    return trainer.step_inputs(batches[state['step'] % case.num_batches])

  state['inputs'] = place()

  def run() -> Any:
    state['train'], metrics = step(state['train'], state['inputs'])
    state['step'] += 1
    state['inputs'] = place()  # While the step runs, as in `Trainer.fit`.
    state['loss'] = jax.block_until_ready(metrics)['loss']
    return state['loss']

  def answer() -> dict[str, np.ndarray]:
    ids = dlrm_problem.probed_rows(case, arrays['ids'][0])
    canonical = jax.jit(tables.to_canonical)(state['train'].tables)
    rows = [
      canonical[name]['table'][i]
      for name, i in zip(case.features, ids, strict=True)
    ]
    leaves = fast_weights.named_leaves(trainer.params(state['train']))
    return {
      'loss': np.asarray(state['loss']),
      'rows': np.stack(rows),
      'w0': np.asarray(leaves['layers/0/kernel']),
    }

  return run, answer


def _most_distinct(
  case: dlrm_problem.DLRMCase, ids: np.ndarray, mesh: Any
) -> int:
  """Most distinct rows of a device's part of a batch, and an eighth more.

  Measured on the data before training, as a user would.
  """
  parts = np.split(ids, mesh.size, axis=-1)
  table = np.arange(case.num_features)[:, None] * case.rows_per_table
  most = max(len(np.unique(ids + table)) for part in parts for ids in part)
  return most + most // 8


def make_tables(
  case: dlrm_problem.DLRMCase, mesh: Any, max_unique: int | None = None
) -> EmbeddingTables:
  """The tables of the problem, rows over all devices."""
  optimizer = RowWiseAdagrad(dlrm_problem.TABLE_RATE, dlrm_problem.EPS)
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


def _mlp(
  case: dlrm_problem.DLRMCase, arrays: dict[str, np.ndarray]
) -> tuple[Any, Callable[..., jax.Array]]:
  graphdef, params = nnx.split(
    mlp.MLP(
      case.num_features * case.embedding_dim,
      case.widths,
      activate_last=False,
      rngs=nnx.Rngs(0),
    )
  )
  named = {
    f'layers/{i}/{leaf}': jnp.asarray(arrays[f'{short}{i}'])
    for i in range(len(case.widths))
    for leaf, short in (('kernel', 'w'), ('bias', 'b'))
  }
  params = fast_weights.replace_leaves(params, named)
  merge = functools.partial(nnx.merge, graphdef)
  return params, lambda params, x: merge(params)(x)


def _with_tables(case, tables, state):
  """The state with the problem's tables."""
  values = {
    name: {'table': table, 'slots': {'accumulator': np.zeros(len(table), 'f4')}}
    for name, table in zip(
      case.features, dlrm_problem.tables(case), strict=True
    )
  }
  shapes = jax.eval_shape(tables.to_canonical, state.tables)
  padded = jax.tree.map(
    lambda x, like: np.pad(
      x, [(0, like.shape[0] - len(x))] + [(0, 0)] * (x.ndim - 1)
    ),
    values,
    shapes,
  )
  placed = jax.device_put(padded, tables.canonical_shardings())
  made = jax.jit(tables.from_canonical, out_shardings=tables.shardings())(
    placed
  )
  return dataclasses.replace(state, tables=made)
