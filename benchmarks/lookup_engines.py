# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""Lookups of bags as compiled for devices that are absent: memory and bytes.

  python -m benchmarks.lookup_engines --topology=v6e:4x4 > results.jsonl

compiles, for one device, the sums of MLPerf's bags (26 columns, 214 values an
example) over the rows of a step, and their gradient by the rows: in XLA's form
and by the kernel of `antjax.embedding.pooled`. With jax-tpu-embedding installed
its lookup is compiled too, of as many entries. Nothing is run. Seconds and
bytes are those of the compiler, which takes a kernel's cost from the kernel's
own declaration. It has none for GPUs: there `moved_MB` is read from the text,
by `antjax.plan.op_cost`, and for kernels computed from their arguments.
"""

from collections.abc import Callable
import functools
import importlib
import json
import time
from typing import Any

from absl import app, flags
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np

from antjax.embedding import pooled
from antjax.jobs import pod_models
from antjax.jobs.clicks.make_criteo import NUM_VALUES
from antjax.plan import census, op_cost, pod_target

_TOPOLOGY = flags.DEFINE_string('topology', 'v6e:4x4', 'Devices, see plan.md.')
_EXAMPLES = flags.DEFINE_integer('examples', 4096, 'Examples of a device.')
_ROWS = flags.DEFINE_integer('rows', 400_000, 'Distinct rows of a step.')
_FORMS = flags.DEFINE_list(
  'forms', 'forward,gradient', 'Any of forward, gradient.'
)
_ENGINES = flags.DEFINE_list(
  'engines', 'xla,kernel,peer', 'Any of xla, kernel, peer.'
)
_DIM = 128


def forward(engine: pooled.Engine, rows: Any, indices: Any) -> jax.Array:
  return jnp.concatenate(pooled.pool_rows(rows, indices, engine=engine))


def gradient(engine: pooled.Engine, rows: Any, indices: Any) -> jax.Array:
  """Gradient of the rows of a loss that is cheap beside the lookup."""
  return jax.grad(lambda rows: jnp.sum(forward(engine, rows, indices) ** 2))(
    rows
  )


def peer(shapes: Callable[..., Any]) -> tuple[Any, tuple[Any, ...]]:
  """jax-tpu-embedding's lookup, and the shapes of its arguments."""
  lib = importlib.import_module(
    'jax_tpu_embedding.sparsecore.lib.core.primitives.sparse_dense_matmul_csr'
  )
  # SparseCores of a device of v6e or tpu7x; ids for one of them that fit in its
  # memory; mini-batches, of which it makes as many as that takes.
  num_cores, most, num_buckets = 2, 6144, 64
  entries = _EXAMPLES.value * sum(NUM_VALUES)

  def lookup(pointers, ids, samples, gains, num_minibatches, table):
    return lib.tpu_sparse_dense_matmul_csr_primitive.bind(
      *(pointers, ids, samples, gains, num_minibatches, table),
      device_batch_size=_EXAMPLES.value * len(NUM_VALUES),
      max_ids_per_partition=most,
      max_unique_ids_per_partition=most,
      enable_minibatching=True,
    )

  size = -(-entries * 5 // (4 * 8)) * 8
  return lookup, (
    shapes(num_cores * num_buckets * 8),
    *(shapes(size), shapes(size), shapes(size, dtype=jnp.float32)),
    shapes(),
    shapes(_ROWS.value, _DIM, dtype=jnp.float32),
  )


def _moved(text: str) -> float:
  """Traffic of the instructions of a text, but for kernels."""
  program = census.program(text, {'inter': 1, 'intra': 1})
  costs = op_cost.Costs(program.bodies)
  return sum(
    costs.num_bytes(x, program.entry)
    for x in costs.instructions(program.entry).values()
    if 'mosaic_gpu' not in x.rest
  )


class _Counted:
  """A kernel; counts the bytes of its calls while they are traced."""

  def __init__(self, kernel: pooled.Kernel):
    self._kernel, self.num_bytes = kernel, 0

  def __call__(self, rows, index, weights, starts):
    row_bytes = rows.shape[1] * rows.dtype.itemsize
    self.num_bytes += index.size * (row_bytes + 4) + starts.size * row_bytes
    return self._kernel(rows, index, weights, starts)


def main(_: Any) -> None:
  target = pod_target.Target.of(_TOPOLOGY.value, 1)
  pod_models.prepare(target)
  device = target.devices()[0]
  mesh = jax.sharding.Mesh(np.array([device]), ('x',))
  platform = 'cuda' if target.is_gpu else 'tpu'

  def shapes(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, P()))

  args = (
    shapes(_ROWS.value, _DIM, dtype=jnp.float32),
    [shapes(_EXAMPLES.value, k) for k in NUM_VALUES],
  )
  cases: list[tuple[str, str, Any, Any]] = [
    (form, engine, functools.partial(globals()[form], engine), args)
    for form in _FORMS.value
    for engine in _ENGINES.value
    if engine != 'peer'
  ]
  has_peer = pod_target.is_installed('jax_tpu_embedding')
  if 'peer' in _ENGINES.value and has_peer and not target.is_gpu:
    cases.insert(0, ('forward', 'jax-tpu-embedding', *peer(shapes)))
  for form, engine, fn, shapes_of in cases:
    start, counted = time.perf_counter(), None
    kernel = pooled.kernel_for(_DIM, device.device_kind)
    if target.is_gpu and engine == 'kernel':
      assert kernel
      counted = _Counted(kernel)
      fn = functools.partial(fn.func, counted)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      lowered = (
        jax.jit(fn).trace(*shapes_of).lower(lowering_platforms=(platform,))
      )
    compiled = lowered.compile()
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    result = {
      'device': device.device_kind,
      'form': form,
      'engine': engine,
      'temporary_MB': round(memory.temp_size_in_bytes / 1e6, 1),
      'output_MB': round(memory.output_size_in_bytes / 1e6, 1),
      'accessed_MB': round(cost.get('bytes accessed', 0) / 1e6, 1),
      'optimal_ms': round(cost.get('optimal_seconds', 0) * 1e3, 3),
      'seconds_to_compile': round(time.perf_counter() - start, 1),
      'jax': jax.__version__,
    }
    if target.is_gpu:
      moved = _moved(compiled.as_text()) + (counted.num_bytes if counted else 0)
      result['moved_MB'] = round(moved / 1e6, 1)
    print(json.dumps(result), flush=True)


if __name__ == '__main__':
  app.run(main)
