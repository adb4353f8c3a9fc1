# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""A click model's scores as StableHLO: pure functions of looked-up vectors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import export
import numpy as np

from antjax.networks.network import ScenarioMoments
from antjax.serving import functions
from antjax.train.state import named_leaves

NAME = 'scores_'  # Before the rows of a function.
_UNREAD = ('label', 'labels', 'conversion')


def exported(
  logits: Callable[..., dict[str, jax.Array]],
  widths: Mapping[str, int],
  params: Any,
  moments: ScenarioMoments | None,
  batch: Mapping[str, Any],
  sizes: Sequence[int],
) -> tuple[dict[str, bytes], dict[str, np.ndarray], list[str]]:
  """Lowers the logits for each number of rows.

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
  by_path, treedef = jax.tree.flatten_with_path(params)
  flat = {n: np.asarray(x) for n, x in named_leaves(by_path)}
  names = tuple(flat)
  given = dict(moments._asdict()) if moments is not None else {}
  flat |= {f'moments/{n}': np.asarray(x, np.float32) for n, x in given.items()}

  def scores(flat: Any, vectors: Any, batch: Any) -> dict[str, jax.Array]:
    if given:
      each = tuple(flat[f'moments/{n}'][None] for n in given)
      batch = batch | {'moments': each}
    tree = jax.tree.unflatten(treedef, [flat[n] for n in names])
    return logits(tree, vectors, batch)

  of_params = {
    n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in flat.items()
  }
  read = {n: x for n, x in batch.items() if n not in _UNREAD}
  found, outputs = {}, list[str]()
  with functions.no_source_lines():
    for size in sizes:
      of_batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), read
      )
      vectors = {
        name: jax.ShapeDtypeStruct((*x.shape, widths[name]), np.float32)
        for name, x in of_batch['ids'].items()
      }
      lowered = export.export(jax.jit(scores), platforms=functions.PLATFORMS)
      made = lowered(of_params, vectors, of_batch)
      found[f'{NAME}{size}'] = bytes(made.serialize())
      leaves = [*made.out_avals]
      outputs = [*jax.tree.unflatten(made.out_tree, leaves)]
  return found, flat, outputs
