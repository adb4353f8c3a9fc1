# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""antjax's side of `meta_problem.TABLE_CASE`: a Trainer with a sharded table.

The clock sees the compiled step; the distinct ids are found before it, as the
peers' are.
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
from antjax.meta import maml, meta_loss
from antjax.train.trainer import Trainer
from benchmarks import meta_problem


def make_step(
  case: meta_problem.Case, num_support: int, arrays: dict[str, np.ndarray]
) -> tuple[Callable[[], Any], Callable[[], dict[str, np.ndarray]]]:
  """Returns the step, and what reads loss and weights after it."""
  num_tasks, _, num_features = arrays['index'].shape
  features = [f'f{i}' for i in range(num_features)]
  dim = arrays['rows'].shape[1]
  places = meta_problem.places(case, len(arrays['rows']))
  num_devices = max(
    d for d in range(1, jax.device_count() + 1) if num_tasks % d == 0
  )
  mesh = make_mesh(intra=num_devices, devices=jax.devices()[:num_devices])
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
  widths = [x.shape[1] for n, x in sorted(arrays.items()) if n[0] == 'w']
  graphdef, params = nnx.split(
    mlp.MLP(num_features * dim, widths, activate_last=False, rngs=nnx.Rngs(0))
  )
  named = {
    f'layers/{i}/{leaf}': jnp.asarray(arrays[f'{short}{i}'])
    for i in range(len(widths))
    for leaf, short in (('kernel', 'w'), ('bias', 'b'))
  }
  model = meta_loss.TaskModel(
    apply_fn=lambda net, vectors, part: net(
      jnp.concatenate([vectors[f] for f in features], axis=-1)
    )[..., 0],
    loss_fn=optax.sigmoid_binary_cross_entropy,
    merge_fn=functools.partial(nnx.merge, graphdef),
    tables=tables,
  )
  inner = maml.InnerLoop(
    num_steps=case.inner_steps,
    learning_rate=meta_problem.LEARNING_RATE,
    order=case.order,
    adapt=case.adapted,
  )
  trainer = Trainer(
    meta_loss.meta_loss_fn(model, inner),
    optax.sgd(meta_problem.DENSE_RATE),
    mesh=mesh,
    tables=tables,
  )
  state: dict[str, Any] = {
    'train': trainer.init(fast_weights.replace_leaves(params, named))
  }
  state['train'] = dataclasses.replace(
    state['train'], tables=_tables(case, tables, dim)
  )
  batch = _batch(arrays, places.astype(np.int32), features, num_support)
  step = trainer.compiled_step()
  inputs = trainer.step_inputs(batch)

  def run() -> Any:
    state['train'], metrics = step(state['train'], inputs)
    state['loss'] = jax.block_until_ready(metrics)['loss']
    return state['loss']

  def answer() -> dict[str, np.ndarray]:
    canonical = jax.jit(tables.to_canonical)(state['train'].tables)
    leaves = fast_weights.named_leaves(trainer.params(state['train']))
    return {
      'loss': np.asarray(state['loss']),
      'rows': np.asarray(canonical['row']['table'][places]),
      'w0': np.asarray(leaves['layers/0/kernel']),
    }

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


def _tables(case, tables, dim):
  """The table's state with the problem's values."""
  table = meta_problem.table(case, dim)
  slots = {'accumulator': np.zeros(case.num_rows, np.float32)}
  shapes = jax.eval_shape(
    lambda: tables.to_canonical(tables.init(jax.random.key(0)))
  )
  padded = jax.tree.map(
    lambda x, like: np.pad(
      x, [(0, like.shape[0] - len(x))] + [(0, 0)] * (x.ndim - 1)
    ),
    {'row': {'table': table, 'slots': slots}},
    shapes,
  )
  placed = jax.device_put(padded, tables.canonical_shardings())
  return jax.jit(tables.from_canonical, out_shardings=tables.shardings())(
    placed
  )
