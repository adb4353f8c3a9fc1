# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""antjax's DLRM step for `meta_bench`: a Trainer with sharded tables.

The clock sees what `Trainer.fit` does in a step: finding the distinct ids of
the batch, placing it, and the compiled step; the peers need no distinct ids.
"""

from typing import Any

import jax
import numpy as np
import optax

from antjax.embedding.layout import TableSpec
from antjax.embedding.optimizer import RowWiseAdagrad
from antjax.embedding.table import EmbeddingTables
from antjax.mesh.mesh import make_mesh
from antjax.train.trainer import Trainer
from benchmarks import harness, meta_problem, step_parts


def make(case: dict[str, Any], problem: str, peer: str) -> meta_problem.Step:
  """Returns the step on a problem of `meta_problem.make_dlrm`."""
  del peer
  made, arrays = meta_problem.DLRMCase(**case), harness.load(problem)
  mesh = make_mesh(intra=jax.device_count())
  tables = _make_tables(made, mesh, _most_distinct(made, arrays['ids'], mesh))
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
    {
      'ids': {'columns': np.ascontiguousarray(ids.T, np.int32)},
      'label': label,
    }
    for ids, label in zip(arrays['ids'], arrays['label'], strict=True)
  ]
  return step_parts.TrainerStep(
    trainer,
    mlp,
    dict(zip(made.features, meta_problem.dlrm_tables(made), strict=True)),
    lambda step: trainer.step_inputs(batches[step % made.num_batches]),
    dict(zip(made.features, meta_problem.probed_rows(made, arrays['ids'][0]))),
  )


def _most_distinct(
  case: meta_problem.DLRMCase, ids: np.ndarray, mesh: Any
) -> int:
  """Most distinct rows of a device's part of a batch, and an eighth more.

  Measured on the data before training, as a user would.
  """
  parts = np.split(ids, mesh.size, axis=-1)
  table = np.arange(case.num_features)[:, None] * case.rows_per_table
  most = max(len(np.unique(ids + table)) for part in parts for ids in part)
  return most + most // 8


def _make_tables(
  case: meta_problem.DLRMCase, mesh: Any, max_unique: int
) -> EmbeddingTables:
  """The tables of the problem, rows over all devices."""
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
