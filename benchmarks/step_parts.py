# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What antjax's steps of `meta_bench` have in common: weights, tables, mesh."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from antjax.embedding.table import EmbeddingTables
from antjax.layers import fast_weights, mlp
from antjax.mesh import mesh as mesh_lib


@dataclasses.dataclass(frozen=True)
class MLP:
  """The problem's MLP.

  Attributes:
    params: Its parameters.
    merge: Makes a module of parameters.
    names: Leaf -> its name in the problem, such as 'w0'.
  """

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
  """As many devices as can share the tasks evenly."""
  num = max(d for d in range(1, jax.device_count() + 1) if num_tasks % d == 0)
  return mesh_lib.make_mesh(intra=num, devices=jax.devices()[:num])


def with_tables(
  state: Any, tables: EmbeddingTables, values: Mapping[str, np.ndarray]
) -> Any:
  """A training state with these tables, fresh for row-wise Adagrad."""
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
  made = jax.jit(tables.from_canonical, out_shardings=tables.shardings())(
    placed
  )
  return dataclasses.replace(state, tables=made)


def answer(
  trainer: Any,
  state: Any,
  loss: Any,
  ids: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
  """What both sides have to agree on: loss, rows of tables, first weights.

  Args:
    trainer: The Trainer.
    state: Its state.
    loss: Loss of the last step.
    ids: Table -> the rows to read.
  """
  canonical = trainer.tables.to_canonical(state.tables)
  leaves = fast_weights.named_leaves(trainer.params(state))
  rows = [np.asarray(canonical[name]['table'][i]) for name, i in ids.items()]
  return {
    'loss': np.asarray(loss),
    'rows': np.stack(rows) if len(rows) > 1 else rows[0],
    'w0': np.asarray(leaves['layers/0/kernel']),
  }
