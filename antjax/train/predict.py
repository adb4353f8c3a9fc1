# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What reads a training state: predictions, and the parameters themselves."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import io
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

from antjax.collectives import transition
from antjax.mesh import compiler
from antjax.mesh.gather import gather_bytes
from antjax.mesh.mesh import BATCH_AXES, INTER, INTRA
from antjax.mesh.paro import Level
from antjax.metrics.merge import merge_across_processes
from antjax.metrics.metric import Metric
from antjax.train.batches import BatchPlacer, Feed, local_flat
from antjax.train.gradient import (
  device_key,
  open_leaves,
  reading_constants,
  StepSpec,
)
from antjax.train.state import Layout, PyTree, TrainState
from antjax.train.step import input_specs, StepInput

_BATCH = P(BATCH_AXES)


def make_predict(
  spec: StepSpec, predict_fn: Callable[..., Any]
) -> Callable[[TrainState, StepInput], tuple[PyTree, jax.Array]]:
  """Compiles lazily to `predict(state, step_input) -> (outputs, num_valid)`.

  Outputs keep the leading dim of the batch; `num_valid` counts devices that
  still have data.
  """
  layout, tables = spec.layout, spec.tables

  def local(leaves, table_state, step, rng, inputs):
    whole = open_leaves(layout, leaves)
    params = jax.tree.unflatten(layout.treedef, whole)
    args: tuple[PyTree, ...] = (params,)
    if tables is not None:
      args += (tables.fetch(table_state, inputs.routing)[0],)
    fn = reading_constants(predict_fn, inputs.constants)
    outputs = fn(*args, inputs.batch, device_key(rng, step, 1, 0))
    return outputs, lax.psum(jnp.sum(inputs.is_valid), (INTER, INTRA))

  mapped = jax.shard_map(
    local,
    mesh=layout.mesh,
    in_specs=(
      layout.param_specs,
      layout.table_specs,
      P(),
      P(),
      input_specs(spec.constants),
    ),
    out_specs=(_BATCH, P()),
    check_vma=spec.check_vma,
  )
  return jax.jit(
    lambda state, inputs: mapped(
      jax.tree.leaves(state.params), state.tables, state.step, state.rng, inputs
    ),
    compiler_options=compiler.options(layout.mesh),
  )


def whole_params(layout: Layout, state: TrainState) -> PyTree:
  """The user's tree, whole and unpadded on every device, masters preferred."""
  paro, leaves = layout.paro, jax.tree.leaves(state.params)
  at = [(leaf.spec, paro.params) for leaf in layout.leaves]
  if state.master is not None:
    leaves = layout.with_trained(leaves, jax.tree.leaves(state.master))
    masters = [(spec, paro.opt_state) for spec in layout.trained_specs]
    at = layout.with_trained(at, masters)
  gather = jax.shard_map(
    lambda xs: [
      transition.coarsen(x, spec, level, Level.NONE)
      for x, (spec, level) in zip(xs, at, strict=True)
    ],
    mesh=layout.mesh,
    in_specs=([spec.partition_spec(level) for spec, level in at],),
    out_specs=P(),
  )
  return jax.tree.unflatten(layout.treedef, jax.jit(gather)(leaves))


def evaluate(
  outputs: Iterable[Mapping[str, np.ndarray]], metrics: Mapping[str, Metric]
) -> dict[str, float]:
  """Values of metrics over `outputs` of all processes."""
  for arrays in outputs:
    for metric in metrics.values():
      metric.update(**arrays)
  merged = merge_across_processes(metrics)
  return {name: metric.compute() for name, metric in merged.items()}


def collect(outputs: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """Rows of positive weight of `outputs` of all processes."""
  parts: list[dict[str, np.ndarray]] = []
  for arrays in outputs:
    weight = arrays.pop('weight', None)
    if weight is not None:
      arrays = {name: x[weight > 0] for name, x in arrays.items()}
    parts.append(arrays)
  file = io.BytesIO()
  joined: dict[str, Any] = _joined(parts)
  np.savez(file, **joined)
  every = []
  for data in gather_bytes(file.getvalue()):
    with np.load(io.BytesIO(data)) as archive:
      every.append({name: archive[name] for name in archive.files})
  return _joined([part for part in every if part])


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
  if not parts:
    return {}
  return {name: np.concatenate([x[name] for x in parts]) for name in parts[0]}


def outputs(
  predict: Callable[[TrainState, StepInput], tuple[PyTree, jax.Array]],
  placer: BatchPlacer,
  state: TrainState,
  batches: Iterable[PyTree],
) -> Iterator[dict[str, np.ndarray]]:
  """See `Trainer.outputs`; `predict` is from `make_predict`."""
  feed = Feed(iter(batches))
  has_data = feed.open()
  # The outputs of one batch are fetched while the next one runs.
  pending: tuple[Any, Any, bool] | None = None
  while has_data:
    batch = feed.next()
    if batch is None and jax.process_count() == 1:
      break
    inputs = placer.place(
      feed.filler() if batch is None else batch,
      is_valid=batch is not None,
      num_parts=1,
      is_training=False,
    )
    older, pending = pending, (*predict(state, inputs), batch is not None)
    if older is not None:
      arrays, num_valid, is_mine = older
      if is_mine:
        yield {name: local_flat(x) for name, x in arrays.items()}
      if not float(num_valid) > 0:
        return
  if pending is not None and pending[2]:
    yield {name: local_flat(x) for name, x in pending[0].items()}
