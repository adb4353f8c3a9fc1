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
from antjax.train.gradient import device_key, reading_constants, StepSpec
from antjax.train.leaves import open_leaves
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
  paro = layout.paro

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
      layout.level_specs(paro.params, trained=False),
      spec.table_partition,
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
  level = layout.paro.params
  leaves = jax.tree.leaves(state.params)
  levels = [level] * len(leaves)
  if state.master is not None:
    leaves = layout.with_trained(leaves, jax.tree.leaves(state.master))
    levels = [layout.paro.opt_state if t else level for t in layout.trainable]
  partition = [
    spec.partition_spec(at)
    for spec, at in zip(layout.specs, levels, strict=True)
  ]
  gather = jax.shard_map(
    lambda xs: [
      transition.coarsen(x, spec, at, Level.NONE)
      for x, spec, at in zip(xs, layout.specs, levels, strict=True)
    ],
    mesh=layout.mesh,
    in_specs=(partition,),
    out_specs=P(),
  )
  return jax.tree.unflatten(layout.treedef, jax.jit(gather)(leaves))


def evaluate(
  predict: Callable[[TrainState, StepInput], tuple[PyTree, jax.Array]],
  placer: BatchPlacer,
  state: TrainState,
  batches: Iterable[PyTree],
  metrics: Mapping[str, Metric],
) -> dict[str, float]:
  """See `Trainer.evaluate`; `predict` is from `make_predict`."""
  metrics = dict(metrics)
  for arrays in outputs(predict, placer, state, batches):
    for metric in metrics.values():
      metric.update(**arrays)
  merged = merge_across_processes(metrics)
  return {name: metric.compute() for name, metric in merged.items()}


def collect(
  predict: Callable[[TrainState, StepInput], tuple[PyTree, jax.Array]],
  placer: BatchPlacer,
  state: TrainState,
  batches: Iterable[PyTree],
) -> dict[str, np.ndarray]:
  """See `Trainer.predict`; `predict` is from `make_predict`."""
  parts: list[dict[str, np.ndarray]] = []
  for arrays in outputs(predict, placer, state, batches):
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

  def fetch(item: tuple[Any, Any, bool]) -> dict[str, np.ndarray] | None:
    outputs, _, is_mine = item
    return {k: local_flat(x) for k, x in outputs.items()} if is_mine else None

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
    older = pending
    pending = (*predict(state, inputs), batch is not None)
    if older is not None:
      if (arrays := fetch(older)) is not None:
        yield arrays
      if not float(older[1]) > 0:
        pending = None
        break
  if pending is not None and (arrays := fetch(pending)) is not None:
    yield arrays
