# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""antjax's side of `dlrm_problem`: a Trainer with sharded tables.

The clock sees what `Trainer.fit` does in a step: finding the distinct ids of
the batch, placing it, and the compiled step; the peers need no distinct ids.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import RowWiseAdagrad
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import make_mesh
from antjax.train.trainer import Trainer
from benchmarks import dlrm_problem, step_parts


def make_step(
  case: dlrm_problem.DLRMCase, arrays: dict[str, np.ndarray]
) -> tuple[Callable[[], Any], Callable[[], dict[str, np.ndarray]]]:
  """Returns the step, and what reads loss and weights after it."""
  mesh = make_mesh(intra=jax.device_count())
  tables = make_tables(case, mesh, _most_distinct(case, arrays['ids'], mesh))
  mlp = step_parts.make_mlp(arrays)

  def loss_fn(params, rows, batch, rng):
    del rng
    vectors_BFD = tables.lookup(rows, batch['ids'])['columns']
    x = vectors_BFD.reshape(len(vectors_BFD), -1)
    logits = mlp.merge(params)(x)[..., 0]
    return optax.sigmoid_binary_cross_entropy(logits, batch['label'])

  trainer = Trainer(
    loss_fn, optax.sgd(dlrm_problem.DENSE_RATE), mesh=mesh, tables=tables
  )
  values = dict(zip(case.features, dlrm_problem.tables(case), strict=True))
  train = step_parts.with_tables(trainer.init(mlp.params), tables, values)
  state: dict[str, Any] = {'step': 0, 'train': train}
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
    by_table = dict(zip(case.features, ids, strict=True))
    return step_parts.answer(trainer, state['train'], state['loss'], by_table)

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
