# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Common parts of antjax's steps in `meta_bench` and `gmeta_bench`."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import os
import pathlib
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from antjax.embedding.table import EmbeddingTables
from antjax.layers import fast_weights, mlp
from antjax.mesh import mesh as mesh_lib
from antjax.meta import meta_loss
from benchmarks import meta_problem


@dataclasses.dataclass(frozen=True)
class MLP:
  """The problem's MLP: leaves, and their names in the problem, e.g. 'w0'."""

  params: Any
  merge: Callable[[Any], Any]
  names: Mapping[str, str]


def make_mlp(arrays: Mapping[str, np.ndarray]) -> MLP:
  """The MLP with the weights 'w0', 'b0', 'w1' ... of a problem."""
  widths = [x.shape[1] for n, x in sorted(arrays.items()) if n[0] == 'w']
  width = arrays['w0'].shape[0]
  graphdef, params = nnx.split(
    mlp.MLP(width, widths, activate_last=False, rngs=nnx.Rngs(0))
  )
  names = {
    f'layers/{i}/{leaf}': f'{short}{i}'
    for i in range(len(widths))
    for leaf, short in (('kernel', 'w'), ('bias', 'b'))
  }
  named = {leaf: jnp.asarray(arrays[short]) for leaf, short in names.items()}
  params = fast_weights.replace_leaves(params, named)
  return MLP(params, functools.partial(nnx.merge, graphdef), names)


def mesh_of_tasks(num_tasks: int) -> jax.sharding.Mesh:
  """Mesh of as many devices as can share the tasks evenly."""
  num = max(d for d in range(1, jax.device_count() + 1) if num_tasks % d == 0)
  return mesh_lib.make_mesh(intra=num, devices=jax.devices()[:num])


def with_tables(
  state: Any, tables: EmbeddingTables, values: Mapping[str, np.ndarray]
) -> Any:
  """A training state with these tables, new for row-wise Adagrad."""
  canonical = {
    name: {'table': x, 'slots': {'accumulator': np.zeros(len(x), np.float32)}}
    for name, x in values.items()
  }
  shapes = jax.eval_shape(tables.to_canonical, state.tables)
  padded = jax.tree.map(
    lambda x, like: np.pad(
      x, [(0, like.shape[0] - len(x))] + [(0, 0)] * (x.ndim - 1)
    ),
    canonical,
    shapes,
  )
  placed = jax.device_put(padded, tables.canonical_shardings())
  return dataclasses.replace(state, tables=tables.from_canonical(placed))


def model(
  tables: EmbeddingTables, features: Sequence[str], merge_fn: Any
) -> meta_loss.TaskModel:
  """A click model: an MLP on the concatenated vectors of all features."""
  return meta_loss.TaskModel(
    apply_fn=lambda net, vectors, part: net(
      jnp.concatenate([vectors[f] for f in features], axis=-1)
    )[..., 0],
    loss_fn=optax.sigmoid_binary_cross_entropy,
    merge_fn=merge_fn,
    tables=tables,
  )


def episodes(
  ids: Mapping[str, np.ndarray], label: np.ndarray, num_support: int
) -> dict[str, Any]:
  """A batch in the layout of `antjax.meta.episodes`; ids, label [T, S + Q]."""
  cuts = {
    'support': slice(None, num_support),
    'query': slice(num_support, None),
  }
  parts: dict[str, Any] = {
    part: {'label': label[:, cut], 'mask': np.ones_like(label[:, cut])}
    for part, cut in cuts.items()
  }
  parts['task'] = np.arange(len(label), dtype=np.int32)
  parts['weight'] = np.ones(len(label), np.float32)
  by_part = {
    part: {feature: x[:, cut] for feature, x in ids.items()}
    for part, cut in cuts.items()
  }
  return {'ids': {'all': by_part}, 'episodes': {'all': parts}}


def bind_threads() -> None:
  """Binds XLA's worker threads to a core each, as OMP_PROC_BIND does."""
  if jax.device_count() == 1:
    return
  cores = sorted(os.sched_getaffinity(0))
  tasks = pathlib.Path('/proc/self/task')
  workers = [
    int(task.name)
    for task in sorted(tasks.iterdir())
    if (task / 'comm').read_text().strip() == 'tf_XLAEigen'
  ]
  for i, worker in enumerate(workers):
    os.sched_setaffinity(worker, {cores[i % len(cores)]})


class TrainerStep(meta_problem.Step):
  """The compiled step of a Trainer with tables."""

  def __init__(
    self,
    trainer: Any,
    mlp: MLP,
    values: Mapping[str, np.ndarray],
    inputs: Callable[[int], Any],
    ids: Mapping[str, np.ndarray],
  ):
    """Compiles; `ids` are the rows of tables on which both sides must agree.

    As in `Trainer.fit`, inputs of the next step are made while a step runs.
    """
    super().__init__(self._run, self._read, bind_threads)
    self._trainer, self._make_inputs, self._ids = trainer, inputs, ids
    self._state = with_tables(trainer.init(mlp.params), trainer.tables, values)
    self._compiled = trainer.compiled_step()
    self._inputs, self._step = inputs(0), 0

  def _run(self) -> None:
    self._state, metrics = self._compiled(self._state, self._inputs)
    self._step += 1
    self._inputs = self._make_inputs(self._step)
    self._loss = jax.block_until_ready(metrics)['loss']

  def _read(self) -> dict[str, np.ndarray]:
    """Loss, rows of tables, first weights."""
    tables = self._trainer.tables
    canonical = tables.to_canonical(self._state.tables)
    leaves = fast_weights.named_leaves(self._trainer.params(self._state))
    rows = [
      np.asarray(canonical[name]['table'][i]) for name, i in self._ids.items()
    ]
    return {
      'loss': np.asarray(self._loss),
      'rows': np.stack(rows) if len(rows) > 1 else rows[0],
      'w0': np.asarray(leaves['layers/0/kernel']),
    }
