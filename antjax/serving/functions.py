# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Models as what `exporter.write` writes: pure functions, arrays.

The tables stay outside: the server looks rows up, and the compiled functions
get their vectors. A meta-learned model's take a batch of tasks (users).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
from typing import Any

import jax
from jax import export
import jax.numpy as jnp
import numpy as np

from antjax.embedding.stream import RowStream
from antjax.embedding.table import EmbeddingTables
from antjax.meta import maml, meta_loss
from antjax.meta.recommender import MetaRecommender
from antjax.networks.network import ScenarioMoments
from antjax.serving import exporter
from antjax.train.state import named_leaves

# Shape suffixes: T = tasks, S = support rows, Q = query rows, K = values of a
# multi-hot feature, D = embedding width, N = ids of a task.

PyTree = Any
# They can be lowered for all of these on any machine.
PLATFORMS = ('cpu', 'cuda', 'tpu')
_BUCKET = 'tasks'
_UNREAD = ('label', 'labels', 'conversion')


def exported(
  recommender: MetaRecommender,
  inner: maml.InnerLoop,
  params: Any,
  tables: Mapping[str, np.ndarray | RowStream],
  *,
  vocabularies: Mapping[str, tuple[np.ndarray, np.ndarray]],
  support_sizes: Sequence[int],
  query_size: int,
  numeric: Sequence[str] = (),
  info: Mapping[str, Any],
) -> exporter.Exported:
  """Compiles a recommender's functions and puts them beside its arrays.

  Args:
    recommender: The model.
    inner: How it adapts to a user.
    params: Its dense parameters, from `Trainer.params`.
    tables: Its tables, from `table_rows`.
    vocabularies: See `exporter.Exported`.
    support_sizes: Support rows that a user may have, padded up to the next.
    query_size: Query rows that training used.
    numeric: Names of the numeric inputs, in their order.
    info: Further entries of the manifest.
  """
  features: dict[str, dict[str, Any]] = {}
  for name, max_values in recommender.features.items():
    table = recommender.tables.features[name].tables[0]
    spec = recommender.tables.whole_specs[table]
    features[name] = {
      'table': table,
      'num_ids': spec.num_embeddings,
      'max_values': max_values,
      'embedding_dim': spec.embedding_dim,
    }
  functions, flat = _functions(recommender.task_model, inner, params)
  return exporter.Exported(
    functions=_lowered(functions, flat, features, support_sizes, len(numeric)),
    params=flat,
    tables=tables,
    features=features,
    vocabularies={n: v for n, v in vocabularies.items() if n in features},
    support_sizes=support_sizes,
    query_size=query_size,
    numeric=numeric,
    info=info,
  )


def exported_clicks(
  logits: Callable[..., dict[str, jax.Array]],
  widths: Mapping[str, int],
  params: Any,
  moments: ScenarioMoments | None,
  batch: Mapping[str, Any],
  sizes: Sequence[int],
) -> tuple[dict[str, bytes], dict[str, np.ndarray], list[str]]:
  """Lowers a click model's logits for each number of rows.

  Args:
    logits: Logits of (parameters, vectors, batch), by column.
    widths: Width of the vectors of each feature.
    params: Its dense parameters, from `Trainer.params`.
    moments: Moments of the training rows, where the model needs them.
    batch: A batch; its types are looked at.
    sizes: Rows of a call.

  Returns:
    ({'scores_<rows>': f}, parameters by name, columns), where `f(parameters,
    vectors, batch)` gives column -> float32 [rows], with `vectors` of
    `batch['ids']`.
  """
  flat, whole = _named(params)
  given = dict(moments._asdict()) if moments is not None else {}
  flat |= {f'moments/{n}': np.asarray(x, np.float32) for n, x in given.items()}

  def scores(flat: Any, vectors: Any, batch: Any) -> dict[str, jax.Array]:
    if given:
      each = tuple(flat[f'moments/{n}'][None] for n in given)
      batch = batch | {'moments': each}
    return logits(whole(flat), vectors, batch)

  of_params = {
    n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in flat.items()
  }
  read = {n: x for n, x in batch.items() if n not in _UNREAD}
  found, outputs = {}, list[str]()
  with no_source_lines():
    for size in sizes:
      of_batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), read
      )
      vectors = {
        name: jax.ShapeDtypeStruct((*x.shape, widths[name]), np.float32)
        for name, x in of_batch['ids'].items()
      }
      lowered = export.export(jax.jit(scores), platforms=PLATFORMS)
      made = lowered(of_params, vectors, of_batch)
      found[f'scores_{size}'] = bytes(made.serialize())
      outputs = [*jax.tree.unflatten(made.out_tree, made.out_avals)]
  return found, flat, outputs


def table_rows(
  tables: EmbeddingTables, state: Any
) -> dict[str, np.ndarray | RowStream]:
  """Table name -> its rows [V, D], as `exporter.Exported` takes them.

  A collective call: of several processes, process 0 has the rows in its memory,
  and the others none.
  """
  # Without slots, which may be several times the rows.
  rows = {name: {'table': part['table']} for name, part in state.items()}
  found = {n: x['table'] for n, x in tables.streams(rows).items()}
  if tables.home is not None:
    tables.home.flush(tables, state)
    found |= tables.home.rows(tables)
  if jax.process_count() == 1:
    return found
  return {name: _on_main(stream) for name, stream in found.items()}


def _on_main(stream: RowStream) -> np.ndarray:
  is_main = jax.process_index() == 0
  whole = np.zeros((len(stream) * is_main, *stream.shape[1:]), stream.dtype)
  start = 0
  for block in stream.blocks():
    if is_main:
      whole[start : start + len(block)] = block
    start += len(block)
  return whole


class _GivenVectors:
  """Stands for the tables: the vectors were looked up before."""

  def lookup(self, rows: Mapping[str, Any], ids: PyTree) -> PyTree:
    del ids
    return rows


def _functions(
  model: meta_loss.TaskModel, inner: maml.InnerLoop, params: PyTree
) -> tuple[dict[str, Callable[..., Any]], dict[str, np.ndarray]]:
  """The model's functions, and its dense parameters by name.

  Returns:
    ({'adapt': f, 'predict': g}, parameters). With `rows` = {'ids': {feature:
    int32 [T, R] or [T, R, K]}, 'vectors': {feature: float32 [T, R(, K), D]}},
    and 'numeric' [T, R, N] for a model with numeric inputs, `f(parameters,
    support, query)` gives column -> [T, Q], where `support` holds 'label' and
    'mask' [T, S] besides; `g(parameters, query)` does the same without
    adaptation.
  """
  flat, whole = _named(params)
  model = dataclasses.replace(model, tables=_GivenVectors())
  inner = dataclasses.replace(inner, map_size=0)  # All tasks at once.
  still = dataclasses.replace(inner, num_steps=0)
  adapted_fn = meta_loss.predict_fn(model, inner)
  still_fn = meta_loss.predict_fn(model, still)

  def run(predict_fn, flat, support, query, adapt_rows):
    ids = {'support': support['ids'], 'query': query['ids']}
    vectors = {'support': support['vectors'], 'query': query['vectors']}
    shape = next(iter(query['ids'].values())).shape[:2]
    episodes: dict[str, Any] = {
      'support': {'label': support['label'], 'mask': support['mask']},
      'query': {'label': jnp.zeros(shape), 'mask': jnp.ones(shape)},
      'task': jnp.zeros(shape[0], jnp.int32),
      'weight': jnp.ones(shape[0]),
    }
    for name, rows in (('support', support), ('query', query)):
      if 'numeric' in rows:
        episodes[name]['numeric'] = rows['numeric']
    if adapt_rows:
      ids, vectors, index = _by_task(ids, vectors)
      episodes |= {n: episodes[n] | {'index': index[n]} for n in index}
    batch = {'ids': {_BUCKET: ids}, 'episodes': {_BUCKET: episodes}}
    columns = predict_fn(whole(flat), {_BUCKET: vectors}, batch, None)
    return {
      name: column.reshape(shape)
      for name, column in columns.items()
      if name not in ('label', 'weight', 'group')
    }

  def adapt(flat, support, query):
    adapt_rows = any(inner.adapts(f'rows/{name}') for name in query['ids'])
    return run(adapted_fn, flat, support, query, adapt_rows)

  def predict(flat, query):
    nobody: dict[str, Any] = jax.tree.map(lambda x: x[:, :1], query)
    zero = jnp.zeros(next(iter(nobody['ids'].values())).shape[:2])
    nobody |= {'label': zero, 'mask': zero}
    return run(still_fn, flat, nobody, query, False)

  return {'adapt': adapt, 'predict': predict}, flat


def _named(
  params: PyTree,
) -> tuple[dict[str, np.ndarray], Callable[[Mapping[str, Any]], PyTree]]:
  """Parameters by name, and what makes the tree of them again."""
  by_path, treedef = jax.tree.flatten_with_path(params)
  flat = {n: np.asarray(x) for n, x in named_leaves(by_path)}
  names = tuple(flat)
  return flat, lambda given: jax.tree.unflatten(
    treedef, [given[n] for n in names]
  )


def _by_task(ids, vectors):
  """Lets equal ids of a task share one vector, which the inner loop adapts."""
  rows: dict[str, Any] = {}
  index: dict[str, Any] = {'support': {}, 'query': {}}
  for name, support in ids['support'].items():
    parts = {'support': support, 'query': ids['query'][name]}
    flat_TN = jnp.concatenate([_flat(x) for x in parts.values()], axis=1)
    # Each id's vector is where the task has it first.
    first_TN = jnp.argmax(flat_TN[:, :, None] == flat_TN[:, None, :], axis=2)
    first_TN = jnp.where(flat_TN < 0, -1, first_TN).astype(jnp.int32)
    dim = vectors['support'][name].shape[-1]
    parts_TND = [
      vectors[part][name].reshape(flat_TN.shape[0], -1, dim) for part in parts
    ]
    rows[name] = jnp.concatenate(parts_TND, axis=1)
    pieces = jnp.split(first_TN, [_flat(support).shape[1]], axis=1)
    for (part, x), piece in zip(parts.items(), pieces):
      index[part][name] = {name: piece.reshape(x.shape)}
  return {'task_rows': dict.fromkeys(rows)}, {'task_rows': rows}, index


def _flat(ids):
  return ids.reshape(ids.shape[0], -1)


def _lowered(
  functions: Mapping[str, Callable[..., Any]],
  params: Mapping[str, np.ndarray],
  features: Mapping[str, Mapping[str, Any]],
  support_sizes: Sequence[int],
  num_numeric: int,
) -> dict[str, bytes]:
  """Lowers the functions to StableHLO for any number of tasks and query rows.

  The number of support rows is fixed, as it decides how a layer adapts.

  Returns:
    'predict' and 'adapt_<size>' -> what `jax.export.deserialize` reads.
  """
  t, q = export.symbolic_shape('t, q')

  def struct(shape, dtype=np.float32):
    return jax.ShapeDtypeStruct(shape, dtype)

  def rows(size):
    ids, vectors = {}, {}
    for name, facts in features.items():
      values = facts['max_values']
      shape = (t, size, values)[: 2 + (values > 1)]
      ids[name] = struct(shape, np.int32)
      vectors[name] = struct((*shape, facts['embedding_dim']))
    parts = {'ids': ids, 'vectors': vectors}
    if num_numeric:
      parts['numeric'] = struct((t, size, num_numeric))
    return parts

  def lower(function, *arguments):
    lowered = export.export(jax.jit(function), platforms=PLATFORMS)
    return bytes(lowered(flat, *arguments).serialize())

  flat = {name: struct(x.shape, x.dtype) for name, x in params.items()}
  with no_source_lines():
    lowered = {'predict': lower(functions['predict'], rows(q))}
    for s in support_sizes:
      support = rows(s) | {'label': struct((t, s)), 'mask': struct((t, s))}
      lowered[f'adapt_{s}'] = lower(functions['adapt'], support, rows(q))
  return lowered


@contextlib.contextmanager
def no_source_lines() -> Iterator[None]:
  """Keeps this machine's paths out of what is lowered: equal bytes anywhere."""
  name = 'jax_traceback_in_locations_limit'
  before = getattr(jax.config, name)
  jax.config.update(name, 0)
  try:
    yield
  finally:
    jax.config.update(name, before)
